"""Models in which a row depends on the rest of its batch: each request gets what it gets alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForTokenClassification,
    RwkvConfig,
    RwkvForCausalLM,
)

from genprm_trl.generation import GenerationResult, SamplingParams, TransformersGenerator
from genprm_trl.generation.hf.logps import completion_logps
from genprm_trl.generation.hf.regimes import Regimes
from genprm_trl.records import Solution
from genprm_trl.training.prm.scorer import PRMScorer
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

ORIGINAL = 32
SIZE: dict[str, Any] = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # large enough that positions decide tokens
    "pad_token_id": 0,
}
LONGROPE = {
    "max_position_embeddings": 256,
    "original_max_position_embeddings": ORIGINAL,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0, 4.0, 16.0, 2.0],
        "original_max_position_embeddings": ORIGINAL,
    },
}


def longrope() -> Phi3ForCausalLM:
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**SIZE, **LONGROPE)).eval()


def dynamic_ntk() -> LlamaForCausalLM:
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 8.0}
    return LlamaForCausalLM(LlamaConfig(**SIZE, max_position_embeddings=ORIGINAL, rope_parameters=rope)).eval()


def rwkv() -> RwkvForCausalLM:
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=700, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    model = RwkvForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


MODELS = {"longrope": longrope, "dynamic": dynamic_ntk, "rwkv": rwkv}
# Shorter, longer, and of the lengths at which another set of frequencies begins.
LENGTHS = (3, 60, ORIGINAL - 6, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 12, 90)
PARAMS = SamplingParams(max_new_tokens=10, temperature=0, logprobs=2)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 600, (length,), generator=generator).tolist() for length in LENGTHS]


async def in_a_batch(model: Any) -> list[GenerationResult]:
    async with TransformersGenerator(model, tiny_tokenizer(), max_context=250) as generator:
        return list(await asyncio.gather(*(generator.generate(prompt, PARAMS) for prompt in prompts())))


async def one_by_one(model: Any) -> list[GenerationResult]:
    async with TransformersGenerator(model, tiny_tokenizer(), max_context=250) as generator:
        return [await generator.generate(prompt, PARAMS) for prompt in prompts()]


def same(one: GenerationResult, other: GenerationResult) -> bool:
    """Equal tokens, and log-probabilities within rounding."""
    pairs = zip(one.top_logprobs, other.top_logprobs, strict=True)
    return one.token_ids == other.token_ids and all(
        a.keys() == b.keys() and all(abs(a[token] - b[token]) < 1e-3 for token in a) for a, b in pairs
    )


@pytest.mark.parametrize("name", sorted(MODELS))
async def test_a_batch_gives_what_each_request_gets_alone(name):
    model = MODELS[name]()
    together, alone = await in_a_batch(model), await one_by_one(model)
    assert [same(*pair) for pair in zip(together, alone, strict=True)] == [True] * len(LENGTHS)


@pytest.mark.parametrize("name", ["longrope", "rwkv"])
async def test_each_token_is_that_of_the_whole_text_so_far(name):
    model = MODELS[name]()
    for prompt, result in zip(prompts(), await in_a_batch(model), strict=True):
        ids = list(prompt)
        for token in result.token_ids:
            with torch.inference_mode():
                assert model(torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)


async def test_kept_keys_and_values_are_of_the_frequencies_at_hand(tmp_path):
    """The next request of a conversation may cross to other frequencies."""
    longrope().save_pretrained(tmp_path)
    async with TransformersGenerator(tmp_path, tiny_tokenizer(), max_context=250, device="cpu") as generator:
        assert generator._prefixes is not None
        prompt = prompts()[2]
        for _ in range(4):
            result = await generator.generate(prompt, PARAMS)
            fresh = TransformersGenerator(longrope(), tiny_tokenizer(), max_context=250)
            assert same(result, await fresh.generate(prompt, PARAMS))
            await fresh.close()
            prompt = [*prompt, *result.token_ids, 7, 8, 9]
        assert len(generator._prefixes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("longrope", "works on rows of more than 32 tokens apart from shorter ones"),
        ("dynamic", "works on rows of more than 32 tokens one at a time"),
        ("rwkv", "does not look at the attention mask: it works on one row at a time"),
    ],
)
def test_the_log_says_so(name, text, caplog):
    with caplog.at_level(logging.WARNING):
        TransformersGenerator(MODELS[name](), tiny_tokenizer())
    assert text in caplog.text
    caplog.clear()
    TransformersGenerator(tiny_model(), tiny_tokenizer())
    assert not caplog.records


def test_regimes():
    regimes = Regimes(longrope(), left_padded=True)
    assert [regimes.of(length) for length in (1, ORIGINAL, ORIGINAL + 1)] == [0, 0, 1]
    assert regimes.groups([5, 40, 6, 33]) == [[0, 2], [1, 3]]
    regimes = Regimes(dynamic_ntk(), left_padded=False)
    assert regimes.groups([5, 40, 6, 33]) == [[0, 2], [1], [3]]
    assert Regimes(rwkv(), left_padded=True).groups([5, 5]) == [[0], [1]]
    assert not Regimes(rwkv(), left_padded=False)
    assert not Regimes(tiny_model(), left_padded=True)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_log_probabilities_of_completions(name):
    model, rows = MODELS[name](), prompts()
    halves = [row[: len(row) // 2 + 1] for row in rows], [row[len(row) // 2 + 1 :] for row in rows]
    with torch.no_grad():
        together = completion_logps(model, *halves)
        alone = [completion_logps(model, [p], [c])[0] for p, c in zip(*halves, strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_step_scores():
    torch.manual_seed(0)
    model = Phi3ForTokenClassification(Phi3Config(**SIZE, **LONGROPE, num_labels=2)).eval()
    scorer = PRMScorer(model, tiny_tokenizer(), "\n")
    solutions = [Solution(str(n), "What is 1 + 1?", ["2."] * n) for n in (1, 3, 20, 30)]
    together = [verdict.rewards for verdict in scorer.score(solutions)]
    alone = [scorer.score([solution])[0].rewards for solution in solutions]
    assert together == [pytest.approx(rewards, abs=1e-5) for rewards in alone]
