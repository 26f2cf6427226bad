"""Whatever judges many solutions: in this process (`GenPRM`) or on servers (`VerifierClient`)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

from tqdm.auto import tqdm

from genprm_trl._loops import iterate_in_thread
from genprm_trl.records import Solution, Verdict


class Verifier(ABC):
    """A verifier that takes solutions and hands out verdicts as they are ready."""

    @abstractmethod
    def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions and yields each verdict as it is ready."""

    def verify_all(
        self,
        solutions: Iterable[Solution],
        *,
        progress: bool = True,
        total: int | None = None,
        desc: str = "Verifying",
    ) -> Iterator[Verdict]:
        """Judges many solutions and yields each verdict as it is ready, with a progress bar.

        The event loop runs in a thread of its own, so this works in scripts and notebooks alike.

        Args:
            solutions: Any iterable; consumed lazily.
            progress: Show a progress bar on stderr.
            total: Number of solutions for the bar, if `solutions` has no length.
            desc: The bar's label.
        """
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
