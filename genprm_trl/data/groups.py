"""The input of labelling: solutions, those of one problem together."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from genprm_trl.data.solutions import iter_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution


@dataclass(frozen=True, slots=True)
class SolutionGroup:
    """Solutions of one problem, at least one."""

    solutions: tuple[Solution, ...]

    @property
    def id(self) -> str:
        """The first solution's id, which no other group has."""
        return self.solutions[0].id

    @property
    def problem(self) -> str:
        return self.solutions[0].problem

    @property
    def answer(self) -> str:
        assert self.solutions[0].answer is not None  # see `SolutionGroups`
        return self.solutions[0].answer

    @property
    def digest(self) -> str:
        content = [self.answer, *([s.id, s.digest, s.final_answer_correct] for s in self.solutions)]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


class SolutionGroups(Iterable[SolutionGroup]):
    """Groups of solutions from a file or data set, read anew each time it is iterated over.

    Solutions of one problem that stand together, as `genprm rollout` writes them, make a group.

    Args:
        source, split, format: As for `loading.iter_solutions`. A solution needs its reference answer.
        limit: Take the first so many problems alone.
        skip_bad_rows: Leave bad rows out, with a warning, instead of raising for the first.

    Attributes:
        bad_rows: Rows that were left out when it was last iterated over.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(
        self,
        source: Any,
        *,
        split: str | None = None,
        format: str = "auto",
        limit: int | None = None,
        skip_bad_rows: bool = False,
    ):
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self._source, self._split, self._format, self._limit = source, split, format, limit
        self._skip_bad_rows = skip_bad_rows
        self.bad_rows = 0

    def __iter__(self) -> Iterator[SolutionGroup]:
        self.bad_rows = 0
        grouped = itertools.groupby(self._solutions(), key=lambda solution: (solution.problem, solution.answer))
        for _, solutions in itertools.islice(grouped, self._limit):
            yield SolutionGroup(tuple(solutions))

    def _solutions(self) -> Iterator[Solution]:
        solutions = iter_solutions(
            self._source,
            split=self._split,
            format=self._format,
            skip_bad_rows=self._skip_bad_rows,
            on_bad_row=self._count,
        )
        for solution in solutions:
            if solution.answer is not None:
                yield solution
                continue
            name = self._source if isinstance(self._source, str) else None
            error = DataError(
                f"solution '{solution.id}' has no reference answer, which its roll-outs are held against",
                file=name,
                field="answer",
            )
            if not self._skip_bad_rows:
                raise error
            self._count(error)

    def _count(self, error: DataError) -> None:
        self.bad_rows += 1
