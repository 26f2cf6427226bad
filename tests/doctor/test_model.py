"""`genprm doctor --model`: what it says of a model's directory. No directory here has weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.doctor.checks import Finding
from genprm_trl.doctor.model import examine_model
from tests.helpers.chat_templates import DATED, LAST_TURN_ONLY, STYLES, chatml
from tests.helpers.tiny_models import tiny_tokenizer

SHAPE = {
    "vocab_size": 800, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16_384, "pad_token_id": 0,
}  # fmt: skip


def saved(path: Path, tokenizer: Any = None, kind: type[PreTrainedConfig] = Qwen2Config, **fields: Any) -> Path:
    (STYLES["chatml"]() if tokenizer is None else tokenizer).save_pretrained(path)
    kind(**SHAPE | {"architectures": [kind.__name__.replace("Config", "ForCausalLM")]} | fields).save_pretrained(path)
    return path


def found(path: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_model(str(path))}


def test_a_usual_model_has_nothing_amiss(tmp_path):
    findings = found(saved(tmp_path))
    assert {name for name, finding in findings.items() if finding.status not in ("ok", "absent")} == set()
    said = {name: finding.detail for name, finding in findings.items()}
    assert said["kind"].startswith("a causal model")
    assert said["context"] == "16,384 tokens"
    assert said["Yes and No"] == "single tokens"
    assert "<|im_start|>" in said["special tokens"]
    assert not {"date", "thinking", "role markers", "batches", "remote code"} & said.keys()


@pytest.mark.parametrize(
    ("tokenizer", "name", "status", "detail"),
    [
        (STYLES["deepseek"], "thinking", "degraded", "opens a thinking block"),
        (STYLES["no_system"], "role markers", "ok", "plain text ([/INST], [INST])"),
        (STYLES["no_system"], "chat template", "ok", "without a system role"),
        (STYLES["merging"], "Yes and No", "ok", "several tokens"),
        (STYLES["llama3"], "special tokens", "ok", "<|begin_of_text|>"),
        (lambda: chatml(DATED), "date", "ok", "today's"),
        (lambda: chatml(LAST_TURN_ONLY), "chat template", "degraded", "does not keep every turn"),
        (lambda: chatml(None), "chat template", "degraded", "has no chat template"),
    ],
)
def test_what_is_said_of_templates(tmp_path, tokenizer, name, status, detail):
    finding = found(saved(tmp_path, tokenizer()))[name]
    assert finding.status == status
    assert detail in finding.detail
    assert (finding.fix != "") == (status == "degraded")


@pytest.mark.parametrize(
    ("kind", "fields", "name", "status", "detail"),
    [
        (Olmo2Config, {}, "classification head", "ok", "genprm prm can train it"),
        (MistralConfig, {"sliding_window": 4096}, "context", "ok", "16,384 tokens, of which some layers see 4,096"),
        (Qwen2Config, {"max_position_embeddings": 4096}, "context", "degraded", "4,096 tokens"),
        (
            Phi3Config,
            {
                "original_max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 4096,
                },
            },
            "batches", "ok", "rows of more than 4,096 tokens apart from shorter ones",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_architectures(tmp_path, kind, fields, name, status, detail):
    finding = found(saved(tmp_path, kind=kind, **fields))[name]
    assert finding.status == status
    assert detail in finding.detail


def test_what_is_said_of_verifiers(tmp_path):
    ModelSettings(modes=("direct",)).save(saved(tmp_path / "genprm"))
    assert "a GenPRM, trained in mode direct" in found(tmp_path / "genprm")["kind"].detail
    assert "paper's authors" in found(saved(tmp_path / "GenPRM-7B"))["kind"].detail
    two = {"architectures": ["Qwen2ForTokenClassification"], "num_labels": 2}
    ours = found(saved(tmp_path / "prm", step_separator="\n\n", **two))
    assert ours["kind"].detail == "a verifier of the kind token_classifier"
    assert ours["step separator"].status == "ok"
    assert ours["step separator"].detail.startswith(repr("\n\n"))
    assert found(saved(tmp_path / "other", **two))["step separator"].status == "degraded"
    three = found(saved(tmp_path / "three", **two | {"num_labels": 3}))["kind"]
    assert (three.status, three.detail) == ("degraded", "a token classifier of 3 labels")
    whole = found(saved(tmp_path / "whole", architectures=["Qwen2ForSequenceClassification"]))["kind"]
    assert whole.status == "degraded"
    assert whole.detail.startswith("cannot tell what kind of verifier")
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    adapter = {"base_model_name_or_path": str(tmp_path / "genprm"), "task_type": "TOKEN_CLS"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (tmp_path / "adapter" / "config.json").write_text(json.dumps({"step_separator": "\n"}), encoding="utf-8")
    adapted = found(tmp_path / "adapter")
    assert adapted["kind"].detail == "a verifier of the kind token_classifier"
    assert adapted["step separator"].status == "ok"


def test_what_cannot_be_read_is_said_with_a_way_out(tmp_path, capsys):
    assert found(tmp_path)["files"].status == "failed"
    saved(tmp_path / "remote")
    remote = {"model_type": "unheard_of", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "remote" / "config.json").write_text(json.dumps(remote), encoding="utf-8")
    (tmp_path / "remote" / "code.py").write_text("raise SystemExit('this code has run')", encoding="utf-8")
    assert main(["doctor", "--model", str(tmp_path / "remote")]) == 1
    assert "brings code of its own, which is not run here" in capsys.readouterr().out
    assert main(["doctor", "--model", str(saved(tmp_path / "fine")), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    assert {finding["area"] for finding in report["findings"]} == {"model"}


def test_words_that_a_tokenizer_writes_alike_are_told_of(tmp_path):
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    words.chat_template = tiny_tokenizer().chat_template
    finding = found(saved(tmp_path, words))["Yes and No"]
    assert finding.status == "degraded"
    assert "writes both alike" in finding.detail
