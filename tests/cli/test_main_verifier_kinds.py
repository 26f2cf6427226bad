"""Every command that takes a verifier, with a discriminative one and with an ensemble; and checkpoints of no use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verifier import VerifierClient, open_verifier
from genprm_trl.verifier.client import ServiceError
from tests.helpers.running_service import running
from tests.helpers.tiny_models import save_tiny, tiny_tokenizer
from tests.helpers.tiny_verifiers import CHECKPOINTS

MEMBER = {"model": "classifier", "step_separator": " ;"}
# The options of each beside the model.
KINDS: dict[str, dict[str, Any]] = {
    "qwen_prm": {},
    "ensemble": {"kind": "ensemble", "kind_options": {"members": [MEMBER]}},
}
CHAINS = {"qwen_prm": 1, "ensemble": 2}


def words_of(kind: str) -> list[str]:
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in KINDS[kind].items()}
    return ["--model", "prm", *(word for name, value in given.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    CHECKPOINTS["qwen_prm"].save(path / "prm")
    CHECKPOINTS["token_classifier"].save(path / "classifier")
    save_tiny(path / "policy")
    rows = [
        {
            "problem": f"What is {n} + 1?",
            "steps": [f"{n} + 1 = {n + 1 + k}.", f"The answer is \\boxed{{{n + 1 + k}}}."],
            "label": -1 if k == 0 else 0,
        }
        for n in range(2)
        for k in range(2)
    ]
    write_jsonl(path / "solutions.jsonl", [{"id": f"{i}", **row} for i, row in enumerate(rows)])
    write_jsonl(
        path / "problems.jsonl",
        [{"problem": "What is 0 + 1?", "answer": "1"}, {"problem": "What is 1 + 1?", "answer": "2"}],
    )
    return path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(models)  # a command line with short names
    return str(request.param)


@pytest.fixture
def twice(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, object]]]:
    """Runs a command with the verifier, and again, which has nothing to do; gives the rows of its output."""

    def run(*words: str) -> list[dict[str, object]]:
        output = tmp_path / "rows.jsonl"
        command = [*words, *words_of(kind), "--output", str(output)]
        assert main(command) == 0, capfd.readouterr().err
        written = output.read_bytes()
        capfd.readouterr()
        assert main(command) == 0
        assert "is finished" in capfd.readouterr().err
        assert output.read_bytes() == written
        return [json.loads(line) for line in written.splitlines()]

    return run


def test_verify_and_its_pages(kind, twice, tmp_path, capfd):
    verdicts = [Verdict.from_dict(row) for row in twice("verify", "solutions.jsonl")]
    assert len(verdicts) == 4
    assert {len(verdict.chains) for verdict in verdicts} == {CHAINS[kind]}
    assert all(verdict.scored_prediction is not None and len(verdict.rewards) == 2 for verdict in verdicts)
    output = str(tmp_path / "rows.jsonl")
    page = str(tmp_path / "page.html")
    assert main(["report", output, "--solutions", "solutions.jsonl", "--output", page]) == 0
    write_jsonl(tmp_path / "other.jsonl", [verdict.to_dict() for verdict in verdicts])
    assert main(["compare", output, str(tmp_path / "other.jsonl"), "--output", str(tmp_path / "both.html")]) == 0
    assert "| rows minus other |" in capfd.readouterr().out
    assert main(["verify", "solutions.jsonl", *words_of(kind), "--output", output, "--n", "2"]) == 2
    assert f"verifiers of the kind {kind} have no option 'n'" in capfd.readouterr().err


def test_select(kind, twice, tmp_path, capfd):
    rows = twice("select", "solutions.jsonl")
    assert main(["select", "solutions.jsonl", *words_of(kind), "--output", str(tmp_path / "rows.jsonl")]) == 0
    out = capfd.readouterr().out
    assert f"{'verifications':<18} {4 * CHAINS[kind]}\n" in out
    assert "rationales of" not in out
    assert len(rows) == 2
    judged = (tmp_path / "rows.verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["chains"]) for line in judged] == [CHAINS[kind]] * 4


@pytest.mark.parametrize("method", ["beam", "best_of_n"])
def test_search(twice, method):
    words = ("--policy", "policy", "--policy_max_tokens", "8", "--paths", "2", "--method", method)
    rows = twice("search", "problems.jsonl", *words, *(("--width", "2") if method == "beam" else ()))
    assert [len(row["paths"]) for row in rows] == [2, 2] if method == "best_of_n" else [1, 1]


def test_refine_stops_at_the_first_error(twice):
    """Its default, which every kind must bear."""
    rows = twice("refine", "problems.jsonl", "--policy", "policy", "--policy_max_tokens", "8", "--turns", "1")
    judged = [turn["verdict"] for row in rows for turn in row["turns"] if turn["verdict"] is not None]
    assert judged
    for verdict in judged:
        assert verdict["prediction"] in (-1, len(verdict["rewards"]) - 1)


def test_grpo_takes_its_steps_for_rewards(kind, tmp_path, capfd):
    arguments = {"verifier": "prm", "kind": kind, **KINDS[kind].get("kind_options", {})}
    (tmp_path / "reward.yaml").write_text(json.dumps(arguments), encoding="utf-8")
    settings = {
        "model": "policy", "output_dir": tmp_path / "out", "max_steps": 1, "num_generations": 2,
        "per_device_train_batch_size": 2, "max_completion_length": 4, "report_to": "none", "save_strategy": "no",
        "reward_config": tmp_path / "reward.yaml", "logging_steps": 1,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert main(["grpo", "problems.jsonl", "--use_cpu", *words]) == 0, capfd.readouterr().err
    assert "GenPRMReward" in capfd.readouterr().out
    if kind == "ensemble":  # a member is read by the command as the model is
        words[words.index("--output_dir") + 1] = "classifier"
        assert main(["grpo", "problems.jsonl", "--use_cpu", *words]) == 2
        assert "is read by this command" in capfd.readouterr().err


async def test_serve(kind):
    solution = Solution("1", "What is 1 + 1?", ["1 + 1 = 2.", "It is 2."])
    with running(load_verifier(VerifierOptions("prm", **KINDS[kind]))) as service:
        whole = await VerifierClient(service.url).verify(solution)
        cut = await VerifierClient(service.url, stop="first_error").verify(solution)
    assert (len(whole.chains), len(whole.rewards)) == (CHAINS[kind], 2)
    assert cut.rewards == pytest.approx(whole.rewards[: cut.prediction + 1 or None])


@pytest.mark.parametrize("name", CHECKPOINTS)
async def test_a_server_gives_the_verdicts_of_a_discriminative_kind(name, tmp_path):
    CHECKPOINTS[name].save(tmp_path / "model")
    options = VerifierOptions(
        str(tmp_path / "model"), kind=name, kind_options=CHECKPOINTS[name].options, threshold=0.4, device="cpu"
    )
    solution = Solution("1", "What is 1 + 1?", ["1 + 1 = 2.", "It is 2."])
    with load_verifier(options) as alone:
        here = await alone.verify(solution)
    with running(load_verifier(options)) as service:
        async with VerifierClient(service.url) as client:
            there = await client.verify(solution)
        async with VerifierClient(service.url, n=8) as client:
            with pytest.raises(ServiceError, match="has n=1, which cannot be changed"):
                await client.verify(solution)
    assert (there.rewards, there.prediction, there.threshold) == (pytest.approx(here.rewards), here.prediction, 0.4)
    assert [judgement.status for judgement in there.chains[0]] == ["ok", "ok"]


def test_an_output_never_falls_into_a_members_directory(models, monkeypatch, capfd):
    monkeypatch.chdir(models)
    words = ["verify", "solutions.jsonl", *words_of("ensemble"), "--output", "classifier/config.json"]
    assert main(words) == 2
    assert "classifier/config.json is read by this command" in capfd.readouterr().err


def other_config(path: Path, **fields: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def three_labels(path: Path) -> None:
    other_config(path, id2label={"0": "wrong", "1": "neutral", "2": "right"}, label2id={})


def own_code(path: Path) -> None:
    other_config(path, model_type="own", auto_map={"AutoConfig": "own.Config"})
    (path / "own.py").write_text("raise SystemExit('this ran')", encoding="utf-8")


# How a checkpoint is spoiled, and what the line says to give.
SPOILED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no kind": ("prm", lambda path: other_config(path, architectures=["OwnModel"]), "give --kind, one of genprm,"),
    "three labels": ("classifier", three_labels, "give a classifier of two labels"),
    "no separator": ("prm", lambda path: tiny_tokenizer().save_pretrained(path), "'<extra_0>' is no single token of "),
    "own code": ("classifier", own_code, "give a checkpoint of an architecture that transformers has"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_checkpoint_that_cannot_be_used_is_one_line_that_says_what_to_give(models, tmp_path, capfd, name):
    of, spoil, said = SPOILED[name]
    shutil.copytree(models / of, tmp_path / "model")
    spoil(tmp_path / "model")
    model = str(tmp_path / "model")
    with pytest.raises(ConfigError) as found:
        open_verifier(model)
    assert said in str(found.value)
    assert "\n" not in str(found.value)
    solutions, problems = (str(models / f"{rows}.jsonl") for rows in ("solutions", "problems"))
    search = ["search", problems, "--policy", str(models / "policy")]
    capfd.readouterr()
    for command in (["verify", solutions], ["select", solutions], search):
        assert main([*command, "--model", model, "--output", str(tmp_path / "rows.jsonl")]) == 2
        error = capfd.readouterr().err
        assert f"genprm {command[0]}: error: {found.value}" in error.splitlines()
        assert "Traceback" not in error
