"""The server generator against a real `transformers serve`, which takes text and tells nothing of tokens."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from genprm_trl.generation import SamplingParams, ServerGenerator, TransformersGenerator
from genprm_trl.generation.server.wire import Abilities
from tests.helpers.conformance import GREEDY, PROMPTS, GeneratorConformance
from tests.helpers.jobs import free_port
from tests.helpers.served import served
from tests.helpers.tiny_gguf import ascii_tokenizer
from tests.helpers.tiny_models import save_tiny, tiny_model

FOUND = Abilities("text", "streamed", extras=False, generation_config=True, logprobs=0, bare_ids=False)
SAMPLED = SamplingParams(max_new_tokens=9, temperature=1.0, top_p=0.95, top_k=50, logprobs=0, seed=7)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), ascii_tokenizer())


@pytest.fixture(scope="module")
def url(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model_dir), "--port", str(port)]
    with served([*command, "--device", "cpu"], port, tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@pytest_asyncio.fixture
async def generator(model_dir: Path, url: str) -> AsyncIterator[ServerGenerator]:
    async with ServerGenerator(model_dir, urls=url, max_context=2048, abilities=FOUND) as generator:
        yield generator


async def test_what_it_can_do_is_found_out(model_dir: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with ServerGenerator(model_dir, urls=url, max_context=2048) as generator:
        assert generator.abilities == FOUND
    assert "reports no log-probabilities" in caplog.text
    assert "the same sample" not in caplog.text


class TestConformance(GeneratorConformance):
    """What can be asked of a server without token ids, log-probabilities, and seeds of requests that come together."""

    test_greedy_takes_the_most_likely_token_whatever_the_batch = None  # type: ignore[assignment]
    test_logprobs_are_those_of_the_model_before_temperature_and_filters = None  # type: ignore[assignment]
    test_named_tokens_are_reported_however_unlikely_they_are = None  # type: ignore[assignment]
    test_the_words_of_a_verdict_have_their_exact_probability = None  # type: ignore[assignment]
    test_output_can_be_continued_exactly = None  # type: ignore[assignment]
    test_samples_follow_the_filtered_distribution = None  # type: ignore[assignment]
    test_a_seed_reproduces_whatever_else_is_in_flight = None  # type: ignore[assignment]
    test_requests_of_every_kind_share_a_batch = None  # type: ignore[assignment]
    test_affinity_changes_nothing = None  # type: ignore[assignment]
    test_text_ends_with_the_first_stop_string = None  # type: ignore[assignment]
    test_the_end_of_text_token_stops_and_is_left_out = None  # type: ignore[assignment]
    test_length = None  # type: ignore[assignment]


async def test_the_text_is_that_of_transformers(generator: ServerGenerator) -> None:
    local = TransformersGenerator(tiny_model(), ascii_tokenizer())
    for prompt in (*PROMPTS[:2], *PROMPTS[3:5]):  # the one between is not ASCII
        free = await local.generate(prompt, GREEDY)
        result = await generator.generate(prompt, GREEDY)
        assert (result.text, result.finish_reason, result.num_generated) == (free.text, "length", 24)
        for stop in (free.text[3:5], free.text[11:14]):
            stopped = await generator.generate(prompt, dataclasses.replace(GREEDY, stop=("never", stop)))
            assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
            assert stopped.finish_reason == "stop"
    await local.close()


async def test_samples_are_drawn_from_those_that_are_left(generator: ServerGenerator) -> None:
    params = dataclasses.replace(SAMPLED, max_new_tokens=1, top_k=3, top_p=1.0)
    texts = [(await generator.generate(PROMPTS[1], dataclasses.replace(params, seed=i))).text for i in range(40)]
    logits = tiny_model()(ascii_tokenizer()("", return_tensors="pt").input_ids.new_tensor([PROMPTS[1]])).logits[0, -1]
    assert set(texts) == {generator.tokenizer.decode([i]) for i in logits.topk(3).indices.tolist()}


async def test_a_seed_reproduces_a_request_that_comes_alone(generator: ServerGenerator) -> None:
    first, other, again = [
        (await generator.generate(PROMPTS[2], dataclasses.replace(SAMPLED, seed=seed))).text for seed in (1, 2, 1)
    ]
    assert first == again != other


async def test_the_end_of_text_is_no_part_of_it(generator: ServerGenerator) -> None:
    wild = SamplingParams(200, temperature=2.0, top_k=0, top_p=1.0, logprobs=0)
    for seed in range(20):
        result = await generator.generate(PROMPTS[0], dataclasses.replace(wild, seed=seed))
        if result.finish_reason == "stop":
            break
    assert result.finish_reason == "stop"
    assert "<|im_end|>" not in result.text
    assert result.num_generated < 200
