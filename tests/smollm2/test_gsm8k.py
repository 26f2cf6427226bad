"""GSM8K's annotations become equations; planted errors are carried on; steps are written in two ways."""

import json
import random

import pytest

from genprm_trl.smollm2.equations import holds
from genprm_trl.smollm2.gsm8k import ERROR_KINDS, make_gsm8k_solutions, work_out
from tests.helpers.paths import SAMPLES, shared_data

ROW = {
    "question": "Ann has 48 clips. She sells half of them and then 6. How many did she sell?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all she sold 24+6 = $<<24+6=30>>30.\n#### 30",
}


def worked(row, kind=None, seed=0):
    return work_out(row, "1", kind, random.Random(seed))


def test_a_right_solution_states_what_the_annotations_say():
    texts = []
    for seed in range(40):
        solution = worked(ROW, seed=seed)
        assert (solution.label, solution.answer, solution.problem) == (-1, "30", ROW["question"])
        assert [each for step in solution.steps for each in step.equations] == [("48/2", "24"), ("24+6", "30")]
        texts += [step.text for step in solution.steps]
    assert not any("<<" in text for text in texts)
    for written in (
        r"\frac{48}{2} = 24",
        r"48 \div 2 = 24",
        "48 / 2 = 24",
        "48 ÷ 2 = 24",
        r"24 + 6 = \$30",
        "24 + 6 = $30",
    ):
        assert any(written in text for text in texts), written


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_an_error_is_carried_on(kind):
    solutions = [each for seed in range(60) if (each := worked(ROW, kind, seed)) is not None]
    assert solutions
    for solution in solutions:
        right = [all(map(holds, step.equations)) for step in solution.steps]
        assert right.index(False) == solution.label
        (_, first), (left, last) = [each for step in solution.steps for each in step.equations]
        if first != "24":  # the later step goes on from the wrong number
            assert left == f"{first}+6"
            assert holds((left, last))


@pytest.mark.parametrize(
    "line",
    [
        "She sold 48/2 = <<48/2=25>>25 clips.",  # the annotation is wrong
        "She sold 48/2 = <<48/2=24>>23 clips.",  # the text says something else
        "She sold 48/2 = <<48/two=24>>24 clips.",
        "She sold 48/2 = 24 and then <<24+6=30>>30.",  # an equation without an annotation
        "She sold them.",  # nothing to compute in the whole solution
    ],
)
def test_what_could_teach_a_wrong_thing_is_left_out(line):
    assert worked(ROW | {"answer": f"{line}\n#### 24"}) is None


def test_samples_and_the_real_file_are_read():
    rows = [json.loads(line) for line in (SAMPLES / "gsm8k_sample.jsonl").open(encoding="utf-8")]
    assert make_gsm8k_solutions(rows, 10)
    rows = [json.loads(line) for line in shared_data("gsm8k/train.jsonl").open(encoding="utf-8")]
    solutions = make_gsm8k_solutions(rows, 400, seed=1)
    assert len({solution.id for solution in solutions}) == len(solutions) == 400
    for solution in solutions:
        right = [all(map(holds, step.equations)) for step in solution.steps]
        assert (right.index(False) if False in right else -1) == solution.label
