"""What the repository says about itself agrees: versions, supported Pythons and TRLs, targets that workflows call."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genprm_trl.version import __version__
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")
}


def test_the_changelog_has_the_version():
    versions = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


def test_every_supported_python_is_tested():
    prefix = "Programming Language :: Python :: "
    supported = [name.removeprefix(prefix) for name in PROJECT["classifiers"] if re.match(prefix + r"\d\.\d+$", name)]
    matrix = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_the_oldest_supported_versions_are_tested():
    job = WORKFLOWS["tests"]["jobs"]["tests"]
    assert job["strategy"]["matrix"]["include"] == [{"python": "3.11", "versions": "oldest"}]
    [step] = [step for step in job["steps"] if step.get("run") == "make install-oldest"]
    assert step["if"] == "matrix.versions == 'oldest'"


def test_actions_of_others_are_pinned_by_commit():
    used = [step["uses"] for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"]
            if "uses" in step]  # fmt: skip
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []


# What needs an environment of another kind, or is about no module.
APART = ("benchmarks", "distributed", "docs", "hostile", "package", "peers", "real", "vllm")


def test_tests_are_named_after_the_module_that_they_are_about():
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        if folder.parts[0] not in APART:
            package = ROOT / "genprm_trl" / folder
            modules = {module.stem for module in package.iterdir() if not module.stem.startswith("_")} | {folder.name}
            if not any(re.match(rf"test_{module}(_|$)", path.stem) for module in modules):
                strays.append(str(path.relative_to(ROOT)))
    assert strays == []


@pytest.mark.parametrize(("name", "extra"), [("base", "plots"), ("dev", "dev")])
def test_the_pinned_versions_are_those_that_the_project_asks_for(name, extra):
    text = "".join((ROOT / f"requirements/{file}.txt").read_text(encoding="utf-8") for file in ("torch", name))
    pinned = dict(re.findall(r"^([\w.-]+)==([^ \n]+)", text, re.MULTILINE))
    for wanted in map(Requirement, [*PROJECT["dependencies"], *_wanted(extra)]):
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier


def _wanted(extra: str) -> list[str]:
    """The requirements of an extra, with those of the extras that it names."""
    found = []
    for requirement in PROJECT["optional-dependencies"][extra]:
        others = Requirement(requirement)
        ours = others.name == PROJECT["name"]
        found += [each for name in others.extras for each in _wanted(name)] if ours else [requirement]
    return found


@pytest.mark.parametrize("place", [*WORKFLOWS, ".ci/run", "AGENTS.md", "CONTRIBUTING.md"])
def test_make_knows_the_targets_that_are_named(place):
    if place in WORKFLOWS:
        steps = [step for job in WORKFLOWS[place]["jobs"].values() for step in job["steps"]]
        text = "\n".join(step.get("run", "") for step in steps)
    else:
        text = (ROOT / place).read_text(encoding="utf-8")
    calls = re.findall(r"(?:^|`|stage )make (?:PYTHON=\S+ )?((?:[a-z][a-z-]* ?)+)", text, re.MULTILINE)
    named = {name for call in calls for name in call.split()}
    assert named
    assert named <= TARGETS
