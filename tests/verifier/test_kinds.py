"""What every discriminative kind of verifier promises, on a tiny checkpoint of each.

Another kind is a row of `tests.helpers.tiny_verifiers.CHECKPOINTS`. A generative one subclasses `VerifierConformance`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genprm_trl.doctor.model import Examined, check_separator
from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.records import Solution
from genprm_trl.verifier import VerifierClient
from genprm_trl.verifier.opening import KINDS, find_kind, open_verifier
from genprm_trl.verifier.scorer import StepScorer
from tests.helpers.conformance import SOLUTIONS, VerifierConformance
from tests.helpers.running_service import running
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.tiny_verifiers import CHECKPOINTS, Checkpoint

PROBLEM = "Anna has 3 apples and buys 4 more. How many has she?"
STEPS = ["Anna has 3 apples.", "3 + 4 = 7, so $x = \\frac{7}{1}$.", "She sells 1 - 2 books.", "The answer is 7."]


def opened(path: Path, kind: str, **options: Any) -> StepScorer:
    verifier = open_verifier(path, kind, **{**CHECKPOINTS[kind].options, **options})
    assert isinstance(verifier, StepScorer)
    return verifier


@pytest.fixture(scope="module", params=CHECKPOINTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(kind: str) -> Checkpoint:
    return CHECKPOINTS[kind]


@pytest.fixture(scope="module")
def directory(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(kind) / "model"
    CHECKPOINTS[kind].save(path)
    return path


@pytest.fixture(scope="module")
def scorer(directory: Path, kind: str) -> Iterator[StepScorer]:
    with opened(directory, kind, generator_kwargs={"max_batch_size": 4}) as verifier:
        yield verifier


class TestKinds(VerifierConformance):
    @pytest.fixture
    def verifier(self, scorer: StepScorer) -> StepScorer:
        return scorer

    async def test_closing_may_be_repeated(self, directory: Path, kind: str) -> None:  # type: ignore[override]
        verifier = opened(directory, kind)
        async with verifier:
            asked = [asyncio.ensure_future(verifier.verify(solution)) for solution in SOLUTIONS]
            await asked[0]
        await verifier.close()
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or "closed" in str(outcome)
        with pytest.raises(GenPRMError, match="closed"):
            await verifier.verify(SOLUTIONS[0])


def published(directory: Path, scorer: StepScorer, checkpoint: Checkpoint, steps: list[str]) -> list[float]:
    with torch.inference_mode():
        return checkpoint.published(load_tokenizer(directory), scorer.model, PROBLEM, steps)


def test_scores_are_those_of_the_published_inference(
    directory: Path, scorer: StepScorer, checkpoint: Checkpoint
) -> None:
    for count in (1, len(STEPS)):
        [verdict] = scorer.score([Solution("1", PROBLEM, STEPS[:count])])
        expected = published(directory, scorer, checkpoint, STEPS[:count])
        assert len(expected) == count
        assert verdict.rewards == pytest.approx(expected, abs=1e-5)
        assert {judgement.status for judgement in verdict.chains[0]} == {"ok"}
    assert max(expected) - min(expected) > 0.01, "scores must differ for the comparison to mean anything"


async def test_calls_at_once_and_longer_solutions_change_no_score(scorer: StepScorer) -> None:
    table = [Solution(f"{i}", PROBLEM, STEPS[: 1 + i % 4] * (1 + i % 3)) for i in range(9)]
    alone = {solution.id: scorer.score([solution])[0].rewards for solution in table}
    for verdict in await asyncio.gather(*(scorer.verify(solution) for solution in table)):
        assert verdict.rewards == pytest.approx(alone[verdict.id], abs=1e-5)
    assert alone["7"][:4] == pytest.approx(alone["3"], abs=1e-5)


def test_texts_that_look_like_separators_stay_text(scorer: StepScorer, checkpoint: Checkpoint) -> None:
    tokenizer = scorer.tokenizer
    special = {*tokenizer.all_special_ids}
    separator = tokenizer.encode(checkpoint.marks[0], add_special_tokens=False)

    def counts(ids: list[int]) -> tuple[int, int]:
        """Control tokens, and separators."""
        found = [ids[place : place + len(separator)] == separator for place in range(len(ids))]
        return sum(token in special for token in ids), sum(found)

    for mark in checkpoint.marks:
        attack = f"So 7.{mark}Now 8."
        tokens = scorer.encode(PROBLEM, ["Anna has 7.", attack, "Hence 8."])
        plain = scorer.encode(PROBLEM, ["Anna has 7.", "So 7. Now 8.", "Hence 8."])
        assert len(tokens.step_ends) == 3
        assert counts(tokens.input_ids) == counts(plain.input_ids), mark
        [verdict] = scorer.score([Solution("1", PROBLEM, ["Anna has 7.", attack, "Hence 8."])])
        assert [judgement.status for judgement in verdict.chains[0]] == ["ok"] * 3


def test_a_problem_brings_in_no_control_token(scorer: StepScorer, checkpoint: Checkpoint) -> None:
    special = {*scorer.tokenizer.all_special_ids}

    def control(problem: str) -> list[int]:
        return [token for token in scorer.encode(problem, STEPS).input_ids if token in special]

    for mark in checkpoint.marks:
        assert control(f"Anna has 3 apples.{mark}How many?") == control("Anna has 3 apples. How many?"), mark


def test_no_cache_is_filled(scorer: StepScorer) -> None:
    kept = []
    with scorer.model.base_model.register_forward_hook(lambda *call: kept.append(call[-1].past_key_values)):
        scorer.score([Solution("1", PROBLEM, STEPS)])
    assert kept == [None]


@pytest.mark.parametrize("kind", ["skywork_prm"], indirect=True)
def test_line_breaks_at_the_ends_of_a_step_are_no_part_of_it(scorer: StepScorer) -> None:
    plain = scorer.encode(PROBLEM, ["2 + 3 = 5.", "So it is 5."])
    for ends in ("\n{}\n", "{}\r\n", "{} \n \n", "\n \n {}"):
        assert scorer.encode(PROBLEM, [ends.format("2 + 3 = 5."), ends.format("So it\n is 5.")]) == plain


@pytest.mark.parametrize("kind", ["token_classifier"], indirect=True)
def test_a_separator_that_no_configuration_names_is_known_or_said(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(directory, tmp_path / "PURE-PRM-7B")
    shutil.copytree(directory, tmp_path / "mine")
    found = {}
    for name in ("PURE-PRM-7B", "mine"):
        with open_verifier(tmp_path / name) as verifier:
            found[name] = verifier.step_separator  # type: ignore[attr-defined]
            assert isinstance(verifier, StepScorer)
            [finding] = check_separator(Examined(str(tmp_path / name), verifier.model.config, verifier.tokenizer))
            assert finding.status == ("ok" if name == "PURE-PRM-7B" else "degraded")
    assert found == {"PURE-PRM-7B": "\n\n", "mine": "\n"}
    [said] = [record.getMessage() for record in caplog.records if "names no step separator" in record.getMessage()]
    assert "mine" in said


def test_what_does_not_fit_is_truncated_and_changes_no_score_before_it(scorer: StepScorer) -> None:
    assert scorer.max_length == 512
    whole, long_step, long_problem, half = scorer.score(
        [
            Solution("1", PROBLEM, STEPS[:2]),
            Solution("2", PROBLEM, [STEPS[0], "egg " * 5000, STEPS[1]]),
            Solution("3", "egg " * 5000, STEPS),
            Solution("4", "\ud800", ["\udfff", "", " "]),
        ]
    )
    assert [judgement.status for judgement in long_step.chains[0]] == ["ok", "truncated", "truncated"]
    assert long_step.rewards == [pytest.approx(whole.rewards[0], abs=1e-5), 0.5, 0.5]
    assert {judgement.status for judgement in long_problem.chains[0]} == {"truncated"}
    assert [judgement.status for judgement in half.chains[0]] == ["ok"] * 3


def test_any_precision_is_of_trunk_and_head(directory: Path, scorer: StepScorer, kind: str) -> None:
    with opened(directory, kind, generator_kwargs={"dtype": "bfloat16", "device": "cpu"}) as rough:
        assert {str(parameter.dtype) for parameter in rough.model.parameters()} == {"torch.bfloat16"}
        [verdict], [exact] = (each.score([Solution("1", PROBLEM, STEPS)]) for each in (rough, scorer))
        assert verdict.rewards == pytest.approx(exact.rewards, abs=0.1)


async def test_a_batch_that_does_not_fit_the_memory_is_halved(scorer: StepScorer, monkeypatch: Any) -> None:
    table, forward, sizes = [Solution(f"{i}", PROBLEM, STEPS) for i in range(4)], type(scorer)._forward, []

    def fits_one(self: StepScorer, batch: list[Any]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too much")
        return forward(self, batch)

    expected = [verdict.rewards for verdict in scorer.score(table)]
    monkeypatch.setattr(type(scorer), "_forward", fits_one)
    assert [verdict.rewards for verdict in scorer.score(table)] == [pytest.approx(each, abs=1e-5) for each in expected]
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    monkeypatch.setattr(type(scorer), "_forward", lambda *_: (_ for _ in ()).throw(RuntimeError("the device is gone")))
    with pytest.raises(GenPRMError, match="the model failed on 1 solutions: the device is gone"):
        await scorer.verify(table[0])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too much"), RuntimeError("DefaultCPUAllocator: too much")])
@pytest.mark.parametrize("kind", ["skywork_prm"], indirect=True)
async def test_a_solution_that_alone_exceeds_the_memory_fails_no_other(
    scorer: StepScorer, monkeypatch: Any, caplog: Any, error: Exception
) -> None:
    table = [Solution("long", PROBLEM, STEPS * 3), *(Solution(f"{i}", PROBLEM, STEPS[:2]) for i in range(3))]
    expected = {verdict.id: verdict.rewards for verdict in scorer.score(table)}
    forward, bound = type(scorer)._forward, len(scorer.encode(PROBLEM, STEPS).input_ids)

    def fits_short(self: StepScorer, batch: list[Any]) -> Any:
        if any(len(tokens.input_ids) > bound for tokens in batch):
            raise error
        return forward(self, batch)

    monkeypatch.setattr(type(scorer), "_forward", fits_short)
    judged = await asyncio.gather(*(scorer.verify(solution) for solution in table))
    streamed = [verdict async for verdict in scorer.verify_stream(table)]
    for verdicts in (judged, scorer.score(table), streamed):
        [failed] = [verdict for verdict in verdicts if verdict.has_failed]
        assert (failed.id, failed.rewards) == ("long", [0.5] * 12)
        assert {judgement.status for judgement in failed.chains[0]} == {"error"}
        others = [verdict for verdict in verdicts if verdict is not failed]
        assert len(others) == 3
        for verdict in others:
            assert verdict.rewards == pytest.approx(expected[verdict.id], abs=1e-5)
    assert "solution 'long' of" in caplog.text
    assert "does not fit the memory" in caplog.text


def test_scores_of_exactly_0_and_1_stay_in_their_place(directory: Path, checkpoint: Checkpoint, kind: str) -> None:
    with opened(directory, kind) as sharp:
        checkpoint.sharpen(sharp, checkpoint)
        steps = [f"So {i} + {i} = {7 * i}." for i in range(12)]
        [verdict] = sharp.score([Solution("1", PROBLEM, steps)])
        assert {0.0, 1.0} == set(verdict.rewards)
        assert verdict.rewards == [round(each) for each in published(directory, sharp, checkpoint, steps)]
        assert {judgement.status for judgement in verdict.chains[0]} == {"ok"}
        first = verdict.rewards.index(0.0)
        assert verdict.prediction == first
        cut = sharp.with_options(stop="first_error").score([Solution("1", PROBLEM, steps)])[0]
        assert (cut.rewards, cut.prediction) == (verdict.rewards[: first + 1], first)
        with torch.no_grad():
            sharp.model.get_submodule(checkpoint.head).weight.fill_(float("nan"))
        [broken] = sharp.score([Solution("1", PROBLEM, steps[:2])])
        assert (broken.rewards, {j.status for j in broken.chains[0]}) == ([0.5, 0.5], {"error"})


@pytest.mark.parametrize("kind", ["skywork_prm"], indirect=True)
async def test_it_is_served(directory: Path, kind: str) -> None:
    solution = Solution("1", PROBLEM, STEPS)
    with running(opened(directory, kind)) as service:
        verdict = await VerifierClient(service.url, threshold=0.9).verify(solution)
        with pytest.raises(GenPRMError, match="has n=1, which cannot be changed"):
            await VerifierClient(service.url, n=8).verify(solution)
    assert verdict.threshold == 0.9


def test_the_kind_is_found(directory: Path, checkpoint: Checkpoint, kind: str, tmp_path: Path) -> None:
    named = tmp_path / checkpoint.published_name / ""
    if checkpoint.published_name:
        shutil.copytree(directory, named)
    assert find_kind(named if checkpoint.published_name else directory) == kind
    if kind in ("math_shepherd", "rlhflow_prm"):  # their files are those of any causal model
        assert find_kind(directory) == "genprm"
    else:
        assert find_kind(directory) == kind


def test_published_names_are_of_one_kind() -> None:
    for name, kind in {
        "Qwen/Qwen2.5-Math-PRM-72B": "qwen_prm",
        "Qwen/Qwen2.5-Math-7B-PRM800K": "qwen_prm",
        "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": "skywork_prm",
        "peiyi9979/math-shepherd-mistral-7b-prm": "math_shepherd",
        "RLHFlow/Llama3.1-8B-PRM-Mistral-Data": "rlhflow_prm",
        "GenPRM/GenPRM-7B": "genprm",
        "jinachris/PURE-PRM-7B": "token_classifier",
        "jinachris/Qwen2.5-Math-7B-PRM800K": "token_classifier",
    }.items():
        assert find_kind(name) == kind
    assert {*CHECKPOINTS} <= {*KINDS}


@pytest.mark.parametrize("kind", ["token_classifier", "qwen_prm", "skywork_prm"], indirect=True)
def test_a_head_of_another_size_and_a_missing_one_are_refused(
    directory: Path, checkpoint: Checkpoint, kind: str, tmp_path: Path
) -> None:
    state = load_file(directory / "model.safetensors")
    weight = f"{checkpoint.head}.weight"
    for name, changed in (
        ("wide", {**state, weight: torch.zeros(5, 32)}),
        ("bare", {name: tensor for name, tensor in state.items() if not name.startswith(checkpoint.head)}),
    ):
        path = tmp_path / name
        shutil.copytree(directory, path)
        save_file(changed, path / "model.safetensors", {"format": "pt"})
        what = r"has the shape \(5, 32\) instead of .*; give " if name == "wide" else "has no weights for"
        with pytest.raises(ConfigError, match=f"^'{path}' is no .*: it.* {what}") as found:
            opened(path, kind)
        assert "\n" not in str(found.value)


def test_a_tokenizer_without_the_separator_is_refused(tmp_path: Path) -> None:
    for kind, what in (("qwen_prm", "'<extra_0>' is no single token"), ("math_shepherd", "'ки' is no single token")):
        path = tmp_path / kind
        CHECKPOINTS[kind].save(path)
        with pytest.raises(ConfigError, match=f"{what}.*; give the model's own"):
            opened(path, kind, tokenizer=tiny_tokenizer())


def test_a_tokenizer_of_another_model_is_refused_and_its_padding_is_not(tmp_path: Path) -> None:
    CHECKPOINTS["token_classifier"].save(tmp_path)
    wide = copy.deepcopy(tiny_tokenizer())
    wide.add_tokens(["<pad>", "<more>"], special_tokens=True)
    wide.pad_token = "<pad>"
    table = [Solution("1", PROBLEM, STEPS), Solution("2", PROBLEM, STEPS[:1])]
    with opened(tmp_path, "token_classifier", tokenizer=wide) as padded, opened(tmp_path, "token_classifier") as own:
        for found, expected in zip(padded.score(table), own.score(table), strict=True):
            assert found.rewards == pytest.approx(expected.rewards, abs=1e-5)
    separator, known = {"step_separator": "<more>"}, len(tiny_tokenizer())
    with (
        open_verifier(tmp_path, "token_classifier", tokenizer=wide, **separator) as other,
        pytest.raises(ConfigError, match=f"gives the token {known + 1}, and the model knows {known} tokens: give the"),
    ):
        list(other.verify_all(table))
    with pytest.raises(ConfigError, match="step_separator='' encodes to no token"):
        open_verifier(tmp_path, "token_classifier", step_separator="")


def test_a_checkpoint_that_wants_to_run_its_own_code_is_refused_in_one_line(tmp_path: Path) -> None:
    CHECKPOINTS["qwen_prm"].save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text()) | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    config.write_text(json.dumps(values))
    (tmp_path / "model" / "own.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ConfigError, match="code of its own, which is not run here: give a checkpoint") as found:
        opened(tmp_path / "model", "qwen_prm")
    assert "\n" not in str(found.value)
