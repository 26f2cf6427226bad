"""Wherever the interpreter, its packages and this one lie: in a wheel, behind links, where others may not look."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PROGRAM = """
import asyncio, logging, sys
from genprm_trl.sandbox import LocalSandbox
async def main():
    async with LocalSandbox(**eval(sys.argv[1])) as sandbox, sandbox.session() as session:
        # Modules that are not loaded yet, of the library and of a package.
        result = await session.run(sys.argv[2])
        print(result.status, result.output)
asyncio.run(main())
"""
IMPORTS = (
    "import colorsys, sympy.plotting.series, numpy.polynomial.hermite as h, sympy\n"
    "print(h.hermval(1, [0, 1]), sympy.sqrt(8))"
)
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
SITE = Path(sysconfig.get_path("purelib"))


def run(python: Path, code: str = IMPORTS, options: str = "{}", **environment: str) -> str:
    done = subprocess.run(
        [str(python), "-c", PROGRAM, options, code],
        capture_output=True, text=True, cwd="/", env={**CLEAN, **environment}, timeout=120,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr[-3000:]


def make_environment(directory: Path, packages: str) -> Path:
    """A virtual environment that finds the packages of this one by a .pth file, and its interpreter."""
    venv.create(directory, with_pip=False, symlinks=True)
    site = next((directory / "lib").glob("python*")) / "site-packages"
    (site / "packages.pth").write_text(packages + "\n")
    return directory / "bin/python"


@pytest.mark.slow
def test_from_a_wheel(tmp_path: Path):
    """The guest's files are data of the package: a wheel must have them, and nothing of the checkout may be needed."""
    source = tmp_path / "source"
    keep = shutil.ignore_patterns(".*", "tests", "benchmarks", "docs", "*.egg-info", "build", "__pycache__")
    shutil.copytree(ROOT, source, ignore=keep)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*build, "-w", str(tmp_path), str(source)], capture_output=True, text=True)
    if "setuptools" in built.stderr:
        pytest.skip("needs setuptools and wheel to build with")
    assert built.returncode == 0, built.stderr
    python = make_environment(tmp_path / "environment", str(SITE))
    target = next((tmp_path / "environment/lib").glob("python*")) / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, *map(str, tmp_path.glob("*.whl"))], check=True, capture_output=True)
    shutil.rmtree(source)
    code = "import genprm_trl; print(genprm_trl.__file__)"
    where = subprocess.check_output([python, "-c", code], text=True, cwd="/", env=CLEAN)
    assert where.startswith(str(target))
    assert run(python) == "ok 2.0 2*sqrt(2)"


def test_packages_in_an_unusual_place(tmp_path: Path):
    """Spaces and letters in the path, and a link on the way to it."""
    real = tmp_path / "really here"
    real.mkdir()
    (tmp_path / "lïnk").symlink_to(real)
    python = make_environment(tmp_path / "lïnk" / "my environment", f"{SITE}\n{ROOT}")
    assert run(python) == "ok 2.0 2*sqrt(2)"


def test_packages_that_a_variable_names(tmp_path: Path):
    """As modules of a cluster, and pip's --target, have it."""
    python = make_environment(tmp_path / "bare", "")
    assert run(python, PYTHONPATH=f"{SITE}:{ROOT}") == "ok 2.0 2*sqrt(2)"


def test_a_project_that_is_linked_in_cannot_be_read(tmp_path: Path):
    """A development install puts a project's directory on the path, with its secrets in it."""
    project = tmp_path / "project"
    project.mkdir()
    (project / ".env").write_text("TOKEN=secret-canary")
    (project / "mine.py").write_text("")
    python = make_environment(tmp_path / "environment", f"{SITE}\n{ROOT}\n{project}")
    code = f"print(open({str(project / '.env')!r}).read())"
    assert run(python, code).startswith("error")
    assert run(python, f"print(open({str(ROOT / 'pyproject.toml')!r}).read())").startswith("error")
    # Unless a session is to have it.
    assert run(python, "import mine; print(1)", "{'imports': ('math', 'mine')}") == "ok 1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes another user")
def test_a_library_that_others_may_not_read_is_named(tmp_path: Path):
    """Better no session than programs whose imports fail. No second try would help, so it is a wrong setup."""
    closed = tmp_path / "closed"
    python = make_environment(closed, f"{SITE}\n{ROOT}")
    next((closed / "lib").glob("python*/site-packages")).chmod(0o700)
    answer = run(python)
    assert "ConfigError: The sandbox cannot start: " in answer
    assert "may not read the interpreter's library" in answer
    assert "chmod o+rx" in answer
    assert "--sandbox http://HOST:8080" in answer
    assert str(closed) in answer
