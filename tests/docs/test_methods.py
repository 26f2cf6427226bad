"""The table of methods: its figures are in the committed outputs that it names, and its commands exist."""

from __future__ import annotations

import itertools
import re

import pytest

from genprm_trl.cli.main import COMMANDS, command_parser
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [
    cells
    for line in PAGE.splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split(" | ")]) == 5
][1:]
METHODS = [cells for cells in ROWS if any(cells[1:]) and not cells[1].startswith("---")]


@pytest.mark.parametrize("cells", METHODS, ids=lambda cells: cells[0])
def test_a_row_says_what_was_measured_and_where(cells: list[str]) -> None:
    _, costs, gave, _, paper = cells
    assert costs
    assert paper == "ours" or re.fullmatch(r"(\[\d{4}\.\d{5}\]\(https://arxiv\.org/abs/\d{4}\.\d{5}\)(, )?)+", paper)
    files = re.findall(r"\]\(\.\./(benchmarks/results/[\w.]+)\)", gave)
    if gave != "–":
        assert files
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    figures = re.findall(r"\d+\.\d+", re.sub(r"\]\([^)]*\)", "", gave))
    assert [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", text)] == []


@pytest.mark.parametrize("cells", METHODS, ids=lambda cells: cells[0])
def test_the_command_of_a_row_exists(cells: list[str]) -> None:
    for words in re.findall(r"`genprm ([^`]+)`", cells[3]):
        name, *options = words.split()
        assert name in COMMANDS
        known = {action.dest: action for action in command_parser(name)._actions}
        for option, value in itertools.zip_longest(options, options[1:], fillvalue=""):
            if option.startswith("--"):
                action = known[option.removeprefix("--")]
                if value and not value.startswith("--") and action.choices:
                    assert value in action.choices


def test_the_table_is_no_empty_one() -> None:
    assert len(METHODS) > 20
