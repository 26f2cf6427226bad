"""A model directory's fingerprint follows what decides the model's answers, and nothing else."""

from __future__ import annotations

import json
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


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (directory / "adapter_model.safetensors").write_bytes(b"weights")
    return directory


def test_the_base_of_an_adapter_counts(adapter: Path, model: Path) -> None:
    before = model_fingerprint(adapter)
    assert before == model_fingerprint(adapter)
    (model / "model.safetensors").write_bytes(b"others")
    changed = model_fingerprint(adapter)
    shutil.rmtree(model)
    assert len({before, changed, model_fingerprint(adapter)}) == 3
    (adapter / "adapter_config.json").write_text("[]")  # whoever loads it says what is wrong
    assert model_fingerprint(adapter) is not None


def test_the_reference_in_the_directory_of_an_adapter_counts(adapter: Path) -> None:
    (adapter / "ref").mkdir()
    (adapter / "ref" / "adapter_config.json").write_text("{}")
    weights = adapter / "ref" / "adapter_model.safetensors"
    weights.write_bytes(b"start")
    settings = {"kind": "implicit", "step_separator": "\n\n", "reference": "ref"}
    (adapter / "step_scorer.json").write_text(json.dumps(settings))
    before = model_fingerprint(adapter)
    checkpoint = adapter / "checkpoint-1"
    shutil.copytree(adapter / "ref", checkpoint)
    assert model_fingerprint(adapter) == before
    weights.write_bytes(b"other")
    assert model_fingerprint(adapter) != before


def test_fingerprints_of_what_is_no_adapter_stay(model: Path) -> None:
    """They are in the settings of runs that are to be resumed."""
    assert model_fingerprint(model) == "65f6d0402c9f2079"
