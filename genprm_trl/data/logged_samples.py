"""Verdicts in the sample files of the lm-evaluation-harness (`samples_*.jsonl`, which `--log_samples` writes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genprm_trl.errors import DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.fields import as_list, as_object, as_text, require
from genprm_trl.rows.jsonl import parse_json


def is_logged_sample(row: Mapping[str, Any]) -> bool:
    """Whether a row is a sample that the harness has logged: a document and the answers on it."""
    return {"doc", "resps", "filter"} <= row.keys()


def judged_of_sample(row: Mapping[str, Any]) -> list[tuple[Verdict, Solution]]:
    """The verdicts of a sample, each with what it judges: one, or one for each candidate of a pool.

    Args:
        row: A sample of a task for verifiers (`processbench_genprm`, `best_of_n`, ...), run with the model `genprm`.

    Raises:
        DataError: The answers are no verdicts, or a field is missing or of the wrong type.
    """
    document = as_object(row["doc"], "doc")
    verdicts = [_verdict(texts, f"resps[{index}]") for index, texts in enumerate(as_list(row["resps"], "resps"))]
    if "ids" in document:  # a pool of candidates
        correct = document.get("correct") or [None] * len(verdicts)
        names, steps = as_list(document["ids"], "doc.ids"), as_list(require(document, "steps"), "doc.steps")
        if not len(names) == len(steps) == len(correct) == len(verdicts):
            raise DataError("must be as many as the candidates of the document", field="resps")
        rows = [
            {"id": name, "problem": document.get("problem"), "steps": each, "final_answer_correct": right}
            for name, each, right in zip(names, steps, correct, strict=True)
        ]
    else:
        if len(verdicts) != 1:
            raise DataError(f"must be one for a document, got {len(verdicts)}", field="resps")
        rows = [dict(document)]
    solutions = [Solution.from_dict(each) for each in rows]
    for verdict, solution in zip(verdicts, solutions, strict=True):
        verdict.label = solution.label
    return list(zip(verdicts, solutions, strict=True))


def _verdict(texts: Any, field: str) -> Verdict:
    text = as_text(next(iter(as_list(texts, field)), None), field)
    try:
        return Verdict.from_dict(parse_json(text))
    except DataError:
        raise DataError(
            "is the answer of a critic or a policy that lm_eval has logged, not a verdict; name the samples of a task "
            "that was run with --model genprm, or a file of `genprm verify`",
            field=field,
        ) from None
