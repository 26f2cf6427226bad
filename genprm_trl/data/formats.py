"""Row formats of step-labelled data sets: what each looks like, and its conversion to `Solution` and back.

| format | fields | becomes |
| --- | --- | --- |
| `processbench` | id, generator, problem, steps, final_answer_correct, label | one solution |
| `stepwise` | prompt, completions, labels (TRL's stepwise supervision) | one solution; label is the first false step |
| `prm800k` | question {problem, ground_truth_answer}, label {steps, finish_reason} | one solution a leaf |
| `math_shepherd` | input (steps end with the tag `ки`), label (`+` / `-` for each tag), task | one solution |
| `gsm8k` | question, answer (with `<<48/2=24>>` and `#### 24`) | the reference solution, label -1 |
| `gsm8k_solutions` | question, ground_truth, {name}: {is_correct, solution} | one solution for each named model |
| `math` | problem, solution, answer (MATH, MATH-500) | the reference solution, label -1 |

A row without an id gets one from its place. Fields that have no place in a `Solution` go to `extra`.

`Solution.label` says where the first error is and nothing about later steps. Where a format labels every step and a
step after the first error is labelled right, the labels are kept in `extra["labels"]`, and `to_stepwise` gives them
back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genprm_trl.data.steps import split_steps
from genprm_trl.errors import DataError
from genprm_trl.grading.extract import extract_boxed
from genprm_trl.records import Solution
from genprm_trl.rows.fields import (
    as_answer,
    as_bool,
    as_filled_text,
    as_integer,
    as_list,
    as_object,
    as_optional_text,
    as_steps,
    as_text,
    json_safe,
    kind,
    require,
)

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_SHEPHERD_TAG = "ки"
_FIRST_STEP = re.compile(r"step 1:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format.

    Attributes:
        name: What `format=` takes.
        matches: Whether a row looks like one of this format. Fields that are null do not count as present.
        convert: Makes solutions of a row; the second argument is the id of a row that has none.
    """

    name: str
    matches: Callable[[Row], bool]
    convert: Callable[[Row, str], list[Solution]]


def detect_format(row: Row) -> str:
    """The name of the format that a row is in, judged by its fields.

    Raises:
        DataError: It is in none.
    """
    present = {key: value for key, value in row.items() if value is not None}
    for known in FORMATS.values():
        if known.matches(present):
            return known.name
    fields = ", ".join(str(key) for key in list(row)[:12]) or "none"
    raise DataError(
        f"is {'null' if 'steps' in row else 'missing'}, and the row has no other known format "
        f"({', '.join(FORMATS)}); its fields are: {fields}",
        field="steps",
    )


def convert_row(row: Row, format: str, *, default_id: str) -> list[Solution]:
    """Makes solutions of a row.

    Args:
        row: The row.
        format: A name in `FORMATS`, or `auto`.
        default_id: The id where the row has none. Formats that make several solutions of a row append to it.

    Raises:
        DataError: A field is missing, of the wrong type or out of range.
        KeyError: The format is unknown.
    """
    name = detect_format(row) if format == "auto" else format
    return FORMATS[name].convert(row, default_id)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _from_processbench(row: Row, default_id: str) -> list[Solution]:
    return [Solution.from_dict(row, default_id=default_id)]


def _from_stepwise(row: Row, default_id: str) -> list[Solution]:
    steps = as_steps(require(row, "completions"), "completions")
    labels = [
        _step_label(label, f"labels[{index}]") for index, label in enumerate(as_list(require(row, "labels"), "labels"))
    ]
    if len(labels) != len(steps):
        raise DataError(f"must be as many as the completions: {len(labels)} for {len(steps)}", field="labels")
    # Everything but the steps is read as in a ProcessBench row, so that `to_stepwise` can keep those fields.
    rest = {key: value for key, value in row.items() if key not in ("prompt", "completions", "labels", "label")}
    problem = as_filled_text(require(row, "prompt"), "prompt")
    solution = Solution.from_dict({**rest, "problem": problem, "steps": steps}, default_id=default_id)
    return [_with_labels(solution, labels)]


