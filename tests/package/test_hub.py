"""Uploading models, cards and datasets, and loading them again, with a stand-in for the Hub at the other end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pandas
import pytest
from huggingface_hub import DatasetCard, ModelCard

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError
from genprm_trl.hub import make_repository
from genprm_trl.rows.outputs import WRITTEN
from genprm_trl.stages.file import StageSummary
from tests.helpers.hub_server import TOKEN, running_hub
from tests.helpers.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> SimpleNamespace:
    """What `upload_program` did: its report, its directory, and what the Hub's stand-in then holds."""
    directory = tmp_path_factory.mktemp("hub")
    with running_hub() as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(directory / "home"),
            "HF_HUB_DISABLE_XET": "1",  # another protocol, to other servers
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, "-m", "tests.helpers.upload_program", str(directory)]
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=580)
    assert ran.returncode == 0, ran.stderr
    return SimpleNamespace(hub=hub, directory=directory, report=json.loads(ran.stdout.splitlines()[-1]))


def test_a_refusal_comes_before_the_work(done):
    refused = done.report["refused"]
    assert (refused["code"], refused["out"]) == (2, "")
    # Before it, the sandbox says what it protects from.
    assert "\ngenprm recipe: error: others/words cannot be uploaded to: 403 Forbidden: You don't" in refused["err"]
    assert ("dataset", "others/words") not in done.hub.repositories


def test_a_recipe_uploads_its_data_set(done):
    assert done.report["recipe"]["code"] == 0, done.report["recipe"]["err"]
    repository = done.hub.repositories["dataset", "lab/words"]
    assert repository.private
    local = done.directory / "out" / "dataset"
    assert repository.files == {
        path.relative_to(local).as_posix(): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file() and path.name != WRITTEN
    }
    assert f"on the Hub         {done.hub.url}/datasets/lab/words/commit/" in done.report["recipe"]["out"]
    card = DatasetCard(repository.files["README.md"].decode())
    assert card.data.pretty_name == "Words"
    assert 'load_dataset("lab/words", split="train")' in card.text
    assert "Do not run it outside a sandbox" in card.text
    summary = StageSummary.load(done.directory / "out" / "rationales.jsonl")
    rows = len(pandas.read_parquet(io.BytesIO(repository.files["data/train-00000-of-00001.parquet"])))
    assert rows == summary.rows


def test_training_uploads_the_model_with_its_card(done):
    assert done.report["sft"]["code"] == 0, done.report["sft"]["err"]
    repository = done.hub.repositories["model", "lab/tiny"]
    assert {
        "README.md",
        "config.json",
        "genprm.json",
        "model.safetensors",
        "tokenizer.json",
    } <= repository.files.keys()
    local = done.directory / "model" / "model.safetensors"
    assert repository.files["model.safetensors"] == local.read_bytes()
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert {"genprm-trl", "genprm", "process-reward-model"} <= {*card.data.tags}
    text = card.text
    assert 'GenPRM.from_pretrained("lab/tiny", n=8)' in text
    assert "runs Python that the model writes" in text
    # What the trainer counted, and the stages of the recipe that made the data.
    kept = StageSummary.load(done.directory / "out" / "rationales.jsonl")
    assert f"| rows | {kept.rows} |" in text
    assert "| SHA-256 of the rows | " in text
    assert f"| consensus | none | {kept.items} | {kept.rows} | {kept.dropped.total()} |" in text
    assert "| learning rate | 0.001 |" in text
    assert '"learning_rate": 0.001' in text
    assert '"mode": "direct"' in text
    for name in ("genprm-trl", "trl", "transformers", "accelerate", "torch", "Python"):
        assert f"| {name} | " in text
    assert TOKEN not in text
    assert str(done.directory) not in text


def test_a_training_that_signs_of_hacking_stop_is_not_uploaded(done):
    stopped = done.report["stopped"]
    assert stopped["code"] == 1, stopped["err"]
    assert "at step 2, by signs of reward hacking; these weights are of that step, and not uploaded" in stopped["out"]
    repository = done.hub.repositories["model", "lab/policy"]
    assert repository.commits == ["initial", "Training in progress, step 1"]  # the checkpoint from before


def test_a_finished_training_is_uploaded_as_it_is(done):
    again = done.report["sft_again"]
    assert again["code"] == 0, again["err"]
    assert f"on the Hub            {done.hub.url}/lab/again/commit/" in again["out"]
    repository = done.hub.repositories["model", "lab/again"]
    assert {"README.md", "config.json", "genprm.json", "tokenizer.json"} <= repository.files.keys()
    assert repository.files["model.safetensors"] == (done.directory / "model" / "model.safetensors").read_bytes()
    assert not any(name.startswith("checkpoint-") for name in repository.files)


def test_measured_scores_are_in_the_model_index(done):
    assert done.report["card"]["code"] == 0, done.report["card"]["err"]
    repository = done.hub.repositories["model", "lab/tiny"]
    assert repository.commits[-1] == "Update the card"
    results = ModelCard(repository.files["README.md"].decode()).data.eval_results
    found = {(result.dataset_name, result.metric_name): result.metric_value for result in results}
    assert found["ProcessBench (math)", "F1 (greedy)"] == 40
    state = json.loads((done.directory / "model" / "checkpoint-1" / "trainer_state.json").read_text())
    verified = {
        name: round(value, 2)
        for entry in state["log_history"]
        for name, value in entry.items()
        if name.startswith("eval_verified_")
    }
    setting = "(direct, Pass@1, 4 solutions)"
    names = {"error_acc": "error_acc", "correct_acc": "correct_acc", "f1": "F1"}
    expected = {
        ("labels.jsonl", f"{metric} {setting}"): verified[f"eval_verified_{name}"]
        for name, metric in names.items()
        if f"eval_verified_{name}" in verified
    }
    assert expected
    assert found == {("ProcessBench (math)", "F1 (greedy)"): 40, **expected}


def test_a_discriminative_model_is_uploaded(done):
    repository = done.hub.repositories["model", "lab/prm"]
    assert done.report["prm"] == f"{done.hub.url}/lab/prm/commit/{repository.sha}"
    text = repository.files["README.md"].decode()
    for line in ("| rows | 1 |", "| tokens trained on | 2 |", "| steps | 1 |", "| torch | "):
        assert line in text
    assert str(done.directory) not in text


def test_the_cards_examples_run(done):
    rewards, prediction = done.report["model_example"].rsplit(maxsplit=1)
    assert len(json.loads(rewards)) == 2
    assert int(prediction) in (-1, 0, 1)
    assert done.report["data_example"].startswith("[{")
    assert len(json.loads(done.report["prm_example"])) == 2
    assert "GET /lab/tiny/resolve" in "\n".join(done.hub.requests)


def test_the_doctor_asks_who_one_is(done):
    assert done.report["doctor"][-1] == "answers; logged in as lab"


def test_no_login_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="needs a login: hf auth login"):
        make_repository("lab/tiny", "model")
    assert main(["card", str(tmp_path), "--results", "r.json", "--push_to_hub", "lab/tiny"]) == 2
    assert "needs a login" in capsys.readouterr().err


def test_new_repositories_are_private_unless_asked(done):
    private = {name: repository.private for (_, name), repository in done.hub.repositories.items()}
    private.pop("lab/policy", None)  # of another test, where that came first
    assert private == {"lab/words": True, "lab/tiny": True, "lab/again": False, "lab/prm": False}  # the last is TRL's
