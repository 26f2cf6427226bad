"""What would end a training is found before a model is loaded, in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from transformers.integrations import integration_utils

from genprm_trl.cli.main import main
from genprm_trl.cli.training import ModelOptions, checked_directory
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rewards import GenPRMReward, answer_reward
from genprm_trl.rows.jsonl import locked_directory, write_jsonl
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.limits import ServiceLimits
from genprm_trl.service.schemas import parse_work
from genprm_trl.training import GenPRMConfig, PRMConfig, PRMTrainer
from genprm_trl.training.card_facts import changed_arguments
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig, StepGRPOTrainer
from tests.helpers.outcomes import toy_solutions
from tests.helpers.sft import records
from tests.helpers.tiny_models import save_tiny, tiny_model, tiny_tokenizer


def sft(directory: Path, *words: str) -> list[str]:
    rows = directory / "rows.jsonl"
    rows.write_text("".join(json.dumps(record.to_dict()) + "\n" for record in records(2)))
    # There is no such model: whoever comes to load it has looked too late.
    return ["sft", str(rows), "--model", str(directory / "none"), "--output_dir", str(directory / "out"), *words]


def prm(directory: Path, *words: str) -> list[str]:
    return ["prm", *sft(directory, *words)[1:]]


def grpo(directory: Path, *words: str) -> list[str]:
    rows = directory / "problems.jsonl"
    rows.write_text(json.dumps({"problem": "1+1?", "answer": "2"}) + "\n")
    words = ("--credit", "outcome", *words)
    return ["grpo", str(rows), "--model", str(directory / "none"), "--output_dir", str(directory / "out"), *words]


@pytest.mark.parametrize("command", [sft, grpo])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1"),
        (["--learning_rate", "nan"], "learning_rate must be at least 0, got nan"),
        (["--learning_rate", "inf"], "learning_rate must be finite, got inf"),
        (["--per_device_train_batch_size", "0"], "must"),
        (["--per_device_train_batch_size", "-2"], "must"),
        (["--gradient_accumulation_steps", "0"], "must"),
        (["--num_train_epochs", "-1"], "num_train_epochs must be positive"),
        (["--max_steps", "0"], "max_steps must be at least 1"),
        (["--max_steps", "-3"], "max_steps must be at least 1"),
        (["--deepspeed", "no.json"], "no.json: there is no such file"),
        (["--deepspeed", "FILE"], "needs the package 'deepspeed'"),
        (["--weight_decay", "-0.1"], "weight_decay must be at least 0"),
        (["--adam_beta1", "1.5"], r"adam_beta1 must be within"),
        (["--report_to", "tensorboard"], "tensorboard needs the package"),
        (["--report_to", "wandb"], "wandb needs the package"),
        (["--report_to", "nosuch"], "choose one of none"),
        (["--push_to_hub"], "needs a login"),
        (["--output_dir", "FILE/below"], "FILE"),
        (["--output_dir", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, monkeypatch, capsys, command, words, message):
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: [])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "deepspeed" else find_spec(name, *a)
    )
    (tmp_path / "FILE").touch()
    words = [word.replace("FILE", str(tmp_path / "FILE")) for word in words]
    assert main(command(tmp_path, *words)) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm {command.__name__}: error: ")
    assert message.replace("FILE", str(tmp_path / "FILE")) in error


@pytest.mark.parametrize("command", [sft, grpo])
def test_a_directory_in_which_a_training_runs_is_refused(tmp_path, capsys, command):
    output = tmp_path / "out"
    with locked_directory(output):
        (output / "checkpoint-1").mkdir()
        for more in ([], ["--overwrite"]):
            assert main(command(tmp_path, *more)) == 2
            *_, error = capsys.readouterr().err.strip().splitlines()
            assert error == f"genprm {command.__name__}: error: {output}: another process is writing to it"
    assert (output / "checkpoint-1").is_dir()


def test_a_directory_in_which_a_quickstart_runs_is_refused(tmp_path, capsys):
    with locked_directory(tmp_path / "out"):
        assert main(["quickstart", "--fast", "--output_dir", str(tmp_path / "out")]) == 2
    assert f"error: {tmp_path / 'out'}: another process is writing to it\n" in capsys.readouterr().err


def test_the_first_process_of_a_training_keeps_the_directory(tmp_path, monkeypatch):
    args = StepGRPOConfig(str(tmp_path / "out"), use_cpu=True, report_to="none")
    model = ModelOptions("model")
    with checked_directory(args, model):
        with pytest.raises(DataError, match="another process is writing to it"), checked_directory(args, model):
            pass
        monkeypatch.setenv("RANK", "1")
        with checked_directory(args, model):
            pass
    assert not (tmp_path / "out").exists()  # nothing was put there


@pytest.mark.parametrize("command", [sft, prm, grpo])
@pytest.mark.parametrize("model", ["none", "empty", "rows.jsonl"])
def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys, command, model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").touch()
    words = ["--verifier", str(tmp_path / "none"), "--credit", "min_form"] if command is grpo else []
    assert main([*command(tmp_path, *words), "--model", str(tmp_path / model)]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert str(tmp_path / model) in shown.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_found_before_a_model_is_loaded(tmp_path):
    rows = Dataset.from_list([{"prompt": "1+1?"}])
    args = StepGRPOConfig(str(tmp_path), credit="outcome", use_cpu=True, report_to="none")
    with pytest.raises(ConfigError, match="answer_reward needs a column 'answer' in the dataset, which has prompt"):
        StepGRPOTrainer(str(tmp_path / "none"), answer_reward, args, rows)


@pytest.mark.parametrize("arguments", [{"max_tokens": 5}, {"temprature": 1}])
def test_unknown_arguments_of_a_reward_are_named(tmp_path, arguments):
    with pytest.raises(ConfigError, match=f"no option '{next(iter(arguments))}'"):
        GenPRMReward(tmp_path / "none", **arguments)
    with pytest.raises(ConfigError, match=f"no option '{next(iter(arguments))}'"):
        GenPRMReward(server="http://127.0.0.1:9", **arguments)


@pytest.mark.parametrize("config", [GenPRMConfig, PRMConfig, StepGRPOConfig])
def test_the_card_lists_what_somebody_set(tmp_path, config):
    assert changed_arguments(config(str(tmp_path))) == {}
    changed = changed_arguments(config(str(tmp_path), learning_rate=0.5, max_steps=7))
    assert changed == {"learning_rate": 0.5, "max_steps": 7}


@pytest.mark.parametrize("config", [GenPRMConfig, PRMConfig])
def test_the_card_of_a_running_training_lists_the_same_and_touches_no_state(tmp_path, config, monkeypatch):
    args = config(str(tmp_path), max_steps=7, use_cpu=True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as in one of many processes
    states = [PartialState._shared_state, AcceleratorState._shared_state]
    before, variables = [dict(state) for state in states], dict(os.environ)
    args.learning_rate = 0.25
    assert changed_arguments(args) == {"learning_rate": 0.25, "max_steps": 7, "use_cpu": True}
    assert [dict(state) for state in states] == before
    assert dict(os.environ) == variables


@pytest.mark.parametrize(("body", "what"), [(b"[]", "a list of 0"), (b"5", "the number 5"), (b"null", "null")])
def test_a_body_that_is_no_object_is_named(body, what):
    with pytest.raises(ServiceRefusal, match=f"the body must be a JSON object, but is {what}"):
        parse_work(body, ServiceLimits())


def test_the_card_of_a_local_base_names_no_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    args = StepGRPOConfig(str(tmp_path / "out"), credit="outcome", use_cpu=True, report_to="none", num_generations=2,
                          per_device_train_batch_size=2)  # fmt: skip
    rows = Dataset.from_list([{"prompt": "1+1?", "answer": "2"}])
    trainer = StepGRPOTrainer(str(tmp_path / "base"), answer_reward, args, rows)
    trainer.create_model_card("policy")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "None" not in card.split("## ")[0]
    assert "fine-tuned version of a model on the author's machine" in card


def test_a_best_metric_that_has_no_value_is_one_line(tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [True, True]}] * 2
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    tiny_model().save_pretrained(tmp_path / "base")
    args = PRMConfig(str(tmp_path / "out"), use_cpu=True, report_to="none", max_steps=1, eval_strategy="steps",
                     eval_steps=1, save_steps=1, load_best_model_at_end=True, metric_for_best_model="f1")  # fmt: skip
    trainer = PRMTrainer(str(tmp_path / "base"), args=args, train_dataset=rows, eval_dataset=rows)
    with pytest.raises(ConfigError, match="f1 needs rows with a wrong step and rows without one"):
        trainer.train()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model, and rows that each command trains on."""
    directory = tmp_path_factory.mktemp("adapted")
    save_tiny(directory / "base")
    write_jsonl(directory / "rows.jsonl", toy_solutions(4))
    write_jsonl(directory / "rationales.jsonl", records(2))
    write_jsonl(directory / "problems.jsonl", [{"problem": "1+1?", "answer": "2"}])
    pair = {"id": "a", "problem": "1+1?", "prefix": "", "chosen": "It is 2.", "rejected": "It is 3."}
    write_jsonl(directory / "pairs.jsonl", [pair])
    return directory


