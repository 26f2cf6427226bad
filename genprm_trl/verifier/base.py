"""The interface of every verifier: solutions in, verdicts out.

`GenPRM` judges in this process, `VerifierClient` on servers. Rewards, search, refinement, the service and the commands
ask for no more than this. Another kind of verifier is another file with a subclass that has `verify`, and whatever
else it can do better than the base class.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from genprm_trl._loops import Closable, as_finished, iterate_in_thread, run
from genprm_trl.errors import ConfigError
from genprm_trl.records import Solution, Verdict

LOOK_AHEAD = 1024  # solutions among which the next longest is looked for


class Verifier(Closable):
    """Judges solutions step by step: one, many, or further steps of one.

    `with` and `async with` close it at the end of the block.

    Attributes:
        n: Chains of judgements that are asked for, a verdict.
        stop: Whether a solution ends at its first wrong step, as in `GenPRM`.
        adaptive: Whether a verdict may hold fewer chains, as in `GenPRM`.
        scores_solutions: Whether verdicts may say something of the whole solution (`Verdict.solution_reward`).
    """

    n: int = 1
    stop: str = "never"
    adaptive: str = "off"
    scores_solutions: bool = False

    @abstractmethod
    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution. Any number of calls may run at once.

        A subclass calls `check_steps` first. Whatever the texts hold, there is a verdict.

        Raises:
            ConfigError: The solution has no steps.
            GenPRMError: The verifier is closed, or nothing can be expected of it any more.
        """

    async def verify_further(
        self, solution: Solution, verdict: Verdict | None = None, *, affinity: str | None = None
    ) -> Verdict:
        """Judges the steps that a solution has gained since a verdict. All steps are judged, none is left out.

        By default the whole solution is judged again.

        Args:
            solution: The solution as it is now.
            verdict: The verdict on its first steps, from this method; None if there is none.
            affinity: A hint: calls about solutions that begin alike give the same string.

        Raises:
            ConfigError: The verifier cannot do so, or another verifier made the verdict.
            GenPRMError: The verifier is closed, or nothing can be expected of it any more.
        """
        return await self.verify(solution)

    def with_options(self, **changes: Any) -> Verifier:
        """The verifier with other options, which shares what this one holds. By default none can be changed.

        Raises:
            ConfigError: There is no such option, or it has no such value.
        """
        for name, value in changes.items():
            if not hasattr(self, name):
                raise ConfigError(f"{type(self).__name__} has no option '{name}'")
            if getattr(self, name) != value:
                raise ConfigError(f"{type(self).__name__} has {name}={getattr(self, name)!r}, which cannot be changed")
        return self

    @property
    def concurrency(self) -> int:
        """Solutions that keep it busy when they are judged at once."""
        return 1

    @property
    def fewest_chains(self) -> int:
        """Chains that a solution takes at least."""
        return self.n

    def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions and yields each verdict as it is ready.

        Solutions are taken from the iterable only as there is room for them, so it may be longer than memory. Of a
        sequence, those with the most steps are taken first: started last, they would keep the verifier waiting at the
        end.
        """
        if isinstance(solutions, Sequence):
            solutions = longest_first(solutions)
        # One solution more than it works on is ready to start, so that it never waits for the next one.
        return as_finished(self.verify, solutions, self.concurrency + 1)

    def verify_all(
        self,
        solutions: Iterable[Solution],
        *,
        progress: bool = True,
        total: int | None = None,
        desc: str = "Verifying",
    ) -> Iterator[Verdict]:
        """Judges many solutions and yields each verdict as it is ready, with a progress bar.

        The event loop runs in a separate thread, so this works in scripts and notebooks alike.

        Args:
            solutions: Any iterable; consumed lazily.
            progress: Show a progress bar on stderr.
            total: Number of solutions for the bar, if `solutions` has no length.
            desc: The bar's label.
        """
        from tqdm.auto import tqdm

        if total is None and isinstance(solutions, Sequence):
            total = len(solutions)
        verdicts = iterate_in_thread(lambda: self.verify_stream(solutions))
        with (
            contextlib.closing(verdicts),  # type: ignore[type-var]
            tqdm(total=total, desc=desc, unit="solution", disable=not progress, dynamic_ncols=True) as bar,
        ):
            for verdict in verdicts:
                bar.update()
                yield verdict

    async def close(self) -> None:
        """Frees what it holds; a verifier that holds nothing has nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self.close())


def longest_first(solutions: Iterable[Solution]) -> Iterator[Solution]:
    """The solutions with the most steps first. Started last, they would keep a verifier waiting at the end.

    Each is the longest of the next `LOOK_AHEAD`, so no more of them are in memory.
    """
    ahead = ((-len(solution.steps), number, solution) for number, solution in enumerate(solutions))
    heap = list(itertools.islice(ahead, LOOK_AHEAD))
    heapq.heapify(heap)
    for entry in ahead:
        yield heapq.heapreplace(heap, entry)[-1]
    while heap:
        yield heapq.heappop(heap)[-1]


def check_steps(solution: Solution) -> None:
    """Checks that there is something to judge.

    Raises:
        ConfigError: The solution has no steps.
    """
    if not solution.steps:
        raise ConfigError(f"solution '{solution.id}' has no steps")