def _step_label(value: Any, field: str) -> bool:
    """TRL's labels are booleans; some data sets write them as 0 and 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    return as_bool(value, field)


def _with_labels(solution: Solution, labels: Sequence[bool]) -> Solution:
    solution.label = labels.index(False) if False in labels else -1
    if solution.label >= 0 and any(labels[solution.label :]):
        solution.extra["labels"] = list(labels)
    return solution


def _from_gsm8k(row: Row, default_id: str) -> list[Solution]:
    text = as_filled_text(require(row, "answer"), "answer")
    body, marker, answer = text.rpartition("####")
    if not marker or not answer.strip():
        raise DataError("must end with '#### ' and the final answer", field="answer")
    return [
        Solution(
            id=_id(row, "id", default_id),
            problem=as_filled_text(require(row, "question"), "question"),
            steps=_lines(body, "answer"),
            answer=answer.strip(),
            final_answer_correct=True,
            label=-1,
            generator="reference",
            extra=_rest(row, "id", "question", "answer"),
        )
    ]


def _is_sampled(value: Any) -> bool:
    return isinstance(value, Mapping) and "solution" in value


def _from_gsm8k_solutions(row: Row, default_id: str) -> list[Solution]:
    problem = as_filled_text(require(row, "question"), "question")
    truth = as_filled_text(require(row, "ground_truth"), "ground_truth")
    answer = truth.rpartition("\n")[2].strip().removeprefix("A:").strip()
    problem_id = _id(row, "id", default_id)
    solutions = []
    for name, sampled in row.items():
        if not _is_sampled(sampled):
            continue
        text = as_filled_text(sampled["solution"], f"{name}.solution")
        solutions.append(
            Solution(
                id=f"{problem_id}-{name}",
                problem=problem,
                steps=_lines(text, f"{name}.solution"),
                answer=answer or None,
                final_answer_correct=as_bool(sampled.get("is_correct"), f"{name}.is_correct"),
                generator=name,
                extra={"problem_id": problem_id},
            )
        )
    if not solutions:
        raise DataError("has no field that holds an object with 'solution' and 'is_correct'")
    return solutions


def _lines(text: str, field: str) -> list[str]:
    steps = split_steps(_CALCULATOR.sub("", text), "line").steps
    if not steps:
        raise DataError("holds no steps", field=field)
    return steps


def _from_math(row: Row, default_id: str) -> list[Solution]:
    text = as_filled_text(require(row, "solution"), "solution")
    answer = as_answer(row.get("answer"), "answer")
    return [
        Solution(
            id=_id(row, "unique_id" if row.get("unique_id") is not None else "id", default_id),
            problem=as_filled_text(require(row, "problem"), "problem"),
            # Not single lines: reference solutions break lines inside formulas.
            steps=split_steps(text, "blank_line").steps,
            answer=answer if answer is not None else extract_boxed(text),
            final_answer_correct=True,
            label=-1,
            generator="reference",
            extra=_rest(row, "id", "unique_id", "problem", "solution", "answer"),
        )
    ]


def _from_math_shepherd(row: Row, default_id: str) -> list[Solution]:
    text = as_filled_text(require(row, "input"), "input")
    marks = _shepherd_marks(text, as_text(require(row, "label"), "label"))
    problem, body = _shepherd_problem(text)
    *steps, rest = body.split(_SHEPHERD_TAG)
    if not steps:
        raise DataError(f"must mark the end of each step with the tag '{_SHEPHERD_TAG}'", field="input")
    if rest.strip():
        raise DataError(f"has text after the last tag '{_SHEPHERD_TAG}', which has no label", field="input")
    for index, step in enumerate(steps, start=1):
        if not step.strip():
            raise DataError(f"has an empty step before tag {index}", field="input")
    solution = Solution(
        id=_id(row, "id", default_id),
        problem=as_filled_text(problem.strip(), "input"),
        steps=[step.strip() for step in steps],
        extra=_rest(row, "id", "input", "label"),
    )
    # Tags that stand in the problem are annotation errors of the data set; their marks judge no step.
    return [_with_labels(solution, marks[len(marks) - len(steps) :])]


def _shepherd_marks(text: str, label: str) -> list[bool]:
    """Reads the mark of each tag. The label is the input with each two-letter tag replaced by one `+` or `-`."""
    marks, position = [], 0
    parts = text.split(_SHEPHERD_TAG)
    for index, part in enumerate(parts[:-1], start=1):
        position += len(part)
        mark = label[position : position + 1]
        if mark not in ("+", "-"):
            raise DataError(
                f"must have '+' or '-' in place of tag {index} of the input, at character {position + 1}; "
                f"there is {mark!r}"
                if mark
                else f"is shorter than the input: no mark for its tag {index}",
                field="label",
            )
        marks.append(mark == "+")
        position += 1
    return marks


def _shepherd_problem(text: str) -> tuple[str, str]:
    """Divides the problem from the tagged steps."""
    first = _FIRST_STEP.search(text)
    if first:
        return text[: first.start()].replace(_SHEPHERD_TAG, ""), text[first.start() :]
    # A few rows have no step numbers; there the problem ends with its last question mark before the first tag.
    head, mark, _ = text.partition(_SHEPHERD_TAG)[0].rpartition("?")
    if not mark:
        raise DataError("has neither 'Step 1:' nor a question mark to end the problem", field="input")
    return head + mark, text[len(head) + 1 :]


def _from_prm800k(row: Row, default_id: str) -> list[Solution]:
    """The leaves of the labelled tree (openai/prm800k, README).

    At each step a labeller rated one or more completions and went on from the chosen one, or from a step of his own.
    So every completion that was not chosen ends a solution, and so does the chosen path if it goes through the last
    step. A rating of -1 is an error; 0 (neutral) is none, as in the paper's own training (arXiv 2305.20050, appendix).
    An unrated completion leaves the label unknown. A row that its labeller gave up before the first step has none.
    """
    question = as_object(require(row, "question"), "question")
    problem = as_filled_text(question.get("problem"), "question.problem")
    answer = as_answer(question.get("ground_truth_answer"), "question.ground_truth_answer")
    labelled = as_object(require(row, "label"), "label")
    reason = as_optional_text(labelled.get("finish_reason"), "label.finish_reason")
    steps = as_list(labelled.get("steps"), "label.steps")
    row_id = _id(row, "id", default_id)
    carried = _rest(row, "id", "question", "label")

    def leaf(suffix: str, path: list[tuple[str, int | None]], finished: bool) -> Solution:
        ratings = [rating for _, rating in path]
        unknown = None in ratings and -1 not in ratings[: ratings.index(None)]
        return Solution(
            id=row_id + suffix,
            problem=problem,
            steps=[text for text, _ in path],
            answer=answer,
            final_answer_correct=True if finished and reason == "solution" else None,
            label=None if unknown else ratings.index(-1) if -1 in ratings else -1,
            extra={**carried, "finish_reason": reason, "ratings": ratings},
        )

    path: list[tuple[str, int | None]] = []
    leaves: list[Solution] = []
    for t, value in enumerate(steps):
        place = f"label.steps[{t}]"
        step = as_object(value, place)
        rated = [
            _prm800k_completion(item, f"{place}.completions[{c}]")
            for c, item in enumerate(as_list(step.get("completions") or [], f"{place}.completions"))
        ]
        chosen = step.get("chosen_completion")
        if chosen is not None:
            chosen = as_integer(chosen, f"{place}.chosen_completion", low=0, high=len(rated) - 1)
        leaves += [
            leaf(f"-step{t}-alt{c}", [*path, completion], finished=False)
            for c, completion in enumerate(rated)
            if c != chosen
        ]
        human = step.get("human_completion")
        if chosen is not None:
            path.append(rated[chosen])
        elif human is not None:
            # The labeller's own step counts as right. Some copies of the data keep it as bare text.
            text = human if isinstance(human, str) else as_object(human, f"{place}.human_completion").get("text")
            path.append((as_filled_text(text, f"{place}.human_completion"), 1))
        elif rated:
            return leaves
        else:
            break
    if path:
        leaves.insert(0, leaf("", path, finished=len(path) == len(steps)))
    elif reason not in ("give_up", "bad_problem"):
        raise DataError("must hold at least one labelled step", field="label.steps")
    return leaves


def _prm800k_completion(value: Any, place: str) -> tuple[str, int | None]:
    completion = as_object(value, place)
    rating = completion.get("rating")
    return (
        as_filled_text(completion.get("text"), f"{place}.text"),
        None if rating is None else as_integer(rating, f"{place}.rating", low=-1, high=1),
    )


def _id(row: Row, field: str, default: str) -> str:
    value = row.get(field)
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"must be a string or an integer, but is {kind(value)}", field=field)
    return as_filled_text(value, field)


def _rest(row: Row, *used: str) -> dict[str, Any]:
    return json_safe({key: value for key, value in row.items() if key not in used and value is not None})


def _has(*fields: str) -> Callable[[Row], bool]:
    return lambda row: all(field in row for field in fields)


# The first that matches is taken, so the more telling fields come first.
FORMATS: dict[str, RowFormat] = {
    known.name: known
    for known in (
        RowFormat("processbench", _has("steps"), _from_processbench),
        RowFormat(
            "prm800k",
            lambda row: isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping),
            _from_prm800k,
        ),
        RowFormat("math_shepherd", _has("input", "label"), _from_math_shepherd),
        RowFormat("stepwise", _has("prompt", "completions"), _from_stepwise),
        RowFormat(
            "gsm8k_solutions",
            lambda row: "question" in row and "ground_truth" in row and any(map(_is_sampled, row.values())),
            _from_gsm8k_solutions,
        ),
        RowFormat("gsm8k", _has("question", "answer"), _from_gsm8k),
        RowFormat("math", _has("problem", "solution"), _from_math),
    )
}


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def to_processbench(solution: Solution) -> dict[str, Any]:
    """A row of ProcessBench's schema. Lost: the reference answer and `extra`."""
    return {
        "id": solution.id,
        "generator": solution.generator,
        "problem": solution.problem,
        "steps": list(solution.steps),
        "final_answer_correct": solution.final_answer_correct,
        "label": solution.label,
    }


