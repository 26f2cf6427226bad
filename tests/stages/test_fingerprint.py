"""A model directory's fingerprint follows what decides the model's answers, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from genprm_trl.stages.fingerprint import model_fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "qwen2"}')
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 20_000)  # large enough to be sampled
    return directory


def test_a_copy_is_the_same_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    assert model_fingerprint(model) == model_fingerprint(str(tmp_path / "copy")) is not None


@pytest.mark.parametrize("place", [0, -1])
def test_other_weights_are_another_model(model: Path, place: int) -> None:
    before = model_fingerprint(model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[place] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(model) != before


@pytest.mark.parametrize("name", ["genprm.json", "tokenizer.json", "chat_template.jinja", "model-2.safetensors"])
def test_other_files_that_decide_answers_count(model: Path, name: str) -> None:
    before = model_fingerprint(model)
    (model / name).write_text("{}")
    with_file = model_fingerprint(model)
    (model / name).write_text("{ }")
    assert len({before, with_file, model_fingerprint(model)}) == 3


def test_what_training_leaves_behind_does_not_count(model: Path) -> None:
    before = model_fingerprint(model)
    (model / "README.md").write_text("# Model")
    (model / "trainer_state.json").write_text("{}")
    (model / "genprm-dpo.json").write_text("{}")
    (model / "genprm-of-any-later-command.json").write_text("{}")
    (model / "checkpoint-5").mkdir()
    assert model_fingerprint(model) == before


def test_a_name_on_the_hub_has_none() -> None:
    assert model_fingerprint("GenPRM/GenPRM-7B") is None
