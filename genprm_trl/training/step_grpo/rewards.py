"""Rewards of steps: the function that gives them, and what is made of its answer."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from genprm_trl.errors import ConfigError
from genprm_trl.training.step_grpo.figures import idle_steps
from genprm_trl.training.step_grpo.token_steps import CompletionSteps

Rewards = list[list[float | None]]
BLANK_REWARD = 0.0  # of a completion without steps, unless the function gives another


class StepRewardFunc(Protocol):
    """Rewards the steps of completions. It may be an `async` function."""

    def __call__(
        self, prompts: list[Any], completions: list[Any], steps: list[list[str]], **kwargs: Any
    ) -> Rewards | Awaitable[Rewards]:
        """A reward for each of the steps.

        Args:
            prompts: The prompt of each completion, as in the dataset: a text or messages. What an environment adds to
                it is not there.
            completions: What the policy wrote: a text each, or a list of one message where prompts are messages. What
                tools wrote is left out.
            steps: The steps that each completion was split into; none where it is blank.
            **kwargs: `prompt_ids` and `completion_ids` as the policy saw and wrote them, `token_steps` (see
                `CompletionSteps`), `training` (false in evaluations), the dataset's other columns, and what TRL gives
                its reward functions: `trainer_state`, `log_extra`, `log_metric`, and `environments` if there are any.

        Returns:
            For each completion as many rewards as it has steps; None for a step that could not be scored. One without
            steps may be given one reward, in place of 0.
        """
        ...


def no_outcome_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    """The same for every completion: TRL's trainer asks for an outcome reward, also where steps alone are rewarded."""
    return [0.0] * len(completions)


def checked_rewards(name: str, rewards: Any, completions: Sequence[CompletionSteps]) -> list[list[float]]:
    """The rewards of a step reward function, with NaN for None, and one reward for a completion without steps.

    Args:
        name: What errors call the function.
        rewards: What it returned.
        completions: The completions that it was given.

    Returns:
        For each completion the reward of each step; of one without steps a single reward.

    Raises:
        ConfigError: The function did not return one number, or None, for each step of each completion.
    """
    if not isinstance(rewards, Sequence) or len(rewards) != len(completions):
        count = len(rewards) if isinstance(rewards, Sequence) else type(rewards).__name__
        raise ConfigError(
            f"the step reward function {name} must return a list for each of {len(completions)} completions, but "
            f"returned {count}"
        )
    checked = []
    for index, (row, completion) in enumerate(zip(rewards, completions, strict=True)):
        count = len(row) if isinstance(row, Sequence) else type(row).__name__
        if count != len(completion.steps) and (completion.steps or count != 1):
            raise ConfigError(
                f"the step reward function {name} must return {len(completion.steps)} rewards for completion {index} "
                f"of the batch, one a step, but returned {count}"
            )
        try:
            values = [math.nan if reward is None else float(reward) for reward in row]
        except (TypeError, ValueError):
            values = [math.inf]
        if any(map(math.isinf, values)):
            raise ConfigError(
                f"the step reward function {name} returned {row!r} for completion {index} of the batch, which are "
                "not all finite numbers or None"
            )
        checked.append(values or [BLANK_REWARD])
    return checked


def charge_idle_steps(
    rewards: list[list[float]], completions: Sequence[CompletionSteps], penalty: float
) -> list[list[float]]:
    """Rewards with a penalty subtracted for each step that adds nothing (`figures.idle_steps`)."""
    if not penalty:
        return rewards
    idle = [idle_steps(completion.steps) or [False] for completion in completions]  # a blank one has one reward
    return [
        [r - penalty * i for r, i in zip(row, of_row, strict=True)] for row, of_row in zip(rewards, idle, strict=True)
    ]
