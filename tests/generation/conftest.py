"""A tiny model saved as a directory, for what loads one."""

from pathlib import Path

import pytest

from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-model")
    tiny_model().save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
