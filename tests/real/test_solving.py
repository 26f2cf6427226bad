"""A real policy that solves problems with a real verifier beside it: search and refinement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from genprm_trl.records import Verdict
from genprm_trl.solving.search import Method
from tests.real.conftest import PROBLEMS, SHORT, genprm


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def models(base: str, verifier: str) -> dict[str, object]:
    return {"policy": base, "policy_dtype": "float32", "model": verifier, "mode": "direct", **SHORT}


@pytest.mark.parametrize("method", get_args(Method))
def test_paths_are_searched_and_never_twice(base, verifier, problems, tmp_path, nothing_generated, method):
    output = tmp_path / "found.jsonl"
    words = {
        **models(base, verifier), "method": method, "paths": 2, "width": 2, "max_steps": 2, "policy_max_tokens": 32,
        "limit": 1, "output": output,
    }  # fmt: skip
    assert genprm("search", problems, **words) == 0
    [row] = rows(output)
    assert (row["id"], row["answer"]) == ("p0", "5")
    assert len(row["paths"]) == (1 if method == "beam" else 2)  # a beam keeps paths / width of them
    assert row["correct"] in (True, False)
    assert row["policy_tokens"] > 0
    for path in row["paths"]:
        assert len(path["steps"]) >= 1
        assert method == "best_of_n" or len(path["steps"]) <= 2
        assert len(path["rewards"]) == len(path["steps"])
        assert all(0 <= reward <= 1 for reward in path["rewards"])
        assert path["score"] == pytest.approx(min(path["rewards"]))
    assert row["steps"] == row["paths"][row["chosen"]]["steps"]
    before = output.read_bytes()
    nothing_generated()
    assert genprm("search", problems, **words) == 0
    assert output.read_bytes() == before


def test_answers_are_refined_and_never_twice(base, verifier, problems, tmp_path, nothing_generated):
    output = tmp_path / "refined.jsonl"
    words = {**models(base, verifier), "turns": 1, "policy_max_tokens": 48, "limit": 2, "output": output}
    assert genprm("refine", problems, **words) == 0
    found = rows(output)
    assert [row["id"] for row in found] == [problem["id"] for problem in PROBLEMS[:2]]
    for row in found:
        assert row["end"] in ("accepted", "no_verdict", "turns", "no_steps", "context")
        assert 1 <= len(row["turns"]) <= 2
        for turn in row["turns"]:
            assert turn["correct"] in (True, False)
            assert 0 < turn["num_tokens"] <= 48
            if turn["verdict"] is not None:
                verdict = Verdict.from_dict(turn["verdict"])
                assert all(0 <= reward <= 1 for reward in verdict.rewards)
                assert (turn["critique"] is None) == (verdict.prediction == -1)
    assert "| 0 (no critique) |" in Path(f"{output}.md").read_text(encoding="utf-8")
    before = output.read_bytes()
    nothing_generated()
    assert genprm("refine", problems, **words) == 0
    assert output.read_bytes() == before
