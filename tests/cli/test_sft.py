"""`genprm sft`: from a file of rationales to a model directory, and what it says of bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genprm_trl import GenPRMConfig
from genprm_trl.cli.main import main
from genprm_trl.cli.sft import SFTOptions
from genprm_trl.cli.training import ModelOptions
from genprm_trl.conversation.settings import ModelSettings, load_settings
from genprm_trl.options.parser import OptionParser
from genprm_trl.rows.jsonl import JsonlWriter
from tests.helpers.paths import ROOT
from tests.helpers.sft import records
from tests.helpers.tiny_models import save_tiny

CONFIGS = sorted((ROOT / "examples" / "configs").glob("genprm_sft_*.yaml"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


def rows_file(path: Path, count: int = 6) -> Path:
    with JsonlWriter(path) as writer:
        for record in records(count):
            writer.write(record)
    return path


def words(base: Path, data: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": base,
        "output_dir": output,
        "max_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "max_length": 1024,
        "save_steps": 2,
    }
    return ["sft", str(data), *(w for name, value in (defaults | options).items() for w in (f"--{name}", str(value)))]


def test_a_file_becomes_a_model(base, tmp_path, capsys):
    data = rows_file(tmp_path / "rows.jsonl")
    output = tmp_path / "model"
    options = {
        "eval_data": data,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "verify_data": solutions_file(tmp_path / "solutions.jsonl"),
        "verify_limit": 2,
        "verify_max_step_tokens": 40,
        "packing": "true",
    }
    assert main(words(base, data, output, **options)) == 0
    shown = capsys.readouterr().out
    for name in ("train loss", "eval loss", "step accuracy", "F1, rationales given", "F1, verified"):
        assert name in shown
    assert shown.rstrip().endswith(str(output))
    assert load_settings(output) == ModelSettings()
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= {path.name for path in output.iterdir()}
    history = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [entry["step"] for entry in history if "eval_verified_f1" in entry] == [1, 2]


def solutions_file(path: Path) -> Path:
    with JsonlWriter(path) as writer:
        for record in records(4):
            writer.write(record.solution)
    return path


def test_a_stopped_run_goes_on(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    assert main(words(base, data, output, max_steps=2, lr_scheduler_type="constant")) == 0
    assert main(words(base, data, output, max_steps=4, lr_scheduler_type="constant")) == 0
    state = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    resumed = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    whole = tmp_path / "whole"
    assert main(words(base, data, whole, max_steps=4, lr_scheduler_type="constant")) == 0
    state = json.loads((whole / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    assert resumed == [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert main([*words(base, data, output, max_steps=4, lr_scheduler_type="constant"), "--overwrite"]) == 0


def checkpoints(output: Path) -> set[str]:
    return {path.name for path in output.glob("checkpoint-*")}


def test_a_run_of_something_else_is_refused_and_overwritten_whole(base, tmp_path, capsys):
    """One of another model, other data, or another mode would silently end as a mixture of both."""
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    assert main(words(base, data, output, max_steps=3, save_steps=1)) == 0
    kept = checkpoints(output)
    assert kept == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    other_base = tmp_path / "other-base"
    shutil.copytree(base, other_base)
    solutions = solutions_file(tmp_path / "solutions.jsonl")
    capsys.readouterr()
    for changed, said in [
        (words(other_base, data, output), [f"model was '{base}' and is now '{other_base}'"]),
        (words(base, data, output, mode="direct"), ["mode was None and is now 'direct'"]),
        (words(base, solutions, output, mode="direct"), ["mode was", f"data was '{data}' and is now '{solutions}'"]),
        (words(base, data, output, seed=7), ["seed was 42 and is now 7"]),
    ]:
        assert main(changed) == 2
        message = capsys.readouterr().err
        assert "holds checkpoints of another run" in message
        assert "--overwrite" in message
        assert all(part in message for part in said), message
        assert "have changed" not in message
    rows_file(data, count=5)
    assert main(words(base, data, output)) == 2
    assert f"the rows of {data} have changed" in capsys.readouterr().err
    assert checkpoints(output) == kept

    # Bad input does not cost the checkpoints; a run that starts removes them all, and nothing else.
    (output / "checkpoint-notes").mkdir()
    assert main([*words(base, tmp_path / "nothing.jsonl", output), "--overwrite"]) == 2
    assert main([*words(tmp_path, data, output), "--overwrite"]) == 2
    assert checkpoints(output) == {*kept, "checkpoint-notes"}
    assert main([*words(base, data, output, max_steps=2), "--overwrite"]) == 0
    assert checkpoints(output) == {"checkpoint-2", "checkpoint-notes"}


def state_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    """All files of a directory, with the time of their last change."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_finished_run_is_left_as_it_is(base, tmp_path, capsys):
    """Also where its last step lies within an epoch, with checkpoints or without."""
    data = rows_file(tmp_path / "rows.jsonl")
    for name, options in (
        ("mid", {"max_steps": 4, "save_steps": 2}),
        ("none", {"max_steps": 2, "save_strategy": "no"}),
    ):
        output = tmp_path / name
        line = words(base, data, output, lr_scheduler_type="constant", **options)
        assert main(line) == 0
        before = state_of(output)
        capsys.readouterr()
        for again in (line, [*line, "--logging_steps", "5", "--report_to", "none", "--save_total_limit", "1"]):
            assert main(again) == 0
            printed = capsys.readouterr()
            assert "this training is finished" in printed.err
            assert printed.out == f"{'model':<22}{output}\n"
            assert state_of(output) == before
    # Half of a batch, accumulated twice as often, is the same training.
    halved = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, **options}
    assert main(words(base, data, output, lr_scheduler_type="constant", **halved)) == 0
    assert state_of(output) == before
    # A model of another run or of nobody is not trained further, as there is nothing to resume from.
    assert main(words(base, data, output, lr_scheduler_type="constant", **(options | {"max_steps": 3}))) == 2
    assert "no checkpoint to train it further from" in capsys.readouterr().err
    assert state_of(output) == before


