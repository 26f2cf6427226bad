"""`genprm prm`: from a file of labelled solutions to a discriminative model, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from genprm_trl import PRMConfig
from genprm_trl.cli.main import main
from genprm_trl.cli.prm import PRMOptions
from genprm_trl.cli.training import ModelOptions
from genprm_trl.options.parser import OptionParser
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.prm.scorer import PRMScorer
from genprm_trl.training.prm.trainer import PRMTrainer
from tests.helpers.paths import ROOT
from tests.helpers.prm import toy_rows
from tests.helpers.tiny_models import save_tiny

CONFIGS = sorted((ROOT / "examples" / "configs").glob("prm_*.yaml"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Solutions as `genprm label` writes them, with estimates beside the labels."""
    path = tmp_path_factory.mktemp("rows") / "labels.jsonl"
    write_jsonl(path, [labelled(number, **row) for number, row in enumerate(toy_rows(10))])
    return path


def labelled(number: int, prompt: str, completions: list[str], labels: list[bool]) -> dict[str, Any]:
    first = labels.index(False) if False in labels else -1
    judged = labels if first < 0 else labels[: first + 1]
    extra = {"labels": judged, "mc": [0.9 if label else 0.1 for label in judged]}
    return Solution(f"s{number}", prompt, completions, label=first, extra=extra).to_dict()


def words(base: Path, data: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": base, "output_dir": output, "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4,
        "save_steps": 1, "report_to": "none", "lr_scheduler_type": "constant", "learning_rate": 1e-3,
    }  # fmt: skip
    pairs = [w for name, value in (defaults | options).items() for w in (f"--{name}", str(value))]
    return ["prm", str(data), "--use_cpu", *pairs]


def history(checkpoint: Path) -> list[float]:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_a_file_becomes_a_model_and_a_longer_run_goes_on(base, rows, tmp_path, capsys):
    output = tmp_path / "model"
    options = {"eval_data": rows, "eval_strategy": "steps", "eval_steps": 1, "step_separator": " <step>"}
    assert main(words(base, rows, output, **options)) == 0
    shown = capsys.readouterr().out
    for name in ("format", "train loss", "eval loss", "step accuracy", "F1"):
        assert name in shown
    assert shown.rstrip().endswith(str(output))
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "labels.jsonl" in card
    assert "SHA-256 of the rows" in card

    assert main(words(base, rows, output, **options)) == 0
    assert "this training is finished" in capsys.readouterr().err
    assert main(words(base, rows, output, seed=7, **options)) == 2
    assert "seed was 42 and is now 7" in capsys.readouterr().err
    assert main(words(base, rows, output, soft_labels="true", **options)) == 2
    error = capsys.readouterr().err
    assert "soft_labels was False and is now True" in error

    assert main(words(base, rows, output, max_steps=3, **options)) == 0
    whole = tmp_path / "whole"
    assert main(words(base, rows, whole, max_steps=3, **options)) == 0
    assert history(output / "checkpoint-3") == history(whole / "checkpoint-3")
    scorer = PRMScorer(output)
    assert scorer.step_separator == " <step>"
    [verdict] = scorer.score([Solution("1", "Anna has 3 apples.", ["She buys 2 books."])])
    assert 0 < verdict.rewards[0] < 1

    (output / "genprm.json").write_text("{}", encoding="utf-8")  # of another model that was here before
    assert main([*words(base, rows, output, **options), "--overwrite"]) == 0
    assert not (output / "genprm.json").exists()


