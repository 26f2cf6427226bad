"""`genprm recipe`: problems in, a dataset out; sections are checked, kills lose nothing."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import datasets
import pytest
import yaml

from genprm_trl.cli.main import main
from genprm_trl.cli.recipe import SFT, STAGES, RecipeOptions, plan
from genprm_trl.data.solutions import iter_rationales, load_solutions
from genprm_trl.errors import ConfigError
from genprm_trl.options.parser import OptionParser
from genprm_trl.stages.file import StageSummary
from genprm_trl.training.sft.data import load_conversations
from tests.helpers.forked import exit_code_of
from tests.helpers.kills import command
from tests.helpers.paths import ROOT
from tests.helpers.recipes import POLICY, SECTIONS, write_config
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

CONFIGS = sorted((ROOT / "examples" / "configs").glob("genprm_data_*.yaml"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recipe")
    assert main(["recipe", "--config", write_config(directory), "--name", "Words"]) == 0
    return directory / "out"


def test_the_data_set_is_read_by_datasets_and_by_the_trainer(made):
    records = list(iter_rationales(made / "rationales.jsonl"))
    assert len(records) > 5
    data = datasets.load_dataset(str(made / "dataset"), split="train")
    assert data["id"] == [record.solution.id for record in records]
    assert all(len(mc) == len(labels) for mc, labels in zip(data["mc"], data["labels"], strict=True))
    assert load_conversations(str(made / "dataset"))["messages"] == data["messages"]
    assert [(s.id, s.label) for s in load_solutions(str(made / "dataset"))] == [
        (record.solution.id, record.solution.label) for record in records
    ]
    # The same rows as JSON Lines.
    assert (made / "dataset" / "rationales.jsonl").read_bytes() == (made / "rationales.jsonl").read_bytes()


def test_every_row_says_what_it_was_made_from(made):
    row = datasets.load_dataset(str(made / "dataset"), split="train")[0]
    provenance = json.loads(row["provenance"])
    assert provenance["source"]["reasoner"] == "reasoner"
    assert provenance["extra"]["labelled_by"]["completion_model"] == "policy"
    assert row["generator"] == "policy"


def test_the_card_has_the_counts_of_each_stage(made):
    card = (made / "dataset" / "README.md").read_text()
    assert "# Words\n" in card
    for stage in STAGES:
        summary = StageSummary.load(made / stage.output)
        model = SECTIONS[stage.name].get("model", "none")
        assert f"| {stage.name} | {model} | {summary.items} | {summary.rows} | {summary.dropped.total()} |" in card
    assert StageSummary.load(made / "critiques.jsonl").items == StageSummary.load(made / "labels.jsonl").rows


def test_started_again_it_does_nothing_and_with_other_settings_it_refuses(made, capsys):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    config = write_config(made.parent)
    assert main(["recipe", "--config", config, "--name", "Words"]) == 0
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    other = write_config(made.parent, label={**SECTIONS["label"], "rule": "hard"})
    assert main(["recipe", "--config", other]) == 2
    error = capsys.readouterr().err
    assert "rule was 'rpe' and is now 'hard'" in error
    ways_out = "; choose another --output_dir, or --overwrite_from label, or keep its rollouts with --estimates "
    assert error.endswith(f"{ways_out}{made / 'labels.jsonl'}\n")


def test_stages_can_be_done_anew(tmp_path):
    config = write_config(tmp_path, problems=4)
    assert main(["recipe", "--config", config, "--until", "rationalize"]) == 0
    critiques = (tmp_path / "out" / "critiques.jsonl").read_bytes()
    assert not (tmp_path / "out" / "rationales.jsonl").exists()
    assert main(["recipe", "--config", config]) == 0
    other = write_config(tmp_path, problems=4, consensus={"require_agreement": False})
    assert main(["recipe", "--config", other]) == 2
    assert main(["recipe", "--config", other, "--overwrite_from", "consensus"]) == 0
    assert (tmp_path / "out" / "critiques.jsonl").read_bytes() == critiques


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_data(made, tmp_path):
    config = write_config(tmp_path)
    rng = random.Random(3)
    words = ["-q", "recipe", "--config", config, "--name", "Words"]

    # Lines are appended for rollouts (partial ones, too), labels, critiques and decisions, one after the other.
    kills = 0
    for kill in range(3):
        kills += exit_code_of(command, words, rng.randint(15, 45), kill % 2 == 0) == -9
    assert kills == 3
    assert exit_code_of(command, words) == 0
    for name in ("rollouts.jsonl", "labels.jsonl", "critiques.jsonl", "rationales.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes()
        assert StageSummary.load(tmp_path / "out" / name) == StageSummary.load(made / name)
    left = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert left.replace(str(tmp_path), "") == (made / "dataset" / "README.md").read_text().replace(
        str(made.parent), ""
    )


@pytest.mark.slow
def test_it_goes_on_to_a_trained_model(made, tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    section = {
        "model_name_or_path": str(tmp_path / "base"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
    }
    assert main(["recipe", "--config", write_config(made.parent, sft=section), "--name", "Words"]) == 0
    assert (made / "sft" / "genprm.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": {**SECTIONS["label"], "epsilom": 0.5}}, "section 'label', key 'epsilom': .*did you mean 'epsilon'"),
        ({"rollout": {**POLICY, "output": "x"}}, "section 'rollout', key 'output': is set by the recipe"),
        ({"consensus": {"labels": "x"}}, "section 'consensus', key 'labels': is set by the recipe"),
        ({"rationalize": {**SECTIONS["rationalize"], "samples": "two"}}, "key 'samples': invalid int value: 'two'"),
        ({"until": "sft"}, "--until sft: there is no section 'sft'"),
        ({"critique": {}}, "has no such option"),
    ],
)
def test_a_section_is_checked_before_anything_runs(tmp_path, capsys, changes, message):
    config = write_config(tmp_path, **changes)
    assert main(["recipe", "--config", config]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_section_without_a_model_says_so(tmp_path, capsys):
    assert main(["recipe", "--config", write_config(tmp_path, label={})]) == 2
    error = capsys.readouterr().err
    assert "error: section 'label': the following arguments are required: --model (see genprm label --help)" in error
    assert "usage" not in error


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_example_configurations_hold_options_that_exist(path):
    [options] = OptionParser([RecipeOptions], prog="test").parse(["--config", str(path)])
    planned = plan(options)
    assert [stage for stage, _ in planned] == [*STAGES, *([SFT] if options.sft is not None else [])]
    # Every section is written down, with the model that works in it.
    for stage, arguments in planned[:3]:
        assert getattr(options, stage.name)["model"] == next(a for a in arguments if hasattr(a, "backend")).model


def test_there_are_example_configurations():
    assert [path.stem for path in CONFIGS] == ["genprm_data_miniature", "genprm_data_qwen"]


def test_the_papers_numbers_are_in_the_example():
    config = yaml.safe_load(CONFIGS[1].read_text())
    assert config["rollout"]["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert config["rollout"]["max_samples"] == 2048
    assert config["label"]["model"] == "Qwen/Qwen2.5-Math-7B-Instruct"
    names = ("k_hard", "k", "k_easy", "hard_below", "easy_above", "rule", "epsilon")
    assert [config["label"][name] for name in names] == [128, 64, 32, 0.1, 0.9, "rpe", 0.8]
    assert config["rationalize"]["model"] == "Qwen/QwQ-32B"


def test_an_output_directory_that_is_none_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a directory"):
        plan(RecipeOptions(problems="p", output_dir=str(tmp_path / "file")))
