"""Watches for a policy that learns to please the verifier, and ends its training.

PURE (arXiv 2504.15275) found that a policy can do so within its first 200 steps, and suddenly. Its remedy was a model
from before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, SaveStrategy

from genprm_trl.errors import ConfigError, check_at_least, check_one_of, check_positive, check_share

logger = logging.getLogger(__name__)

Action = Literal["warn", "stop"]
_GAP = "process_outcome/gap"
_LEAST_KL = 0.1  # nats a token; near the reference any change is many times what was before


@dataclass(frozen=True, slots=True)
class _Window:
    """The median of what was logged from one step to another."""

    first: int
    last: int
    value: float


@dataclass(frozen=True, slots=True)
class _Rule:
    """When a figure is a sign: it is compared with its first window, or with the one before the last."""

    figure: str
    is_sign: Callable[[float, float], bool]  # of the window that it is compared with, and the last one
    advice: str
    compares_with_last: bool = False


class HackingStop(TrainerCallback):
    """Warns, or ends the training, when the policy seems to learn to please the verifier.

    It reads what `StepGRPOTrainer` and `GRPOTrainer` log. The median of the last `window` steps is compared with that
    of the first ones, so that no single batch decides. Signs are:

    - `process_outcome/gap` rises: the verifier likes more, and no more answers are right (`StepGRPOTrainer` logs it of
      its `outcome`);
    - `steps/idle` rises: steps without content, or said before, pay;
    - `steps/count` falls: the policy avoids steps; `steps/tokens` grows: it swells them;
    - `kl` jumps, against the window before, once that is later than the first: from 0 it grows many times by itself.

    A figure that is not logged is no sign: TRL's `GRPOTrainer` logs no `steps/*`, and no `kl` without `beta`. All is
    found in the trainer's log, which checkpoints hold. So a resumed training is watched as if it had never ended.

    Args:
        action: `warn` logs a line, once for each figure, and `stop` ends the training as well. It then turns off
            `push_to_hub`, so that neither the checkpoint of this step nor the last weights are uploaded.
        window: Training steps whose median counts, or as many as lie between two logs. In the first two windows
            nothing is said, and in the first three nothing of `kl`. A training that is shorter is not watched, which
            is said at its start.
        gap_rise: How far the gap may rise, in rewards; infinity for any.
        idle_rise: How far the share of idle steps may rise; infinity for any.
        count_share: Share of the first count of steps below which it may not fall; 0 for any.
        tokens_times: How many times as long steps may grow; infinity for any.
        kl_times: How many times the window's before the KL may be, once it is above 0.1 nats a token; infinity for
            any.
        process: For `GRPOTrainer`, which logs no gap: the name of the reward that a verifier gives. The gap is the
            mean of this reward less the mean of `outcome`.
        outcome: The name of the reward for right answers.

    Attributes:
        stopped: Whether it has ended the training.
        first_step: The first of the steps whose sign has ended it; see `checkpoint_before`.

    Raises:
        ConfigError: An option is out of range, or one of `process` and `outcome` is missing.

    Example:
        ```python
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        from genprm_trl import GenPRMReward
        from genprm_trl.rewards import answer_reward
        from genprm_trl.training import HackingStop

        trainer = GRPOTrainer(
            "Qwen/Qwen2.5-1.5B-Instruct",
            reward_funcs=[GenPRMReward("GenPRM/GenPRM-1.5B"), answer_reward],
            args=GRPOConfig("grpo-genprm"),
            train_dataset=Dataset.from_list([{"prompt": "What is 2 + 3 * 4? Solve step by step.", "answer": "14"}]),
            callbacks=[HackingStop(process="GenPRMReward", outcome="answer_reward")],
        )
        trainer.train()
        ```
    """

    def __init__(
        self,
        action: Action = "stop",
        *,
        window: int = 20,
        gap_rise: float = 0.2,
        idle_rise: float = 0.2,
        count_share: float = 0.5,
        tokens_times: float = 2.0,
        kl_times: float = 4.0,
        process: str | None = None,
        outcome: str | None = None,
    ):
        check_one_of(get_args(Action), action=action)
        check_at_least(1, window=window)
        check_positive(gap_rise=gap_rise, idle_rise=idle_rise, tokens_times=tokens_times, kl_times=kl_times)
        check_share(count_share=count_share)
        if (process is None) != (outcome is None):
            raise ConfigError("process and outcome are two rewards: name both, or neither")
        self.action, self.window = action, window
        self._gap_of = None if process is None else (f"rewards/{process}/mean", f"rewards/{outcome}/mean")
        self._rules = (
            _Rule(
                _GAP,
                lambda start, now: now - start > gap_rise,
                "the verifier likes more, and no more answers are right. Weigh final answers more, or use a better "
                "verifier",
            ),
            _Rule(
                "steps/idle",
                lambda start, now: now - start > idle_rise,
                "steps without content pay. Charge them (idle_step_penalty), or use credit=min_form",
            ),
            _Rule(
                "steps/count",
                lambda start, now: now < count_share * start,
                "the policy avoids steps. Use step_baseline=return, and reward the form of steps",
            ),
            _Rule(
                "steps/tokens",
                lambda start, now: now > tokens_times * start,
                "the policy swells its steps. Use step_baseline=return, and reward the form of steps",
            ),
            _Rule(
                "kl",
                lambda before, now: now > max(kl_times * before, _LEAST_KL),
                "the policy suddenly leaves its reference. Lower learning_rate, or raise beta",
                compares_with_last=True,
            ),
        )
        self._told: set[str] = set()
        self.first_step: int | None = None

    @property
    def stopped(self) -> bool:
        """Whether it has ended the training."""
        return self.first_step is not None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets what was said of another training, and says what it cannot do in this one."""
        self._told.clear()
        self.first_step = None
        if not state.is_world_process_zero:
            return
        if not _has_two_windows(args, state, self.window):
            logger.info(
                "signs of reward hacking show in two windows of %d logged steps; this training has too few (max_steps "
                "%d, logging_strategy %s, logging_steps %d), and is not watched",
                self.window, state.max_steps, args.logging_strategy.value, state.logging_steps,
            )  # fmt: skip
        if (
            self.action == "stop"
            and not _saves_early(args, state)
            and checkpoint_before(state.max_steps, args) is None
        ):
            logger.warning(
                "no checkpoint is saved before the last step (save_strategy, save_steps): if signs of reward hacking "
                "stop this training, there is none to go back to"
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at what has been logged so far."""
        for rule in self._rules:
            windows = _windows(self._series(rule.figure, state.log_history), self.window)
            if windows is None:
                continue
            start, before, now = windows
            if rule.compares_with_last and before.first <= start.last:
                continue  # a policy starts at its reference, so what steadily grows is many times its first window
            reference = before if rule.compares_with_last else start
            if rule.figure in self._told or not rule.is_sign(reference.value, now.value):
                continue
            self._told.add(rule.figure)
            if self.action == "stop":
                control.should_training_stop = True
                # TRL uploads at a checkpoint, when it saves, and when it is asked.
                args.push_to_hub = False
                self.first_step = now.first if self.first_step is None else min(self.first_step, now.first)
            if state.is_world_process_zero:
                kept = checkpoint_before(now.first, args)
                logger.warning(
                    "Reward hacking? %s went from %.4g (steps %d to %d) to %.4g (steps %d to %d): %s. %s%s",
                    rule.figure, reference.value, reference.first, reference.last, now.value, now.first, now.last,
                    rule.advice,
                    f"{kept.name} is from before." if kept else
                    "No checkpoint from before is kept (save_steps, save_total_limit).",
                    " Training stops." if self.stopped else "",
                )  # fmt: skip

    def _series(self, figure: str, history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
        """The steps at which a figure was logged, and its numbers."""
        if figure == _GAP and self._gap_of is not None:
            process, outcome = (dict(_numbers(name, history)) for name in self._gap_of)
            return [(step, process[step] - outcome[step]) for step in process if step in outcome]
        return _numbers(figure, history)


def _numbers(figure: str, history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    # None and NaN are logged where no completion of a batch had a reward.
    return [
        (log["step"], log[figure])
        for log in history
        if isinstance(log.get(figure), int | float) and math.isfinite(log[figure])
    ]


def _windows(series: Sequence[tuple[int, float]], window: int) -> tuple[_Window, _Window, _Window] | None:
    """The first window, the one before the last, and the last; None until the first and the last are apart."""
    if len(series) < 2:
        return None
    window = max(window, *(later - step for (step, _), (later, _) in pairwise(series)))  # each holds a number then
    first, end = series[0][0], series[-1][0] + 1
    if end - first < 2 * window:
        return None
    starts = (first, end - 2 * window, end - window)
    spans = [[(step, value) for step, value in series if start <= step < start + window] for start in starts]
    start, before, now = (_Window(span[0][0], span[-1][0], median(value for _, value in span)) for span in spans)
    return start, before, now


def checkpoint_before(step: int, args: TrainingArguments) -> Path | None:
    """The last checkpoint of a training from before a step; None if none is kept."""
    found = Path(str(args.output_dir)).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    steps = {int(number): path for path in found if (number := path.name.rpartition("-")[2]).isdecimal()}
    return steps.get(max((number for number in steps if number < step), default=-1))


def _has_two_windows(args: TrainingArguments, state: TrainerState, window: int) -> bool:
    """Whether the logs of a training will reach over two windows, as `_windows` asks for."""
    if args.logging_strategy == IntervalStrategy.NO:
        return False
    by_epoch = args.logging_strategy == IntervalStrategy.EPOCH
    every = max(1, int(state.max_steps / state.num_train_epochs if by_epoch else state.logging_steps))
    first = 1 if args.logging_first_step else every
    return state.max_steps // every * every + 1 - first >= 2 * max(window, every)


def _saves_early(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether checkpoints are saved before the last step."""
    if args.save_strategy == SaveStrategy.STEPS:
        return state.save_steps < state.max_steps
    if args.save_strategy == SaveStrategy.EPOCH:
        return state.num_train_epochs > 1
    return args.save_strategy != SaveStrategy.NO
