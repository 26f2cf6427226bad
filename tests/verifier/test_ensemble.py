"""Several verifiers as one: the mean of their rewards, and what becomes of the steps that a member could not judge."""

from __future__ import annotations

from typing import Any

import pytest

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.verifier import Ensemble, Verifier, open_verifier
from genprm_trl.verifier.base import check_steps
from genprm_trl.verifier.ensemble import mean_verdict
from tests.helpers.conformance import VerifierConformance
from tests.helpers.judging_generator import BACKEND
from tests.helpers.judging_model import save_judging_model
from tests.helpers.verdict_examples import verdict


class SteadyVerifier(Verifier):
    """Gives every step the same reward, up to the first one that is wrong if it stops there."""

    concurrency = 3

    def __init__(self, reward: float, stop: str = "never"):
        self.reward, self.stop, self.closed = reward, stop, False

    def with_options(self, *, stop: str) -> SteadyVerifier:
        return SteadyVerifier(self.reward, stop)

    async def verify(self, solution: Solution) -> Verdict:
        check_steps(solution)
        if "boom" in solution.steps:
            raise GenPRMError("it broke")
        judged = 1 if self.stop == "first_error" and self.reward < 0.5 else len(solution.steps)
        rewards = [self.reward] * judged
        chain = [StepJudgement("", reward, "ok") for reward in rewards]
        known = {"label": solution.label, "solution_digest": solution.digest}
        return Verdict(solution.id, rewards, prediction_from_rewards(rewards), [chain], **known)

    async def close(self) -> None:
        self.closed = True


class SteadyKind(SteadyVerifier):
    """As a kind of its own: the name is the reward."""

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        tokenizer: Any,
        backend: str,
        generator_kwargs: dict[str, Any],
        seed: int = 0,
        shift: float = 0,
    ) -> SteadyKind:
        if model == "bad":
            raise ConfigError("it cannot be loaded")
        opened = cls(float(model) + shift)
        opened.told = (tokenizer, backend, generator_kwargs, seed)
        OPENED.append(opened)
        return opened


OPENED: list[SteadyKind] = []


class TestEnsemble(VerifierConformance):
    @pytest.fixture
    def verifier(self) -> Ensemble:
        return Ensemble([SteadyVerifier(0.9), SteadyVerifier(0.2)])


async def test_rewards_are_the_members_means():
    members = [SteadyVerifier(0.9), SteadyVerifier(0.4), SteadyVerifier(0.8)]
    async with Ensemble(members) as ensemble:
        found = await ensemble.verify(Solution("s", "p", ["a", "b"], label=-1))
        assert found.rewards == pytest.approx([0.7, 0.7])
        assert (found.prediction, found.label, found.n) == (-1, -1, 3)
        assert [chain[0].reward for chain in found.chains] == [0.9, 0.4, 0.8]
        assert (await Ensemble(members, threshold=0.75).verify(Solution("s", "p", ["a"]))).prediction == 0
    assert [member.closed for member in members] == [True] * 3


async def test_members_judge_all_steps_whatever_their_rule():
    ensemble = Ensemble([SteadyVerifier(0.2, "first_error"), SteadyVerifier(0.9)])
    assert (await ensemble.verify(Solution("s", "p", ["a", "b", "c"]))).rewards == pytest.approx([0.55] * 3)


async def test_a_verdict_ends_at_the_first_error_if_that_is_the_rule():
    ensemble = Ensemble([SteadyVerifier(0.2), SteadyVerifier(0.9)], threshold=0.6)
    solution = Solution("s", "p", ["a", "b"])
    cut = ensemble.with_options(stop="first_error")
    found = await cut.verify(solution)
    assert (found.rewards, found.prediction) == ([pytest.approx(0.55)], 0)
    assert [len(chain) for chain in found.chains] == [1, 1]
    assert len((await cut.verify_further(solution)).rewards) == 2
    assert len((await cut.with_options(threshold=0.5).verify(solution)).rewards) == 2
    with pytest.raises(ConfigError, match="unknown stop"):
        ensemble.with_options(stop="soon")


