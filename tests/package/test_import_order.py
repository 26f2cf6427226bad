"""Modules import only from packages above theirs in docs/architecture.md, and tests from no other test."""

import ast
import re

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "genprm_trl"
# In programs within strings, too.
IMPORT_OF_A_TEST = re.compile(r"\b(?:from|import)\s+(?:[\w., ]*|\([\w\s,]*)\btest_\w+")


def floors() -> dict[str, int]:
    """The first column of the table of packages: a row a floor, names of one row may import each other."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- order -->\n(.*?)<!-- /order -->", page, re.DOTALL)
    assert table is not None
    rows = [row.split("|")[1] for row in table.group(1).splitlines() if row.startswith("| `")]
    return {name: number for number, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)}


def imported(path):
    """The modules and packages of this project that a file imports, at whatever place in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "genprm_trl" else [f"genprm_trl.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("genprm_trl."):
                yield name.split(".")[1]


def test_every_module_and_package_has_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == set(floors())


def test_modules_import_only_from_those_above():
    floor = floors()
    below = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (here := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) not in ("__init__", "__main__")
        for name in imported(path)
        if name in floor and floor[name] > floor[here]
    ]
    assert below == []


def test_no_test_imports_another():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for match in IMPORT_OF_A_TEST.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
