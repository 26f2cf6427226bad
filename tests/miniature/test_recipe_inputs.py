"""The inputs of the data recipe in the miniature world."""

from __future__ import annotations

import json

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.generation import TransformersGenerator
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.word_problems import Problem


@pytest.mark.slow
async def test_problems_and_a_policy(tmp_path):
    policy = make_inputs(tmp_path, problems=5, steps=2, report_to="none", disable_tqdm=True)
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [str(Problem.from_text(row["problem"]).answer) for row in rows]
    assert len(rows) == 5
    weights = (policy / "model.safetensors").stat().st_mtime_ns
    async with TransformersGenerator(policy) as generator:
        assert "assistant" in generator.tokenizer.chat_template
    make_inputs(tmp_path, problems=5, steps=2)
    assert (policy / "model.safetensors").stat().st_mtime_ns == weights


def test_other_numbers_and_problems_of_somebody_else_are_refused(tmp_path):
    (tmp_path / "recipe_inputs.json").write_text('{"problems": 5, "steps": 2, "seed": 0}')
    with pytest.raises(ConfigError, match="steps was 2 and is now 3"):
        make_inputs(tmp_path, problems=5, steps=3)
    (tmp_path / "problems.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="did not write it"):
        make_inputs(tmp_path, problems=5, steps=2)
    assert (tmp_path / "problems.jsonl").read_text() == "mine"
