"""Three generators, one model, one verdict: a miniature GenPRM under greedy decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks._widening import widen_heads
from genprm_trl import GenPRM, GenPRMConfig, GenPRMTrainer
from genprm_trl.cli.main import main
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.errors import GenPRMError
from genprm_trl.generation import SamplingParams
from genprm_trl.miniature.models import tiny_causal_lm
from genprm_trl.miniature.reasoner import rationale_records
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Verdict
from genprm_trl.rows.jsonl import write_jsonl
from tests.vllm.conftest import ENGINE, vllm_serve

GREEDY = SamplingParams(temperature=0.0)
HELDOUT = make_solutions(12, seed=0, split="heldout")


@pytest.fixture(scope="module")
def genprm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GenPRM that has learned the form of rationales, and some of what belongs in them, in wider heads."""
    directory = tmp_path_factory.mktemp("miniature") / "genprm"
    tokenizer = build_tokenizer()
    records, _ = rationale_records(make_solutions(900, seed=0), {"full": 1.0})
    arguments: dict[str, Any] = {
        "output_dir": str(directory),
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "per_device_train_batch_size": 4,
        "train_sampling_strategy": "group_by_length",
        "adam_beta2": 0.98,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": tokenizer.model_max_length,
    }
    trainer = GenPRMTrainer(
        tiny_causal_lm(tokenizer), GenPRMConfig(**arguments), train_dataset=records, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(str(directory))
    widen_heads(trainer.model.eval()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def served(genprm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_serve(genprm_dir, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


def judge(model: Path, backend: str, **options: Any) -> list[Verdict]:
    with verifier(model, backend, **options) as prm:
        verdicts = {verdict.id: verdict for verdict in prm.verify_all(HELDOUT, progress=False)}
    return [verdicts[solution.id] for solution in HELDOUT]


def verifier(model: Path, backend: str, **options: Any) -> GenPRM:
    return GenPRM.from_pretrained(
        model, backend=backend, generator_kwargs=options, sampling=GREEDY, max_step_tokens=320
    )


@pytest.fixture(scope="module")
def expected(genprm_dir: Path) -> list[Verdict]:
    verdicts = judge(genprm_dir, "transformers", device="cpu")
    judgements = [judgement for verdict in verdicts for judgement in verdict.chains[0]]
    # Else there is nothing to agree on.
    assert sum(judgement.status == "ok" for judgement in judgements) > len(judgements) / 2
    assert any(judgement.code_rounds for judgement in judgements)
    return verdicts


def check(verdicts: list[Verdict], expected: list[Verdict]) -> None:
    for verdict, wanted in zip(verdicts, expected, strict=True):
        assert verdict.prediction == wanted.prediction
        assert verdict.rewards == pytest.approx(wanted.rewards, abs=2e-3)
        assert len(verdict.chains) == len(wanted.chains) == 1
        for told, known in zip(verdict.chains[0], wanted.chains[0], strict=True):
            assert (told.rationale, told.status) == (known.rationale, known.status)
            assert [r.output for r in told.code_rounds] == [r.output for r in known.code_rounds]


def test_through_vllm_serve(genprm_dir: Path, served: str, expected: list[Verdict]) -> None:
    check(judge(genprm_dir, "server", urls=served), expected)


def test_through_the_command_line(genprm_dir: Path, served: str, expected: list[Verdict], tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    write_jsonl(rows, HELDOUT)
    words = ["verify", str(rows), "--model", str(genprm_dir), "--backend", "server", "--server_url", served]
    words += ["--output", str(output), "--temperature", "0", "--max_step_tokens", "320"]
    assert main(words) in (0, None)
    verdicts = {verdict.id: verdict for verdict in iter_verdicts(output)}
    check([verdicts[solution.id] for solution in HELDOUT], expected)


def test_through_an_engine_until_it_dies(genprm_dir: Path, expected: list[Verdict]) -> None:
    with verifier(genprm_dir, "vllm", **ENGINE) as prm:
        verdicts = {verdict.id: verdict for verdict in prm.verify_all(HELDOUT, progress=False)}
        check([verdicts[solution.id] for solution in HELDOUT], expected)
        # Every verdict that was finished before the engine died is there, and then the run ends.
        finished: list[Verdict] = []
        with pytest.raises(GenPRMError, match="vLLM's engine has died"):
            judge_and_kill(prm, finished)
        assert 1 <= len(finished) < 200


def judge_and_kill(prm: GenPRM, finished: list[Verdict]) -> None:
    for verdict in prm.verify_all(make_solutions(200, seed=1, split="heldout"), progress=False):
        finished.append(verdict)
        if len(finished) == 1:
            engine = [one for one in psutil.Process().children() if "EngineCore" in " ".join(one.cmdline())]
            assert engine
            for process in engine:
                process.kill()
