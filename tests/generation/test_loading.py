"""Which checkpoints `load_model` takes as a generator, and what it says of the others."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification
from transformers.integrations import deepspeed

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_model
from genprm_trl.verifier.kinds.token_classifier import load_trained_classifier
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


class Zero3:
    """The configuration that DeepSpeed's ZeRO-3 leaves behind for `from_pretrained`."""

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def sharding() -> Iterator[None]:
    training = Zero3()
    deepspeed.set_hf_deepspeed_config(training)
    yield
    deepspeed.unset_hf_deepspeed_config()


def test_models_are_loaded_whole_beside_a_training_that_shards(tmp_path, request):
    expected = tiny_model().state_dict()
    classifier(tmp_path / "classifier").save_pretrained(tmp_path / "classifier")
    request.getfixturevalue("sharding")
    for model in (load_model(saved(tmp_path), device="cpu"), load_trained_classifier(str(tmp_path / "classifier"))):
        weights = model.state_dict()
        shared = weights.keys() & expected.keys()
        assert len(shared) > 10
        assert all(torch.equal(weights[name].cpu(), expected[name]) for name in shared)
    assert deepspeed.is_deepspeed_zero3_enabled()  # the trained model, loaded afterwards, is still sharded


def saved(directory: Path, *, without: str | None = None, **config: object) -> Path:
    """A checkpoint, without the weights whose names hold `without`."""
    copy.deepcopy(tiny_model(**config)).save_pretrained(directory)
    if without is not None:
        weights = load_file(directory / "model.safetensors")
        kept = {name: weight for name, weight in weights.items() if without not in name}
        assert len(kept) < len(weights)
        save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def classifier(directory: Path):
    return AutoModelForTokenClassification.from_pretrained(saved(directory), num_labels=2)


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_checkpoint_is_loaded_as_saved(tmp_path, tied):
    model = load_model(saved(tmp_path, tie_word_embeddings=tied), device="cpu")
    expected = tiny_model(tie_word_embeddings=tied).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert not model.training


def test_missing_weights_are_not_drawn_at_random(tmp_path):
    with pytest.raises(ConfigError, match=r"no weights for model\.layers\.0\.mlp\.down_proj\.weight, .* and 3 more"):
        load_model(saved(tmp_path, without=".mlp."), device="cpu")


def test_a_missing_output_layer_is_only_right_where_it_is_tied(tmp_path):
    with pytest.raises(ConfigError, match=r"no weights for lm_head\.weight$"):
        load_model(saved(tmp_path, without="lm_head", tie_word_embeddings=False), device="cpu")


def test_a_model_that_brings_code_is_refused_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the terminal was asked"))
    copy.deepcopy(tiny_model()).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="brings code of its own, which is not run here"):
        load_model(tmp_path)


def test_a_step_classifier_is_no_generator(tmp_path):
    model = classifier(tmp_path / "base")
    model.save_pretrained(tmp_path / "prm")
    with pytest.raises(ConfigError, match=r"prm is a classifier \(Qwen2ForTokenClassification\)"):
        load_model(tmp_path / "prm", device="cpu")
    # Also where the configuration does not say what wrote it.
    config = copy.deepcopy(model.config)
    config.architectures = None
    config.save_pretrained(tmp_path / "prm")
    with pytest.raises(ConfigError, match=r"prm is a classifier \(it has score\."):
        load_model(tmp_path / "prm", device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_is_loaded_onto_its_base_model(tmp_path):
    base = load_model(saved(tmp_path / "base"), device="cpu")
    tuned = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = tuned.eval()(ids).logits
        assert torch.allclose(load_model(tmp_path / "adapter", device="cpu")(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(tiny_model()(ids).logits, expected, atol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_of_a_step_classifier_is_no_generator(tmp_path):
    adapter = get_peft_model(
        classifier(tmp_path / "base"), LoraConfig(task_type="TOKEN_CLS", target_modules=["q_proj"])
    )
    adapter.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"adapter is a classifier \(TOKEN_CLS adapter\)"):
        load_model(tmp_path / "adapter", device="cpu")
