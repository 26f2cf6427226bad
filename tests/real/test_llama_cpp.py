"""The server generator against a real llama.cpp server: the tiny model in 32 bits, and SmolLM2 in 4."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from genprm_trl.generation import SamplingParams, ServerGenerator
from genprm_trl.generation.loading import load_model
from genprm_trl.generation.server import generator as module
from genprm_trl.generation.server.wire import Abilities
from genprm_trl.smollm2.base_model import find_base_model
from tests.helpers.conformance import GeneratorConformance
from tests.helpers.jobs import free_port
from tests.helpers.llama_server import llama_server
from tests.helpers.tiny_gguf import ascii_tokenizer, write_tiny_gguf

LLAMA_CPP = Abilities(stops="streamed", bare_ids=False)
GREEDY = SamplingParams(max_new_tokens=12, temperature=0.0, logprobs=5)
SIGNS = "Write √2 ✓ 你好 😀 and √4 = 2 ✓ Write √2 ✓ 你好 😀 and"
# The weights are the same; llama.cpp also rounds what they are multiplied with.
ROUNDING = 0.5
GGUF = Path(find_base_model(None))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("llama.cpp")
    model = write_tiny_gguf(directory / "tiny.gguf")
    with llama_server(model, directory / "log", requests=8, context=2048, exact=True) as running:
        yield running


class TestConformance(GeneratorConformance):
    reports_named = False
    reports_end = False

    @pytest_asyncio.fixture
    async def generator(self, url: str) -> AsyncIterator[ServerGenerator]:
        async with ServerGenerator("tiny", ascii_tokenizer(), urls=url, abilities=LLAMA_CPP) as generator:
            yield generator


@pytest.fixture(scope="module")
def model(base: str) -> Any:
    return load_model(base, dtype=torch.float32).requires_grad_(False)


@pytest.fixture(scope="module")
def smollm2(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerGenerator]:
    """With the settings that llama.cpp comes with."""
    with llama_server(GGUF, tmp_path_factory.mktemp("smollm2") / "log", requests=2, context=512) as url:
        generator = ServerGenerator(base, urls=url)
        yield generator
        asyncio.run(generator.close())


def test_what_it_can_do_and_its_context_are_found_out(smollm2: ServerGenerator) -> None:
    assert smollm2.abilities == LLAMA_CPP
    assert smollm2.max_context == 512


async def test_characters_of_several_tokens_and_log_probabilities_at_their_places(
    smollm2: ServerGenerator, model: Any
) -> None:
    ids = smollm2.tokenizer.encode(SIGNS)
    result = await smollm2.generate(ids, GREEDY)
    assert "✓" in result.text
    assert smollm2.tokenizer.decode(result.token_ids) == result.text
    assert result.token_ids == smollm2.tokenizer.encode(result.text)
    expected = model(torch.tensor([ids + result.token_ids])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    assert sum(map(bool, result.top_logprobs)) >= 6
    for reported, row in zip(result.top_logprobs, expected, strict=True):
        for token, logprob in reported.items():
            assert logprob == pytest.approx(row[token].item(), abs=ROUNDING)
    stopped = await smollm2.generate(ids, dataclasses.replace(GREEDY, stop=("never", "✓")))
    assert stopped.text == result.text[: result.text.index("✓") + 1]
    assert stopped.finish_reason == "stop"


async def test_the_word_of_a_verdict_is_as_likely_as_in_transformers(smollm2: ServerGenerator, model: Any) -> None:
    tokenizer = smollm2.tokenizer
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    for claim in ("2 + 3 = 5", "2 + 3 = 50"):
        question = [{"role": "user", "content": f"Is it right that {claim}? Answer Yes or No, and nothing else."}]
        ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
        [reported] = (
            await smollm2.generate(ids, dataclasses.replace(GREEDY, max_new_tokens=1, logprobs=20))
        ).top_logprobs
        expected = model(torch.tensor([ids])).logits[0, -1][words].softmax(-1)
        found = torch.tensor([reported[word] for word in words]).softmax(-1)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=0.1)


async def test_a_restart_is_waited_for(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.1)
    port = free_port()
    options = {"requests": 1, "context": 256, "port": port}
    with llama_server(GGUF, tmp_path / "first", **options):
        generator = ServerGenerator(base, urls=f"http://127.0.0.1:{port}")
        ids = generator.tokenizer.encode("1, 2, 3,")
        expected = await generator.generate(ids, GREEDY)
    async with generator:
        waiting = asyncio.create_task(generator.generate(ids, GREEDY))
        await asyncio.sleep(1)
        # It answers 503 until the model is loaded.
        with llama_server(GGUF, tmp_path / "second", **options):
            assert await waiting == expected
