"""Several verifiers as one: a step's reward is the mean of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from genprm_trl._loops import run
from genprm_trl.conversation.settings import named_date
from genprm_trl.errors import ConfigError, check_one_of, check_share, check_text
from genprm_trl.records import Solution, StepJudgement, StepStatus, Verdict, prediction_from_rewards
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.verifier.base import Verifier, check_steps
from genprm_trl.verifier.decision import average
from genprm_trl.verifier.opening import AUTO, find_kind, kind_named, open_verifier
from genprm_trl.verifier.tally import StopRule


class Ensemble(Verifier):
    """Asks several verifiers about each solution and averages their rewards, step by step.

    A member that has no verdict on a step is left out of that step's mean. Where no member has one, the step has none:
    its reward is 0.5 and its status says why. If a member fails, the whole verdict has failed and is in no score.

    All members judge all steps, whatever their rule for stopping. Where each of them says something of the whole
    solution (`Verdict.solution_reward`), the ensemble says the mean of it, also in a verdict that is cut.

    Example:
        ```python
        verifier = Ensemble([open_verifier("outputs/genprm"), open_verifier("outputs/math-prm")])
        ```

    Args:
        members: The verifiers. They are closed with it.
        threshold: A step whose mean reward is below it is judged wrong.
        stop: `never` shows every step. `first_error` cuts a verdict after the first step below the threshold.

    Attributes:
        n: Chains of a verdict: one for each member, with the reward, texts, code and tokens of its verdict.
        scores_solutions: Whether all members do so.

    Raises:
        ConfigError: There are no members, one cannot judge all steps, or an option has no such value.
    """

    def __init__(self, members: Sequence[Verifier], threshold: float = 0.5, stop: StopRule = "never"):
        if not members:
            raise ConfigError("an ensemble needs at least one verifier")
        check_share(threshold=threshold)
        check_one_of(get_args(StopRule), stop=stop)
        self.members, self.threshold = list(members), threshold
        self.stop: StopRule = stop
        self.n = len(self.members)
        self.scores_solutions = all(member.scores_solutions for member in self.members)
        self._judges = [each if each.stop == "never" else each.with_options(stop="never") for each in self.members]

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        members: Sequence[str | Mapping[str, Any]] = (),
        first: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        stop: StopRule = "never",
        seed: int = 0,
        sandbox: Sandbox | None = None,
        template_date: str | None = None,
    ) -> Self:
        """Loads an ensemble, one member after the other.

        Args:
            model: The first member: a directory, or a name on the Hub.
            members: The other members: such a name each, or arguments of `open_verifier`, such as
                `{"model": "outputs/genprm", "mode": "direct", "n": 8}`. The kind of each is found, unless it is given.
            first: More arguments of the first member, such as `{"kind": "genprm", "n": 8}`.
            tokenizer: The first member's tokenizer, or where it is. Default: the model's.
            backend: What runs the models. A member may have another.
            generator_kwargs: Passed to the backend. A member may have others.
            threshold: A step whose mean reward is below it is judged wrong.
            stop: `never` shows every step. `first_error` cuts a verdict after the first step below the threshold.
            seed: The members' seed. A member may have another.
            sandbox: Runs the code of all members that run code. Default: each opens its own.
            template_date: The day that the members' templates show as today's. A member, or its directory, may name
                another. Default: the day on which each is opened.

        Raises:
            ConfigError: There is no other member, one cannot be opened, or an option has no such value.
        """
        check_share(threshold=threshold)
        check_one_of(get_args(StopRule), stop=stop)
        named = named_members(model, members, first)
        shared = {"backend": backend, "generator_kwargs": generator_kwargs, "seed": seed}
        if tokenizer is not None:
            named[0] = {"tokenizer": tokenizer, **named[0]}
        opened: list[Verifier] = []
        try:
            for each in named:
                of_code = {"sandbox": sandbox} if sandbox is not None and may_run_code(each) else {}
                of_day = {"template_date": template_date} if template_date and _takes_date(each) else {}
                opened.append(open_verifier(**{**shared, **of_code, **of_day, **each}))
        except BaseException:
            for verifier in opened:
                run(verifier.close())
            raise
        return cls(opened, threshold, stop)

    def with_options(self, **changes: Any) -> Ensemble:
        """An ensemble of the same members with another `threshold` or `stop`.

        Raises:
            ConfigError: There is no such option, it has no such value, or it cannot be changed.
        """
        own = {name: changes.pop(name) for name in ("threshold", "stop") if name in changes}
        super().with_options(**changes)
        return type(self)(self.members, **{"threshold": self.threshold, "stop": self.stop, **own})

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
        return mean_verdict([each.result() for each in judging], self.threshold, self.stop)

    async def verify_further(
        self, solution: Solution, verdict: Verdict | None = None, *, affinity: str | None = None
    ) -> Verdict:
        """Judges the whole solution, whatever `stop` says.

        Raises:
            ConfigError: The solution has no steps.
            GenPRMError: A member raised it.
        """
        return await self.with_options(stop="never").verify(solution)

    async def close(self) -> None:
        """Closes the members."""
        for member in self.members:
            await member.close()


def named_members(model: str | Path, members: Any, first: Mapping[str, Any] | None = None) -> list[Mapping[str, Any]]:
    """The arguments of `open_verifier` for each member of an ensemble.

    Args:
        model: The first member.
        members: The others, as `Ensemble.from_pretrained` takes them. They may come from JSON, and so be anything.
        first: More arguments of the first member, likewise.

    Raises:
        ConfigError: There are no others, one names no model, or what says how it is loaded has another type.
    """
    listed = members if isinstance(members, list | tuple) else ()
    named = [each if isinstance(each, Mapping) else {"model": each} for each in listed]
    if not named or not all(isinstance(each.get("model"), str | Path) for each in named):
        raise ConfigError(
            "an ensemble needs the models of its other members: members=[NAME, {'model': NAME}, ...]; on the command "
            """line: --kind_options '{"members": ["NAME"]}'"""
        )
    if not isinstance(first or {}, Mapping) or "model" in (first or {}):
        raise ConfigError(f"first must be names and values, without the model: arguments of the member {model}")
    named.insert(0, {"model": model, **(first or {})})
    for each in named:
        check_text(**{name: each[name] for name in ("kind", "backend") if name in each})
        if not isinstance(each.get("generator_kwargs") or {}, Mapping):
            raise ConfigError(f"generator_kwargs of {each['model']} must be names and values")
        if "sandbox" in each:
            raise ConfigError(f"all members have the sandbox of the ensemble: leave out that of {each['model']}")
    return named


def single_members(member: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The verifiers that a verifier is made of, before it is loaded: itself, unless it is an ensemble.

    Args:
        member: The arguments of `open_verifier` for it.

    Yields:
        The arguments for each, with its kind.

    Raises:
        ConfigError: The kind of one cannot be told, or the members of an ensemble cannot be used.
    """
    kind = find_kind(member["model"]) if member.get("kind", AUTO) == AUTO else member["kind"]
    if kind != "ensemble":
        yield {**member, "kind": kind}
        return
    for each in named_members(member["model"], member.get("members"), member.get("first")):
        yield from single_members(each)


