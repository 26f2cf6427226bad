"""Keys and values kept between batches: they save work and change nothing."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicLayer

from genprm_trl.generation import SamplingParams, TransformersGenerator
from genprm_trl.generation.hf.prefix_cache import GrowingLayer, PrefixCache, growing_cache
from genprm_trl.generation.hf.whole import CACHE_ARGUMENT
from tests.helpers.conformance import GREEDY, PROMPTS, SAMPLED, GeneratorConformance, encode
from tests.helpers.tiny_models import corpus, tiny_model, tiny_tokenizer

LONG = encode("".join(corpus()))


class TestConformanceWithEagerAttention(GeneratorConformance):
    """The suite runs with a prefix cache over the default attention elsewhere."""

    @pytest_asyncio.fixture
    async def generator(self, model_dir: Path) -> AsyncIterator[TransformersGenerator]:
        eager = {"attn_implementation": "eager"}
        async with TransformersGenerator(model_dir, device="cpu", max_batch_size=7, model_kwargs=eager) as generator:
            assert prefixes(generator) is not None
            yield generator


def prefixes(generator: TransformersGenerator) -> PrefixCache | None:
    return generator._prefixes


async def settle(generator: TransformersGenerator) -> None:
    """Waits for the end of the last batch: requests are answered before their keys and values are put away."""
    await generator.generate([5], dataclasses.replace(GREEDY, max_new_tokens=1))


def count_work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records rows times columns of everything that goes through the model."""
    work: list[int] = []
    original = type(tiny_model()).forward

    @functools.wraps(original)  # generate looks at its signature
    def forward(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        work.append(input_ids.numel())
        return original(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model()), "forward", forward)
    return work


async def converse(
    generator: TransformersGenerator, start: list[int], rounds: int, params: SamplingParams
) -> list[int]:
    """Rounds of generation, each followed by some text that another party adds."""
    ids = list(start)
    for turn in range(rounds):
        result = await generator.generate(ids, params)
        ids += result.token_ids + LONG[50 * turn : 50 * turn + 3 + 5 * turn]
    return ids


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "seeded"])
async def test_conversations_are_the_same_with_and_without(params: SamplingParams, model_dir: Path) -> None:
    outcomes = []
    for model, tokenizer in ((model_dir, None), (tiny_model(), tiny_tokenizer())):
        async with TransformersGenerator(model, tokenizer, max_batch_size=6) as generator:
            assert (prefixes(generator) is not None) == (model is model_dir)
            starts = [LONG[100 * i : 100 * i + 20 + 13 * i] for i in range(10)]
            starts += starts[:3]
            outcomes.append(await asyncio.gather(*(converse(generator, start, 4, params) for start in starts)))
    assert outcomes[0] == outcomes[1]


