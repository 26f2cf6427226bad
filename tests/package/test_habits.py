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


def test_the_oldest_supported_trl_is_tested():
    [bounds] = [name for name in PROJECT["dependencies"] if re.match(r"trl\b", name)]
    [oldest] = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert bounds.startswith(f"trl>={oldest['trl'].removesuffix('.0')},")


@pytest.mark.parametrize(("name", "extra"), [("base", "plots"), ("dev", "dev")])
def test_the_pinned_versions_are_those_that_the_project_asks_for(name, extra):
    text = "".join((ROOT / f"requirements/{file}.txt").read_text(encoding="utf-8") for file in ("torch", name))
    pinned = dict(re.findall(r"^([\w.-]+)==([^ \n]+)", text, re.MULTILINE))
    for wanted in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]):
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier


@pytest.mark.parametrize("place", [*WORKFLOWS, ".ci/run", "AGENTS.md", "CONTRIBUTING.md"])
def test_make_knows_the_targets_that_are_named(place):
    if place in WORKFLOWS:
        steps = [step for job in WORKFLOWS[place]["jobs"].values() for step in job["steps"]]
        text = "\n".join(step.get("run", "") for step in steps)
    else:
        text = (ROOT / place).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`|stage )make (?:PYTHON=\S+ )?([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= TARGETS