def may_run_code(member: Mapping[str, Any]) -> bool:
    """Whether a verifier runs code, as far as that can be known before it is loaded.

    Args:
        member: The arguments of `open_verifier` for it.

    Raises:
        ConfigError: Its kind cannot be told.
    """
    from genprm_trl.verifier.genprm import runs_code

    return any(
        "sandbox" in kind_named(each["kind"]).options() and runs_code(each["model"], each.get("mode"))
        for each in single_members(member)
    )


def _takes_date(member: Mapping[str, Any]) -> bool:
    """Whether a member is to show the day that it is given: not one whose training has named the day."""
    kind = find_kind(member["model"]) if member.get("kind", AUTO) == AUTO else member["kind"]
    takes = "template_date" in kind_named(kind).options()
    return takes and (kind == "ensemble" or named_date(member["model"]) is None)


def mean_verdict(verdicts: Sequence[Verdict], threshold: float = 0.5, stop: StopRule = "never") -> Verdict:
    """The verdict of an ensemble, of its members' verdicts on one solution; see `Ensemble`.

    Args:
        verdicts: The members' verdicts, at least one. The steps that all of them judged count.
        threshold: A step whose mean reward is below it is judged wrong.
        stop: `first_error` leaves out the steps after the first one below the threshold.

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
    whole = [verdict.solution_reward for verdict in verdicts]
    if stop == "first_error" and prediction >= 0:
        rewards, chains = rewards[: prediction + 1], [chain[: prediction + 1] for chain in chains]
    if steps and None not in whole:
        for chain, said in zip(chains, whole, strict=True):
            chain[-1].solution_reward = said
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
