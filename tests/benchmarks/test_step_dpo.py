"""The comparison of Step-DPO with DPO on whole solutions: what its rows and its probabilities are."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch

from genprm_trl.data.step_pairs import StepPair
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import tiny_model


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "OMP_WAIT_POLICY"):
            patch.setenv(name, "")  # so that what the script sets is taken back
        return runpy.run_path(str(ROOT / "benchmarks" / "step_dpo.py"))


def test_whole_solutions_are_those_of_the_pairs(script, tmp_path: Path) -> None:
    def solution(name: str, problem: str, steps: list[str], right: bool) -> Solution:
        return Solution(name, problem, steps, label=-1 if right else 1, final_answer_correct=right,
                        extra={"separator": "\n"})  # fmt: skip

    labels = [
        solution("w", "p", ["Step 1: a", "Step 2: x"], False),
        solution("r", "p", ["Step 1: a", "Step 2: b"], True),
        solution("other", "q", ["Step 1: a", "Step 2: x"], False),
    ]
    write_jsonl(tmp_path / "labels.jsonl", [each.to_dict() for each in labels])
    pairs = [
        StepPair(name, problem, "Step 1: a\nStep 2:", " b", " x") for name, problem in (("w", "p"), ("other", "q"))
    ]
    [row] = script["whole_pairs"](tmp_path / "labels.jsonl", pairs)  # the problem q has no right solution
    assert row["prompt"] == [{"role": "user", "content": "p"}]
    assert row["chosen"] == [{"role": "assistant", "content": "Step 1: a\nStep 2: b"}]
    assert row["rejected"] == [{"role": "assistant", "content": "Step 1: a\nStep 2: x"}]


def test_a_step_is_as_probable_as_its_tokens(script) -> None:
    model, prompt, step = tiny_model(), [5, 6, 7], [8, 9]
    with torch.no_grad():
        probabilities = model(torch.tensor([prompt + step])).logits[0].softmax(-1)
    expected = probabilities[2, 8].item() * probabilities[3, 9].item()
    assert math.isclose(script["probability"](model, prompt, step), expected, rel_tol=1e-4)


def test_a_table_has_means_over_seeds(script) -> None:
    runs = [script["Measured"]([0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [1.0, 0.0]),
            script["Measured"]([1.0, 1.0], [0.25, 0.25], [1.0, 1.0], [0.0, 0.0])]  # fmt: skip
    name, seeds, right, wrong, told, accuracy, flawless = script["row"]("x", runs)
    assert (name, seeds, right, wrong, told) == ("x", "2", "0.750", "0.375", "75.0")
    assert accuracy.startswith("75.0 (")
    assert flawless.startswith("25.0 (")
