"""The options that say which problems or solutions to read, shared by the commands that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genprm_trl.data.formats import FORMATS

if TYPE_CHECKING:
    from genprm_trl.data.problems import Problem
    from genprm_trl.data.solutions import Records
    from genprm_trl.records import Solution


@dataclass(kw_only=True)
class SplitOptions:
    """Which part of the input to read."""

    split: str | None = field(default=None, metadata={"help": "Split of the input, if it has several."})


@dataclass(kw_only=True)
class FormatOptions(SplitOptions):
    """How to read the rows of the input."""

    format: str = field(
        default="auto",
        metadata={
            "help": f"Row format of the input: auto (recognised by its fields), {', '.join(FORMATS)}. "
            "With math, a box in the solution is the answer."
        },
    )

    def read_judged(
        self, file: str | None, on_format: Callable[[str], None] | None = None
    ) -> Iterator[Solution] | None:
        """The solutions that verdicts are about, read when they are iterated over; None if no file is named.

        What is unusable is left out: it was not judged either, or its verdict is shown without texts.

        Args:
            file: The file or dataset.
            on_format: Called with the name of the rows' format, once it is known.
        """
        from genprm_trl.data.solutions import iter_solutions

        if file is None:
            return None
        return iter_solutions(file, split=self.split, format=self.format, skip_bad_rows=True, on_format=on_format)


@dataclass(kw_only=True)
class RowOptions(FormatOptions):
    """Which rows of the input to read. A command's `run` takes it before its other options, so FILE is named first."""

    limit: int | None = field(
        default=None,
        metadata={"help": "Use only the first LIMIT solutions; or problems, where a command works on problems."},
    )
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report unusable rows and skip them, instead of refusing to start."}
    )

    def arguments(self) -> dict[str, Any]:
        """The arguments of the functions in `data` that read rows, besides the source."""
        return {name: getattr(self, name) for name in ("split", "format", "limit", "skip_bad_rows")}


@dataclass(kw_only=True)
class ProblemOptions(RowOptions):
    """Which problems to work on."""

    file: str = field(metadata={"help": "Problems: a file or a dataset.", "positional": True, "reads": "rows"})

    def read(self, *, need_answers: bool = True) -> Records[Problem]:
        """The problems, read when they are iterated over.

        Args:
            need_answers: Whether a row without the reference answer is a bad one.

        Raises:
            ConfigError: The limit is below 1.
        """
        from genprm_trl.data.problems import read_problems

        return read_problems(self.file, **self.arguments(), need_answers=need_answers)


@dataclass(kw_only=True)
class AnsweredProblemOptions(ProblemOptions):
    """Which problems to work on, for a command that needs their answers."""

    file: str = field(
        metadata={"help": "Problems with their answers: a file or a dataset.", "positional": True, "reads": "rows"}
    )


@dataclass(kw_only=True)
class SolutionOptions(RowOptions):
    """Which solutions to work on."""

    file: str = field(metadata={"help": "Solutions: a file or a dataset.", "positional": True, "reads": "rows"})

    def read(self, on_format: Callable[[str], None] | None = None) -> Records[Solution]:
        """The solutions, read when they are iterated over.

        Args:
            on_format: Called with the name of the rows' format, once it is known.

        Raises:
            ConfigError: The limit is below 1, or there is no such format.
        """
        from genprm_trl.data.solutions import Records, solution_reader

        return Records(
            self.file,
            solution_reader(self.format, on_format),
            split=self.split,
            limit=self.limit,
            skip_bad_rows=self.skip_bad_rows,
        )
