"""A completions server small enough for tests: a real model behind real HTTP, in the dialects of several servers.

Dialects differ in what a client has to make up for:

- `vllm` takes token ids, reports them, keeps stop strings, and names tokens `token_id:N`;
- `llama.cpp` takes token ids, cuts stop strings off without saying which, and reports ids with log-probabilities;
- `sglang` takes token ids, cuts stop strings off and says which (`matched_stop`), and names tokens by their text;
- `openai` takes text and no field beyond OpenAI's, cuts stop strings off, and names tokens by their text.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Self

from aiohttp import web

from genprm_trl.generation import GenerationResult, Generator, SamplingParams
from genprm_trl.generation.tokens import Detokenizer
from tests.helpers.tiny_models import tiny_tokenizer

Dialect = Literal["vllm", "llama.cpp", "sglang", "openai"]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

OPENAI_FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "logprobs", "seed", "stream", "stream_options", "stop",
}  # fmt: skip


class CompletionServer:
    """Serves a generator in a thread of its own, from `start` to `stop`; again on the same port after another `start`.

    Args:
        generator: Of `tiny_model()`. It is not closed.
        dialect: How it speaks.
        key: Bearer token that it asks for.
        max_context: What it says and holds to.

    Attributes:
        faults: What the next requests for completions meet, taken from the front.
        every: What all of them meet.
        bodies: Requests for completions so far.
        in_flight: Of these, those in work now.
        most_in_flight: The largest number that there was.
        hangs: Whether nothing is answered at all any more.
        name: Of the model.
    """

    def __init__(
        self, generator: Generator, dialect: Dialect = "vllm", *, key: str | None = None, max_context: int = 2048
    ):
        self.generator, self.dialect, self.key, self.max_context = generator, dialect, key, max_context
        self.faults: list[Fault] = []
        self.every: Fault | None = None
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.hangs = False
        self.name = "tiny-genprm"
        self._detokenizer = Detokenizer(tiny_tokenizer())
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def stop(self) -> None:
        """Dies: connections are cut off, and new ones refused."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            self._loop = None

    def _serve(self, ready: threading.Event) -> None:
        async def serve() -> None:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_get("/v1/models", self._models)
            application.router.add_post("/v1/completions", self._completions)
            runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.01)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True).start()
            self._port = runner.addresses[0][1]
            self._end = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            ready.set()
            await self._end.wait()
            await runner.cleanup()

        asyncio.run(serve())

    def _allowed(self, request: web.Request) -> bool:
        return self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}"

    async def _models(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return refusal(401, "Unauthorized")
        if self.hangs:
            await asyncio.sleep(60)
        model = {"id": self.name, "object": "model"}
        if self.dialect == "vllm":
            model["max_model_len"] = self.max_context
        return web.json_response({"object": "list", "data": [model]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        if not self._allowed(request):
            return refusal(401, "Unauthorized")
        body = await request.json()
        self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for fault in [self.faults.pop(0)] if self.faults else [self.every] if self.every else []:
                if (response := await fault(request)) is not None:
                    return response
            return await self._answer(request, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = body["prompt"]
        if self.dialect == "openai":
            if unknown := set(body) - OPENAI_FIELDS:
                return refusal(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
            if not isinstance(prompt, str):
                return refusal(400, "'prompt' must be a string")
        ids = tiny_tokenizer().encode(prompt) if isinstance(prompt, str) else prompt
        if len(ids) + body["max_tokens"] > self.max_context:
            return refusal(
                400,
                f"This model's maximum context length is {self.max_context} tokens. However, you requested "
                f"{body['max_tokens']} output tokens and your prompt contains {len(ids)}.",
            )
        generated = await self._generate(ids, body)
        if generated.finish_reason == "error":
            return refusal(400, generated.message)
        choice = self._choice(generated, body)
        counted = {"prompt_tokens": len(ids), "completion_tokens": generated.num_generated}
        if not body.get("stream"):
            return web.json_response({"object": "text_completion", "choices": [choice], "usage": counted})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for event in self._events(generated, choice, counted):
            await response.write(f"data: {event}\n\n".encode())
        await response.write_eof()
        return response

    async def _generate(self, ids: list[int], body: dict[str, Any]) -> GenerationResult:
        """With the tokens that a server has after a stop: the last one whole, and the end-of-text token with them."""
        top_k = body.get("top_k", 0)
        params = SamplingParams(
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=max(top_k, 0),
            stop=tuple(body.get("stop", ())),
            logprobs=body.get("logprobs", 0),
            seed=body.get("seed", random.getrandbits(31)),
        )
        result = await self.generator.generate(ids, params)
        if result.finish_reason != "stop":
            return result
        if any(result.text.endswith(stop) for stop in params.stop):
            whole = dataclasses.replace(params, stop=(), max_new_tokens=result.num_generated)
            uncut = await self.generator.generate(ids, whole)
            return dataclasses.replace(uncut, text=result.text, finish_reason="stop")
        eos = tiny_tokenizer().eos_token_id
        maps = [*result.top_logprobs, {eos: -0.5}] if params.logprobs else []
        return dataclasses.replace(result, token_ids=[*result.token_ids, eos], top_logprobs=maps)

    def _choice(self, generated: GenerationResult, body: dict[str, Any]) -> dict[str, Any]:
        text = generated.text
        hit = next((stop for stop in body.get("stop", ()) if text.endswith(stop)), None)
        reason = "stop" if generated.finish_reason == "stop" else "length"
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.dialect != "vllm" and hit is not None:
            text = text.removesuffix(hit)
        if self.dialect == "vllm":
            choice |= {"stop_reason": hit, "token_ids": generated.token_ids}
        if self.dialect == "sglang":
            choice["matched_stop"] = hit
        if body.get("logprobs"):
            choice["logprobs"] = self._logprobs(generated)
        return {**choice, "text": text}

    def _logprobs(self, generated: GenerationResult) -> dict[str, Any]:
        pairs = list(zip(generated.token_ids, generated.top_logprobs, strict=True))
        if self.dialect == "llama.cpp":
            return {
                "content": [
                    {
                        "id": token,
                        "token": self._name(token),
                        "logprob": reported[token],
                        "top_logprobs": [{"id": i, "token": self._name(i), "logprob": v} for i, v in reported.items()],
                    }
                    for token, reported in pairs
                ]
            }
        return {
            "tokens": [self._name(token) for token, _ in pairs],
            "token_logprobs": [reported[token] for token, reported in pairs],
            "top_logprobs": [{self._name(i): value for i, value in reported.items()} for _, reported in pairs],
        }

    def _name(self, token: int) -> str:
        if self.dialect == "vllm":
            return f"token_id:{token}"
        if token in tiny_tokenizer().all_special_ids:
            return str(tiny_tokenizer().convert_ids_to_tokens(token))
        return self._detokenizer.decode([token])

    async def _events(
        self, generated: GenerationResult, choice: dict[str, Any], usage: dict[str, int]
    ) -> AsyncIterator[str]:
        """A token an event, as servers do while they generate; text is held back until its characters are complete."""
        logprobs = choice["logprobs"] or {}
        sent = ""
        count = len(generated.token_ids)
        for at in range(count):
            text = self._detokenizer.decode(generated.token_ids[: at + 1])
            text = choice["text"] if at == count - 1 else text if not text.endswith("\ufffd") else sent
            part = {
                "index": 0,
                "text": text[len(sent) :],
                "finish_reason": choice["finish_reason"] if at == count - 1 else None,
                "logprobs": {name: values[at : at + 1] for name, values in logprobs.items()} or None,
            }
            sent = text
            yield json.dumps({"choices": [part]})
            await asyncio.sleep(0)
        yield json.dumps({"choices": [], "usage": usage})
        yield "[DONE]"


def refusal(status: int, message: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=named)


# What can go wrong, one request each.


def answers(status: int, **headers: str) -> Fault:
    async def fault(_: web.Request) -> web.StreamResponse:
        return refusal(status, "a fault of the test's", **headers)

    return fault


def says(body: str, content_type: str = "application/json") -> Fault:
    async def fault(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type=content_type)

    return fault


def waits(seconds: float) -> Fault:
    """Answers as it should, and late."""

    async def fault(_: web.Request) -> None:
        await asyncio.sleep(seconds)

    return fault


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"te')
    assert request.transport is not None
    request.transport.abort()
    return response


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Waits for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
