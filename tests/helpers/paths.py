"""Where the repository, its sample rows and the public data for tests are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "samples"


def shared_data(name: str) -> Path:
    """A file of a public dataset, which is not in the repository. Where it is missing, the test is skipped.

    The files lie in the directory that the environment variable GENPRM_SHARED_DATA names, by default `../shared/data`
    beside the checkout.

    Args:
        name: Such as `gsm8k/model_solutions.jsonl`.
    """
    directory = Path(os.environ.get("GENPRM_SHARED_DATA") or ROOT.parent / "shared" / "data")
    path = directory / name
    if not path.is_file():
        pytest.skip(f"needs {name} in {directory} (or in the directory that GENPRM_SHARED_DATA names)")
    return path