def to_stepwise(solution: Solution, *, keep_after_error: bool = False) -> dict[str, Any]:
    """A row of TRL's stepwise supervision: `prompt`, `completions` and `labels`.

    `Solution.label` knows nothing of the steps after the first error, so they are left out by default. Lost: those
    steps, and every field but the problem, the steps and their labels.

    Args:
        solution: A labelled solution.
        keep_after_error: Keep all steps. Those after the first error are labelled as in `extra["labels"]` where the
            source labelled each step, and false otherwise.

    Raises:
        DataError: The solution has no label.
    """
    label = _known_label(solution)
    if label < 0:
        labels = [True] * len(solution.steps)
    else:
        labels = [True] * label + [False] * (len(solution.steps) - label)
        kept = solution.extra.get("labels")
        if isinstance(kept, list) and len(kept) == len(labels):
            labels = [bool(item) for item in kept]
        if not keep_after_error:
            labels = labels[: label + 1]
    return {"prompt": solution.problem, "completions": solution.steps[: len(labels)], "labels": labels}


def to_gsm8k(solution: Solution) -> dict[str, Any]:
    """A row of GSM8K: `question`, and `answer` with a step a line and `#### ` before the reference answer.

    Lost: id, label, generator and `extra`, calculator annotations (they are taken out on reading), and line breaks
    within a step, which become spaces.

    Raises:
        DataError: The reference answer is unknown.
    """
    if solution.answer is None:
        raise DataError(f"solution {solution.id!r} has no reference answer", field="answer")
    lines = [" ".join(step.split("\n")) for step in solution.steps]
    return {"question": solution.problem, "answer": "\n".join([*lines, f"#### {solution.answer}"])}


