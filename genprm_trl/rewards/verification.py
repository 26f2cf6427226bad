"""A generative process reward model as a reward function of TRL's trainers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from genprm_trl.data.steps import StepStyle, Thinking, written_steps
from genprm_trl.errors import ConfigError, GenPRMError, check_at_least, check_one_of
from genprm_trl.grading.thinking import opens_thinking
from genprm_trl.records import Solution, StepStatus, Verdict
from genprm_trl.rewards.texts import completion_text, problem_text
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.selection.aggregates import Aggregate, aggregate
from genprm_trl.verifier.base import Verifier

logger = logging.getLogger(__name__)


class GenPRMReward:
    """Rewards completions by what a verifier says of their steps. `VerifierReward` is another name of it.

    An asynchronous reward function for `GRPOTrainer` and `RLOOTrainer`: it verifies the whole batch at once, beside
    other asynchronous rewards. Trainers that await none take it in a `BlockingReward`. For `StepGRPOTrainer` it is a
    step reward function, too: `step_rewards` gives a reward for each step. The verifier reads text, so its tokenizer
    and the policy's have nothing to do with each other.

    A step's reward is P(Yes), averaged over the chains that came to judge it. Where the verifier itself failed (a
    server that is gone, an engine that broke) it is None, which TRL leaves out, and there is a warning instead of an
    end of the training. What the model could not judge, be it for its context or for want of a verdict, has 0.5, as in
    the verdicts: a policy must not get rid of a bad step by making it hard to judge.

    Thoughts are no steps: they are neither judged nor shown to the verifier. A completion that ends in thoughts has no
    steps, and the `blank_reward`, as `trl.rewards.reasoning_accuracy_reward` has it.

    Args:
        verifier: A `GenPRM` or another `Verifier`; or the name or directory of one of any kind, which `open_verifier`
            then loads with the other arguments (`kind` among them).
        server: URL of a `genprm serve`, or several, in place of a verifier in this process. With several processes
            that is the way to share one verifier.
        aggregate: Rule from step rewards to the completion's: `min`, `mean`, `last` or `product`.
        n: Rationales a completion (Maj@N). Default: the verifier's own.
        step_style: How completions are split into steps, where a trainer has not split them; see
            `data.steps.split_steps`.
        thinking: What to do with thinking blocks, where a trainer has not split completions: `skip` leaves them out,
            `opened` also where the chat template opens one, so that a completion that does not end it has no steps
            (a prompt that is text and ends in `<think>` is seen without it); `judge` takes thoughts for steps.
        problem_column: Column of the dataset with the problem's text. Default: the prompt, or its last user message.
        max_steps: Steps beyond this one are not judged and have reward 0: text that runs on costs, and is not to pay.
        blank_reward: Reward of a completion without any steps: no text, or thoughts alone.
        name: What trainers log it as. Two of them in one trainer need two names. Figures are then logged as
            `NAME/tokens` and so on, and step rewards in the column `NAME_step_rewards`.
        **options: Passed to `open_verifier`, or to `VerifierClient`. A verifier that is loaded here also
            takes `sandbox_require` and `allow_weak_sandbox`, and a server's address as `sandbox`, as the commands do.

    Raises:
        ConfigError: There is not exactly one verifier, it is none, or an option is unknown.

    Example:
        ```python
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        from genprm_trl import GenPRMReward

        trainer = GRPOTrainer(
            "Qwen/Qwen2.5-1.5B-Instruct",
            reward_funcs=GenPRMReward("GenPRM/GenPRM-1.5B", aggregate="min"),
            args=GRPOConfig("grpo-genprm"),
            train_dataset=Dataset.from_list([{"prompt": "What is 2 + 3 * 4? Solve step by step."}]),
        )
        trainer.train()
        ```
    """

    def __init__(
        self,
        verifier: Verifier | str | Path | None = None,
        *,
        server: str | Sequence[str] | None = None,
        aggregate: Aggregate = "min",
        n: int | None = None,
        step_style: StepStyle = "auto",
        thinking: Thinking = "skip",
        problem_column: str | None = None,
        max_steps: int = 100,
        blank_reward: float = 0.0,
        name: str | None = None,
        **options: Any,
    ):
        if (verifier is None) == (server is None):
            raise ConfigError("GenPRMReward needs either a verifier (or its name or directory) or a server")
        check_one_of(get_args(Aggregate), aggregate=aggregate)
        check_one_of(get_args(StepStyle), step_style=step_style)
        check_one_of(get_args(Thinking), thinking=thinking)
        check_at_least(1, max_steps=max_steps)
        self.aggregate: Aggregate = aggregate
        self.step_style: StepStyle = step_style
        self.thinking: Thinking = thinking
        self.problem_column = problem_column
        self.max_steps = max_steps
        self.blank_reward = blank_reward
        self.__name__ = name or type(self).__name__  # what trainers log it as
        self._figures, self._column = name or "genprm", f"{name}_step_rewards" if name else "step_rewards"
        self.verifier = _open(verifier, server, n, options)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the dataset must have."""
        return () if self.problem_column is None else (self.problem_column,)

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float | None]:
        """A reward for each completion, None where none of its steps could be judged.

        Args:
            prompts: Texts, or lists of messages.
            completions: One for each prompt, in the same form.
            **kwargs: What a trainer passes: the dataset's columns, `trainer_state`, `log_extra`, `log_metric`.

        Raises:
            ConfigError: The dataset has no `problem_column`.
        """
        steps = [
            [step.text for step in written_steps(completion_text(completion), self.step_style, self._thinking(prompt))]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        rewards = await self.step_rewards(prompts, completions, steps, **kwargs)
        if (log_extra := kwargs.get("log_extra")) is not None:
            log_extra(self._column, [[r if r is None else round(r, 4) for r in row] for row in rewards])
        return [self._total(row) for row in rewards]

    async def step_rewards(
        self, prompts: Sequence[Any], completions: Sequence[Any], steps: Sequence[Sequence[str]], **kwargs: Any
    ) -> list[list[float | None]]:
        """A reward for each step of each completion, None where the verifier failed; one for a completion without any.

        Args:
            prompts: Texts, or lists of messages.
            completions: One for each prompt, in the same form.
            steps: The steps that each completion was split into.
            **kwargs: The same as in a call of the reward.

        Raises:
            ConfigError: The dataset has no `problem_column`.
        """
        started = time.monotonic()
        problems = self._problems(prompts, kwargs)
        # Equal completions, of which a policy that has become sure writes many, are judged once.
        keys = [(problem, tuple(row[: self.max_steps])) for problem, row in zip(problems, steps, strict=True)]
        step = getattr(kwargs.get("trainer_state"), "global_step", 0)
        solutions = {
            key: Solution(f"{step}-{index}", key[0], list(key[1]))
            for index, key in enumerate(dict.fromkeys(keys))
            if key[1]
        }
        verdicts = await self._verify(list(solutions.values()))
        rewards: list[list[float | None]] = []
        for key, row in zip(keys, steps, strict=True):
            verdict = verdicts.get(solutions[key].id) if key in solutions else None
            judged = [_reward(verdict, index) for index in range(len(key[1]))]
            rewards.append(judged + [0.0] * (len(row) - len(judged)) if row else [self.blank_reward])
        self._log(kwargs.get("log_metric"), verdicts.values(), len(solutions), time.monotonic() - started)
        return rewards

    def _thinking(self, prompt: Any) -> Thinking:
        opened = self.thinking == "skip" and isinstance(prompt, str) and opens_thinking(prompt)
        return "opened" if opened else self.thinking

    def _problems(self, prompts: Sequence[Any], columns: dict[str, Any]) -> list[str]:
        if self.problem_column is None:
            return [problem_text(prompt) for prompt in prompts]
        if self.problem_column not in columns:
            raise ConfigError(f"the dataset has no column {self.problem_column!r}, which problem_column names")
        return [str(problem) for problem in columns[self.problem_column]]

    async def _verify(self, solutions: list[Solution]) -> dict[str, Verdict]:
        """The verdicts by id. Those that a failure keeps from coming are missing."""
        verdicts: dict[str, Verdict] = {}
        if not solutions:
            return verdicts
        try:
            async with contextlib.aclosing(self.verifier.verify_stream(solutions)) as stream:
                async for verdict in stream:
                    verdicts[verdict.id] = verdict
        except ConfigError:
            raise  # a wrong option will not get better
        except GenPRMError as error:
            logger.warning(
                "%d of %d completions have no reward from the verifier: %s",
                len(solutions) - len(verdicts),
                len(solutions),
                error,
            )
        return verdicts

    def _total(self, rewards: list[float | None]) -> float | None:
        judged = [reward for reward in rewards if reward is not None]
        return aggregate(judged, self.aggregate) if judged else None

    def _log(self, log_metric: Any, verdicts: Iterable[Verdict], asked: int, seconds: float) -> None:
        if log_metric is None or not asked:
            return
        verdicts = list(verdicts)
        judgements = [judgement for verdict in verdicts for chain in verdict.chains for judgement in chain]
        if judgements:
            statuses = Counter(judgement.status for judgement in judgements)
            for status in get_args(StepStatus):  # zeros too: what is logged is averaged over batches and processes
                log_metric(f"{self._figures}/share_{status}", statuses[status] / len(judgements))
        log_metric(f"{self._figures}/unscored", 1 - len(verdicts) / asked)
        log_metric(f"{self._figures}/code_blocks", sum(len(judgement.code_rounds) for judgement in judgements) / asked)
        log_metric(f"{self._figures}/tokens", sum(judgement.num_tokens for judgement in judgements) / asked)
        log_metric(f"{self._figures}/seconds", seconds)


def _reward(verdict: Verdict | None, step: int) -> float | None:
    """P(Yes) of a step over the chains in which nothing failed."""
    if verdict is None:
        return None
    there = [chain[step] for chain in verdict.chains if step < len(chain)]
    rewards = [judgement.reward for judgement in there if judgement.status != "error"]
    if there and not rewards:
        return None
    if rewards:
        return math.fsum(rewards) / len(rewards)
    # Verdicts may end at the first wrong step: what follows it builds on an error.
    return 0.0


# What every kind of verifier is opened with, and where its code runs.
_OPENING = ("tokenizer", "backend", "generator_kwargs", *(each.name for each in fields(SandboxOptions)))


def _check_known(options: Iterable[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for option in options:
        if option not in known:
            raise ConfigError(f"GenPRMReward has no option '{option}', and neither has {what}: {', '.join(known)}")


def _with_sandbox(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a sandbox in place of what says where code runs; without one if nothing says so.

    Raises:
        ConfigError: These options are unusable, or stand beside a sandbox that is made.
    """
    named = {each.name: options[each.name] for each in fields(SandboxOptions) if each.name in options}
    others = {name: value for name, value in options.items() if name not in named}
    if isinstance(named.get("sandbox"), Sandbox):
        if len(named) > 1:
            raise ConfigError("a sandbox that is made takes no sandbox_require and no allow_weak_sandbox")
        return {**others, **named}
    return {**others, "sandbox": SandboxOptions(**named).open_sandbox()} if named else others


def _open(
    verifier: Verifier | str | Path | None, server: str | Sequence[str] | None, n: int | None, options: dict[str, Any]
) -> Verifier:
    if n is not None:
        options = {**options, "n": n}
    if server is not None:
        from genprm_trl.verifier.client import VerifierClient

        known = [name for name in inspect.signature(VerifierClient).parameters if name not in ("servers", "urls")]
        _check_known(options, known, "a verifier on a server")
        return VerifierClient(server, **options)
    if not isinstance(verifier, str | Path):
        if not isinstance(verifier, Verifier):
            raise ConfigError(
                f"GenPRMReward needs a Verifier, or the name or directory of one; {verifier!r} is neither"
            )
        if others := set(options) - {"n"}:
            raise ConfigError(f"a verifier that is made takes no {', '.join(sorted(others))}; give them to its class")
        return verifier.with_options(**options)
    from genprm_trl.verifier.opening import AUTO, find_kind, kind_named, open_verifier

    kind = options.pop("kind", AUTO)
    if kind == AUTO:
        kind = find_kind(verifier)
    _check_known(options, dict.fromkeys([*kind_named(kind).options(), *_OPENING]), f"the kind {kind}")
    options = _with_sandbox(options)
    # Each process of a training has its own device; the first one's is not everybody's.
    rank = os.environ.get("LOCAL_RANK")
    generator = dict(options.pop("generator_kwargs", None) or {})
    if rank is not None and options.get("backend", "transformers") == "transformers":
        import torch

        if torch.cuda.is_available():
            generator.setdefault("device", f"cuda:{rank}")
    return open_verifier(verifier, kind, generator_kwargs=generator, **options)


VerifierReward = GenPRMReward
