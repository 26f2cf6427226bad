"""Rows that a trainer is given from Python, checked one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar

from accelerate.logging import get_logger
from datasets import Dataset

from genprm_trl.data.sources import refuse_frame
from genprm_trl.errors import DataError

logger = get_logger(__name__)

PairT = TypeVar("PairT")
ReadRow = Callable[[Any, str], Mapping[str, Any]]


def is_encoded(rows: Any, columns: Set[str]) -> bool:
    """Whether rows hold token ids already: all of these columns. Rows of others may have some of them."""
    return isinstance(rows, Dataset) and columns <= {*rows.column_names}


def read_given(rows: Any, name: str, read: ReadRow, encoded: Set[str]) -> Dataset:
    """The rows as a dataset.

    Args:
        rows: A `datasets.Dataset`, or a list of rows. A dataset that is encoded already stays as it is.
        name: What errors call them.
        read: Makes the row of what is given, and of the id of a row that has none.
        encoded: The columns of a dataset that is encoded.

    Raises:
        DataError: A row is unusable, or there are none. Names the dataset, the row and the field.
    """
    if is_encoded(rows, encoded):
        return rows
    refuse_frame(rows, name)
    if isinstance(rows, str) or not isinstance(rows, Dataset | Sequence):
        raise DataError(f"must be a `datasets.Dataset` or a list of rows, got {type(rows).__name__}", file=name)
    made = []
    for number, row in enumerate(rows, start=1):
        try:
            made.append(dict(read(row, str(number))))
        except DataError as error:
            raise error.at(file=name, row=number) from None
    if not made:
        raise DataError("has no rows", file=name)
    return Dataset.from_list(made)


def fitting_pairs(
    pairs: Sequence[PairT], length: Callable[[PairT], int], max_length: int | None, name: str
) -> list[PairT]:
    """The encoded pairs that are not too long, with a warning that says how many are left out.

    Args:
        pairs: The pairs.
        length: Tokens of the longer side of one.
        max_length: Bound on them. None is no bound.
        name: What errors call the pairs.

    Raises:
        DataError: None fits.
    """
    kept = [pair for pair in pairs if max_length is None or length(pair) <= max_length]
    if not kept:
        raise DataError(f"has no pair within max_length={max_length}", file=name)
    if left_out := len(pairs) - len(kept):
        logger.warning(f"{name}: {left_out} of {len(pairs)} pairs left out, over max_length={max_length}.")
    return kept


def problem_facts(rows: Dataset) -> dict[str, str]:
    """How many problems the rows are of, for the card. Rows that are encoded do not tell."""
    return {"problems": f"{len(set(rows['problem'])):,}"} if "problem" in rows.column_names else {}
