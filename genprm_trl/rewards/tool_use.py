"""A reward for right answers with few calls of a tool: OTC (Wang et al. 2025, arXiv 2504.14870).

The ordinary reward is multiplied by the efficiency of the calls. So efficiency counts only where the answer is right,
and a wrong answer without calls earns nothing. With m calls of a completion and n, the fewest that a right completion
of the same prompt has needed so far, the efficiency is

- rule `ppo`: cos(m π / (2 m + c));
- rule `grpo`: 1 where m = n = 0; cos(m π / (2 m + c)) where n = 0; else sin(f π / (2 n)) with f = 2 m n / (m + n).

The constant c says how mild the rule is: with a larger one, more calls cost less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote
from weakref import WeakSet

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genprm_trl.errors import ConfigError, check_one_of, check_positive
from genprm_trl.rewards.groups import whole_groups
from genprm_trl.rows.jsonl import write_text

Rule = Literal["grpo", "ppo"]
_rewards: WeakSet[ToolEfficiencyReward] = WeakSet()  # those that exist: two of a name would share a file


def tool_efficiency(calls: int, fewest: int | None = None, *, c: float = 1.0) -> float:
    """The factor for the calls of a completion, in [0, 1].

    Args:
        calls: m, the completion's calls.
        fewest: n, the fewest calls of a right completion of the prompt. None takes the rule `ppo`, which needs none.
        c: How mild the rules are.

    Examples:
        >>> [round(tool_efficiency(m, 2), 4) for m in range(5)]
        [0.0, 0.866, 1.0, 0.9511, 0.866]
        >>> [round(tool_efficiency(m), 4) for m in range(4)]
        [1.0, 0.5, 0.309, 0.2225]
    """
    if not fewest:  # also cos(0) = 1 where neither has any
        return math.cos(calls * math.pi / (2 * calls + c))
    return math.sin(calls * math.pi / (calls + fewest))


class ToolEfficiencyReward(TrainerCallback):
    """Another reward, times the efficiency of the completion's tool calls.

    Calls are the `code_rounds` of `VerifierRollout`, or else the tool calls in the completion's messages. A GenPRM
    whose mode forces code is not charged for the round that is forced at each step: see `forced`.

    A completion is right if the other reward is above 0. Other rewards stay as they are, and their calls set no
    standard: a penalty would shrink with more calls.

    `grpo` keeps the fewest calls of each prompt over the whole training. They are saved in each checkpoint and loaded
    when training resumes, if the reward is among the trainer's `callbacks`, too. The file has the reward's name in it.

    Args:
        reward: The ordinary reward, such as `answer_reward` or `verdict_agreement_reward`: a function that is not
            asynchronous.
        rule: `grpo` compares with the other completions of the prompt, `ppo` looks at one alone.
        c: How mild the rules are; see `tool_efficiency`.
        forced: Code rounds of each judged step that are not counted: 1 for the mode `full`, 0 where code is optional.
        name: What the reward is called in logs and checkpoints; each reward of a training needs a name of its own.
            Default: the other reward's name with `_tools` behind it.

    Raises:
        ConfigError: An option is out of range; when training begins, if another of these rewards has the same name in
            it; while rewarding, if the trainer gives no prompts.

    Example:
        >>> from genprm_trl.rewards import ToolEfficiencyReward, answer_reward
        >>> reward = ToolEfficiencyReward(answer_reward)
        >>> reward(["It is 5.", "It is 5.", "It is 4."], prompts=["2 + 3?"] * 3, answer=["5"] * 3,
        ...        code_rounds=[2, 1, 0])
        [0.8660254037844387, 1.0, 0.0]
    """

    def __init__(
        self,
        reward: Callable[..., list[float | None]],
        *,
        rule: Rule = "grpo",
        c: float = 1.0,
        forced: int = 0,
        name: str | None = None,
    ):
        check_one_of(get_args(Rule), rule=rule)
        check_positive(c=c)
        if forced < 0:
            raise ConfigError(f"forced must not be negative, got {forced}")
        self.reward, self.rule, self.c, self.forced = reward, rule, c, forced
        named = getattr(reward, "func", reward)  # functools.partial
        self.__name__ = name or f"{getattr(named, '__name__', type(named).__name__)}_tools"
        self.columns = getattr(reward, "columns", ())
        self.fewest: dict[str, int] = {}
        self._training: TrainerState | None = None
        _rewards.add(self)

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **kwargs: Any
    ) -> list[float | None]:
        """The reward of each completion, times its efficiency if it is right.

        Args:
            completions: Texts, or lists of messages.
            prompts: The prompts, by which completions are compared.
            **kwargs: What else a trainer passes, handed to the other reward. `log_metric` is told `tools/calls` and
                `tools/productivity` (right completions a call).
        """
        if prompts is None:
            raise ConfigError(f"{self.__name__} needs the prompts, by which it compares completions")
        given = self.reward(completions=completions, prompts=prompts, **kwargs)
        calls = self._calls(completions, kwargs)
        keys = [json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=str) for prompt in prompts]
        right = [reward is not None and reward > 0 for reward in given]
        groups, _ = whole_groups(keys, list(zip(keys, calls, right, strict=True)))
        for key, count, is_right in (member for group in groups for member in group):
            if is_right:
                self.fewest[key] = min(count, self.fewest.get(key, count))
        if (log_metric := kwargs.get("log_metric")) is not None and calls:
            log_metric("tools/calls", sum(calls) / len(calls))
            if sum(calls):
                log_metric("tools/productivity", sum(right) / sum(calls))
        return [
            reward * self._efficiency(count, key) if reward is not None and is_right else reward
            for reward, count, key, is_right in zip(given, calls, keys, right, strict=True)
        ]

    def _efficiency(self, calls: int, key: str) -> float:
        return tool_efficiency(calls, self.fewest[key] if self.rule == "grpo" else None, c=self.c)

    def _calls(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[int]:
        if "code_rounds" not in columns:
            return [_tool_calls(completion) for completion in completions]
        judged = columns.get("verdicts") or [()] * len(completions)
        return [
            max(rounds - self.forced * len(steps), 0)
            for rounds, steps in zip(columns["code_rounds"], judged, strict=True)
        ]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Loads the fewest calls of the checkpoint from which training resumes."""
        if any(each is not self and each._training is state and each._file == self._file for each in _rewards):
            raise ConfigError(f"two rewards of this training are called {self.__name__}: give one another name=")
        self._training = state
        if not state.global_step:
            return
        place = args.resume_from_checkpoint
        checkpoint = Path(place) if isinstance(place, str) else _checkpoint(args, state)
        try:
            self.fewest = json.loads((checkpoint / self._file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"training resumes, but {checkpoint} has no {self._file}") from None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves the fewest calls into the checkpoint that has just been written."""
        if state.is_world_process_zero:
            write_text(_checkpoint(args, state) / self._file, json.dumps(self.fewest))

    @property
    def _file(self) -> str:
        """In each checkpoint. A name may hold what file names cannot, such as that of a lambda."""
        return f"fewest_calls_{quote(self.__name__, safe='')}.json"


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir), f"checkpoint-{state.global_step}")


def _tool_calls(completion: Any) -> int:
    if isinstance(completion, str):
        return 0
    return sum(len(message.get("tool_calls") or ()) for message in completion or [])
