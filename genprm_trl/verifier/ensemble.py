"""Several verifiers as one: a step's reward is the mean of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from genprm_trl._loops import run
from genprm_trl.errors import ConfigError, check_text
from genprm_trl.records import Solution, StepJudgement, StepStatus, Verdict, prediction_from_rewards
from genprm_trl.verifier.base import Verifier, check_steps
from genprm_trl.verifier.decision import average
from genprm_trl.verifier.opening import open_verifier


class Ensemble(Verifier):
    """Asks several verifiers about each solution and averages their rewards, step by step.

    A member that has no verdict on a step is left out of that step's mean. Where no member has one, the step has none:
    its reward is 0.5 and its status says why. If a member fails, the whole verdict has failed and is in no score.

    All members judge all steps, whatever their rule for stopping.

    Example:
        ```python
        verifier = Ensemble([open_verifier("outputs/genprm"), open_verifier("outputs/math-prm")])
        ```

    Args:
        members: The verifiers. They are closed with it.
        threshold: A step whose mean reward is below it is judged wrong.

    Attributes:
        n: Chains of a verdict: one for each member, with the reward, texts, code and tokens of its verdict.

    Raises:
        ConfigError: There are no members, or one cannot judge all steps.
    """

    def __init__(self, members: Sequence[Verifier], threshold: float = 0.5):
        if not members:
            raise ConfigError("an ensemble needs at least one verifier")
        self.members, self.threshold = list(members), threshold
        self.n = len(self.members)
        self._judges = [each if each.stop == "never" else each.with_options(stop="never") for each in self.members]

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        members: Sequence[str | Mapping[str, Any]] = (),
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        stop: str = "never",
        seed: int = 0,
    ) -> Self:
        """Loads an ensemble, one member after the other.

        Args:
            model: The first member: a directory, or a name on the Hub.
            members: The other members: such a name each, or arguments of `open_verifier`, such as
                `{"model": "outputs/genprm", "mode": "direct", "n": 8}`. The kind of each is found, unless it is given.
            tokenizer: The first member's tokenizer, or where it is. Default: the model's.
            backend: What runs the models. A member may have another.
            generator_kwargs: Passed to the backend. A member may have others.
            threshold: A step whose mean reward is below it is judged wrong.
            stop: `never`.
            seed: The members' seed. A member may have another.

        Raises:
            ConfigError: There is no other member, one cannot be opened, or `stop` is not `never`.
        """
        if stop != "never":
            raise ConfigError("an ensemble judges all steps; leave out --stop")
        named = named_members(members)
        shared = {"backend": backend, "generator_kwargs": generator_kwargs, "seed": seed}
        opened: list[Verifier] = []
        try:
            for each in ({"model": model, "tokenizer": tokenizer}, *named):
                opened.append(open_verifier(**{**shared, **each}))
        except BaseException:
            for verifier in opened:
                run(verifier.close())
            raise
        return cls(opened, threshold)

    @property
    def concurrency(self) -> int:
        """Solutions that keep the busiest member busy."""
        return max(member.concurrency for member in self.members)

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution with all members at once.

        Raises:
            ConfigError: The solution has no steps.
            GenPRMError: A member raised it.
        """
        check_steps(solution)
        try:
            async with asyncio.TaskGroup() as group:
                judging = [group.create_task(judge.verify(solution)) for judge in self._judges]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return mean_verdict([each.result() for each in judging], self.threshold)

    async def close(self) -> None:
        """Closes the members."""
        for member in self.members:
            await member.close()


def named_members(members: Any) -> list[Mapping[str, Any]]:
    """The arguments of `open_verifier` for the other members of an ensemble.

    Args:
        members: What `Ensemble.from_pretrained` takes. It may come from JSON, and so be anything.

    Raises:
        ConfigError: There are none, one names no model, or what says how it is loaded has another type.
    """
    listed = members if isinstance(members, list | tuple) else ()
    named = [each if isinstance(each, Mapping) else {"model": each} for each in listed]
    if not named or not all(isinstance(each.get("model"), str | Path) for each in named):
        raise ConfigError("an ensemble needs the models of its other members: members=[NAME, {'model': NAME}, ...]")
    for each in named:
        check_text(**{name: each[name] for name in ("kind", "backend") if name in each})
        if not isinstance(each.get("generator_kwargs") or {}, Mapping):
            raise ConfigError(f"generator_kwargs of {each['model']} must be names and values")
    return named


def mean_verdict(verdicts: Sequence[Verdict], threshold: float = 0.5) -> Verdict:
    """The verdict of an ensemble, of its members' verdicts on one solution; see `Ensemble`.

    Args:
        verdicts: The members' verdicts, at least one. The steps that all of them judged count.
        threshold: A step whose mean reward is below it is judged wrong.

    Examples:
        >>> of = lambda reward, status: Verdict("s", [reward], -1, [[StepJudgement("", reward, status)]])
        >>> mean_verdict([of(0.9, "ok"), of(0.3, "ok"), of(0.5, "no_verdict")]).rewards
        [0.6]
    """
    steps = min(len(verdict.rewards) for verdict in verdicts)
    chains = [[_judgement(verdict, step) for step in range(steps)] for verdict in verdicts]
    read = [[each.reward for each in step if each.is_read] for step in zip(*chains, strict=True)]
    rewards = [average(each) if each else 0.5 for each in read]
    prediction = prediction_from_rewards(rewards, threshold)
    first = verdicts[0]
    return Verdict(first.id, rewards, prediction, chains, first.label, threshold, first.solution_digest)


def _judgement(verdict: Verdict, step: int) -> StepJudgement:
    """A member's judgement of a step: all its chains as one."""
    chains = [chain[step] for chain in verdict.chains]
    return StepJudgement(
        "\n\n".join(each.rationale for each in chains if each.rationale),
        verdict.rewards[step],
        _status([each.status for each in chains]),
        [code_round for each in chains for code_round in each.code_rounds],
        sum(each.num_tokens for each in chains),
    )


def _status(statuses: Sequence[StepStatus]) -> StepStatus:
    """A failure comes first, then the best of the chains. A verifier that keeps no chains has judged."""
    order: tuple[StepStatus, ...] = ("error", "ok", "fallback", "no_verdict", "truncated")
    return next((status for status in order if status in statuses), "ok")
