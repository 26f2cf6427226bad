"""Log-probabilities as a sampler sees them: after temperature, top-k and top-p.

Generators report the model's own. The figures published with arXiv 2504.00891 were made from those that vLLM's first
engine (V0, vllm 0.7.1) reported, which are of the distribution that is sampled from. A P(Yes) of 0.8 counted as 0.91
there, and one of 0.1 as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

from genprm_trl.generation.base import SamplingParams

RewardsFrom = Literal["model", "sampler"]

TokenT = TypeVar("TokenT")


def sampled_logprobs(logprobs: Mapping[TokenT, float], params: SamplingParams) -> dict[TokenT, float]:
    """What the sampler makes of the most likely tokens of a position.

    Exact if no token that was not reported passes top-k: if `top_k` is above 0 and at most the number of tokens.
    Otherwise the tokens that were not reported count as impossible. Greedy sampling leaves everything as it is, as in
    vLLM.

    Args:
        logprobs: The model's own log-probabilities of the most likely tokens. If there is a single one, the rest of
            the probability counts as one other token.
        params: Temperature and filters.

    Returns:
        A log-probability for each of the tokens; -inf for those that the filters leave out.

    Examples:
        >>> yes_and_no = {"Yes": math.log(0.8), "No": math.log(0.2)}
        >>> after = sampled_logprobs(yes_and_no, SamplingParams(temperature=0.6, top_p=0.95, top_k=20))
        >>> round(math.exp(after["Yes"]), 2)
        0.91
    """
    known = {token: value for token, value in logprobs.items() if math.isfinite(value)}
    if params.temperature == 0 or not known:
        return dict(logprobs)
    values = list(known.values())
    if len(logprobs) == 1 and values[0] < 0:
        values.append(math.log(-math.expm1(values[0])))
    values.sort(reverse=True)
    if params.top_k:
        lowest = values[min(params.top_k, len(values)) - 1]
        values = [value for value in values if value >= lowest]  # ties pass together
    weights = [math.exp((value - values[0]) / params.temperature) for value in values]
    total, passed, mass = math.fsum(weights), 0, 0.0
    while passed < len(values) and (mass < params.top_p * total or values[passed] == values[passed - 1]):
        mass += weights[passed]
        passed += 1
    lowest, normalizer = values[passed - 1], math.log(math.fsum(weights[:passed]))
    return {
        token: (value - values[0]) / params.temperature - normalizer
        if token in known and value >= lowest
        else -math.inf
        for token, value in logprobs.items()
    }
