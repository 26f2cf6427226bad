"""Log-probabilities after temperature and filters, against what vLLM's first engine computes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.generation.base import SamplingParams
from genprm_trl.generation.logprobs import sampled_logprobs

PUBLISHED = SamplingParams(temperature=0.6, top_p=0.95, top_k=20)


def as_vllm_reports_them(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The steps of its sampler: temperature, then both filters from the least likely token on, then normalisation."""
    if params.temperature == 0:
        return logits.log_softmax(-1)
    ranked, order = (logits / params.temperature).sort()
    if params.top_k:
        ranked = ranked.masked_fill(ranked < ranked[max(len(ranked) - params.top_k, 0)], -math.inf)
    mass = ranked.softmax(-1).cumsum(-1)
    left_out = mass <= 1 - params.top_p
    left_out[-1] = False
    return torch.empty_like(logits).scatter(0, order, ranked.masked_fill(left_out, -math.inf)).log_softmax(-1)


@pytest.mark.parametrize(
    ("yes", "published"), [(0.1, 0.0), (0.2, 0.09), (0.4, 0.34), (0.6, 0.66), (0.8, 0.91), (0.86, 1.0)]
)
def test_rewards_of_the_published_figures(yes, published):
    after = sampled_logprobs({"Yes": math.log(yes), "No": math.log(1 - yes)}, PUBLISHED)
    assert math.exp(after["Yes"]) == pytest.approx(published, abs=0.005)
    assert math.exp(after["Yes"]) + math.exp(after["No"]) == pytest.approx(1)
    assert sampled_logprobs({"Yes": math.log(yes)}, PUBLISHED) == pytest.approx({"Yes": after["Yes"]})


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 20])
def test_the_most_likely_tokens_suffice(temperature, top_p, top_k):
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3
    expected = as_vllm_reports_them(logits, params)
    reported = logits.topk(20 if top_k else 50).indices.tolist()
    own = {token: float(logits.log_softmax(-1)[token]) for token in reported}
    assert sampled_logprobs(own, params) == pytest.approx({token: float(expected[token]) for token in reported})


@given(
    st.dictionaries(st.integers(), st.floats(), max_size=6),
    st.sampled_from([0.0, 1e-3, 0.6, 5.0]),
    st.sampled_from([0.01, 0.5, 1.0]),
    st.sampled_from([0, 1, 3]),
)
def test_whatever_an_engine_reports_gives_numbers_or_what_it_reported(logprobs, temperature, top_p, top_k):
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
    after = sampled_logprobs(logprobs, params)
    assert list(after) == list(logprobs)
    if temperature and any(map(math.isfinite, logprobs.values())):
        assert all(value <= 1e-9 for value in after.values())