def test_a_member_without_a_verdict_is_no_half():
    """By hand: 0.9 and 0.2 make 0.55; with 0.5 as a third it would be 0.533, and alone 0.2 is below the threshold."""
    good, bad, mute = verdict("s", [[0.9, 0.9]]), verdict("s", [[0.2, 0.2]]), verdict("s", [[0.5, 0.5]])
    mute.chains[0][0].status, mute.chains[0][1].status = "no_verdict", "truncated"
    good.chains[0][1].status = "no_verdict"
    found = mean_verdict([good, bad, mute])
    assert found.rewards == pytest.approx([0.55, 0.2])
    assert found.prediction == found.scored_prediction == 1
    assert [chain[1].status for chain in found.chains] == ["no_verdict", "ok", "truncated"]


def test_a_step_without_any_verdict_has_none():
    mute, other = verdict("s", [[0.5, 0.9]], label=-1), verdict("s", [[0.5, 0.8]], label=-1)
    for one in (mute, other):
        one.chains[0][0].status = "no_verdict"
    found = mean_verdict([mute, other])
    assert found.rewards == pytest.approx([0.5, 0.85])
    assert (found.prediction, found.scored_prediction) == (-1, None)


def test_a_failure_of_one_is_a_failure():
    failed = verdict("s", [[0.5], [0.9]])
    failed.chains[0][0].status = "error"
    assert mean_verdict([failed, verdict("s", [[0.9]])]).has_failed


def test_chains_of_a_member_are_one_and_nothing_of_them_is_lost():
    member = verdict("s", [[0.9, 0.8], [0.1, 0.6]])
    member.chains[1][0].status = "fallback"
    [[first, second]] = mean_verdict([member]).chains
    assert (first.reward, first.status, first.num_tokens, len(first.code_rounds)) == (0.5, "ok", 80, 2)
    assert first.rationale == "\n\n".join(chain[0].rationale for chain in member.chains)
    assert second.reward == pytest.approx(0.7)
    member.chains = []  # a verifier that writes none
    assert mean_verdict([member]).rewards == [0.5, pytest.approx(0.7)]


def test_what_all_members_say_of_the_whole_solution_is_averaged():
    """By hand: the first says (0.9 + 0.5) / 2, as its own verdict does."""
    first, second, mute = (
        verdict("s", [[0.9, 0.2], [0.9, 0.2]]),
        verdict("s", [[0.4, 0.4]]),
        verdict("s", [[0.9, 0.9]]),
    )
    for chain, said in zip([*first.chains, *second.chains], (0.9, 0.5, 0.1), strict=True):
        chain[-1].solution_reward = said
    found = mean_verdict([first, second])
    assert [chain[-1].solution_reward for chain in found.chains] == [pytest.approx(0.7), 0.1]
    assert found.solution_reward == pytest.approx(0.4)
    assert mean_verdict([first, second, mute]).solution_reward is None, "a member that never says it is no 0"
    assert [len(each) for each in mean_verdict([first, second], stop="first_error").chains] == [2, 2]
    cut = mean_verdict([first, second], 0.7, "first_error")
    assert [len(each) for each in cut.chains] == [1, 1]
    assert cut.solution_reward == pytest.approx(0.4), "the members judged the solution to its end"


def test_an_ensemble_scores_solutions_if_all_members_do():
    whole, steps = SteadyVerifier(0.9), SteadyVerifier(0.2)
    whole.scores_solutions = True
    assert Ensemble([whole, whole]).with_options(stop="first_error").scores_solutions
    assert not Ensemble([whole, steps]).scores_solutions


async def test_what_a_member_raises_comes_through():
    with pytest.raises(GenPRMError, match="it broke"):
        await Ensemble([SteadyVerifier(0.9), SteadyVerifier(0.2)]).verify(Solution("s", "p", ["boom"]))
    with pytest.raises(ConfigError, match="at least one verifier"):
        Ensemble([])


