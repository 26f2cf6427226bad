"""Row formats of step-labelled datasets: what each looks like, and its conversion to `Solution`.

| format | fields | becomes |
| --- | --- | --- |
| `candidates` | problem (or question), answer, candidates (texts, or objects with `steps` or `text`) | one each |
| `bigbench_mistake` | input, steps, target, answer, mistake_index (from 0; null for none) | one solution |
| `prmbench` | idx, classification, modified_question, modified_process, error_steps, ... | one solution, or two |
| `mr_gsm8k` | uuid, question, model_output_steps, model_output_solution_correctness, ... | one solution |
| `processbench` | id, generator, problem, steps, final_answer_correct, label | one solution |
| `prm800k` | question {problem, ground_truth_answer}, label {steps, finish_reason} | one for each leaf |
| `math_shepherd` | input (steps end with the tag `ки`), label (`+` / `-` for each tag), task | one solution |
| `stepwise` | prompt, completions, labels (TRL's stepwise supervision) | one solution; label is the first false step |
| `gsm8k_solutions` | question, ground_truth, {name}: {is_correct, solution} | one for each named model |
| `gsm8k` | question, answer (with `<<48/2=24>>` and `#### 24`) | the reference solution, label -1 |
| `math` | problem, solution, level, subject or type (MATH, MATH-500) | the reference solution, label -1 |
| `text` | problem (or question, prompt), solution (or response, completion, text) | one solution, split into steps |

Only the two formats of reference solutions bring their own label and a right answer. Anything else has what its
row says. A row that also says who wrote it, or how good it is, is no reference solution, so `auto` does not take it
for one.

Benchmarks count steps by their place, so a blank step of theirs is kept, as `(blank)`.

A row without an id gets one from its place. Fields that have no place in a `Solution` go to `extra`.

`Solution.label` says where the first error is and nothing about later steps. Where a format labels steps after the
first error, too, the labels are kept in `extra["labels"]`.

Errors name the field. Whoever read the row adds file and row (`errors.DataError.at`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from genprm_trl.data.steps import split_steps, written_steps
from genprm_trl.errors import DataError
from genprm_trl.grading.extract import extract_boxed
from genprm_trl.records import Solution, agreed_label
from genprm_trl.rows.fields import (
    as_answer,
    as_bool,
    as_choice,
    as_filled_text,
    as_identifier,
    as_integer,
    as_label,
    as_list,
    as_object,
    as_optional_bool,
    as_optional_text,
    as_step_label,
    as_steps,
    as_text,
    json_safe,
    require,
)

Row = Mapping[str, Any]
Label = TypeVar("Label")

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_SHEPHERD_TAG = "ки"
_CORRECTNESS = ("correct", "wrong")
_BLANK_STEP = "(blank)"
_FIRST_STEP = re.compile(r"step 1:", re.IGNORECASE)
# What holds the problem and the solution of a person's or a model's own text.
_PROBLEMS = ("problem", "question", "prompt")
_TEXTS = ("solution", "response", "completion", "text")
# Fields that a reference solution does not have: they say who wrote a solution, or how good it is.
_OF_NO_REFERENCE = (
    *("generator", "model", "policy", "sampler"),
    *("label", "labels", "final_answer_correct", "is_correct", "correct", "score", "reward", "rating"),
)


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format.

    Attributes:
        matches: Whether a row looks like one of this format. Fields that are null do not count as present.
        convert: Makes solutions of a row. The second argument is the id of a row that has none; a format that makes
            several solutions of a row appends to it.
        meaning: What the solutions are, for a person who gave the rows.
        is_reference: Whether the format itself says that its solutions are right. Each row of it must match.
    """

    matches: Callable[[Row], bool]
    convert: Callable[[Row, str], list[Solution]]
    meaning: str
    is_reference: bool = False


def detect_format(row: Row) -> str:
    """The name of the format that a row is in, judged by its fields.

    Raises:
        DataError: The row is in no known format.
    """
    for name in FORMATS:
        if has_format(row, name):
            return name
    fields = ", ".join(str(key) for key in list(row)[:12]) or "none"
    raise DataError(
        f"is {'null' if 'steps' in row else 'missing'}, and the row has no other known format "
        f"({', '.join(FORMATS)}); its fields are: {fields}",
        field="steps",
    )