ADAPTED = {
    "sft": ["rationales.jsonl"],
    "prm": ["rows.jsonl"],
    "grpo": ["problems.jsonl", "--credit", "outcome", "--num_generations", "2", "--max_completion_length", "4"],
    "implicit": ["rows.jsonl"],
    "ppm": ["rows.jsonl"],
    "dpo": ["pairs.jsonl"],
}


def line(command: str, directory: Path, output: Path, *more: str) -> list[str]:
    rows, *words = ADAPTED[command]
    return [
        command, str(directory / rows), *words, "--model", str(directory / "base"), "--output_dir", str(output),
        "--use_cpu", "--report_to", "none", "--max_steps", "1", "--per_device_train_batch_size", "2", *more,
    ]  # fmt: skip


def adapter(command: str, directory: Path, output: Path, modules: str) -> list[str]:
    return line(command, directory, output, "--use_peft", "--lora_r", "2", "--lora_target_modules", modules)


@pytest.mark.parametrize("command", ADAPTED)
def test_an_adapter_can_have_one_module_and_a_mistyped_one_is_one_line(adapted, tmp_path, capsys, command):
    assert main(adapter(command, adapted, tmp_path / "a", "q_proj")) == 0
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["target_modules"] == ["q_proj"]
    for modules in ("q_porj", "*q_proj"):
        capsys.readouterr()
        assert main(adapter(command, adapted, tmp_path / "b", modules)) == 2
        *_, error = capsys.readouterr().err.strip().splitlines()
        assert error.startswith(f"genprm {command}: error: --lora_target_modules: ")
    assert main(adapter(command, adapted, tmp_path / "c", r".*\.1\..*q_proj")) == 0  # PEFT's patterns stay


