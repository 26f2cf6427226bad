"""The options that say which problems or solutions to read, shared by the commands that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genprm_trl.data.problems import Problem
    from genprm_trl.data.solutions import Records
    from genprm_trl.records import Solution


@dataclass
class SourceOptions:
    """Where rows come from. A command's `run` takes it before its own options, so that FILE is named first."""

    file: str = field(metadata={"help": "What to read: a file or a dataset.", "positional": True, "reads": "rows"})
    split: str | None = field(default=None, metadata={"help": "Split of FILE, if it has several."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first LIMIT of them."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report unusable rows and skip them, instead of refusing to start."}
    )


@dataclass
class ProblemOptions(SourceOptions):
    """Which problems to work on."""

    file: str = field(metadata={"help": "Problems: a file or a dataset.", "positional": True, "reads": "rows"})
    format: str = field(
        default="auto",
        metadata={
            "help": "Row format of FILE, as for `genprm verify`. With math, a box in the solution is the answer."
        },
    )

    def read(self, *, need_answers: bool = True) -> Records[Problem]:
        """The problems, read when they are iterated over.

        Args:
            need_answers: Whether a row without the reference answer is a bad one.

        Raises:
            ConfigError: The limit is below 1.
        """
        from genprm_trl.data.problems import read_problems

        return read_problems(
            self.file,
            split=self.split,
            format=self.format,
            limit=self.limit,
            skip_bad_rows=self.skip_bad_rows,
            need_answers=need_answers,
        )


@dataclass
class AnsweredProblemOptions(ProblemOptions):
    """Which problems to work on, for a command that needs their answers."""

    file: str = field(
        metadata={"help": "Problems with their answers: a file or a dataset.", "positional": True, "reads": "rows"}
    )


@dataclass
class SolutionOptions(SourceOptions):
    """Which solutions to work on."""

    file: str = field(metadata={"help": "Solutions: a file or a dataset.", "positional": True, "reads": "rows"})
    format: str = field(
        default="auto",
        metadata={
            "help": "Row format of FILE: auto (recognised by its fields), candidates, processbench, prm800k, "
            "math_shepherd, stepwise, gsm8k_solutions, gsm8k, math or text. The first line of output names it."
        },
    )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `load_solutions` and `read_groups`."""
        return {
            "source": self.file,
            "split": self.split,
            "format": self.format,
            "limit": self.limit,
            "skip_bad_rows": self.skip_bad_rows,
        }

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
