"""The sampler on fixed logits: each row of a mixed batch has the distribution that its parameters ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from genprm_trl.generation import SamplingParams
from genprm_trl.generation.hf.sampling import BatchSampler, LogprobRecorder, draw_uniforms

LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 1.4, 0.0, -0.5, 1.0, -2.0, 0.7, -math.inf])
DRAWS = 4000
CPU = torch.device("cpu")

# Together in one batch, so that each must be left alone by the others.
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.6, "top_k": 4, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 3, "top_p": 1.0},
    {"temperature": 1.5, "top_k": 0, "top_p": 0.7},
    {"temperature": 2.0, "top_k": 8, "top_p": 0.5},
    {"temperature": 0.05, "top_k": 0, "top_p": 1.0},
    {"temperature": 1.0, "top_k": 100, "top_p": 1e-9},
    {"temperature": 0.0},
]


def sample(logits: torch.Tensor, params: list[SamplingParams], count: int = 1) -> torch.Tensor:
    sampler = BatchSampler(params, [draw_uniforms(p, count) for p in params], CPU)
    steps = [sampler(torch.zeros(len(params), 1), logits.repeat(len(params), 1)).argmax(-1) for _ in range(count)]
    return torch.stack(steps, dim=1)


def test_rows_of_a_mixed_batch_follow_their_own_distributions() -> None:
    params = [SamplingParams(**setting, seed=100 + i, logprobs=0) for i, setting in enumerate(SETTINGS)]
    tokens = sample(LOGITS, params, DRAWS)
    for row, setting in zip(tokens, SETTINGS, strict=True):
        counts = row.bincount(minlength=len(LOGITS))
        if setting["temperature"] == 0:
            assert counts[0] == DRAWS
            continue
        warpers = LogitsProcessorList([TemperatureLogitsWarper(setting["temperature"])])
        if setting["top_k"]:
            warpers.append(TopKLogitsWarper(setting["top_k"]))
        if setting["top_p"] < 1:
            warpers.append(TopPLogitsWarper(setting["top_p"]))
        expected = warpers(torch.zeros(1, 1), LOGITS[None].clone())[0].double().softmax(-1)
        assert counts[expected == 0].sum() == 0
        likely = expected * DRAWS >= 5
        if likely.sum() > 1:
            wanted = expected[likely] / expected[likely].sum() * counts[likely].sum()
            assert chisquare(counts[likely], wanted).pvalue > 1e-4, setting


def test_the_same_uniform_numbers_give_the_same_tokens_beside_any_neighbours() -> None:
    mine = SamplingParams(temperature=0.9, top_k=4, top_p=0.9, seed=5, logprobs=2)
    alone = sample(LOGITS, [mine], 200)[0]
    neighbours = [SamplingParams(**setting, seed=i) for i, setting in enumerate(SETTINGS)]
    assert (sample(LOGITS, [*neighbours, mine], 200)[-1] == alone).all()


def test_a_row_goes_on_in_another_batch_where_it_was() -> None:
    params = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=3)
    uniforms = draw_uniforms(params, 50)
    parts = []
    for part in (uniforms[:20], uniforms[20:]):
        sampler = BatchSampler([params], [part], CPU)
        parts += [sampler(torch.zeros(1, 1), LOGITS[None].clone()).argmax().item() for _ in part]
    assert parts == sample(LOGITS, [params], 50)[0].tolist()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_no_uniform_number_reaches_a_token_of_no_mass(uniform: float) -> None:
    logits = torch.full((1, 5000), -math.inf)
    logits[0, 17:4000] = torch.randn(3983, generator=torch.Generator().manual_seed(0)) * 10
    for top_k, top_p in ((0, 1.0), (0, 0.9), (3000, 1.0), (40, 0.9)):
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, logprobs=0)
        token = BatchSampler([params], [torch.tensor([uniform])], CPU)(torch.zeros(1, 1), logits.clone()).argmax()
        assert logits[0, token] > -math.inf
        if top_k:
            assert (logits[0] > logits[0, token]).sum() < top_k


def test_ties_go_to_the_lower_token_id_whatever_the_neighbours_ask_for() -> None:
    logits = torch.zeros(300)
    logits[40:] = 1.0
    for neighbour in (SamplingParams(top_k=1, logprobs=0), SamplingParams(top_k=200, logprobs=50)):
        greedy = SamplingParams(temperature=0, logprobs=3)
        assert sample(logits, [greedy, neighbour])[0].item() == 40


def test_candidates_that_change_rank_by_rounding_change_no_sample() -> None:
    logits = torch.linspace(-2, 2, 40)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    logits[5::10] = 1.5
    nudged = logits + torch.tensor([1e-6, -1e-6] * 20) * torch.tensor([1.0, 1.0, -1.0, -1.0] * 10)
    assert (logits.argsort(stable=True) != nudged.argsort(stable=True)).any()
    for top_k, top_p in ((10, 1.0), (0, 1.0)):
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, seed=0, logprobs=0)
        assert (sample(logits, [params], 500) == sample(nudged, [params], 500)).all()


def test_recorded_log_probabilities_are_raw_and_in_order() -> None:
    sampled = SamplingParams(temperature=0.3, top_k=2, logprobs=3, seed=1)
    least = LOGITS.argsort()[:2].tolist()
    params = [sampled, SamplingParams(temperature=0, logprobs=20), replace(sampled, logprob_token_ids=tuple(least))]
    sampler = BatchSampler(params, [draw_uniforms(p, 3) for p in params], CPU)
    chosen = [sampler(torch.zeros(3, 1), LOGITS.repeat(3, 1)).argmax(-1) for _ in range(3)]
    expected = LOGITS.log_softmax(-1)
    likely = LOGITS.argsort(descending=True).tolist()
    for row, columns in enumerate((likely[:3], likely[:20], least)):
        recorded = sampler.recorded(row, 3)
        assert recorded is not None
        ids, logprobs = recorded
        assert ids[:, -1].tolist() == [step[row].item() for step in chosen]
        assert torch.allclose(torch.from_numpy(logprobs), expected[torch.from_numpy(ids)], atol=1e-6)
        assert ids[:, :-1].tolist() == [columns] * 3


def test_rows_that_are_not_numbers_are_reported() -> None:
    params = [SamplingParams(temperature=t, top_k=k) for t, k in ((0.0, 0), (1.0, 5), (1.0, 0), (1.0, 0))]
    sampler = BatchSampler(params, [draw_uniforms(p, 1) for p in params], CPU)
    scores = torch.randn(4, 50)
    scores[0, 3], scores[1, 7], scores[2, 0] = math.nan, math.inf, math.nan
    tokens = sampler(torch.zeros(4, 1), scores).argmax(-1)
    assert sampler.broken_rows() == {0, 1, 2}
    assert ((tokens >= 0) & (tokens < 50)).all()


def test_the_recorder_grows_and_keeps_every_step() -> None:
    recorder = LogprobRecorder()
    for step in range(300):
        recorder.add(torch.full((2, 3), step), torch.full((2, 3), float(step)))
        if step in (0, 5, 130):
            assert recorder.row(1, step + 1, [0])[0][:, 0].tolist() == list(range(step + 1))
    ids, logprobs = recorder.row(0, 300, [2, 0, -1])
    assert ids[:, 0].tolist() == list(range(300))
    assert logprobs.shape == (300, 3)