def to_prm800k(solution: Solution) -> dict[str, Any]:
    """A row of PRM800K with one completion a step, ending at the first error as its second phase does.

    Lost: the steps after the first error, and every field but the problem, the reference answer, the steps, their
    ratings and the reason to finish.

    Raises:
        DataError: The solution has no label.
    """
    label = _known_label(solution)
    steps = solution.steps if label < 0 else solution.steps[: label + 1]
    ratings = solution.extra.get("ratings")
    if not isinstance(ratings, list) or len(ratings) < len(steps):
        ratings = [-1 if index == label else 1 for index in range(len(steps))]
    reached = "solution" if solution.final_answer_correct else "give_up"
    return {
        "question": {"problem": solution.problem, "ground_truth_answer": solution.answer},
        "label": {
            "steps": [
                {
                    "completions": [{"text": step, "rating": rating, "flagged": None}],
                    "human_completion": None,
                    "chosen_completion": None if index == label else 0,
                }
                for index, (step, rating) in enumerate(zip(steps, ratings, strict=False))
            ],
            "finish_reason": "found_error" if label >= 0 else reached,
        },
    }


def _known_label(solution: Solution) -> int:
    if solution.label is None:
        raise DataError(f"solution {solution.id!r} has no label", field="label")
    return solution.label
