"""`genprm implicit`: from a file of solutions with outcomes to a verifier, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm_trl.cli.implicit import ImplicitOptions
from genprm_trl.cli.main import main
from genprm_trl.cli.training import ModelOptions
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.options.parser import OptionParser
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.implicit_prm import ImplicitPRMConfig
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.kinds.implicit import ImplicitScorer
from genprm_trl.verifier.opening import find_kind
from tests.helpers.outcomes import toy_solutions
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import save_tiny

CONFIGS = sorted((ROOT / "examples" / "configs").glob("implicit_*.yaml"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A base model, rows to train on, and rows that are held out."""
    path = tmp_path_factory.mktemp("implicit")
    save_tiny(path / "base")
    write_jsonl(path / "rows.jsonl", toy_solutions(6))
    write_jsonl(path / "held_out.jsonl", toy_solutions(3, name="Bob"))
    return path


def words(directory: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": directory / "base", "output_dir": output, "max_steps": 2, "logging_steps": 1, "save_steps": 1,
        "per_device_train_batch_size": 4, "report_to": "none", "lr_scheduler_type": "constant", "learning_rate": 1e-2,
    }  # fmt: skip
    pairs = [w for name, value in (defaults | options).items() for w in (f"--{name}", str(value))]
    return ["implicit", str(directory / "rows.jsonl"), "--use_cpu", *pairs]


def test_a_file_becomes_a_verifier_and_a_longer_run_goes_on(directory, tmp_path, capsys):
    output, held_out = tmp_path / "model", directory / "held_out.jsonl"
    options = {"eval_data": held_out, "eval_strategy": "steps", "eval_steps": 1, "threshold_data": held_out}
    options["precompute_ref_log_probs"] = "true"
    assert main(words(directory, output, **options)) == 0
    shown = capsys.readouterr().out
    for name in ("format", "threshold", "train loss", "eval loss", "outcomes told"):
        assert name in shown
    card = (output / "README.md").read_text(encoding="utf-8")
    for said in ("24, of which 12 are right", "of held_out.jsonl, F1", "| loss | ce |", "SHA-256 of the rows"):
        assert said in card
    saved = json.loads((output / "step_scorer.json").read_text(encoding="utf-8"))
    assert (saved["kind"], saved["beta"], saved["reference"]) == ("implicit", 0.05, str(directory / "base"))
    assert saved["threshold_from"].keys() == {"data", "solutions", "f1"}
    assert saved["threshold_from"]["data"] == "held_out.jsonl"

    assert main(words(directory, output, **options)) == 0
    assert "this training is finished" in capsys.readouterr().err
    assert main(words(directory, output, beta=0.1, **options)) == 2
    assert "beta was 0.05 and is now 0.1" in capsys.readouterr().err
    assert main(words(directory, output, max_steps=3, **options)) == 0

    # The kind, the reference and the threshold are found; another option of scoring takes the threshold away.
    assert find_kind(output) == "implicit"
    saved = json.loads((output / "step_scorer.json").read_text(encoding="utf-8"))
    verdicts = tmp_path / "verdicts.jsonl"
    assert main(["verify", str(held_out), "--model", str(output), "--output", str(verdicts)]) == 0
    assert {verdict.threshold for verdict in iter_verdicts(verdicts)} == {saved["threshold"]}
    assert (
        main(["verify", str(held_out), "--model", str(output), "--output", str(verdicts), "--threshold", "0.5"]) == 2
    )
    assert "threshold was" in capsys.readouterr().err
    with open_verifier(output, value="accumulated") as scorer:
        assert isinstance(scorer, ImplicitScorer)
        assert scorer.threshold == 0.5
    assert (
        main(["select", str(held_out), "--verdicts", str(verdicts), "--output", str(tmp_path / "chosen.jsonl")]) == 0
    )


def test_an_adapter_is_its_own_reference_without_itself(directory, tmp_path):
    output = tmp_path / "model"
    line = words(directory, output, loss_type="dpo", use_peft="true", lora_r=2, lora_target_modules="all-linear")
    assert main([*line, "--threshold_data", str(directory / "held_out.jsonl")]) == 0
    assert "reference" not in json.loads((output / "step_scorer.json").read_text(encoding="utf-8"))
    assert find_kind(output) == "implicit"
    solutions = [Solution.from_dict(row) for row in toy_solutions(1, name="Eve")]
    with open_verifier(output) as scorer, open_verifier(output, reference=str(directory / "base")) as explicit:
        found, expected = (
            [verdict.rewards for verdict in each.score(solutions)]  # type: ignore[attr-defined]
            for each in (scorer, explicit)
        )
    assert found == [pytest.approx(each, abs=1e-6) for each in expected]
    assert max(abs(reward - 0.5) for row in found for reward in row) > 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "steps"}, "evaluation needs both --eval_data and --eval_strategy"),
        ({}, "none does not exist"),
        ({"threshold_split": "test"}, "--threshold_split needs --threshold_data"),
        ({"model_revision": "v2", "model": "lab/some-model"}, "scoring loads the reference by its name alone"),
        ({"model_init_kwargs": '{"revision": "v2"}', "model": "lab/some-model"}, "name alone, without a revision"),
        ({"model_init_kwargs": '{"subfolder": "it"}', "model": "lab/some-model"}, "name alone, without a subfolder"),
        ({"threshold_data": "rows.jsonl"}, "has 6 problems that are trained on"),
        ({"threshold_data": "right.jsonl"}, "needs solutions with a wrong step and without one"),
        ({"threshold_data": "unlabelled.jsonl"}, "is missing in solution"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(directory, tmp_path, capsys, options, message):
    others = toy_solutions(2, name="Eve")
    write_jsonl(directory / "right.jsonl", others[::2])
    write_jsonl(directory / "unlabelled.jsonl", [{**row, "label": None} for row in others])
    if "threshold_data" in options:
        options = {**options, "threshold_data": directory / options["threshold_data"]}
    assert main(words(directory, tmp_path / "model", **{"model": directory / "none", **options})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_example_configuration_can_be_read(config):
    parser = OptionParser([ImplicitOptions, ImplicitPRMConfig, ModelOptions], prog="genprm implicit")
    parsed = parser.parse(["rows.jsonl", "--config", str(config), "--bf16", "false", "--use_cpu"])
    assert parsed[1].beta == 0.05
