"""What the trainings of scorers share: the threshold of what they have saved, and when it is chosen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genprm_trl.cli.main import main
from genprm_trl.metrics.processbench import best_threshold
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verifier import open_verifier
from tests.helpers.outcomes import toy_solutions
from tests.helpers.tiny_models import save_tiny, tiny_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, rows to train on, and rows that are held out."""
    path = tmp_path_factory.mktemp("scorers")
    save_tiny(path / "base")
    half = save_tiny(path / "base_bf16")
    copy.deepcopy(tiny_model()).to(torch.bfloat16).save_pretrained(half)
    write_jsonl(path / "rows.jsonl", toy_solutions(4))
    for name in ("Bob", "Eve"):
        write_jsonl(path / f"{name}.jsonl", toy_solutions(3, seed=ord(name[0]), name=name))
    return path


def words(command: str, directory: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": directory / "base", "output_dir": output, "max_steps": 2, "logging_steps": 1, "save_strategy": "no",
        "per_device_train_batch_size": 4, "report_to": "none", "lr_scheduler_type": "constant", "learning_rate": 1e-2,
    }  # fmt: skip
    pairs = [w for name, value in (defaults | options).items() for w in (f"--{name}", str(value))]
    return [command, str(directory / "rows.jsonl"), "--use_cpu", *pairs]


def saved_settings(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "step_scorer.json").read_text(encoding="utf-8"))
    return read


def threshold_as_judged(model: Path, file: Path) -> float:
    """The threshold of the rewards that `genprm verify` gives."""
    solutions = [Solution.from_dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    with open_verifier(model) as verifier:
        found = {verdict.id: verdict.read_rewards for verdict in verifier.verify_all(solutions)}
    labels = [-1 if each.label is None else each.label for each in solutions]
    return best_threshold(labels, [found[each.id] for each in solutions])[0]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("implicit", {"bf16": "true"}),
        ("ppm", {"model": "base_bf16", "use_peft": "true", "lora_r": 2, "lora_target_modules": "all-linear"}),
    ],
)
def test_the_threshold_is_chosen_for_the_rewards_that_the_saved_model_gives(command, options, directory, tmp_path):
    """A training computes others: under autocast, or with an adapter on a model that it has loaded in float32."""
    held_out = directory / "Bob.jsonl"
    if "model" in options:
        options = {**options, "model": directory / options["model"]}
    assert main(words(command, directory, tmp_path, **options, threshold_data=held_out)) == 0
    assert saved_settings(tmp_path)["threshold"] == threshold_as_judged(tmp_path, held_out)


def test_the_model_of_another_training_is_refused(directory, tmp_path, capsys):
    ppm, prm = tmp_path / "ppm", tmp_path / "prm"
    assert main(words("ppm", directory, ppm, max_steps=1)) == 0
    assert main(words("prm", directory, prm, max_steps=1)) == 0
    for command, model, named in (
        ("implicit", ppm, "and this is a Qwen2ForSequenceClassification"),
        ("implicit", prm, "and this is a Qwen2ForTokenClassification"),
        ("ppm", prm, "and this is a Qwen2ForTokenClassification with 2 labels"),
    ):
        capsys.readouterr()
        assert main(words(command, directory, tmp_path / "out", model=model)) == 2
        assert named in capsys.readouterr().err
    assert main(words("ppm", directory, tmp_path / "further", model=ppm, max_steps=1)) == 0


def test_a_threshold_can_be_added_to_a_finished_training(directory, tmp_path, capsys):
    bob, eve = directory / "Bob.jsonl", directory / "Eve.jsonl"
    line = words("implicit", directory, tmp_path)
    assert main(line) == 0
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| threshold | 0.5, not chosen |" in card
    weights = (tmp_path / "model.safetensors").stat()
    capsys.readouterr()

    for file in (bob, eve):
        assert main([*line, "--threshold_data", str(file)]) == 0
        shown = capsys.readouterr()
        saved = saved_settings(tmp_path)
        assert "this training is finished" in shown.err
        assert f"threshold             {saved['threshold']:.4g}" in shown.out
        assert saved["threshold_from"]["data"] == file.name
        assert saved["threshold"] == threshold_as_judged(tmp_path, file)
    told = f"| threshold | {saved['threshold']:.4g}, chosen on 12 solutions of Eve.jsonl, F1"
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith(card[: card.index("| threshold |")] + told)
    assert (tmp_path / "model.safetensors").stat() == weights

    # On the same solutions it is not chosen again, and without any it stays.
    for more in (["--threshold_data", str(eve)], []):
        written = (tmp_path / "step_scorer.json").stat()
        assert main([*line, *more]) == 0
        assert (tmp_path / "step_scorer.json").stat() == written
    # Of a model that somebody has changed nothing is chosen.
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text(encoding="utf-8") + " ")
    capsys.readouterr()
    assert main([*line, "--threshold_data", str(bob)]) == 2
    assert "is not the one that this command left there" in capsys.readouterr().err


def test_an_interrupted_choice_of_the_threshold_is_made_by_the_next_call(directory, tmp_path, capsys, monkeypatch):
    line = [*words("implicit", directory, tmp_path), "--threshold_data", str(directory / "Bob.jsonl")]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as at_the_card:  # when the threshold is in step_scorer.json already
        at_the_card.setattr("genprm_trl.training.threshold.replace_fact", interrupt)
        assert main(line) == 130
    chosen = saved_settings(tmp_path)["threshold"]
    assert main(line) == 0
    assert saved_settings(tmp_path)["threshold"] == chosen == threshold_as_judged(tmp_path, directory / "Bob.jsonl")
    assert f"| threshold | {chosen:.4g}, chosen on" in (tmp_path / "README.md").read_text(encoding="utf-8")
    # What else is in that file is the training's.
    (tmp_path / "step_scorer.json").write_text(json.dumps({**saved_settings(tmp_path), "beta": 0.5}))
    assert main([*line[:-1], str(directory / "Eve.jsonl")]) == 2
    assert "is not the one that this command left there" in capsys.readouterr().err
