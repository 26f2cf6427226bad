"""What `/verify` takes, and the checks that every row must pass before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genprm_trl.data.solutions import Records
from genprm_trl.errors import DataError
from genprm_trl.protocol.genprm import MODES
from genprm_trl.records import Solution
from genprm_trl.rows.fields import kind
from genprm_trl.rows.jsonl import parse_json
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.limits import ServiceLimits
from genprm_trl.verifier.client import REQUEST_OPTIONS

# The fields of a row that matter here. Whatever else a dataset's rows carry is not sent back, so it is not kept.
_SOLUTION_FIELDS = ("id", "problem", "steps", "answer", "final_answer_correct", "label", "generator")


class VerifyRequest(BaseModel):
    """The body of `POST /verify`. What is left out is as the server was started with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    solutions: list[Any] = Field(
        min_length=1,
        description="Rows of ProcessBench's schema: `id` (unique within the request; default: `row-1`, ...), "
        "`problem`, `steps` (list of strings), optionally `label`.",
        json_schema_extra={
            "items": {
                "type": "object",
                "required": ["problem", "steps"],
                "properties": {
                    "id": {"type": ["string", "integer"]},
                    "problem": {"type": "string"},
                    "steps": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                    "label": {"type": ["integer", "null"], "minimum": -1},
                },
            }
        },
    )
    n: int | None = Field(None, ge=1, description="Rationales sampled a solution and averaged.")
    mode: Literal[tuple(MODES)] | None = Field(None, description="Parts of a rationale.")  # type: ignore[valid-type]
    stop: Literal["never", "first_error"] | None = Field(None, description="Whether to end at the first wrong step.")
    adaptive: Literal["off", "exact"] | None = Field(
        None, description="Whether fewer than n rationales will do where they decide the prediction."
    )
    threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="A step whose reward is below it is judged wrong."
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="Verdicts repeat with the same seed and ids.")
    rationales: bool = Field(
        True, description="False leaves texts and code out of the verdicts: rewards, statuses and token counts remain."
    )
    stream: bool | None = Field(
        None, description="True for NDJSON, false for one JSON object. Default: what the Accept header prefers."
    )

    def changes(self) -> dict[str, Any]:
        """The options that the request gives, as `Verifier.with_options` takes them."""
        return self.model_dump(include=set(REQUEST_OPTIONS), exclude_none=True)


@dataclass(frozen=True, slots=True)
class Work:
    """A request that passed all checks."""

    request: VerifyRequest
    solutions: list[Solution]


def parse_work(body: bytes, limits: ServiceLimits) -> Work:
    """Reads and checks a request's body.

    Raises:
        ServiceRefusal: 400 for what is not JSON, 422 for what cannot be judged.
    """
    try:
        content = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ServiceRefusal(400, "invalid_json", f"the body is not UTF-8 text (byte {error.start})") from None
    except DataError as error:
        raise ServiceRefusal(400, "invalid_json", f"the body {error.message}") from None
    if not isinstance(content, dict):
        raise ServiceRefusal(422, "invalid_request", f"the body must be a JSON object, but is {kind(content)}")
    try:
        request = VerifyRequest.model_validate(content)
    except ValidationError as error:
        raise _refusal(error) from None
    if len(request.solutions) > limits.max_solutions:
        raise ServiceRefusal(
            422,
            "invalid_request",
            f"{len(request.solutions)} solutions; a request may hold {limits.max_solutions}: send several",
            field="solutions",
        )
    if request.n is not None and request.n > limits.max_n:
        raise ServiceRefusal(422, "invalid_request", f"n is {request.n}; at most {limits.max_n}", field="n")
    return Work(request, _solutions(request.solutions, limits))


def _solutions(rows: list[Any], limits: ServiceLimits) -> list[Solution]:
    def read(row: Mapping[str, Any], number: int) -> list[Solution]:
        known = {key: value for key, value in row.items() if key in _SOLUTION_FIELDS}
        solution = Solution.from_dict(known, default_id=f"row-{number}")
        if len(solution.steps) > limits.max_steps:
            raise DataError(f"{len(solution.steps)} steps; at most {limits.max_steps}", field="steps")
        characters = len(solution.problem) + sum(map(len, solution.steps))
        if characters > limits.max_characters:
            raise DataError(f"{characters} characters with its problem; at most {limits.max_characters}")
        return [solution]

    try:
        return list(Records[Solution](rows, lambda stem: read))
    except DataError as error:
        where = DataError(error.message, row=error.row, field=error.field)
        raise ServiceRefusal(422, "invalid_request", str(where), row=error.row, field=error.field) from None


def _refusal(error: ValidationError) -> ServiceRefusal:
    """The first of pydantic's complaints, without the value: it may be large, and need not be valid Unicode."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))[:100] or None
    message = f"field '{field}': {first['msg']}" if field else first["msg"]
    return ServiceRefusal(422, "invalid_request", message, field=field)