async def test_a_conversation_that_goes_on_computes_only_what_is_new(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = count_work(monkeypatch)
    async with TransformersGenerator(model_dir, device="cpu") as generator:
        first = await generator.generate(LONG[:300], GREEDY)
        assert 300 <= sum(work) <= 300 + GREEDY.max_new_tokens
        work.clear()
        await generator.generate(LONG[:300] + first.token_ids + LONG[300:310], GREEDY)
        assert sum(work) <= 10 + 1 + GREEDY.max_new_tokens


async def test_chains_over_the_same_prompt_compute_it_once(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = count_work(monkeypatch)
    params = dataclasses.replace(SAMPLED, max_new_tokens=2)
    async with TransformersGenerator(model_dir, device="cpu") as generator:
        await asyncio.gather(*(generator.generate(LONG[:400], dataclasses.replace(params, seed=s)) for s in range(8)))
        assert sum(work) <= 400 + 8 * 2
        work.clear()
        await generator.generate(LONG[:400], params)
        assert sum(work) <= 3


async def test_a_long_new_prompt_beside_continuations_costs_them_no_padding(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TransformersGenerator(model_dir, device="cpu") as generator:
        starts = [LONG[i : i + 200] for i in range(8)]
        params = dataclasses.replace(GREEDY, max_new_tokens=2)
        results = await asyncio.gather(*(generator.generate(start, params) for start in starts))
        work = count_work(monkeypatch)
        continued = [start + result.token_ids + LONG[:10] for start, result in zip(starts, results, strict=True)]
        await asyncio.gather(*(generator.generate(ids, params) for ids in [*continued, LONG[300:900]]))
    assert sum(work) < 600 + 8 * 12 + 9 * 3


async def test_memory_is_bounded_and_the_oldest_is_forgotten_first(model_dir: Path) -> None:
    async with TransformersGenerator(model_dir, device="cpu") as generator:
        await generator.generate(LONG[:100], dataclasses.replace(GREEDY, max_new_tokens=1))
        cache = prefixes(generator)
        assert cache is not None
        await settle(generator)
        one = cache._bytes
        assert one > 0
        cache._max_bytes = 3 * one + one // 2
        for i in range(1, 6):
            await generator.generate(LONG[7 * i : 7 * i + 100], dataclasses.replace(GREEDY, max_new_tokens=1))
            await settle(generator)
            assert cache._bytes <= cache._max_bytes
        assert len(cache) == 3
        kept = [prefix.tokens[:20].tolist() for prefix in cache._prefixes.values()]
        assert kept == [LONG[7 * i : 7 * i + 20] for i in (3, 4, 5)]
        # Too large for the bound altogether: nothing is kept, all goes on.
        cache._max_bytes = 10
        result = await generator.generate(PROMPTS[-1], GREEDY)
        await settle(generator)
        assert (len(cache), cache._bytes, cache._by_start) == (0, 0, {})
    async with TransformersGenerator(tiny_model(), tiny_tokenizer()) as plain:
        assert result.token_ids == (await plain.generate(PROMPTS[-1], GREEDY)).token_ids


async def test_what_is_remembered_is_dropped_before_batches_get_smaller(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TransformersGenerator(model_dir, device="cpu") as generator:
        cache = prefixes(generator)
        assert cache is not None
        expected = await asyncio.gather(*(generator.generate(prompt, GREEDY) for prompt in PROMPTS))
        await settle(generator)
        assert len(cache)
        original = type(tiny_model()).forward
        failures = []

        @functools.wraps(original)  # generate looks at its signature
        def forward(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(cache):
                failures.append(len(cache))
                raise torch.OutOfMemoryError("no memory left")
            return original(self, input_ids, *args, **kwargs)

        monkeypatch.setattr(type(tiny_model()), "forward", forward)
        results = await asyncio.gather(*(generator.generate(prompt, GREEDY) for prompt in PROMPTS))
        assert len(failures) == 1
        assert generator._row_limit == generator.max_batch_size
        assert [r.token_ids for r in results] == [r.token_ids for r in expected]
        # One request alone gets the same second chance.
        assert (await generator.generate(PROMPTS[0], GREEDY)).token_ids == expected[0].token_ids
        assert len(failures) == 2


async def test_a_failed_row_is_not_remembered(tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_model(tie_word_embeddings=False))
    model.get_input_embeddings().weight.data[1] = float("inf")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    async with TransformersGenerator(tmp_path, device="cpu") as generator:
        bad = [*LONG[:60], 1, *LONG[60:80]]
        results = await asyncio.gather(generator.generate(bad, GREEDY), generator.generate(LONG[:60], GREEDY))
        assert [result.finish_reason for result in results] == ["error", "length"]
        await settle(generator)
        cache = prefixes(generator)
        assert cache is not None
        assert len(cache) == 1
        assert all(bool(part.isfinite().all()) for prefix in cache._prefixes.values() for part in prefix.parts)


async def test_models_with_sliding_windows_do_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    async with TransformersGenerator(tmp_path, device="cpu") as generator:
        assert prefixes(generator) is None
        results = await asyncio.gather(*(generator.generate(prompt, GREEDY) for prompt in PROMPTS))
    for prompt, result in zip(PROMPTS, results, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + result.token_ids])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == result.token_ids


# --- The growing cache: it holds what transformers' own would, and does not copy it at every token -------------------


def states(columns: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, columns, 4), torch.randn(rows, 2, columns, 4)


def assert_same(ours: GrowingLayer, theirs: DynamicLayer) -> None:
    assert ours.get_seq_length() == theirs.get_seq_length()
    assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


def test_holds_what_the_layer_of_transformers_holds():
    torch.manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    for columns in (50, *[1] * 200, 300, *[1] * 50):
        added = states(columns)
        for one, other in zip(ours.update(*added), theirs.update(*added), strict=True):
            assert torch.equal(one, other)
    assert_same(ours, theirs)


def test_notices_what_others_do_to_it():
    torch.manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    steps = [
        lambda layer: layer.crop(-7),
        lambda layer: layer.reorder_cache(torch.tensor([2, 0, 2])),
        lambda layer: layer.batch_select_indices(torch.tensor([2, 1])),
        lambda layer: layer.batch_repeat_interleave(2),
    ]
    rows = 3
    for step in steps:
        for _ in range(3):
            added = states(5, rows)
            ours.update(*added)
            theirs.update(*added)
        step(ours)
        step(theirs)
        assert_same(ours, theirs)
        rows = len(ours.keys)
    ours.reset()
    assert ours.get_seq_length() == 0
    added = states(2)
    assert torch.equal(ours.update(*added)[0], added[0])


def test_copies_seldom():
    layer, places = GrowingLayer(), set()
    layer.update(*states(500))
    for _ in range(400):
        layer.update(*states(1))
        places.add(layer.keys.data_ptr())
    assert len(places) <= 7  # at about 560, 630, 710, 800 and 900 columns


@torch.no_grad()
def test_a_model_sees_no_difference():
    model, ids = tiny_model(), torch.arange(40).reshape(2, 20)
    expected = model(ids).logits
    cache, parts = growing_cache(), []
    for part in ids.split([7, 1, 1, 11], dim=1):
        parts.append(model(part, use_cache=True, **{CACHE_ARGUMENT: cache}).logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)
