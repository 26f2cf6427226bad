"""A step reward function as one of TRL's reward functions: TRL runs and logs it, and its rewards are found here."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trl.trainer.utils import is_async_callable

from genprm_trl.data.steps import StepStyle
from genprm_trl.errors import ConfigError
from genprm_trl.generation.tokens import Detokenizer
from genprm_trl.training.step_grpo.figures import idle_steps, step_figures
from genprm_trl.training.step_grpo.token_steps import CompletionSteps, find_steps

Rewards = list[list[float | None]]


class StepRewardFunc(Protocol):
    """Rewards the steps of completions. It may be an `async` function, and then runs while other rewards do."""

    def __call__(
        self, prompts: list[Any], completions: list[Any], steps: list[list[str]], **kwargs: Any
    ) -> Rewards | Awaitable[Rewards]:
        """A reward for each of the steps.

        Args:
            prompts: Of each completion, as in the data set: a text or messages.
            completions: A text or messages each.
            steps: The steps that each completion was split into; none where it is blank.
            **kwargs: `prompt_ids` and `completion_ids` as the policy saw and wrote them, `token_steps` (see
                `CompletionSteps`), `training` (false in evaluations), the data set's other columns, and what TRL gives
                its reward functions: `trainer_state`, `log_extra`, `log_metric`.

        Returns:
            For each completion as many rewards as it has steps; None for a step that could not be scored. One without
            steps may be given one reward, in place of 0.
        """
        ...


@dataclass(slots=True)
class StepRewards:
    """The rewards of a batch of completions.

    Attributes:
        completions: The steps of each completion and their tokens.
        rewards: For each completion the reward of each step, NaN where there is none.
    """

    completions: list[CompletionSteps]
    rewards: list[list[float]]


@dataclass
class StepRewardRecorder:
    """Splits completions into steps, has them rewarded, and remembers what came of it.

    To TRL it is a reward function that gives each completion its smallest step reward.

    Args:
        func: Rewards steps.
        detokenizer: Of the policy's tokenizer; set once that is known, before the first batch.
        style: How completions are split; see `steps.split_steps`.
        idle_penalty: Subtracted from the reward of each step that adds nothing (`guards.idle_steps`).
        blank_reward: Reward of a completion without steps, unless `func` gives one. It stands for one step that all
            tokens belong to.

    Attributes:
        prompt_ids: Of each completion of the coming batch.
        tool_masks: For each completion of the coming batch which of its tokens the policy wrote; None for all.
        training: Whether the coming batch is trained on.
        latest: The batch rewarded last.
    """

    func: Callable[..., Any]
    detokenizer: Detokenizer | None = None
    style: StepStyle = "auto"
    idle_penalty: float = 0.0
    blank_reward: float = 0.0
    prompt_ids: Sequence[Sequence[int]] = ()
    tool_masks: Sequence[Sequence[int]] | None = None
    training: bool = True
    latest: StepRewards | None = field(default=None, init=False)

    @property
    def __name__(self) -> str:
        """What TRL logs it as."""
        owner = getattr(self.func, "__self__", self.func)  # a method is called by what it belongs to
        return str(getattr(owner, "__name__", type(owner).__name__))

    def __call__(self, prompts: list[Any], completions: list[Any], completion_ids: Any, **kwargs: Any) -> Any:
        found = self._find(completion_ids)
        rewards = self.func(**self._arguments(prompts, completions, completion_ids, found), **kwargs)
        return self._record(found, rewards, kwargs)

    def _find(self, completion_ids: Sequence[Sequence[int]]) -> list[CompletionSteps]:
        assert self.detokenizer is not None
        masks = self.tool_masks if self.tool_masks is not None else [None] * len(completion_ids)
        return [
            find_steps(ids, self.detokenizer, self.style, None if mask is None else [bool(ours) for ours in mask])
            for ids, mask in zip(completion_ids, masks, strict=True)
        ]

    def _arguments(
        self, prompts: Any, completions: Any, completion_ids: Any, found: list[CompletionSteps]
    ) -> dict[str, Any]:
        return {
            "prompts": prompts,
            "completions": completions,
            "steps": [completion.steps for completion in found],
            "prompt_ids": self.prompt_ids,
            "completion_ids": completion_ids,
            "token_steps": [completion.token_steps for completion in found],
            "training": self.training,
        }

    def _record(self, found: list[CompletionSteps], rewards: Any, kwargs: dict[str, Any]) -> list[float | None]:
        checked = _check(self.__name__, rewards, found)
        if (log_metric := kwargs.get("log_metric")) is not None:
            for name, value in step_figures([c.steps for c in found], [_counts(c) for c in found]).items():
                log_metric(name, value)
        if (log_extra := kwargs.get("log_extra")) is not None:
            log_extra("step_rewards", [[None if math.isnan(r) else round(r, 4) for r in row] for row in checked])
        self.latest = StepRewards(*map(list, zip(*map(self._finish, found, checked), strict=True)))
        return [_smallest(row) for row in self.latest.rewards]

    def _finish(self, completion: CompletionSteps, rewards: list[float]) -> tuple[CompletionSteps, list[float]]:
        if not completion.steps:
            return CompletionSteps(completion.text, [""], [0] * len(completion.token_steps)), rewards or [
                self.blank_reward
            ]
        if self.idle_penalty:
            idle = idle_steps(completion.steps)
            rewards = [r - self.idle_penalty * adds_nothing for r, adds_nothing in zip(rewards, idle, strict=True)]
        return completion, rewards


class AsyncStepRewardRecorder(StepRewardRecorder):
    """The same for an `async` function. TRL tells by `__call__` which ones to run beside each other."""

    async def __call__(self, prompts: list[Any], completions: list[Any], completion_ids: Any, **kwargs: Any) -> Any:
        found = self._find(completion_ids)
        rewards = await self.func(**self._arguments(prompts, completions, completion_ids, found), **kwargs)
        return self._record(found, rewards, kwargs)


def record(func: Callable[..., Any]) -> StepRewardRecorder:
    """A recorder for the function, asynchronous if the function is."""
    return AsyncStepRewardRecorder(func) if is_async_callable(func) else StepRewardRecorder(func)


def _check(name: str, rewards: Any, found: Sequence[CompletionSteps]) -> list[list[float]]:
    """The rewards with NaN for None.

    Raises:
        ConfigError: The function did not return one number, or None, for each step of each completion.
    """
    if not isinstance(rewards, Sequence) or len(rewards) != len(found):
        count = len(rewards) if isinstance(rewards, Sequence) else type(rewards).__name__
        raise ConfigError(f"the step reward function {name} must return a list for each of {len(found)} completions, "
                          f"but returned {count}")  # fmt: skip
    checked = []
    for index, (row, completion) in enumerate(zip(rewards, found, strict=True)):
        of_blank = not completion.steps and isinstance(row, Sequence) and len(row) == 1
        if not of_blank and (not isinstance(row, Sequence) or len(row) != len(completion.steps)):
            count = len(row) if isinstance(row, Sequence) else type(row).__name__
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
        checked.append(values)
    return checked


def _counts(completion: CompletionSteps) -> list[int]:
    counts = [0] * len(completion.steps)
    for step in completion.token_steps:
        if step >= 0:
            counts[step] += 1
    return counts


def _smallest(rewards: list[float]) -> float | None:
    return min((reward for reward in rewards if not math.isnan(reward)), default=None)
