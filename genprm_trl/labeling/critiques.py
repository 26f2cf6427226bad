"""Critiques sampled from a reasoner: a solution with what came of each attempt at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from genprm_trl.errors import DataError
from genprm_trl.records import Solution
from genprm_trl.rows.fields import as_integer, as_list, as_object, as_optional_text, as_text, json_safe, require

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

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "output": self.output, "status": self.status}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, path: str = "") -> Self:
        """`path` is where the block stands in its record, for error messages."""
        row = as_object(row, path.rstrip("."))
        return cls(*(as_text(row.get(name), f"{path}{name}") for name in ("code", "output", "status")))


@dataclass(slots=True)
class RationaleSample:
    """One critique of a whole solution.

    Attributes:
        status: How it ended.
        answer: The reasoner's answer with the outputs of its code, without its thinking.
        code_rounds: The code blocks that ran, in order.
        num_tokens: Tokens that the reasoner generated, thinking included.
        thinking: What it thought before and between, where that was to be kept.
    """

    status: SampleStatus
    answer: str
    code_rounds: list[SampledCode] = field(default_factory=list)
    num_tokens: int = 0
    thinking: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "answer": self.answer,
            "code_rounds": [code_round.to_dict() for code_round in self.code_rounds],
            "num_tokens": int(self.num_tokens),
            "thinking": self.thinking,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, path: str = "") -> Self:
        """`path` is where the sample stands in its record, for error messages."""
        row = as_object(row, path.rstrip("."))
        status = as_text(row.get("status"), f"{path}status")
        if status not in SAMPLE_STATUSES:
            raise DataError(f"must be one of {', '.join(SAMPLE_STATUSES)}, but is {status!r}", field=f"{path}status")
        rounds = as_list(row.get("code_rounds") or [], f"{path}code_rounds")
        return cls(
            status=status,  # type: ignore[arg-type]  # checked against the literal's values above
            answer=as_text(row.get("answer"), f"{path}answer"),
            code_rounds=[
                SampledCode.from_dict(item, path=f"{path}code_rounds[{index}].") for index, item in enumerate(rounds)
            ],
            num_tokens=as_integer(row.get("num_tokens", 0), f"{path}num_tokens", low=0),
            thinking=as_optional_text(row.get("thinking"), f"{path}thinking"),
        )


@dataclass(slots=True)
class SampledSolution:
    """A solution with the critiques that were sampled for it.

    Attributes:
        solution: The solution, with its label if it had one.
        samples: The critiques, at least one.
        source: What made them, for audit.
    """

    solution: Solution
    samples: list[RationaleSample]
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.solution.id

    @property
    def digest(self) -> str:
        """A short hash of everything that the consensus filter looks at or hands on."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The row of this record. `id` repeats the solution's, as in every file of the recipe."""
        row: dict[str, Any] = {
            "id": self.solution.id,
            "solution": self.solution.to_dict(),
            "samples": [sample.to_dict() for sample in self.samples],
        }
        if self.source:  # an empty object has no type in Arrow
            row["source"] = dict(self.source)
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks a row and makes the record of it.

        Raises:
            DataError: A field is missing or of the wrong type.
        """
        row = as_object(row, None)
        inner = as_object(require(row, "solution"), "solution")
        try:
            solution = Solution.from_dict(inner, default_id=row.get("id"))
        except DataError as error:
            raise DataError(error.message, field=f"solution.{error.field}") from None
        samples = as_list(require(row, "samples"), "samples")
        if not samples:
            raise DataError("must hold at least one sample", field="samples")
        return cls(
            solution=solution,
            samples=[RationaleSample.from_dict(item, path=f"samples[{n}].") for n, item in enumerate(samples)],
            source=json_safe(as_object(row.get("source") or {}, "source")),
        )