def test_a_run_that_was_killed_before_its_model_was_saved_only_saves(base, tmp_path):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    line = words(base, data, output, max_steps=4, save_steps=2, lr_scheduler_type="constant")
    assert main(line) == 0
    weights = (output / "model.safetensors").read_bytes()
    card = (output / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "README.md"):
        (output / name).unlink()
    identity = output / "genprm-sft.json"
    settings = json.loads(identity.read_text(encoding="utf-8"))
    identity.write_text(json.dumps(settings | {"finished": None}), encoding="utf-8")
    assert main(line) == 0
    assert (output / "model.safetensors").read_bytes() == weights
    assert (output / "README.md").read_text(encoding="utf-8") == card
    assert json.loads(identity.read_text(encoding="utf-8")) == settings
    assert checkpoints(output) == {"checkpoint-2", "checkpoint-4"}


def test_a_checkpoint_that_is_not_whole_is_passed_over(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    line = words(base, data, output, max_steps=3, save_steps=1)
    assert main(line) == 0
    weights = (output / "model.safetensors").read_bytes()
    identity = output / "genprm-sft.json"
    settings = json.loads(identity.read_text(encoding="utf-8"))
    identity.write_text(json.dumps(settings | {"finished": None}), encoding="utf-8")
    (output / "checkpoint-3" / "model.safetensors").unlink()
    (output / "checkpoint-3" / "trainer_state.json").write_text('{"log_hist', encoding="utf-8")
    capsys.readouterr()
    assert main(line) == 0
    error = capsys.readouterr().err
    assert "checkpoint-3 is not whole; it is passed over" in error
    assert f"resuming from {output / 'checkpoint-2'}" in error
    assert (output / "model.safetensors").read_bytes() == weights
    assert main(words(base, data, data / "below" / "model")) == 2
    assert f"cannot be made: {data} is not a directory" in capsys.readouterr().err


CHANGES: list[tuple[dict[str, object], str]] = [
    ({"learning_rate": 0.5}, "learning_rate was 2e-06 and is now 0.5"),
    ({"lora_r": 4}, "lora_r was 2 and is now 4"),
    ({"use_peft": "false"}, "use_peft was True and is now False"),
    ({"weight_decay": 0.1}, "weight_decay was 0.0 and is now 0.1"),
    ({"max_length": 512}, "max_length was 1024 and is now 512"),
    ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was 'linear' and is now 'cosine'"),
    ({"per_device_train_batch_size": 1}, "processes was 2 and is now 1"),
    ({"max_steps": 1}, "max_steps was 2 and is now 1, and a run can only grow"),
    ({"max_steps": -1}, "max_steps was 2 and is now -1"),
    ({"packing": "true"}, "packing was False and is now True"),
    ({"warmup_steps": 1}, "warmup_steps was 0 and is now 1"),
]


def test_every_option_that_decides_the_model_is_held_against_the_earlier_run(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    options = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "all-linear"}
    assert main(words(base, data, output, **options)) == 0
    before = state_of(output)
    capsys.readouterr()
    for changed, said in CHANGES:
        assert main(words(base, data, output, **(options | changed))) == 2
        error = capsys.readouterr().err
        assert "holds checkpoints of another run" in error
        assert said in error, error
        assert error.count("\n") == 1
    assert state_of(output) == before
    # Neither has the checkpoint of another run an effect of which its options say nothing.
    fork = words(base, data, tmp_path / "fork", resume_from_checkpoint=output / "checkpoint-2", max_steps=4, **options)
    assert main([*fork, "--learning_rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "checkpoint-2 is of another run (learning_rate was 2e-06 and is now 0.5)" in error
    assert not (tmp_path / "fork").exists()


def test_a_directory_of_somebody_else_is_not_trained_into(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "mine"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    (output / "README.md").write_text("mine")
    assert main(words(base, data, output)) == 2
    assert "would replace and did not write (README.md); name another --output_dir" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {"notes.txt", "README.md"}
    assert (output / "README.md").read_text() == "mine"
    other = tmp_path / "other"
    shutil.copytree(base, other)
    before = state_of(other)
    assert main(words(base, data, other)) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert state_of(other) == before
    assert main([*words(base, data, output), "--overwrite"]) == 0
    assert (output / "notes.txt").read_text() == "mine"
    # A model that somebody has put in the place of ours is not replaced by more training either.
    shutil.copy(base / "model.safetensors", output / "model.safetensors")
    assert main(words(base, data, output, max_steps=3)) == 2
    assert "is not the one that this command left there" in capsys.readouterr().err


def test_the_card_tells_of_a_training_that_was_continued(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    assert main(words(base, data, output)) == 0
    assert "continued" not in (output / "README.md").read_text(encoding="utf-8")
    assert main(words(base, data, output, max_steps=3)) == 0
    assert "follows the longer schedule" in capsys.readouterr().err
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "| continued at step | 2 |" in card
    assert "| steps | 3 |" in card


def test_moved_data_go_on_and_unknown_checkpoints_need_a_word(base, tmp_path, capsys):
    data, output = rows_file(tmp_path / "rows.jsonl"), tmp_path / "model"
    assert main(words(base, data, output)) == 0
    moved = data.rename(tmp_path / "moved.jsonl")
    assert main(words(base, moved, output, max_steps=3)) == 0
    assert "checkpoint-3" in checkpoints(output)

    (output / "genprm-sft.json").unlink()
    capsys.readouterr()
    assert main(words(base, moved, output, max_steps=4)) == 2
    assert "no genprm-sft.json that says what they are of" in capsys.readouterr().err
    named = output / "checkpoint-2"
    assert main(words(base, moved, output, max_steps=4, resume_from_checkpoint=named)) == 0
    assert main(words(base, moved, output, max_steps=5)) == 0  # now it is said
    (output / "genprm-sft.json").write_text("{", encoding="utf-8")
    assert main(words(base, moved, output, max_steps=6)) == 2
    assert "genprm-sft.json: cannot be read" in capsys.readouterr().err


def test_the_direct_baseline_takes_labelled_solutions(base, tmp_path):
    output = tmp_path / "model"
    assert main(words(base, solutions_file(tmp_path / "solutions.jsonl"), output, mode="direct")) == 0
    assert load_settings(output) == ModelSettings(modes=("direct",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "steps"}, "--eval_strategy steps needs --eval_data"),
        ({"verify_data": "x.jsonl"}, "evaluation needs --eval_strategy"),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint nowhere is not a directory"),
        ({"max_length": 5}, "no row has a turn within max_length=5"),
        ({"model": "missing/directory/of/a/model"}, "missing/directory/of/a/model"),
    ],
)
def test_wrong_options_are_explained(base, tmp_path, capsys, options, message):
    assert main(words(base, rows_file(tmp_path / "rows.jsonl"), tmp_path / "model", **options)) == 2
    assert message in capsys.readouterr().err


def test_bad_rows_stop_before_the_model_is_loaded_or_are_skipped(base, tmp_path, capsys):
    data = rows_file(tmp_path / "rows.jsonl")
    with data.open("a", encoding="utf-8") as file:
        file.write('{"solution": 3, "rationales": ["x"], "labels": [true]}\nnot json\n')
    assert main(words(tmp_path, data, tmp_path / "model")) == 2
    assert f"{data}, row 7, field 'solution'" in capsys.readouterr().err
    assert main([*words(base, data, tmp_path / "model"), "--skip_bad_rows"]) == 0
    assert "2 of 8 rows skipped" in capsys.readouterr().err
    assert main(words(base, tmp_path / "nothing.jsonl", tmp_path / "model")) == 2
    assert "nothing.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_example_configs_are_valid(path, tmp_path):
    parser = OptionParser([SFTOptions, GenPRMConfig, ModelOptions], prog="genprm sft")
    options, args, model = parser.parse(["rows.jsonl", "--config", str(path), "--use_cpu"])
    assert options.data == "rows.jsonl"
    assert model.model_name_or_path.startswith("deepseek-ai/DeepSeek-R1-Distill-Qwen-")
    gpus = 8 if path.stem == "genprm_sft_7b" else 1
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * gpus == 64
    if not model.use_peft:
        assert args.learning_rate == 2e-6
        assert model.dtype == "float32"


def test_there_are_example_configs():
    assert {"genprm_sft_1.5b", "genprm_sft_7b"} <= {path.stem for path in CONFIGS}
