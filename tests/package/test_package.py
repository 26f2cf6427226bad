"""The package itself: what importing it costs, what it exports, what it ships."""

import importlib.metadata
import importlib.resources
import subprocess
import sys

import pytest

import genprm_trl

HEAVY = ["torch", "transformers", "trl", "datasets", "pyarrow", "accelerate", "pandas", "matplotlib", "sklearn"]


def heavy_imports_of(module: str) -> list[str]:
    """The heavy packages that come with a module's import in a fresh interpreter."""
    program = f"import sys; import {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "genprm_trl",
        "genprm_trl.records",
        "genprm_trl.data.formats",
        "genprm_trl.loading",
        "genprm_trl.rows.jsonl",
        "genprm_trl.data.steps",
        "genprm_trl.metrics",
        "genprm_trl.protocol",
        "genprm_trl.sandbox",
        "genprm_trl.generation.base",
        "genprm_trl.client",
        "genprm_trl.cli.main",
    ],
)
def test_light_modules_import_nothing_heavy(module):
    assert heavy_imports_of(module) == []


@pytest.mark.parametrize("name", [name for name in genprm_trl.__all__ if name != "__version__"])
def test_every_export_exists_and_is_remembered(name):
    value = getattr(genprm_trl, name)
    assert value.__name__ == {"VerifierReward": "GenPRMReward"}.get(name, name)  # one class, two names
    assert vars(genprm_trl)[name] is value


def test_dir_lists_exports_before_they_are_used():
    program = "import genprm_trl; print(*(set(genprm_trl.__all__) - set(dir(genprm_trl))))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"genprm_trl.*no attribute 'GenPRMTrainr'"):
        genprm_trl.GenPRMTrainr  # noqa: B018


def test_the_version_is_the_distributions():
    assert genprm_trl.__version__ == importlib.metadata.version("genprm-trl")


def test_the_package_says_that_it_is_typed():
    assert importlib.resources.files("genprm_trl").joinpath("py.typed").is_file()
