"""What an examination says of a policy is what its samples say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from genprm_trl.generation import TransformersGenerator
from genprm_trl.miniature.examination import Examination
from genprm_trl.miniature.models import tiny_causal_lm
from genprm_trl.miniature.policy import policy_row, sample_solutions, train_policy
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.word_problems import final_answer, gold_steps
from genprm_trl.miniature.world import make_problems, seeded

TOKENIZER = build_tokenizer()


def examined(model, problems, **options) -> Examination:
    return Examination(SimpleNamespace(model=model, processing_class=TOKENIZER), problems, **options)


@pytest.mark.slow
def test_marks_are_shares_of_the_samples(tmp_path):
    problems = make_problems(2, seed=5, small_share=1.0)
    rows = [policy_row(problems[0].text, gold_steps(problems[0], seeded("gold")))] * 16
    model = train_policy(  # it knows one solution, nearly by heart
        str(tmp_path), TOKENIZER, rows=rows, max_steps=200, warmup_steps=5, per_device_train_batch_size=2, use_cpu=True
    )
    examination = examined(model, problems, every=2, samples=4)
    examination.examine(6)
    assert model.training
    samples = sample_solutions(TransformersGenerator(model, TOKENIZER), problems, 4, seed=11)
    right = [final_answer(each.steps) == each.answer for each in samples]
    whole = [ok and each.label == -1 for ok, each in zip(right, samples, strict=True)]
    steps = sum(len(each.steps) for each in samples) / 8
    expected = {"step": 6, "answers": 12.5 * sum(right), "steps_right": 12.5 * sum(whole), "step_count": steps}
    assert examination.marks == [expected]
    assert 0 < sum(right) < 8


def test_it_comes_before_training_and_after_every_few_steps(tmp_path):
    model = tiny_causal_lm(TOKENIZER)
    examination = examined(model, make_problems(1, seed=5), every=2, samples=1)
    args, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerControl()
    examination.on_train_begin(args, TrainerState(), control)
    for step in range(1, 4):
        examination.on_step_end(args, TrainerState(global_step=step), control)
    assert [mark["step"] for mark in examination.marks] == [0, 2]
    # The same samples each time, so the same marks of the same weights.
    first, second = ({**mark, "step": None} for mark in examination.marks)
    assert first == second