@pytest.mark.parametrize("command", ADAPTED)
@pytest.mark.parametrize("revision", [["--model_revision", "v2"], ["--model_init_kwargs", '{"revision": "v2"}']])
def test_an_adapter_of_a_revision_is_one_line(adapted, tmp_path, capsys, command, revision):
    """It would be loaded on the main revision."""
    assert main(line(command, adapted, tmp_path, "--model", "lab/tiny", "--use_peft", *revision)) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert "an adapter loads its model by its name alone, without a revision: download those files" in error


@pytest.mark.parametrize("command", [each for each in ADAPTED if each != "implicit"])  # which takes no revision
@pytest.mark.usefixtures("offline")
def test_the_tokenizer_is_that_of_the_revision(adapted, tmp_path, monkeypatch, command):
    """The cache of a Hub whose main revision has no tokenizer."""
    repository = tmp_path / "models--lab--tiny"
    shutil.copytree(adapted / "base", repository / "snapshots" / ("2" * 40))
    (repository / "snapshots" / ("1" * 40)).mkdir()
    shutil.copy(adapted / "base" / "config.json", repository / "snapshots" / ("1" * 40))
    (repository / "refs").mkdir()
    for revision, commit in (("main", "1"), ("v2", "2")):
        (repository / "refs" / revision).write_text(commit * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    more = ["--model", "lab/tiny", "--model_revision", "v2"]
    assert main(line(command, adapted, tmp_path / "out", *more)) == 0
    saved, own = (
        json.loads((directory / "tokenizer.json").read_text()) for directory in (tmp_path / "out", adapted / "base")
    )
    assert saved["model"] == own["model"]
