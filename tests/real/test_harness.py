"""A real model in lm-evaluation-harness: as a critic through `hf` and through a server, and as a verifier."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.harness.data import read_verdict
from tests.harness.conftest import only, own_tasks_alone  # noqa: F401
from tests.helpers.jobs import free_port
from tests.helpers.served import served
from tests.real.conftest import SOLUTIONS, check_verdict, genprm

pytestmark = pytest.mark.usefixtures("own_tasks_alone")
CRITIC, VERIFIER = "processbench_gsm8k", "processbench_genprm_gsm8k"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A directory as a copy of ProcessBench is one."""
    directory = tmp_path_factory.mktemp("processbench")
    (directory / "gsm8k.json").write_text(json.dumps([each.to_dict() for each in SOLUTIONS[:2]]), encoding="utf-8")
    return directory


def evaluate(task: str, data: Path, out: Path, model: str, arguments: str, *words: str) -> int:
    """Runs a task on the data."""
    command = ["lm-eval", "--model", model, "--model_args", arguments, "--tasks", task, "--log_samples", *words]
    return main([*command, "--metadata", json.dumps({"data_dir": str(data)}), "--output_path", str(out)])


def read(task: str, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scores of a task, and its samples in the order of the rows."""
    results = json.loads(only("results_*.json", out).read_text(encoding="utf-8"))["results"][task]
    samples = [json.loads(line) for line in only(f"samples_{task}_*", out).read_text(encoding="utf-8").splitlines()]
    return results, sorted(samples, key=lambda row: row["doc_id"])


def check_critic(out: Path) -> None:
    """What holds whatever a critic writes."""
    results, samples = read(CRITIC, out)
    assert results["sample_len"] == 2
    for name in ("error_acc", "correct_acc", "f1", "unparsable"):
        assert 0 <= results[f"{name},none"] <= 100
    assert [row["doc"]["id"] for row in samples] == [solution.id for solution in SOLUTIONS[:2]]
    for row in samples:
        [[text]] = row["resps"]
        assert isinstance(text, str)
        assert "The following is a math problem" in row["arguments"]["gen_args_0"]["arg_0"]


def test_a_critic_through_hf(base, data, tmp_path):
    words = ("--apply_chat_template", "--gen_kwargs", "max_gen_toks=32", "--device", "cpu", "--batch_size", "2")
    assert evaluate(CRITIC, data, tmp_path, "hf", f"pretrained={base},dtype=float32", *words) == 0
    check_critic(tmp_path)


def test_a_critic_through_a_server_that_others_wrote(server, base, data, tmp_path):
    arguments = f"model={base},base_url={server}/completions,tokenizer_backend=None,tokenized_requests=False"
    words = ("--gen_kwargs", "max_gen_toks=32", "--batch_size", "1")
    assert evaluate(CRITIC, data, tmp_path, "local-completions", arguments, *words) == 0
    check_critic(tmp_path)


def test_a_verifier_and_its_card(verifier, data, tmp_path, capsys):
    arguments = f"pretrained={verifier},n=2,dtype=float32,max_step_tokens=48"
    if evaluate(VERIFIER, data, tmp_path, "genprm", arguments) == 2:
        assert "no judgement of 2 solutions holds a verdict" in capsys.readouterr().err
        return
    results, samples = read(VERIFIER, tmp_path)
    assert results["failed,maj@n"] == 0
    judged = {row["doc"]["id"]: row for row in samples}  # a row for each filter
    for solution in SOLUTIONS[:2]:
        check_verdict(read_verdict(judged.pop(solution.id)["resps"][0][0]), replace(solution, label=None), n=2)
    assert judged == {}
    for name in ("error_acc", "correct_acc", "f1"):
        assert 0 <= results[f"{name},maj@n"] <= 100
    assert genprm("card", verifier, results=only("results_*.json", tmp_path)) == 0
    assert data.name in (Path(verifier) / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(base, tmp_path_factory) -> Iterator[str]:
    """The address of `transformers serve`."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", base, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with served(command, port, log, seconds=240) as url:
        yield url
