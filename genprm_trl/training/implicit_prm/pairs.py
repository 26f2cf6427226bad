"""Right and wrong solutions as token ids, alone or in pairs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset

from genprm_trl.errors import DataError
from genprm_trl.records import Solution
from genprm_trl.rows.fields import as_steps
from genprm_trl.training.given_rows import read_given
from genprm_trl.training.outcomes import outcome
from genprm_trl.verifier.step_tokens import AnswerEncoder

logger = get_logger(__name__)

# The columns of rows that are encoded: single solutions, and pairs.
UNPAIRED = frozenset(("prompt_ids", "completion_ids", "label"))
PAIRED = frozenset(("prompt_ids", "chosen_ids", "rejected_ids"))


def as_rows(rows: Any, name: str, encoded: Set[str] = UNPAIRED) -> Dataset:
    """Rows of whole solutions as a dataset.

    Args:
        rows: A dataset with the columns `problem`, `steps` and `final_answer_correct` (`load_outcomes` makes one), or
            a list of such rows or of `Solution`s. Rows that are encoded already stay as they are.
        name: What errors call it.
        encoded: The columns of rows that are encoded, `UNPAIRED` or `PAIRED`.

    Raises:
        DataError: A row is unusable, or there are none. Names it.
    """
    return read_given(rows, name, _row, encoded)


def _row(row: Any, default_id: str) -> Mapping[str, Any]:
    solution = row if isinstance(row, Solution) else Solution.from_dict(row, default_id=default_id)
    steps = as_steps(solution.steps, "steps")
    return {"problem": solution.problem, "steps": steps, "final_answer_correct": outcome(solution)}


def unpaired(rows: Dataset, encode: AnswerEncoder, max_length: int | None, name: str, seed: int) -> Dataset:
    """All solutions, shuffled: `prompt_ids`, `completion_ids` and `label`, whether the solution is right.

    Args:
        rows: As `as_rows` returns them.
        encode: What encodes them.
        max_length: Bound on the tokens of a solution with its problem. A longer one is left out whole, with a warning:
            its outcome is not that of a part.
        name: What errors call the rows.
        seed: Decides the order.

    Raises:
        DataError: None is left.
    """
    encoded = _encoded(rows, encode, max_length, name)
    random.Random(seed).shuffle(encoded)
    return Dataset.from_list([{"prompt_ids": p, "completion_ids": c, "label": right} for _, p, c, right in encoded])


def paired(rows: Dataset, encode: AnswerEncoder, max_length: int | None, name: str, seed: int) -> Dataset:
    """Pairs of a right and a wrong solution of a problem, shuffled: `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Pairs are drawn at random. No solution is in two of them, so what is left of the more frequent outcome is unused.

    Args:
        rows: As `as_rows` returns them.
        encode: What encodes them.
        max_length: As in `unpaired`.
        name: What errors call the rows.
        seed: Decides the pairs and their order.

    Raises:
        DataError: There is no pair.
    """
    of_problem: dict[str, tuple[list[Any], list[Any]]] = {}
    for problem, prompt, completion, is_right in _encoded(rows, encode, max_length, name):
        of_problem.setdefault(problem, ([], []))[is_right].append((prompt, completion))
    rng, pairs = random.Random(seed), []
    for wrong, right in of_problem.values():
        rng.shuffle(wrong)
        rng.shuffle(right)
        pairs += [
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            for (prompt, chosen), (_, rejected) in zip(right, wrong, strict=False)
        ]
    if not pairs:
        raise DataError("has no problem with both a right and a wrong solution, which this loss compares", file=name)
    without = sum(not (wrong and right) for wrong, right in of_problem.values())
    if without:
        logger.warning(f"{name}: {without} of {len(of_problem)} problems left out, all right or all wrong.")
    rng.shuffle(pairs)
    return Dataset.from_list(pairs)


def _encoded(
    rows: Dataset, encode: AnswerEncoder, max_length: int | None, name: str
) -> list[tuple[str, list[int], list[int], bool]]:
    """Problem, prompt and completion as token ids, and outcome, of each row that fits."""
    encoded = []
    for row in rows:
        tokens = encode(row["problem"], row["steps"])
        if max_length is None or len(tokens.input_ids) <= max_length:
            ids, start = tokens.input_ids, tokens.prompt_length
            encoded.append((row["problem"], ids[:start], ids[start:], row["final_answer_correct"]))
    if not encoded:
        raise DataError(f"has no solution within max_length={max_length}", file=name)
    if len(encoded) < len(rows):
        logger.warning(f"{name}: {len(rows) - len(encoded)} of {len(rows)} left out, over max_length={max_length}.")
    return encoded
