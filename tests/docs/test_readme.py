"""The README's figures are those of the committed runs, and the files it names exist."""

from __future__ import annotations

import re

import pytest

from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("world", "at_least"), [("quickstart", 10), ("smollm2", 4)])
def test_figures_are_those_of_the_committed_run(world, at_least):
    shown = README.split(f"<!-- {world}-table -->")[1].split(f"<!-- /{world}-table -->")[0]
    measured = (ROOT / "benchmarks" / "results" / f"{world}.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in shown.splitlines() if line]
    assert len(lines) > at_least
    assert [line for line in lines if line not in measured] == []


def test_files_that_are_named_exist():
    named = re.findall(r"\]\(((?!http)[^)#]+)\)", README) + re.findall(
        r"\b(?:tests|examples|benchmarks)/[\w./]+\w", README
    )
    assert len(named) > 4
    assert [path for path in named if not (ROOT / path).exists()] == []