def has_format(row: Row, format: str) -> bool:
    """Whether a row looks like one of a format, a name in `FORMATS`."""
    return FORMATS[format].matches({key: value for key, value in row.items() if value is not None})


def describe_format(format: str) -> str:
    """A format's name and what it makes of rows, for the person who gave them."""
    return f"{format}: {FORMATS[format].meaning}"


def to_solutions(row: Row, default_id: str, format: str | None = None) -> list[Solution]:
    """Makes solutions of a row.

    Args:
        row: The row.
        default_id: The id of a row that has none.
        format: A name in `FORMATS`; None is what `detect_format` says.

    Raises:
        DataError: A field is missing, of the wrong type or out of range.
        KeyError: The format is unknown.
    """
    return FORMATS[format or detect_format(row)].convert(row, default_id)


def to_processbench(solution: Solution) -> dict[str, Any]:
    """A row of ProcessBench's schema. Lost: the reference answer and `extra`."""
    row = solution.to_dict()
    return {name: value for name, value in row.items() if name not in ("answer", "extra")}


def read_stepwise(row: Row) -> tuple[str, list[str], list[bool]]:
    """Prompt, completions and labels of a row of TRL's stepwise supervision. Texts may be blank.

    Raises:
        DataError: A field is missing or of the wrong type, or there are not as many labels as completions.
    """
    return read_stepwise_with(row, as_step_label)


def read_stepwise_with(row: Row, read_label: Callable[[Any, str], Label]) -> tuple[str, list[str], list[Label]]:
    """The same with labels of another kind: `read_label` makes one of a value and of its name in errors."""
    prompt = as_text(require(row, "prompt"), "prompt")
    completions = as_steps(require(row, "completions"), "completions", blank=True)
    labels = [
        read_label(label, f"labels[{index}]") for index, label in enumerate(as_list(require(row, "labels"), "labels"))
    ]
    if len(labels) != len(completions):
        raise DataError(f"must be as many as the completions: {len(labels)} for {len(completions)}", field="labels")
    return prompt, completions, labels


def _from_bigbench_mistake(row: Row, default_id: str) -> list[Solution]:
    """A trace of BIG-Bench Mistake (arXiv 2311.08516). The place of its first mistake is null where it has none."""
    steps = _counted_steps(row, "steps")
    if "mistake_index" not in row:
        raise DataError("is missing; null stands for no mistake", field="mistake_index")
    mistake = row["mistake_index"]
    target, answer = (as_answer(row.get(name), name) for name in ("target", "answer"))
    return [
        Solution(
            id=as_identifier(row, default_id),
            problem=as_filled_text(require(row, "input"), "input"),
            steps=steps,
            answer=target,
            final_answer_correct=None if target is None else answer is not None and answer.strip() == target.strip(),
            label=-1 if mistake is None else as_label(mistake, "mistake_index", low=0, high=len(steps) - 1),
            extra=_rest(row, "id", "input", "steps", "target", "answer", "mistake_index"),
        )
    ]


def _from_prmbench(row: Row, default_id: str) -> list[Solution]:
    """A modified solution of PRMBench (arXiv 2501.03124), with a label for each step.

    A row of the class `redundency` also gives its original solution, of the class `correct`. Ids are those of the
    benchmark's repository, `{classification}_{idx}`. On the Hub the class stands in `idx` already.
    """
    kind = as_filled_text(require(row, "classification"), "classification")
    name = as_identifier(row, default_id, "idx").removeprefix(f"{kind}_")
    errors = [
        as_integer(step, f"error_steps[{index}]")
        for index, step in enumerate(as_list(require(row, "error_steps"), "error_steps"))
    ]
    solutions = [_of_prmbench(row, "modified", kind, name, errors)]
    if kind == "redundency":
        solutions.insert(0, _of_prmbench(row, "original", "correct", name, []))
    return solutions


def _of_prmbench(row: Row, version: str, kind: str, name: str, errors: list[int]) -> Solution:
    question, process = f"{version}_question", f"{version}_process"
    steps = _counted_steps(row, process)
    solution = Solution(
        id=f"{kind}_{name}",
        problem=as_filled_text(require(row, question), question),
        steps=steps,
        extra={"classification": kind, "error_steps": errors},
    )
    # Some rows name steps that are not there.
    return _with_labels(solution, [number not in errors for number in range(1, len(steps) + 1)])


