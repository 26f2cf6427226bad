"""Rows for the training of a ThinkPRM: chains of others, our rationales, or labels alone (arXiv 2504.16828)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genprm_trl.errors import DataError
from genprm_trl.protocol.genprm import argument, parse_rationale
from genprm_trl.protocol.thinkprm import clean_chain, ends_early, finished_turn, follows_labels, read_decisions
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.rows.fields import as_filled_text, as_list, as_optional_bool, as_step_label, as_steps, require
from genprm_trl.training.prm.data import labelled_steps

_ENDS_EARLY = "holds `Is the solution correct?` or `</think>`, where a model that writes it is stopped; leave it out"


class JudgedChain(NamedTuple):
    """A problem, a solution or the beginning of one, and the turn that judges it.

    Attributes:
        problem: The problem.
        steps: The steps that the model sees.
        turn: The assistant's turn; see `protocol.thinkprm.finished_turn`.
        decisions: What it says of each step: whether it is correct.
    """

    problem: str
    steps: list[str]
    turn: str
    decisions: list[bool]


def read_chain(row: RationaleRecord | Solution | Mapping[str, Any], number: int = 1) -> JudgedChain:
    """Reads a row of any of these forms.

    - `problem`, `prefix_steps`, `cot`, `gt_step_labels` and `prefix_label`: the published chains
      (`launch/thinkprm-1K-verification-cots`). As in the authors' filter, all steps before one with the label `+`
      count as `+`.
    - A `RationaleRecord` or its row: a chain is made of the analyses of its rationales, without their code. A
      rationale without an analysis is taken with its code and what that printed.
    - A row with step labels (see `labelled_steps`): a chain of bare decisions.

    Args:
        row: The row.
        number: Its number, for rows without an id.

    Raises:
        DataError: A field is missing or of the wrong type, or a chain does not follow the labels.
    """
    if isinstance(row, Mapping):
        if row.get("cot") is not None:
            return _published(row)
        if row.get("rationales") is not None:
            row = RationaleRecord.from_dict({"id": str(number), **{k: v for k, v in row.items() if v is not None}})
        elif "steps" in row:
            row = Solution.from_dict(row, default_id=str(number))
    if isinstance(row, RationaleRecord):
        said = [_argument(row, index) for index in range(_judged(row.labels))]
        return _made(row.solution.problem, row.solution.steps, list(row.labels), said)
    known = labelled_steps(row)
    steps = row.steps if isinstance(row, Solution) else known.steps
    return _made(known.prompt, steps, known.labels, [""] * len(known.labels))


def _published(row: Mapping[str, Any]) -> JudgedChain:
    problem = as_filled_text(require(row, "problem"), "problem")
    steps = as_steps(require(row, "prefix_steps"), "prefix_steps")
    given = as_list(require(row, "gt_step_labels"), "gt_step_labels")
    labels = [_label(each, f"gt_step_labels[{index}]") for index, each in enumerate(given)]
    if not 1 <= len(labels) <= len(steps):
        raise DataError(f"must be as many as the steps: {len(labels)} for {len(steps)}", field="gt_step_labels")
    right = max((number for number, label in enumerate(labels, start=1) if label), default=0)
    labels[:right] = [True] * right
    chain = clean_chain(as_filled_text(row["cot"], "cot"))
    if ends_early(chain):
        raise DataError(_ENDS_EARLY, field="cot")
    decisions = read_decisions(chain)
    if decisions is None or not follows_labels(decisions, labels):
        raise DataError(
            "does not follow gt_step_labels up to the first wrong step; such chains are to be filtered out before "
            "training",
            field="cot",
        )
    is_correct = as_optional_bool(row.get("prefix_label"), "prefix_label")
    if is_correct is not None and is_correct != all(decisions):
        raise DataError(f"is {str(is_correct).lower()}, but the chain says otherwise", field="prefix_label")
    return JudgedChain(problem, steps, finished_turn(chain, all(decisions)), decisions)


def _label(value: Any, name: str) -> bool:
    return value == "+" if value in ("+", "-") else as_step_label(value, name)


def _argument(record: RationaleRecord, index: int) -> str:
    text, label = record.rationales[index], record.labels[index]
    if parse_rationale(text, step=index + 1).rationale.judgement is (not label):
        raise DataError(
            f"says the opposite of labels[{index}]; such rationales are to be filtered out before training",
            field=f"rationales[{index}]",
        )
    said = argument(text)
    if ends_early(said):
        raise DataError(_ENDS_EARLY, field=f"rationales[{index}]")
    return said


def _judged(labels: Sequence[bool]) -> int:
    """How many steps a chain judges: up to the first wrong one."""
    return min([*labels, False].index(False) + 1, len(labels))


def _made(problem: str, steps: list[str], labels: list[bool], said: list[str]) -> JudgedChain:
    """A chain that says what is known of each step, up to the first wrong one."""
    until = _judged(labels)
    labels, said = labels[:until], said[:until]
    shown = list(steps) if False in labels else list(steps[: len(labels)])  # the rest is not known to be right
    chain = "\n".join(
        " ".join(filter(None, (f"Step {number}:", text, f"\\boxed{{{'correct' if label else 'incorrect'}}}")))
        for number, (label, text) in enumerate(zip(labels, said, strict=True), start=1)
    )
    if read_decisions(chain) != labels:
        raise DataError("hold boxes or headings of another step, and cannot be put into one chain", field="rationales")
    return JudgedChain(problem, shown, finished_turn(chain, all(labels)), labels)