async def test_it_is_a_kind_whose_members_have_their_own_options(monkeypatch):
    monkeypatch.setattr("genprm_trl.verifier.opening.find_kind", lambda model: f"{__name__}:SteadyKind")
    OPENED.clear()
    members = ["0.9", {"model": "0.1", "shift": 0.2, "seed": 5, "backend": "vllm"}]
    options = {
        "members": members,
        "tokenizer": "t",
        "generator_kwargs": {"device": "cpu"},
        "threshold": 0.6,
        "seed": 3,
    }
    async with open_verifier("0.3", "ensemble", **options) as ensemble:
        verdict = await ensemble.verify(Solution("s", "p", ["a"]))
    assert (verdict.rewards, verdict.prediction) == ([pytest.approx(0.5)], 0)
    assert [each.told for each in OPENED] == [
        ("t", "transformers", {"device": "cpu"}, 3),
        (None, "transformers", {"device": "cpu"}, 3),
        (None, "vllm", {"device": "cpu"}, 5),
    ]
    assert all(each.closed for each in OPENED)
    OPENED.clear()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_verifier("0.3", "ensemble", members=["bad"])
    assert [each.closed for each in OPENED] == [True]
    for wrong in ({}, {"members": [{"n": 8}]}, {"members": "0.9"}, {"members": 5}, {"members": [5]}):
        with pytest.raises(ConfigError, match="the models of its other members"):
            open_verifier("0.3", "ensemble", **wrong)
    for wrong, said in (({"kind": 5}, "kind must be a text"), ({"generator_kwargs": 5}, "must be names and values")):
        with pytest.raises(ConfigError, match=said):
            open_verifier("0.3", "ensemble", members=[{"model": "0.9", **wrong}])
    with pytest.raises(ConfigError, match="kind ensemble have no option 'n'; leave it out, or give it to its members"):
        open_verifier("0.3", "ensemble", members=["0.9"], n=8)
    for first in (5, {"model": "0.1"}):
        with pytest.raises(ConfigError, match="first must be names and values, without the model"):
            open_verifier("0.3", "ensemble", members=["0.9"], first=first)
    with pytest.raises(ConfigError, match=r"have the sandbox of the ensemble: leave out that of 0\.9"):
        open_verifier("0.3", "ensemble", members=[{"model": "0.9", "sandbox": "http://127.0.0.1:1"}])


def test_the_first_member_has_its_own_options_too(monkeypatch):
    monkeypatch.setattr("genprm_trl.verifier.opening.find_kind", lambda model: f"{__name__}:SteadyKind")
    first = {"shift": 0.2, "tokenizer": "its own"}
    with open_verifier("0.3", "ensemble", members=["0.9"], first=first, seed=4, tokenizer="t") as ensemble:
        assert [each.reward for each in ensemble.members] == [0.5, 0.9]
        assert [(each.told[0], each.told[3]) for each in ensemble.members] == [("its own", 4), (None, 4)]


def test_generative_members_sample_as_they_are_told(tmp_path):
    """As a command line says it, which knows JSON alone."""
    save_judging_model(tmp_path)
    named = {"model": str(tmp_path), "backend": BACKEND, "mode": "direct", "n": 2}
    member = {**named, "sampling": {"temperature": 0.9, "top_k": 0}}
    options = {"first": {name: value for name, value in member.items() if name != "model"}, "members": [named]}
    with load_verifier(VerifierOptions(str(tmp_path), kind="ensemble", kind_options=options)) as ensemble:
        assert [(each.n, each.sampling.temperature, each.sampling.top_k) for each in ensemble.members] == [
            (2, 0.9, 0), (2, 0.6, 20),
        ]  # fmt: skip
    for sampling, said in (
        ({"seed": 1}, "sampling is temperature, top_p and top_k, not 'seed'"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"top_p": 0}, "top_p must be above 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_verifier(str(tmp_path), "ensemble", members=[{**named, "sampling": sampling}], first=options["first"])


def test_a_member_that_runs_code_has_the_sandbox_that_is_named(tmp_path):
    save_judging_model(tmp_path)
    coded = {"model": str(tmp_path), "backend": BACKEND, "mode": "full"}
    plain = {**coded, "mode": "direct"}
    for members, runs in (([plain], False), ([plain, coded], True)):
        options = {"first": {"mode": "direct", "backend": BACKEND}, "members": members}
        given = VerifierOptions(
            str(tmp_path), kind="ensemble", kind_options=options, sandbox_require=["seccomp"], allow_weak_sandbox=True
        )
        assert given.needs_sandbox() is runs
        with load_verifier(given) as ensemble:
            required = [each.sandbox._required if each.sandbox else () for each in ensemble.members]
            assert ["seccomp" in each for each in required] == [False, False, *[True] * runs]
