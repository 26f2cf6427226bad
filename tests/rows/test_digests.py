"""The table of ids against a dict, and its size."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.errors import DataError
from genprm_trl.rows.digests import IdTable


@given(st.lists(st.text(max_size=2), max_size=200))
def test_an_id_is_taken_once(ids):
    table, expected = IdTable(), dict[str, int]()
    for number, id in enumerate(ids):
        if id in expected:
            with pytest.raises(DataError, match=f"is the id of row {expected[id]} already"):
                table.add(id, number)
        else:
            expected[id] = number
            table.add(id, number)
    assert len(table) == len(expected)
    assert all(table.get(id) == number for id, number in expected.items())
    assert table.get("not of it") is None


def test_an_entry_takes_little_memory():
    tracemalloc.start()
    table = IdTable()
    for number in range(50_000):
        table.add(f"problem-{number}-of-a-very-long-name" * 10, number)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / 50_000 < 150