def _from_mr_gsm8k(row: Row, default_id: str) -> list[Solution]:
    """A solution of MR-GSM8K (arXiv 2312.17080), and why its first wrong step is wrong."""
    correctness, place = (f"model_output_solution_{name}" for name in ("correctness", "first_error_step"))
    final, reason = "model_output_answer_correctness", "model_output_solution_first_error_reason"
    steps = _counted_steps(row, "model_output_steps")
    label = -1
    if as_choice(require(row, correctness), correctness, _CORRECTNESS) == "wrong":
        step = require(row, place)
        step = int(step) if isinstance(step, str) and step.strip().isdecimal() else step
        label = as_label(step, place, low=1, high=len(steps)) - 1
    is_final_right = None if row.get(final) is None else as_choice(row[final], final, _CORRECTNESS) == "correct"
    return [
        Solution(
            id=as_identifier(row, default_id, "uuid"),
            problem=as_filled_text(require(row, "question"), "question"),
            steps=steps,
            answer=as_answer(row.get("ground_truth_answer"), "ground_truth_answer"),
            final_answer_correct=is_final_right,
            label=label,
            extra={
                "first_error_reason": as_optional_text(row.get(reason), reason) or "",
                "question_type": as_optional_text(row.get("question_type"), "question_type") or "",
            },
        )
    ]


def _counted_steps(row: Row, field: str) -> list[str]:
    """Steps whose places the row names, so that a blank one must not be left out."""
    steps = as_steps(require(row, field), field, blank=True)
    return [step if step.strip() else _BLANK_STEP for step in steps]


def _from_candidates(row: Row, default_id: str) -> list[Solution]:
    field = "question" if row.get("problem") is None else "problem"
    problem = as_filled_text(row.get(field), field)
    answer = as_answer(row.get("answer"), "answer")
    problem_id = as_identifier(row, default_id)
    candidates = as_list(require(row, "candidates"), "candidates")
    if not candidates:
        raise DataError("must hold at least one", field="candidates")
    solutions = []
    for index, candidate in enumerate(candidates):
        place = f"candidates[{index}]"
        correct = None
        if isinstance(candidate, Mapping):
            correct = as_optional_bool(candidate.get("final_answer_correct"), f"{place}.final_answer_correct")
            if candidate.get("steps") is not None:
                steps = as_steps(candidate["steps"], f"{place}.steps")
            else:
                steps = _own_steps(candidate.get("text"), f"{place}.text")
        else:
            steps = _own_steps(candidate, place)
        solutions.append(
            Solution(f"{problem_id}-{index}", problem, steps, answer, correct, extra={"problem_id": problem_id})
        )
    return solutions


def _from_processbench(row: Row, default_id: str) -> list[Solution]:
    return [Solution.from_dict(row, default_id=default_id)]


def _from_stepwise(row: Row, default_id: str) -> list[Solution]:
    prompt, completions, labels = read_stepwise(row)
    as_filled_text(prompt, "prompt")
    as_steps(completions, "completions")
    # Everything but the steps is read as in a ProcessBench row.
    rest = {key: value for key, value in row.items() if key not in ("prompt", "completions", "labels", "label")}
    solution = Solution.from_dict({**rest, "problem": prompt, "steps": completions}, default_id=default_id)
    if row.get("label") is not None:
        agreed_label(as_label(row["label"], "label", high=len(labels) - 1), labels, len(labels))
    return [_with_labels(solution, labels)]


def _from_text(row: Row, default_id: str) -> list[Solution]:
    """A text of one's own: split into steps, with the label and the answer that the row gives, or none."""
    problem, text = _first(row, _PROBLEMS), _first(row, _TEXTS)
    as_filled_text(require(row, problem), problem)
    rest = {key: value for key, value in row.items() if key not in (problem, text, "problem", "steps")}
    if rest.get("id") is None and rest.get("unique_id") is not None:
        rest["id"] = rest.pop("unique_id")
    return [
        Solution.from_dict(
            {**rest, "problem": row[problem], "steps": _own_steps(require(row, text), text)}, default_id=default_id
        )
    ]


def _first(row: Row, names: Sequence[str]) -> str:
    return next((name for name in names if row.get(name) is not None), names[0])


