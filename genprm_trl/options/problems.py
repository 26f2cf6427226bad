"""The options that say which problems to work on, shared by the commands that read problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genprm_trl.data.problems import Problem
    from genprm_trl.data.solutions import Records


@dataclass
class ProblemOptions:
    """Where problems come from. A command's `run` takes it before its own options, so that FILE is named first."""

    file: str = field(metadata={"help": "Problems: a file, or a data set.", "positional": True})
    split: str | None = field(default=None, metadata={"help": "Split of FILE, where it has several."})
    limit: int | None = field(default=None, metadata={"help": "Take the first LIMIT problems alone."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report and skip unusable rows instead of stopping before work starts."}
    )

    def read(self, *, need_answers: bool = True) -> Records[Problem]:
        """The problems, read when they are iterated over.

        Args:
            need_answers: See `read_problems`.

        Raises:
            ConfigError: The limit is below 1.
        """
        from genprm_trl.data.problems import read_problems

        return read_problems(
            self.file,
            split=self.split,
            limit=self.limit,
            skip_bad_rows=self.skip_bad_rows,
            need_answers=need_answers,
        )


@dataclass
class AnsweredProblemOptions(ProblemOptions):
    """The same for a command that needs the answers."""

    file: str = field(metadata={"help": "Problems with their answers: a file, or a data set.", "positional": True})
