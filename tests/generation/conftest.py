"""A tiny model saved as a directory, for what loads one."""

from pathlib import Path

import pytest

from tests.helpers.tiny_models import save_tiny


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny-model"))
