"""The kinds that judge all steps in one answer: `thinkprm` and `critic`, on a tiny model and on scripts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.errors import ConfigError
from genprm_trl.generation.base import SamplingParams
from genprm_trl.options.parser import OptionParser
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.protocol.critique import CriticProtocol, critique_prompt
from genprm_trl.protocol.thinkprm import ThinkPRMProtocol
from genprm_trl.records import Solution, Verdict
from genprm_trl.verifier import GenPRM, Verifier, open_verifier
from genprm_trl.verifier.kinds.critic import Critic
from genprm_trl.verifier.kinds.thinkprm import ThinkPRM
from genprm_trl.verifier.opening import find_kind
from tests.helpers.conformance import VerifierConformance
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import save_tiny

SOLUTION = Solution("s", "What is 2 * 3 + 1?", ["2 * 3 = 6.", "6 + 1 = 8.", "So 8."])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module", params=["thinkprm", "critic"])
def real(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Verifier]:
    with open_verifier(tiny, request.param, n=2, max_tokens=6) as verifier:
        yield verifier


class TestTiny(VerifierConformance):
    @pytest.fixture
    def verifier(self, real: Verifier) -> Verifier:
        return real

    async def test_closing_may_be_repeated(self, tiny: Path) -> None:  # type: ignore[override]
        verifier = open_verifier(tiny, "critic", max_tokens=2)
        await super().test_closing_may_be_repeated(verifier)


def _number(prompt: str) -> int:
    return hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0]


def _critique(prompt: str) -> str:
    """An error in the first, the second or none of the steps, or nothing that can be read."""
    return ["So \\boxed{0}.", "So \\boxed{1}.", "All is right: \\boxed{-1}", "I cannot say."][_number(prompt) % 4]


def _verification(prompt: str) -> str:
    if prompt.endswith("correct?"):
        return " Yes\n"
    return "".join(f"\nStep {i}: \\boxed{{correct}}" for i in range(1, 2 + _number(prompt) % 4)) + "\n</think>"


class TestScriptedCritic(VerifierConformance):
    @pytest.fixture
    def verifier(self) -> Verifier:
        return Critic(ScriptedGenerator(_critique), protocol=CriticProtocol(), n=3, max_chains=4)


class TestScriptedThinkPRM(VerifierConformance):
    @pytest.fixture
    def verifier(self) -> Verifier:
        return ThinkPRM(ScriptedGenerator(_verification), protocol=ThinkPRMProtocol(), n=3, max_chains=4)


# ---- the kind and its options ----


def test_a_thinkprm_is_known_by_its_name_and_by_its_settings(tiny: Path, tmp_path: Path) -> None:
    assert find_kind("launch/ThinkPRM-1.5B") == find_kind("launch/ThinkPRM-14B") == "thinkprm"
    copy, trained = tmp_path / "ThinkPRM-7B", tmp_path / "mine"
    for path in (copy, trained):
        shutil.copytree(tiny, path)
    ModelSettings(protocol="thinkprm", template_date="2026-01-02").save(trained)
    assert find_kind(copy) == find_kind(trained) == "thinkprm"
    for path, as_published in ((copy, True), (trained, False)):
        with open_verifier(path) as verifier:
            assert isinstance(verifier, ThinkPRM)
            assert verifier.protocol == ThinkPRMProtocol(as_published)
            assert verifier.sandbox is None
    with open_verifier(copy, turn_opening="generation_prompt", decision_temperature=0.5) as verifier:
        assert verifier.protocol == ThinkPRMProtocol(False, decision_temperature=0.5)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="mine was trained as a thinkprm: leave out --kind"):
        GenPRM.from_pretrained(trained, mode="direct")
    ModelSettings().save(copy)
    for path in (copy, trained):  # said before the weights are loaded, of which there are none
        (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="was trained as a genprm: leave out --kind, or give --kind genprm"):
        open_verifier(copy, "thinkprm")
    with pytest.raises(ConfigError, match="was trained as a thinkprm"):
        GenPRM.from_pretrained(trained, mode="direct")


def _options(model: Path, *words: str) -> VerifierOptions:
    [parsed] = OptionParser([VerifierOptions], prog="test").parse(["--model", str(model), *words])
    return parsed  # type: ignore[no-any-return]


def test_commands_take_a_critic_with_a_prompt_of_ones_own(tiny: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{problem}\n{tagged_response}\nWhich is wrong? \\boxed{{}}")
    own = json.dumps({"prompt_file": str(prompt), "max_tokens": 5})
    options = _options(tiny, "--kind", "critic", "--n", "4", "--temperature", "0.3", "--kind_options", own)
    assert not options.needs_sandbox()
    options.check_model()
    before = options.what_decides_verdicts()
    with load_verifier(options) as critic:
        assert isinstance(critic, Critic)
        assert (critic.n, critic.sampling.temperature) == (4, 0.3)
        assert critic.protocol == CriticProtocol(prompt.read_text(), 5)
    prompt.write_text("Other words. {problem}\n{tagged_response}\n\\boxed{{}}")
    assert options.what_decides_verdicts() != before, "another prompt is another run"
    for text, said in (
        ("{problem}", r"needs the fields \{problem\} and \{tagged_response\}, has not both"),
        ("{problem} {tagged_response} {answer}", "cannot be filled in"),
        ("{problem} {tagged_response} \\boxed{}", "cannot be filled in"),
        ("{problem} {tagged_response", "cannot be filled in"),
    ):
        prompt.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_verifier(options)
    prompt.unlink()
    with pytest.raises(ConfigError, match="the critic's prompt_file"):
        options.what_decides_verdicts()
    for word in ("mode", "max_step_tokens", "turn_opening", "sandbox", "rewards_from"):
        value = {"mode": "direct", "max_step_tokens": "5", "turn_opening": "as_published", "sandbox": "http://x"}
        with pytest.raises(ConfigError, match=f"verifiers of the kind critic have no option '{word}'"):
            load_verifier(_options(tiny, "--kind", "critic", f"--{word}", value.get(word, "model")))
    with pytest.raises(ConfigError, match="max_context 9 holds no prompt"):
        load_verifier(_options(tiny, "--kind", "critic", "--max_context", "9"))


@pytest.mark.parametrize(("kind", "protocol"), [(ThinkPRM, ThinkPRMProtocol()), (Critic, CriticProtocol())])
def test_other_options_leave_the_kind_as_it_is(kind: type[GenPRM], protocol: Any) -> None:
    changed = kind(ScriptedGenerator(_critique), protocol=protocol).with_options(n=5, threshold=0.3)
    assert type(changed) is kind
    assert (changed.n, changed.threshold, changed.protocol) == (5, 0.3, protocol)
    assert not changed.runs_code


# ---- a context that is full ----


async def test_boxes_of_a_chain_that_the_context_cuts_off_count() -> None:
    def reply(prompt: str) -> str:
        return "incorrect" if prompt.endswith("{") else "\nStep 2: no \\boxed{incorrect}\n" + "egg " * 5000

    prm = ThinkPRM(ScriptedGenerator(reply, max_context=600), protocol=ThinkPRMProtocol())
    verdict = await prm.verify(Solution("s", SOLUTION.problem, SOLUTION.steps[:2]))
    assert [judgement.status for judgement in verdict.chains[0]] == ["truncated", "ok"]
    assert verdict.rewards == pytest.approx([0.5, 0.01], abs=1e-3)
    assert verdict.prediction == 1


async def test_a_search_asks_anew_after_an_answer_that_the_context_has_cut_off() -> None:
    critic = Critic(generator := answering("egg " * 5000, "\\boxed{-1}"), protocol=CriticProtocol())
    first = await critic.verify_further(Solution("s", SOLUTION.problem, SOLUTION.steps[:2]))
    grown = await critic.verify_further(SOLUTION, first)
    assert [judgement.status for judgement in grown.chains[0]] == ["truncated", "truncated", "ok"]
    assert grown.rewards == [0.5, 0.5, 1]
    assert len(generator.calls) == 2


# ---- votes ----


def answering(*texts: str | Reply) -> ScriptedGenerator:
    replies = iter(texts)
    return ScriptedGenerator(lambda _: next(replies))


async def votes(*texts: str | Reply, **options: Any) -> Verdict:
    critic = Critic(answering(*texts), protocol=CriticProtocol(), n=len(texts), **options)
    return await critic.verify(SOLUTION)


async def test_a_step_s_reward_is_the_share_of_answers_that_find_no_error_up_to_it() -> None:
    verdict = await votes("\\boxed{1}", "\\boxed{2}", "\\boxed{-1}", "\\boxed{1}", "\\boxed{1}")
    assert verdict.rewards == pytest.approx([1, 0.4, 0.2])
    assert verdict.prediction == 1
    assert [judgement.status for judgement in verdict.chains[0]] == ["ok"] * 3
    assert [judgement.rationale for judgement in verdict.chains[0]] == ["\\boxed{1}", "", ""]
    assert [judgement.num_tokens > 0 for judgement in verdict.chains[0]] == [True, False, False]


async def test_the_prompt_is_the_benchmarks_and_greedy_is_possible() -> None:
    generator = answering("\\boxed{-1}")
    verdict = await Critic(generator, protocol=CriticProtocol(), sampling=SamplingParams(temperature=0)).verify(
        SOLUTION
    )
    assert (verdict.rewards, verdict.prediction) == ([1, 1, 1], -1)
    [(prompt, params)] = generator.calls
    assert critique_prompt(SOLUTION.problem, SOLUTION.steps) in prompt
    assert (params.max_new_tokens, params.logprobs, params.stop) == (8192, 0, ())


async def test_answers_that_name_no_step_are_no_verdict() -> None:
    for text in ("", "It is wrong.", "\\boxed{3}", "\\boxed{-2}", "\\boxed{two}", "<think>\\boxed{1}"):
        verdict = await votes(text)
        assert verdict.rewards == [0.5] * 3
        assert {judgement.status for judgement in verdict.chains[0]} == {"no_verdict"}
        assert verdict.is_unread
    assert (await votes("<think>\\boxed{1}</think>\\boxed{2}")).prediction == 2
    [half] = {judgement.status for judgement in (await votes(Reply("", error="gone"))).chains[0]}
    assert half == "error"


async def test_thoughts_in_a_block_that_the_template_has_opened_are_no_answer() -> None:
    protocol = CriticProtocol(opens_thinking=True)
    for text, status in (("Is it \\boxed{1}?", "no_verdict"), ("\\boxed{1}?</think>\\boxed{0}", "ok")):
        verdict = await Critic(answering(text), protocol=protocol).verify(SOLUTION)
        assert {judgement.status for judgement in verdict.chains[0]} == {status}
        assert verdict.prediction == (0 if status == "ok" else -1)


async def test_a_prefix_is_judged_again_and_earlier_judgements_stay() -> None:
    critic = Critic(answering("\\boxed{-1}", "\\boxed{0}"), protocol=CriticProtocol())
    first = await critic.verify_further(Solution("s", SOLUTION.problem, SOLUTION.steps[:2]))
    grown = await critic.verify_further(SOLUTION, first)
    assert grown.rewards == [1, 1, 0]
    assert grown.chains[0][:2] == first.chains[0]
