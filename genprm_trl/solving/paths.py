"""The paths of a search, which are prefixes of solutions: a policy writes their next step, a verifier judges it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from genprm_trl._loops import gathered
from genprm_trl.data.problems import Problem
from genprm_trl.data.steps import split_steps
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.records import Solution, Verdict
from genprm_trl.selection.aggregates import Aggregate, aggregate
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.base import Verifier

# `stop`: the policy ended it. The others are cut off: by the bound on a request's tokens, by the policy's context, by
# the bound on steps.
End = Literal["open", "stop", "length", "context", "steps"]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Path:
    """The first steps of a solution, or all of them.

    Attributes:
        name: The path's unique name in the search; seeds are made of it.
        token_ids: Prompt and text as the policy continues them.
        steps: The steps so far.
        end: Whether and how it has ended.
        verdict: The verdict on the steps; None before they are judged.
    """

    name: str
    token_ids: list[int]
    steps: list[str] = field(default_factory=list)
    end: End = "open"
    verdict: Verdict | None = None

    @property
    def is_open(self) -> bool:
        """Whether the policy may write a further step."""
        return self.end == "open"

    @property
    def reward(self) -> float:
        """The reward of the last step; 0 without one."""
        return self.verdict.rewards[-1] if self.verdict is not None and self.verdict.rewards else 0.0

    def score(self, rule: Aggregate) -> float:
        """The rewards of all steps."""
        return aggregate(self.verdict.rewards, rule) if self.verdict is not None and self.verdict.rewards else 0.0


@dataclass(slots=True)
class Grower:
    """Grows the paths of one problem, and counts what that costs.

    The policy is held to `Step k:` headings: the answer begins with the first one, and a step ends where the policy
    writes the next one itself, so that what it samples is what it would have written in one go.

    Attributes:
        policy: Writes the steps.
        verifier: Judges the steps, each once, however many paths continue it.
        problem: The problem to solve.
        max_steps: A path ends after this many steps.
        seed: Seed of the policy's samples; the verifier has its own.
        policy_tokens, verifier_tokens: Tokens that each has generated so far.
        written: What the policy has written behind each path, by the path's name.
        rationales: Whether the rationales of each path differ.
    """

    policy: Solver
    verifier: Verifier
    problem: Problem
    max_steps: int = 40
    seed: int = 0
    policy_tokens: int = 0
    verifier_tokens: int = 0
    written: dict[str, list[str]] = field(default_factory=dict)
    rationales: Sameness = field(default_factory=Sameness)

    async def start(self, n: int) -> list[Path]:
        """`n` sampled and judged first steps."""
        prompt = self.policy.prompt(self.problem.text, "Step 1:")
        return await self.extend([Path("", prompt)] * n)

    async def extend(self, paths: Sequence[Path]) -> list[Path]:
        """A further step for each open path, sampled and judged; those that have ended stay as they are.

        A path that is given several times gets as many samples of its next step.
        """
        return await self._each(self._extend, enumerate(paths))

    async def complete(self, n: int) -> list[Path]:
        """`n` whole solutions, each sampled in one go and then judged."""
        prompt = self.policy.prompt(self.problem.text, "Step 1:")
        return await self._each(self._complete, [(number, Path("", prompt)) for number in range(n)])

    async def _each(
        self, work: Callable[[int, Path], Awaitable[ResultT]], paths: Iterable[tuple[int, Path]]
    ) -> list[ResultT]:
        return await gathered(work(number, path) for number, path in paths)

    async def _extend(self, number: int, path: Path) -> Path:
        if not path.is_open:
            return path
        step = len(path.steps) + 1
        following = f"\nStep {step + 1}:"
        name = f"{path.name}.{number}" if path.name else str(number)
        text, token_ids, reason = await self._write(path, name, (following,))
        end: End = "open" if text.endswith(following) else reason
        body = text.removesuffix(following).strip()
        if end != "open" and not body:
            return replace(path, name=name, end=end)  # the heading was all
        if end == "open" and step == self.max_steps:
            end = "steps"
        written = f"Step {step}: {body}".strip()
        grown = Path(name, token_ids, [*path.steps, written], end, path.verdict)
        return replace(grown, verdict=await self._judge(grown))

    async def _complete(self, number: int, path: Path) -> Path:
        text, token_ids, reason = await self._write(path, str(number), ())
        steps = split_steps(without_thinking(self.policy.text("Step 1:", text, reason)), "step").steps or ["Step 1:"]
        whole = Path(str(number), token_ids, steps, reason)
        return replace(whole, verdict=await self._judge(whole))

    async def _write(self, path: Path, name: str, stop: tuple[str, ...]) -> tuple[str, list[int], End]:
        seed = derive_seed(self.seed, "search", self.problem.id, self.problem.digest, name)
        result = await self.policy.complete(path.token_ids, seed, stop=stop, affinity=self.problem.id)
        self.policy_tokens += result.num_generated
        self.written.setdefault(path.name, []).append(result.text)
        reason: End = result.finish_reason if result.finish_reason in ("length", "context") else "stop"
        return result.text, [*path.token_ids, *result.token_ids], reason

    async def _judge(self, path: Path) -> Verdict:
        solution = Solution(f"{self.problem.id}/{path.name}", self.problem.text, path.steps)
        verdict = await self.verifier.verify_further(solution, path.verdict, affinity=self.problem.id)
        if verdict.has_failed:
            raise ItemFailed(f"the verifier failed on path {path.name}")
        self.rationales.add_verdict(verdict)
        judged = len(path.verdict.rewards) if path.verdict is not None else 0
        self.verifier_tokens += sum(step.num_tokens for chain in verdict.chains for step in chain[judged:])
        return verdict