def test_the_head_is_trained_alone_first(base, rows, tmp_path, capsys):
    output = tmp_path / "model"
    line = words(base, rows, output, head_epochs=2, head_learning_rate=1e-2, soft_labels="true", save_strategy="no")
    assert main(line) == 0
    start, head, end = (load_file(each / "model.safetensors") for each in (base, output / "head", output))
    below = {name for name in end if name.startswith("model.")}
    assert set(end) - below == {"score.weight", "score.bias"}
    assert all(torch.equal(head[name], start[name]) for name in below)
    assert not all(torch.equal(head[name], end[name]) for name in below)
    assert not torch.equal(head["score.weight"], end["score.weight"])
    settings = json.loads((output / "head" / "genprm-prm.json").read_text(encoding="utf-8"))
    assert (settings["num_train_epochs"], settings["learning_rate"], settings["max_steps"]) == (2, 1e-2, -1)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "| labels of steps | Monte Carlo estimates |" in card
    assert "the head alone" in (output / "head" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(line) == 0
    assert capsys.readouterr().err.count("this training is finished") == 2
    assert load_file(output / "model.safetensors")["score.bias"].equal(end["score.bias"])


def test_no_process_loads_the_head_before_it_is_saved(base, rows, tmp_path, monkeypatch):
    """The first process saves; without a barrier behind it the others would look for what is not there yet."""
    events, head = [], tmp_path / "model" / "head"
    wait, start = Accelerator.wait_for_everyone, PRMTrainer.__init__

    def waits(accelerator: Accelerator) -> None:
        is_saved = (head / "model.safetensors").is_file() and (head / "tokenizer.json").is_file()
        events.append("wait for a saved head" if is_saved else "wait")
        wait(accelerator)

    def starts(trainer: PRMTrainer, *arguments: Any, **options: Any) -> None:
        events.append("start")
        start(trainer, *arguments, **options)

    monkeypatch.setattr(Accelerator, "wait_for_everyone", waits)
    monkeypatch.setattr(PRMTrainer, "__init__", starts)
    line = words(base, rows, tmp_path / "model", head_epochs=0.1, max_steps=1, save_strategy="no")
    assert main(line) == 0
    first, second = (place for place, event in enumerate(events) if event == "start")
    assert "wait for a saved head" in events[first:second]


def test_an_adapter_is_trained_with_the_head(base, rows, tmp_path, caplog):
    output = tmp_path / "model"
    assert main(words(base, rows, output, use_peft="true", lora_r=2, lora_target_modules="all-linear")) == 0
    assert "changed to TOKEN_CLS" not in caplog.text
    assert any("score" in name for name in load_file(output / "adapter_model.safetensors"))
    assert len(PRMScorer(output).score([Solution("1", "Anna", ["a", "b"])])[0].rewards) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "steps"}, "evaluation needs both --eval_data and --eval_strategy"),
        ({"eval_data": "x.jsonl"}, "evaluation needs both --eval_data and --eval_strategy"),
        ({"head_epochs": -1}, "head_epochs must be at least 0"),
        ({"head_epochs": 1, "train_head_only": "true"}, "give either --head_epochs or --train_head_only"),
        ({"head_epochs": 1, "use_peft": "true"}, "give either --head_epochs or --use_peft"),
        ({"load_in_4bit": "true"}, "the new head would be quantized"),
        ({"max_length": 5}, "no row has a labelled step within max_length=5"),
        ({"model": "missing/directory/of/a/model"}, "missing/directory/of/a/model"),
    ],
)
def test_wrong_options_are_explained(base, rows, tmp_path, capsys, options, message):
    assert main(words(base, rows, tmp_path / "model", **options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_bad_rows_stop_before_the_model_is_loaded_or_are_skipped(base, rows, tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text(rows.read_text(encoding="utf-8") + '{"problem": "p", "steps": ["a"]}\n', encoding="utf-8")
    assert main(words(tmp_path, data, tmp_path / "model")) == 2
    assert f"{data}, row 11, field 'label': must be the index of the first wrong step" in capsys.readouterr().err
    assert main([*words(base, data, tmp_path / "model", max_steps=1), "--skip_bad_rows"]) == 0
    assert "row 11" in capsys.readouterr().err
    write_jsonl(data, toy_rows(2))
    assert main(words(base, data, tmp_path / "other", format="processbench")) == 2
    assert "row 1, field 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_example_configs_are_valid(path):
    parser = OptionParser([PRMOptions, PRMConfig, ModelOptions], prog="genprm prm")
    options, args, model = parser.parse(["rows.jsonl", "--config", str(path), "--use_cpu", "--bf16", "false"])
    assert options.data == "rows.jsonl"
    assert model.model_name_or_path == "Qwen/Qwen2.5-Math-7B"
    gpus = 8 if path.stem.endswith("8gpu") else 1
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * gpus == 64
    assert args.max_length <= 4096  # its context


def test_there_are_configs_for_one_and_eight_gpus():
    assert {path.stem for path in CONFIGS} == {"prm_math_7b_1gpu", "prm_math_7b_8gpu"}
