"""docs/api.md lists the public names: all of them exist, and nothing else is shown to users."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.pages import PAGES, blocks_of
from tests.helpers.paths import ROOT

LISTED = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
# An experiment of this project, which uses its insides.
EXPERIMENTS = {ROOT / "examples" / "step_grpo_miniature.py"}


def resolve(name: str) -> object:
    """The module of this name, or what a module holds under it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def home(name: str) -> str:
    """Where the object of this name is defined."""
    found = resolve(name)
    return found.__name__ if isinstance(found, ModuleType) else f"{found.__module__}.{found.__qualname__}"


def exports(name: str) -> set[str]:
    """The homes of what a listed name makes public: itself, and for a module what it defines or re-exports."""
    found = resolve(name)
    if not isinstance(found, ModuleType):
        return {home(name)}
    public = getattr(found, "__all__", [key for key in vars(found) if not key.startswith("_")])
    objects = [getattr(found, key) for key in public]
    owned = [each for each in objects if hasattr(each, "__qualname__")]
    if not hasattr(found, "__all__"):
        owned = [each for each in owned if each.__module__ == name]
    return {name, *(f"{each.__module__}.{each.__qualname__}" for each in owned)}


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genprm_trl"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("genprm_trl"))


def shown_to_users() -> dict[str, set[str]]:
    """The names that pages and examples import, and that examples' configurations name, with the places."""
    texts: list[tuple[Path | str, str]] = [
        (block.place, block.text) for page in PAGES for block in blocks_of(page) if block.language == "python"
    ]
    texts += [(path, path.read_text(encoding="utf-8")) for path in (ROOT / "examples").glob("*.py")]
    found: dict[str, set[str]] = {}
    for place, text in texts:
        if place not in EXPERIMENTS:
            for name in imported(text):
                found.setdefault(name, set()).add(str(place))
    for path in (ROOT / "examples" / "configs").iterdir():
        for name in re.findall(r"\bgenprm_trl(?:\.\w+)+", path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(str(path))
    return {name: places for name, places in found.items() if not name.startswith("genprm_trl.miniature")}


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_name_exists_and_is_documented(name):
    assert resolve(name).__doc__


def test_names_are_listed_once():
    assert len(LISTED) > 30
    assert len({home(name) for name in LISTED}) == len(LISTED)


def test_names_that_users_are_shown_are_listed():
    public = set().union(*map(exports, LISTED))
    used = shown_to_users()
    assert len(used) > 20
    assert {name: places for name, places in used.items() if home(name) not in public} == {}