def _own_steps(value: Any, field: str) -> list[str]:
    """The steps of what somebody or some model wrote. Its thinking is not among them."""
    steps = [step.text for step in written_steps(as_filled_text(value, field))]
    if not steps:
        raise DataError("holds no steps, only thoughts that do not end", field=field)
    return steps


def _with_labels(solution: Solution, labels: Sequence[bool]) -> Solution:
    solution.label = labels.index(False) if False in labels else -1
    if 0 <= solution.label < len(labels) - 1:
        solution.extra["labels"] = list(labels)
    return solution


def _from_gsm8k(row: Row, default_id: str) -> list[Solution]:
    text = as_filled_text(require(row, "answer"), "answer")
    body, marker, answer = text.rpartition("####")
    if not marker or not answer.strip():
        raise DataError("must end with '#### ' and the final answer", field="answer")
    return [
        Solution(
            id=as_identifier(row, default_id),
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
    problem_id = as_identifier(row, default_id)
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
            id=as_identifier(row, default_id, "unique_id" if row.get("unique_id") is not None else "id"),
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
        id=as_identifier(row, default_id),
        problem=as_filled_text(problem.strip(), "input"),
        steps=[step.strip() for step in steps],
        extra=_rest(row, "id", "input", "label"),
    )
    # Tags that stand in the problem are annotation errors of the dataset; their marks judge no step.
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
    row_id = as_identifier(row, default_id)
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


def _rest(row: Row, *used: str) -> dict[str, Any]:
    return json_safe({key: value for key, value in row.items() if key not in used and value is not None})


def _has(*fields: str) -> Callable[[Row], bool]:
    return lambda row: all(field in row for field in fields)


def _is_prm800k(row: Row) -> bool:
    return isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping)


def _is_gsm8k_solutions(row: Row) -> bool:
    return "question" in row and "ground_truth" in row and any(map(_is_sampled, row.values()))


def _is_gsm8k(row: Row) -> bool:
    return _has("question", "answer")(row) and not any(name in row for name in (*_TEXTS, *_OF_NO_REFERENCE))


def _is_math(row: Row) -> bool:
    """A user's own text has the same first fields, so the dataset's other ones must be there."""
    return (
        _has("problem", "solution")(row)
        and ("unique_id" in row or ("level" in row and ("subject" in row or "type" in row)))
        and not any(name in row for name in _OF_NO_REFERENCE)
    )


def _is_text(row: Row) -> bool:
    return any(name in row for name in _PROBLEMS) and any(name in row for name in _TEXTS)


_GIVEN = "with the labels that the rows give"
_REFERENCE = "reference solutions, all of them right"

# The first that matches is taken, so the more telling fields come first.
FORMATS: dict[str, RowFormat] = {
    "candidates": RowFormat(_has("candidates"), _from_candidates, "several solutions of each problem"),
    "bigbench_mistake": RowFormat(
        _has("input", "steps", "target"), _from_bigbench_mistake, "traces with the first mistake that people found"
    ),
    "prmbench": RowFormat(
        _has("modified_process", "error_steps"), _from_prmbench, "modified solutions with a label for each step"
    ),
    "mr_gsm8k": RowFormat(
        _has("model_output_steps"), _from_mr_gsm8k, "solutions with the place and the reason of their first error"
    ),
    "processbench": RowFormat(_has("steps"), _from_processbench, f"solutions in steps, {_GIVEN}"),
    "prm800k": RowFormat(_is_prm800k, _from_prm800k, "the rated steps of PRM800K"),
    "math_shepherd": RowFormat(_has("input", "label"), _from_math_shepherd, "tagged steps with a mark each"),
    "stepwise": RowFormat(_has("prompt", "completions"), _from_stepwise, "steps with a label each"),
    "gsm8k_solutions": RowFormat(
        _is_gsm8k_solutions, _from_gsm8k_solutions, "models' solutions, right or wrong as the rows say"
    ),
    "gsm8k": RowFormat(_is_gsm8k, _from_gsm8k, _REFERENCE, is_reference=True),
    "math": RowFormat(_is_math, _from_math, _REFERENCE, is_reference=True),
    "text": RowFormat(_is_text, _from_text, "texts, split into steps, without labels unless the rows give them"),
}
