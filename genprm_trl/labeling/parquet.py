"""Training data as a dataset that `datasets.load_dataset` reads: one parquet file with one row per solution.

A row is a finished verification conversation (`messages`, which `genprm sft` and TRL's own trainers take) with what it
is about in ProcessBench's fields (`problem`, `steps`, `label`) and what it was made from. Its schema is fixed, so that
any two such files can be read together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import DataError
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.records import RationaleRecord
from genprm_trl.rows.outputs import replacing

# Fields of `Solution.extra` with their own column (see `monte_carlo`).
_ESTIMATES = ("mc", "initial_mc")
_ROWS_AT_ONCE = 1000


def exported_row(record: RationaleRecord) -> dict[str, Any]:
    """The row of a record.

    Fields without a column (the solution's `extra`, the rationales' `source`) are in `provenance`, as
    JSON text.
    """
    solution = record.solution
    mode = str(record.source.get("mode", "full"))
    extra = {name: value for name, value in solution.extra.items() if name not in _ESTIMATES}
    return {
        "id": solution.id,
        "messages": GenPRMProtocol(mode).messages(solution.problem, solution.steps, record.rationales),
        "mode": mode,
        "problem": solution.problem,
        "steps": list(solution.steps),
        "label": solution.label,
        "labels": list(record.labels),
        "answer": solution.answer,
        "final_answer_correct": solution.final_answer_correct,
        "generator": solution.generator,
        "mc": solution.extra.get("mc"),
        "initial_mc": solution.extra.get("initial_mc"),
        "provenance": json.dumps({"extra": extra, "source": record.source}, ensure_ascii=False, sort_keys=True),
    }


def write_parquet(path: str | Path, records: Iterable[RationaleRecord]) -> int:
    """Writes records as a parquet file, in one piece and in memory that does not grow with them.

    Returns:
        The number of rows.

    Raises:
        DataError: The file cannot be written. What was at the path before is still there.
    """
    import pyarrow
    import pyarrow.parquet

    text, flag, number = pyarrow.string(), pyarrow.bool_(), pyarrow.float64()
    schema = pyarrow.schema(
        {
            "id": text,
            "messages": pyarrow.list_(pyarrow.struct({"role": text, "content": text})),
            "mode": text,
            "problem": text,
            "steps": pyarrow.list_(text),
            "label": pyarrow.int64(),
            "labels": pyarrow.list_(flag),
            "answer": text,
            "final_answer_correct": flag,
            "generator": text,
            "mc": pyarrow.list_(number),
            "initial_mc": number,
            "provenance": text,
        }
    )
    count = 0
    try:
        with (
            replacing(path, result=True) as file,
            pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for rows in _chunks(map(exported_row, records), _ROWS_AT_ONCE):
                count += len(rows)
                writer.write_table(pyarrow.Table.from_pylist(_writable(rows), schema=schema))
    except pyarrow.ArrowException as error:
        raise DataError(f"cannot be written as parquet: {error}", file=str(path)) from None
    return count


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _writable(value: Any) -> Any:
    """Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD, as in JSON Lines."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value
