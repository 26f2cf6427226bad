"""Every pipeline on a real pretrained model, SmolLM2-135M-Instruct: `make test-real` fetches it and runs these tests.

Another processor may make it write something else. So the tests assert what must hold whatever it writes.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.generation.hf.generator import TransformersGenerator
from genprm_trl.records import RationaleRecord, Solution, StepStatus, Verdict, prediction_from_rewards
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox.base import ExecutionStatus
from genprm_trl.smollm2.rationales import rationale_records
from genprm_trl.smollm2.worked import WorkedSolution, WorkedStep

_BASE = os.environ.get("GENPRM_REAL_MODEL")  # the model's directory
collect_ignore_glob = [] if _BASE else ["test_*.py"]

# What all trainings here have in common.
TRAINING = {
    "dtype": "float32", "bf16": "false", "use_cpu": "true", "gradient_checkpointing": "false", "save_strategy": "no",
    "logging_steps": 1, "report_to": "none",
}  # fmt: skip
# Small enough for a computation of a few tokens, so that code rounds and tokens run out as well.
SHORT = {"dtype": "float32", "max_step_tokens": 48}


def genprm(command: str, *words: object, **options: object) -> int:
    """`genprm COMMAND WORDS --NAME VALUE ...` in this process; its exit code."""
    pairs = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return main(["-q", command, *map(str, words), *pairs])


def sums(count: int, first: int = 1) -> list[WorkedSolution]:
    """Additions in two steps; in every other one the second step is wrong."""
    made = []
    for i in range(first, first + count):
        one, two = 10 * i + 3, 10 * i + 3 + i + (i % 2)
        steps = (
            WorkedStep(f"First, {10 * i} + 3 = {one}.", ((f"{10 * i} + 3", str(one)),)),
            WorkedStep(f"Then {one} + {i} = {two}.", ((f"{one} + {i}", str(two)),)),
        )
        label, kind = (1, "sum") if i % 2 else (-1, None)
        made.append(
            WorkedSolution(f"s{i}", f"What is {10 * i} + 3 + {i}?", steps, str(11 * i + 3), label, kind, "sums")
        )
    return made


SOLUTIONS = [each.to_solution() for each in sums(3, first=20)]
# Easy enough for some right answers, and hard enough for some wrong ones.
_QUESTIONS = {"2 + 3": "5", "7 + 5": "12", "3 * 4": "12", "20 - 6": "14"}
PROBLEMS = [
    {"id": f"p{number}", "problem": f"What is {question}?", "answer": answer}
    for number, (question, answer) in enumerate(_QUESTIONS.items())
]


@pytest.fixture(scope="session")
def base() -> str:
    """The directory of the model as it was published."""
    assert _BASE
    return _BASE


@pytest.fixture(scope="session")
def rationales(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of training data, whose code has run."""

    async def made() -> list[RationaleRecord]:
        async with LocalSandbox() as sandbox:
            records, disagreeing = await rationale_records(sums(8), sandbox)
            assert not disagreeing
            return records

    path = tmp_path_factory.mktemp("rationales") / "rationales.jsonl"
    write_jsonl(path, asyncio.run(made()))
    return str(path)


@pytest.fixture(scope="session")
def verifier(base: str, rationales: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GenPRM that `genprm sft` has made of the model, all of whose weights it trained."""
    path = tmp_path_factory.mktemp("sft") / "genprm"
    options = {"mode": "code_execution", "max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 3e-4}
    assert genprm("sft", rationales, model=base, output_dir=path, **options, **TRAINING) == 0
    return str(path)


@pytest.fixture
def solutions(tmp_path: Path) -> str:
    return str(write(tmp_path / "solutions.jsonl", SOLUTIONS))


@pytest.fixture
def problems(tmp_path: Path) -> str:
    return str(write(tmp_path / "problems.jsonl", PROBLEMS))


@pytest.fixture
def nothing_generated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From when it is called on, a request to a model fails the test: what is paid for is not to be paid again."""

    def forbid() -> None:
        async def generate(*_: object, **__: object) -> None:
            pytest.fail("a model was asked again")

        monkeypatch.setattr(TransformersGenerator, "generate", generate)

    return forbid


def write(path: Path, rows: Any) -> Path:
    write_jsonl(path, rows)
    return path


def judged(code: int, path: Path) -> dict[str, Verdict]:
    """The verdicts in a file. Its command ends with code 2 if the model wrote none that can be read."""
    verdicts = {verdict.id: verdict for verdict in iter_verdicts(path)}
    assert code == (2 if all(verdict.is_unread for verdict in verdicts.values()) else 0)
    return verdicts


def check_verdict(verdict: Verdict, solution: Solution, *, n: int = 1, runs_code: bool | None = None) -> None:
    """What holds of every verdict on all steps of a solution.

    Args:
        verdict: The verdict.
        solution: What it is about.
        n: Its chains.
        runs_code: Whether code may have run; None if that is not known.
    """
    assert (verdict.id, verdict.label) == (solution.id, solution.label)
    assert verdict.solution_digest == solution.digest
    assert len(verdict.rewards) == len(solution.steps)
    assert verdict.prediction == prediction_from_rewards(verdict.rewards, verdict.threshold)
    assert [len(chain) for chain in verdict.chains] == [len(solution.steps)] * n
    for step, reward in enumerate(verdict.rewards):
        judgements = [chain[step] for chain in verdict.chains]
        assert reward == pytest.approx(sum(each.reward for each in judgements) / n)
        for each in judgements:
            assert 0 <= each.reward <= 1
            assert each.status in get_args(StepStatus)
            assert each.status != "error"
            assert each.is_read or each.reward == 0.5
            assert all(block.status in get_args(ExecutionStatus) for block in each.code_rounds)
            assert runs_code is not False or not each.code_rounds
