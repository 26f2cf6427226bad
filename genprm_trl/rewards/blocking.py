"""An asynchronous reward function for trainers that await none."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from trl.trainer.utils import get_callable_name

from genprm_trl._loops import run

Rewards = list[float | None]


class BlockingReward:
    """A reward function that waits for an asynchronous one: `GenPRMReward` for TRL's `OnlineDPOTrainer` and its like.

    `GRPOTrainer` and `RLOOTrainer` await asynchronous reward functions, and are better off with them.

    Args:
        func: The reward function, `GenPRMReward` for instance.

    Example:
        ```python
        from datasets import Dataset
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        from genprm_trl import GenPRMReward
        from genprm_trl.rewards import BlockingReward

        trainer = OnlineDPOTrainer(
            "Qwen/Qwen2.5-1.5B-Instruct",
            reward_funcs=BlockingReward(GenPRMReward("GenPRM/GenPRM-1.5B")),
            args=OnlineDPOConfig("online-dpo-genprm"),
            train_dataset=Dataset.from_list([{"prompt": "What is 2 + 3 * 4? Solve step by step."}]),
        )
        trainer.train()
        ```
    """

    def __init__(self, func: Callable[..., Coroutine[Any, Any, Rewards]]):
        self._func = func
        self.__name__ = get_callable_name(func)  # what trainers log it as

    def __call__(self, *args: Any, **kwargs: Any) -> Rewards:
        """Calls the asynchronous function with the same arguments, waits, and returns its rewards."""
        return run(self._func(*args, **kwargs))
