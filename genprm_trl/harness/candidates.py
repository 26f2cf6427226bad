"""Pools of candidates for Best-of-N: several solutions of each problem, which are right, and which vote alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.errors import DataError
from genprm_trl.fields import as_answer, as_filled_text, as_list, as_optional_bool, as_steps
from genprm_trl.formats import convert_row
from genprm_trl.grading import answers_match, extract_answer
from genprm_trl.harness.data import as_test_split
from genprm_trl.loading import iter_rows
from genprm_trl.records import Solution
from genprm_trl.steps import join_steps, split_steps

if TYPE_CHECKING:
    from datasets import Dataset

_HOW = {
    "gsm8k": "the model solutions that come with GSM8K will do (example_model_solutions.jsonl of "
    "github.com/openai/grade-school-math)",
    "math500": "sample solutions of MATH-500 with a model of yours",
}


@dataclass
class Pool:
    """The candidates of one problem.

    Attributes:
        id: Unique within the data.
        problem: The problem's text.
        answer: The reference answer.
        ids: Of the candidates.
        steps: Of each candidate. Shape (M, steps).
        correct: Whether each candidate's final answer is right. Shape (M,).
        votes: The number of each candidate's answer, equal for equivalent ones; None: no answer. Shape (M,).
    """

    id: str
    problem: str
    answer: str
    ids: list[str] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    votes: list[int | None] = field(default_factory=list)


def candidates_dataset(name: str, candidates: Any = None, **_: Any) -> dict[str, Dataset]:
    """Pools as the harness's `custom_dataset`.

    Args:
        name: The task's part of the group, for which `candidates` may be a mapping.
        candidates: A file (see `read_pools`), or a mapping from names of tasks to files.
        _: The harness passes all of the task's metadata and the model's arguments.

    Raises:
        DataError: There is no file (it says how to get one), or a row is unusable.
    """
    source = candidates.get(name) if isinstance(candidates, Mapping) else candidates
    if not source:
        how = f"; {_HOW[name]}" if name in _HOW else ""
        raise DataError(
            f"""needs a file of candidates: --metadata '{{"candidates": "FILE"}}', with rows such as """
            f"""{{"problem": ..., "answer": ..., "candidates": [...]}}{how}""",
            file=f"best_of_n_{name}",
        )
    return as_test_split(pool.__dict__ for pool in read_pools(source))


def read_pools(source: Any) -> list[Pool]:
    """Reads pools and grades their candidates.

    Rows have `problem` (or `question`), `answer` and `candidates`: a list of texts, or of objects with `steps` or
    `text` and, if it is known, `final_answer_correct`. Rows of solutions do as well, in any format that `loading`
    knows and with several of each problem: GSM8K's model solutions, for instance.

    Returns:
        The pools in order, at least one.

    Raises:
        DataError: The file cannot be read or a row is unusable; names file, row and field.
    """
    name, rows = iter_rows(Path(source) if isinstance(source, str) else source)
    pools: dict[str, Pool] = {}
    graded: dict[str, list[bool | None]] = {}
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            for solution in _solutions(row, f"{Path(name).stem}-{number}"):
                if solution.answer is None:
                    raise DataError("is missing: candidates are held against it", field="answer")
                pool = pools.setdefault(
                    solution.problem,
                    Pool(str(solution.extra.get("problem_id", solution.id)), solution.problem, solution.answer),
                )
                if pool.answer != solution.answer:
                    raise DataError(f"is {solution.answer!r}, and an earlier row has {pool.answer!r}", field="answer")
                pool.ids.append(solution.id)
                pool.steps.append(solution.steps)
                graded.setdefault(solution.problem, []).append(solution.final_answer_correct)
        except DataError as error:
            raise DataError(error.message, file=name, row=error.row or number, field=error.field) from None
    if not pools:
        raise DataError("has no usable row", file=name)
    for problem, pool in pools.items():
        pool.correct, pool.votes = grade_pool([join_steps(s, "\n") for s in pool.steps], pool.answer, graded[problem])
    return list(pools.values())


def grade_pool(
    texts: Sequence[str], answer: str, known: Sequence[bool | None] | None = None
) -> tuple[list[bool], list[int | None]]:
    """Which of a problem's solutions are right, and which vote alike.

    Args:
        texts: The solutions.
        answer: The reference answer.
        known: What is known of each already.

    Returns:
        Whether each is right, and the number of its answer: 0 for all that are right, others for equivalent wrong
        ones, None where a wrong one has no answer.
    """
    known = [None] * len(texts) if known is None else known
    correct = [answers_match(t, answer) if k is None else k for t, k in zip(texts, known, strict=True)]
    others: list[str] = []
    votes: list[int | None] = []
    for text, right in zip(texts, correct, strict=True):
        given = None if right else extract_answer(text)
        if right:
            votes.append(0)
        elif given is None:
            votes.append(None)
        else:
            match = next((n for n, other in enumerate(others) if other == given or answers_match(given, other)), None)
            if match is None:
                others.append(given)
                match = len(others) - 1
            votes.append(1 + match)
    return correct, votes


def _solutions(row: Mapping[str, Any], default_id: str) -> Iterator[Solution]:
    if "candidates" not in row:
        yield from convert_row(row, "auto", default_id=default_id)
        return
    field_name = "problem" if "problem" in row else "question"
    problem = as_filled_text(row.get(field_name), field_name)
    answer = as_answer(row.get("answer"), "answer")
    identifier = str(row.get("id", default_id))
    candidates = as_list(row["candidates"], "candidates")
    if not candidates:
        raise DataError("must hold at least one", field="candidates")
    for index, candidate in enumerate(candidates):
        where = f"candidates[{index}]"
        correct = None
        if isinstance(candidate, Mapping):
            correct = as_optional_bool(candidate.get("final_answer_correct"), f"{where}.final_answer_correct")
            if candidate.get("steps") is not None:
                steps = as_steps(candidate["steps"], f"{where}.steps")
            else:
                steps = split_steps(as_filled_text(candidate.get("text"), f"{where}.text")).steps
        else:
            steps = split_steps(as_filled_text(candidate, where)).steps
        yield Solution(f"{identifier}-{index}", problem, steps, answer, correct, extra={"problem_id": identifier})
