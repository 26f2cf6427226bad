"""The server generator: the conformance suite over HTTP, what servers cannot do, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.generation import ServerGenerator, TransformersGenerator
from genprm_trl.generation.server import generator as module
from genprm_trl.generation.server.generator import _key_for
from genprm_trl.generation.server.wire import Abilities
from tests.helpers.completion_server import CompletionServer, answers, breaks_off, hangs_up, says, until, waits
from tests.helpers.conformance import GREEDY, PROMPTS, SAMPLED, GeneratorConformance, decode
from tests.helpers.tiny_models import tiny_tokenizer

ENDLESS = dataclasses.replace(GREEDY, max_new_tokens=2000)


@pytest.fixture
def server(engine: TransformersGenerator) -> Iterator[CompletionServer]:
    with CompletionServer(engine) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and pauses last less than on a network."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(module, "_LOOK_TIMEOUT", 0.5)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


def connect(*servers: CompletionServer, **options: Any) -> ServerGenerator:
    return ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=[server.url for server in servers], **options)


class TestConformance(GeneratorConformance):
    reports_named = False

    @pytest_asyncio.fixture
    async def generator(self, server: CompletionServer) -> AsyncIterator[ServerGenerator]:
        async with connect(server) as generator:
            yield generator


class TestConformanceWithSeveralServersThatCutStopStrings(GeneratorConformance):
    reports_named = False
    reports_end = False  # the streams end at the last text

    @pytest_asyncio.fixture
    async def generator(self, engine: TransformersGenerator) -> AsyncIterator[ServerGenerator]:
        with (
            CompletionServer(engine, "llama.cpp by tokens") as one,
            CompletionServer(engine, "llama.cpp by tokens") as other,
        ):
            async with connect(one, other, max_batch_size=50) as generator:
                assert generator.abilities.stops == "streamed"
                yield generator


async def test_finds_out_what_servers_can_do(engine: TransformersGenerator) -> None:
    expected = {
        "vllm": Abilities(),
        "llama.cpp by tokens": Abilities(stops="streamed", bare_ids=False),
        "sglang": Abilities(stops="named", bare_ids=False),
        "openai": Abilities("text", stops="streamed", extras=False, bare_ids=False),
        "transformers": Abilities("text", "streamed", False, generation_config=True, logprobs=0, bare_ids=False),
    }
    for dialect, abilities in expected.items():
        with CompletionServer(engine, dialect) as server:
            async with connect(server, max_context=2048) as generator:
                assert generator.abilities == abilities, dialect


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp by tokens", "sglang", "openai"])
async def test_results_are_the_same_in_every_dialect(engine: TransformersGenerator, dialect: Any) -> None:
    params = dataclasses.replace(GREEDY, max_new_tokens=9)
    direct = [await engine.generate(prompt, params) for prompt in PROMPTS]
    # Servers that name tokens by their text cannot name the bytes of a character; no verdict is among these.
    readable = [i for i, result in enumerate(direct) if "\ufffd" not in result.text]
    assert len(readable) >= 4
    with CompletionServer(engine, dialect) as server:
        async with connect(server, max_context=2048) as generator:
            for i in readable:
                result = await generator.generate(PROMPTS[i], params)
                assert (result.text, result.finish_reason) == (direct[i].text, "length")
                assert (result.token_ids, result.num_generated) == (direct[i].token_ids, 9)
                for told, known in zip(result.top_logprobs, direct[i].top_logprobs, strict=True):
                    assert told == pytest.approx({token: known[token] for token in told}, abs=1e-4)
                    assert dialect in ("sglang", "openai") or set(told) == set(known)
                for start in range(0, 6, 2):
                    stop = direct[i].text[start : start + 3]
                    stopped = await generator.generate(PROMPTS[i], dataclasses.replace(params, stop=(stop,)))
                    assert stopped.text == direct[i].text[: direct[i].text.index(stop) + len(stop)]
                    assert stopped.finish_reason == "stop"
                    assert decode(stopped.token_ids) == stopped.text
                    assert len(stopped.top_logprobs) == len(stopped.token_ids)


# Several servers


async def test_goes_where_least_is_to_do_and_back_to_where_its_prefix_is(engine: TransformersGenerator) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(CompletionServer(engine)) for _ in range(3)]
        async with connect(*servers) as generator:
            for server in servers:
                server.bodies.clear()
                server.every = waits(0.02)
            for _ in range(3):
                await asyncio.gather(
                    *(generator.generate([*PROMPTS[1], i + 5], GREEDY, affinity=f"{i}") for i in range(30))
                )
    homes: dict[int, set[int]] = {}
    for index, server in enumerate(servers):
        assert len(server.bodies) == 30
        for body in server.bodies:
            homes.setdefault(body["prompt"][-1], set()).add(index)
    assert len(homes) == 30
    assert all(len(indices) == 1 for indices in homes.values())


async def test_no_server_gets_more_than_it_may(engine: TransformersGenerator) -> None:
    with CompletionServer(engine) as one, CompletionServer(engine) as other:
        async with connect(one, other, max_batch_size=3) as generator:
            assert generator.max_concurrent == 6
            one.every = other.every = waits(0.02)
            results = await asyncio.gather(*(generator.generate(PROMPTS[1], GREEDY) for _ in range(30)))
    assert {result.finish_reason for result in results} == {"length"}
    assert (one.most_in_flight, other.most_in_flight) == (3, 3)


async def test_a_server_that_dies_loses_nothing_and_is_used_again_when_it_is_back(
    engine: TransformersGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with CompletionServer(engine) as lasting, CompletionServer(engine) as mortal:
        async with connect(lasting, mortal) as generator:
            mortal.every = waits(60)  # what it has been given stays unanswered
            requests = [
                asyncio.create_task(generator.generate(PROMPTS[i % 5], GREEDY, affinity=f"{i}")) for i in range(20)
            ]
            await asyncio.to_thread(until, lambda: mortal.in_flight == 10)
            mortal.stop()
            for i, result in enumerate(await asyncio.gather(*requests)):
                assert result.text == (await engine.generate(PROMPTS[i % 5], GREEDY)).text
            root = mortal.url.removesuffix("/v1")
            assert f"{root} is taken out until it answers again" in caplog.text
            mortal.bodies.clear()
            mortal.every = None
            mortal.start()
            await asyncio.to_thread(until, lambda: f"{root} answers again" in caplog.text)
            await asyncio.gather(*(generator.generate(PROMPTS[1], GREEDY) for _ in range(20)))
    assert mortal.bodies


async def test_a_server_that_hangs_is_given_up(engine: TransformersGenerator) -> None:
    with CompletionServer(engine) as lasting, CompletionServer(engine) as hung:
        async with connect(lasting, hung) as generator:
            hung.hangs = True
            hung.every = waits(60)
            results = await asyncio.wait_for(
                asyncio.gather(*(generator.generate(PROMPTS[1], GREEDY) for _ in range(10))), 15
            )
    assert {result.finish_reason for result in results} == {"length"}


async def test_requests_wait_for_a_lone_server_to_come_back(server: CompletionServer) -> None:
    async with connect(server) as generator:
        server.stop()
        requests = [asyncio.create_task(generator.generate(PROMPTS[1], GREEDY)) for _ in range(5)]
        await asyncio.sleep(0.5)
        server.start()
        assert [result.finish_reason for result in await asyncio.gather(*requests)] == ["length"] * 5


async def test_servers_that_stay_away_end_the_run(engine: TransformersGenerator) -> None:
    with CompletionServer(engine) as one, CompletionServer(engine) as other:
        async with connect(one, other, patience=0.5) as generator:
            one.every = other.every = waits(60)
            in_flight = [asyncio.create_task(generator.generate(PROMPTS[1], GREEDY)) for _ in range(4)]
            await asyncio.to_thread(until, lambda: one.in_flight + other.in_flight == 4)
            one.stop()
            other.stop()
            for outcome in await asyncio.gather(*in_flight, return_exceptions=True):
                assert isinstance(outcome, GenPRMError)
                assert "no server has answered for 0.5 s" in str(outcome)


# Requests that fail


@pytest.mark.parametrize(
    "fault",
    [
        answers(500),
        answers(502),
        answers(504),
        answers(503),
        answers(408),
        answers(401),
        answers(404),
        hangs_up,
        breaks_off,
        says("<html>an error page</html>", "text/html"),
        says("[]"),
        says("{}"),
        says('{"choices": []}'),
        says('{"choices": [{"text": 5, "finish_reason": "stop"}]}'),
        says('{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [99999999999999]}]}'),
        says('{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [5], "logprobs": {"tokens": []}}]}'),
        says('{"choices": [{"text": "\\ud800", "finish_reason": "stop", "logprobs": 1e999}]}'),
        says("[" * 100_000),
    ],
)
async def test_what_may_go_better_is_tried_again(server: CompletionServer, fault: Any) -> None:
    async with connect(server, attempts=3) as generator:
        expected = await generator.generate(PROMPTS[1], GREEDY)
        server.bodies.clear()
        server.faults = [fault, fault]
        assert await generator.generate(PROMPTS[1], GREEDY) == expected
        assert len(server.bodies) == 3
        server.bodies.clear()
        server.faults = [fault] * 3
        result = await generator.generate(PROMPTS[1], GREEDY)
        assert (result.finish_reason, result.text, result.token_ids) == ("error", "", [])
        assert server.url.removesuffix("/v1") in result.message
        assert len(server.bodies) == 3


async def test_a_late_answer_is_given_up(server: CompletionServer) -> None:
    async with connect(server, timeout=1.5, attempts=2) as generator:
        server.faults = [waits(60)]
        assert (await generator.generate(PROMPTS[1], GREEDY)).finish_reason == "length"
        server.faults = [waits(60), waits(60)]
        result = await generator.generate(PROMPTS[1], GREEDY)
    assert result.finish_reason == "error"
    assert "has not answered within 1.5 s" in result.message


async def test_being_turned_away_does_not_use_up_tries(server: CompletionServer) -> None:
    async with connect(server, attempts=1, timeout=5) as generator:
        server.faults = [answers(429)] * 4
        assert (await generator.generate(PROMPTS[1], GREEDY)).finish_reason == "length"
    async with connect(server, timeout=0.5) as generator:
        server.every = answers(429)
        result = await generator.generate(PROMPTS[1], GREEDY)
    assert result.finish_reason == "error"
    assert "answers 429: a fault of the test's" in result.message


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_busy_server_is_left_alone_as_long_as_it_asks(
    engine: TransformersGenerator, status: int, form: str
) -> None:
    later = "6000" if form == "seconds" else email.utils.formatdate(time.time() + 6000, usegmt=True)
    with CompletionServer(engine) as one, CompletionServer(engine) as other:
        async with connect(one, other) as generator:
            one.every = answers(status, Retry_After=later)  # to wait for it is to hang
            results = await asyncio.gather(*(generator.generate(PROMPTS[1], GREEDY) for _ in range(10)))
            one.bodies.clear()
            results += [await generator.generate(PROMPTS[1], GREEDY) for _ in range(3)]
    assert {result.finish_reason for result in results} == {"length"}
    assert one.bodies == []


async def test_what_the_server_refuses_is_not_tried_again(server: CompletionServer) -> None:
    async with connect(server) as generator:
        server.bodies.clear()
        server.faults = [answers(422)]
        result = await generator.generate(PROMPTS[1], GREEDY)
    assert (result.finish_reason, len(server.bodies)) == ("error", 1)
    assert "answers 422: a fault of the test's" in result.message


async def test_a_context_shorter_than_was_said_is_not_an_error(engine: TransformersGenerator) -> None:
    with (
        CompletionServer(engine, max_context=300) as short,
        CompletionServer(engine, "openai", max_context=100) as mum,
    ):
        async with connect(short) as generator:
            assert generator.max_context == 300
        async with connect(mum, max_context=2048) as generator:
            result = await generator.generate(PROMPTS[-1], GREEDY)
    assert (result.finish_reason, result.text) == ("context", "")


async def test_cancelling_closes_the_connection(server: CompletionServer) -> None:
    async with connect(server) as generator:
        server.every = waits(60)
        task = asyncio.create_task(generator.generate(PROMPTS[1], ENDLESS))
        await asyncio.to_thread(until, lambda: server.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: server.in_flight == 0)


async def test_a_stream_ends_with_its_stop_string(engine: TransformersGenerator) -> None:
    with CompletionServer(engine, "llama.cpp by tokens") as server:
        async with connect(server, max_context=2048) as generator:
            free = await engine.generate(PROMPTS[5], GREEDY)
            stop = free.text[2:5]
            result = await generator.generate(
                PROMPTS[5], dataclasses.replace(GREEDY, max_new_tokens=300, stop=(stop,))
            )
            assert result.text == free.text[: free.text.index(stop) + 3]
            await asyncio.to_thread(until, lambda: server.in_flight == 0)


# What can be known before work starts


async def test_sends_the_key_that_the_user_names(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    with CompletionServer(engine, key="right") as server:
        with pytest.raises(ConfigError, match=r"answers 401: Unauthorized \(no key was sent; name .*api_key_variable"):
            connect(server)
        monkeypatch.setenv("OTHER_KEY", "wrong")
        with pytest.raises(ConfigError, match=r"answers 401.*the key that was sent is refused") as caught:
            connect(server, api_key_variable="OTHER_KEY")
        assert "wrong" not in str(caught.value)
        monkeypatch.delenv("OTHER_KEY")
        with pytest.raises(ConfigError, match="OTHER_KEY, which api_key_variable names, is not set"):
            connect(server, api_key_variable="OTHER_KEY")
        async with connect(server, api_key_variable="OPENAI_API_KEY") as generator:
            assert (await generator.generate(PROMPTS[1], SAMPLED)).finish_reason == "length"
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        async with connect(server) as generator:
            assert (await generator.generate(PROMPTS[1], SAMPLED)).finish_reason == "length"


@pytest.mark.parametrize(
    ("url", "base", "sent"),
    [
        ("https://api.openai.com", None, True),
        ("https://api.openai.com:443", None, True),
        ("http://api.openai.com", None, False),
        ("https://api.openai.com.evil.example", None, False),
        ("https://api.openai.com@evil.example", None, False),
        ("https://evil.example", None, False),
        ("http://localhost:8000", None, False),
        ("http://localhost:8000", "http://localhost:8000/v1", True),
        ("http://localhost:8001", "http://localhost:8000/v1", False),
        ("https://llm.example/gate", "https://llm.example/v1", True),
        ("http://llm.example", "http://llm.example/v1", False),  # not in the clear, unless it is named
    ],
)
def test_a_key_that_is_not_named_goes_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, url: str, base: str | None, sent: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if base is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", base)
    assert _key_for(url, None) == ("key" if sent else None)
    assert _key_for(url, "OPENAI_API_KEY") == "key"


async def test_a_redirect_takes_no_key_elsewhere(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "right")
    with CompletionServer(engine, key="right") as other:

        async def redirect(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": str(request.url.with_port(URL(other.url).port))})

        with CompletionServer(engine, key="right") as server:
            server.every = redirect
            with pytest.raises(ConfigError, match="401"):
                connect(server, api_key_variable="MY_KEY")


async def test_passwords_in_addresses_are_used_and_not_shown(
    engine: TransformersGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "genprm_trl")
    with CompletionServer(engine) as server:
        url = server.url.replace("http://", "http://me:s3cr3t@")
        async with ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=url, patience=0.1) as generator:
            assert (await generator.generate(PROMPTS[1], SAMPLED)).finish_reason == "length"
            server.stop()
            with pytest.raises(GenPRMError, match="no server has answered") as failed:
                await generator.generate(PROMPTS[1], SAMPLED)
    assert "http://***@127.0.0.1" in str(failed.value)
    assert "s3cr3t" not in str(failed.value) + caplog.text


class TestUnusableServers:
    def test_no_server(self, server: CompletionServer) -> None:
        server.stop()
        with pytest.raises(ConfigError, match=r"no server can be reached: .*Is it running, and ready\?"):
            connect(server)

    def test_no_completions_server(self, server: CompletionServer) -> None:
        with pytest.raises(ConfigError, match="answers 404"):
            ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=f"{server.url}/elsewhere")

    async def test_one_of_two_servers_missing(self, engine: TransformersGenerator, server: CompletionServer) -> None:
        server.stop()
        with CompletionServer(engine) as other:
            async with connect(server, other) as generator:
                assert (await generator.generate(PROMPTS[1], GREEDY)).finish_reason == "length"

    async def test_names_of_the_model(self, server: CompletionServer, model_dir: Path) -> None:
        # A server with one model is asked for that one, unless the name was given on purpose.
        async with ServerGenerator(model_dir, urls=server.url) as generator:
            assert (await generator.generate(PROMPTS[1], GREEDY)).finish_reason == "length"
        with pytest.raises(ConfigError, match="has no model 'other', only tiny-genprm; give served_model_name"):
            ServerGenerator(model_dir, urls=server.url, served_model_name="other")

    def test_a_tokenizer_that_is_not_the_models(self, server: CompletionServer) -> None:
        other = tiny_tokenizer(400)
        with pytest.raises(ConfigError, match="the tokenizer is not that of the served model 'tiny-genprm'"):
            ServerGenerator("tiny-genprm", other, urls=server.url)

    def test_a_context_of_unknown_length(self, engine: TransformersGenerator) -> None:
        with (
            CompletionServer(engine, "openai") as server,
            pytest.raises(ConfigError, match=r"how long the context is: give max_context"),
        ):
            connect(server)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"urls": []}, "at least one server"),
            ({"urls": "localhost:8000"}, "not the URL of a server"),
            ({"urls": ["http://a/v1", "http://a/"]}, "given twice"),
            ({"attempts": 0}, "attempts must be at least 1"),
            ({"max_batch_size": 0}, "max_batch_size must be at least 1"),
            ({"timeout": 0}, "timeout must be positive, got 0"),
            ({"patience": float("nan")}, "patience must be positive, got nan"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ServerGenerator("tiny-genprm", tiny_tokenizer(), **{"urls": "http://127.0.0.1:9", **options})
