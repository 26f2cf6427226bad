"""The table from texts to numbers against a dict, where hashes meet, and its size."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.rows import id_table as text_table
from genprm_trl.rows.id_table import TextTable


@given(st.lists(st.tuples(st.text(max_size=2), st.integers(-(2**63), 2**63 - 1)), max_size=200))
def test_it_is_a_dict(entries):
    table, expected = TextTable(), dict[str, int]()
    for text, number in entries:
        table[text] = expected[text] = number
    assert len(table) == len(expected)
    assert all(table.get(text) == number and text in table for text, number in expected.items())
    assert table.get("not of it") is None
    assert 3 not in table


def test_hashes_that_want_the_same_place(monkeypatch):
    monkeypatch.setattr(text_table, "text_hash", lambda text: int(text) << 20 | 15)
    table = TextTable()
    for number in range(100):
        table[str(number)] = number
    assert [table.get(str(number)) for number in range(101)] == [*range(100), None]


@pytest.mark.serial
def test_an_entry_takes_little_memory():
    tracemalloc.start()
    table = TextTable()
    for number in range(50_000):
        table[f"problem-{number}"] = number
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / 50_000 < 60
    assert table.get("problem-49999") == 49_999
