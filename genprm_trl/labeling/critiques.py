"""Critiques sampled from a reasoner: a solution with the outcome of each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, cast, get_args

from genprm_trl.errors import DataError
from genprm_trl.records import Solution, read_about, row_about
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.fields import as_choice, as_integer, as_objects, as_optional_text, as_text, require

# Those of `protocol.synthesis_chain.CritiqueStatus` that the model has to answer for. A generator or a sandbox that
# failed makes no sample: such a solution is tried again.
SampleStatus = Literal["complete", "unfinished_thinking", "out_of_tokens", "out_of_code_rounds"]
SAMPLE_STATUSES: tuple[str, ...] = get_args(SampleStatus)


@dataclass(frozen=True, slots=True)
class SampledCode:
    """A code block that ran, what it printed, and how it ended (see `sandbox.base.ExecutionResult`).

    Unlike a verdict's `CodeRound` it does not say how long it took: the recipe's files are the same in every run.
    """

    code: str
    output: str
    status: str

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks an object and makes the block of it.

        Raises:
            DataError: A field is missing or of the wrong type.
        """
        return cls(*(as_text(row.get(name), name) for name in ("code", "output", "status")))


@dataclass(slots=True)
class RationaleSample:
    """One critique of a whole solution.

    Attributes:
        status: How it ended.
        answer: The reasoner's answer with the outputs of its code, without its thinking.
        code_rounds: The code blocks that ran, in order.
        num_tokens: Tokens that the reasoner generated, thinking included.
        thinking: The reasoner's thinking, if it was kept.
    """

    status: SampleStatus
    answer: str
    code_rounds: list[SampledCode] = field(default_factory=list)
    num_tokens: int = 0
    thinking: str | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks an object and makes the sample of it.

        Raises:
            DataError: A field is missing, of the wrong type or out of range.
        """
        return cls(
            status=cast(SampleStatus, as_choice(row.get("status"), "status", SAMPLE_STATUSES)),
            answer=as_text(row.get("answer"), "answer"),
            code_rounds=as_objects(row.get("code_rounds") or [], "code_rounds", SampledCode.from_dict),
            num_tokens=as_integer(row.get("num_tokens", 0), "num_tokens", low=0),
            thinking=as_optional_text(row.get("thinking"), "thinking"),
        )


@dataclass(slots=True)
class SampledSolution:
    """A solution with the critiques that were sampled for it.

    Attributes:
        solution: The solution, with its label if it had one.
        samples: The critiques, at least one.
        source: Model and settings that made the critiques, for audit.
    """

    solution: Solution
    samples: list[RationaleSample]
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The solution's id."""
        return self.solution.id

    @property
    def digest(self) -> str:
        """A short hash of everything that the consensus filter looks at or hands on."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The row of this record. `id` repeats the solution's, as in every file of the recipe."""
        return row_about(self.solution, self.source, samples=[asdict(sample) for sample in self.samples])

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks a row and makes the record of it.

        Raises:
            DataError: A field is missing or of the wrong type.
        """
        solution, source = read_about(row)
        samples = as_objects(require(row, "samples"), "samples", RationaleSample.from_dict)
        if not samples:
            raise DataError("must hold at least one sample", field="samples")
        return cls(solution, samples, source)
