"""Classifiers of tokens in vLLM give the scores that they give in Transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.records import Solution
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.opening import KINDS
from tests.helpers.tiny_verifiers import CHECKPOINTS
from tests.vllm.conftest import ENGINE

POOLED = [name for name in CHECKPOINTS if KINDS[name].load().pooled]
SOLUTIONS = [
    Solution(f"{i}", f"Anna has {i} apples.", [f"{i} + {k} = {i + k}." for k in range(1 + i % 4)]) for i in range(6)
] + [Solution("long", "Anna has 3 apples.", ["2.", "egg " * 5000])]


@pytest.mark.parametrize("kind", POOLED)
def test_scores_are_those_of_transformers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine in this process, since one of its own takes half a minute to start.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    checkpoint = CHECKPOINTS[kind]
    checkpoint.save(tmp_path)
    with open_verifier(tmp_path, kind, **checkpoint.options) as here:
        expected = {verdict.id: verdict for verdict in here.verify_all(SOLUTIONS, progress=False)}
    with open_verifier(tmp_path, kind, backend="vllm", generator_kwargs=ENGINE, **checkpoint.options) as engine:
        found = {verdict.id: verdict for verdict in engine.verify_all(SOLUTIONS, progress=False)}
    assert found.keys() == expected.keys()
    for name, verdict in found.items():
        assert verdict.rewards == pytest.approx(expected[name].rewards, abs=1e-4)
        assert [j.status for j in verdict.chains[0]] == [j.status for j in expected[name].chains[0]]
    rewards = [reward for verdict in expected.values() for reward in verdict.rewards]
    assert max(rewards) - min(rewards) > 0.1  # else there is nothing to agree on
    with pytest.raises(GenPRMError, match="closed"):
        list(engine.verify_all(SOLUTIONS, progress=False))


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    CHECKPOINTS["skywork_prm"].save(tmp_path / "values")
    with pytest.raises(ConfigError, match="give the backend transformers, not vllm"):
        open_verifier(tmp_path / "values", backend="vllm")
    CHECKPOINTS[POOLED[0]].save(tmp_path / "classifier")
    with pytest.raises(ConfigError, match=r"no such option: .*no_such_thing"):
        open_verifier(tmp_path / "classifier", POOLED[0], backend="vllm", generator_kwargs={"no_such_thing": 3})
