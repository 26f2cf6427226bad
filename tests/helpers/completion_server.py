"""A completions server small enough for tests: a model behind real HTTP, in the dialects of several servers.

`DIALECTS` says what each make does that a client has to make up for. `CompletionServer(generator, "vllm", done=False)`
is one of them with a trait changed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from genprm_trl.generation import GenerationResult, Generator, SamplingParams
from genprm_trl.generation.tokens import Detokenizer
from tests.helpers.tiny_models import tiny_tokenizer

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

OPENAI_FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "logprobs", "seed", "stream", "stream_options", "stop",
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a server speaks.

    Attributes:
        takes_ids: Whether a prompt may be token ids.
        strict: Whether fields beyond OpenAI's are refused.
        stops: Stop strings are `kept`, or cut off and `named` beside the text, or `cut` off.
        tokens: How tokens are told: `token_id:N`, by their `text`, by their `vocabulary` names, as `ids` in the lists,
            as a chat's `content` with ids, one entry for the tokens of a character (`whole`), as a `chat`'s content
            without ids, or not at all (`none`).
        bare_ids: Whether `token_ids` stand beside the text.
        lists_models: Whether there is `/v1/models`.
        context: Where that says the length of the context: `beside` the model's name, in its `meta`, or nowhere.
        settings: Whether options beyond OpenAI's come as a JSON text, without which it does not sample.
        reasons: What finish reasons are called.
        alternatives: Whether lists of log-probabilities tell of other tokens than those written.
        most_logprobs: More are refused.
        switch: Whether log-probabilities are asked for by a switch.
        streams: Whether it can stream, and streams tell log-probabilities and end in `[DONE]`: three traits.
        counts: Whether `usage` counts `all` tokens of the prompt, the `uncached` ones with or without saying so
            (`silent`), or is missing (`none`).
        template: Whether a chat template is put around text.
        plain_control: Whether control tokens in text are read as plain text.
        extra: Tokens that the count of a prompt has more.
        num_ctx: Longer prompts lose their beginning without a word.
        seeds: Whether a seed fixes a sample: `heeded`, `ignored`, `one` (all seeds make one sample, and none makes
            others), `stuck` (always the same sample).
        takes_stream_options: Whether a stream may have options.
    """

    takes_ids: bool = True
    strict: bool = False
    stops: Literal["kept", "named", "cut"] = "cut"
    tokens: Literal["token_id", "text", "vocabulary", "ids", "content", "whole", "chat", "none"] = "text"
    bare_ids: bool = False
    lists_models: bool = True
    context: Literal["beside", "meta", "none"] = "none"
    settings: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    alternatives: bool = True
    most_logprobs: int = 1000
    switch: bool = False
    streams: bool = True
    streams_logprobs: bool = True
    done: bool = True
    counts: Literal["all", "uncached", "silent", "none"] = "all"
    template: bool = False
    plain_control: bool = False
    extra: int = 0
    num_ctx: int | None = None
    seeds: Literal["heeded", "ignored", "one", "stuck"] = "heeded"
    takes_stream_options: bool = True


DIALECTS: dict[str, Dialect] = {
    "vllm": Dialect(stops="kept", tokens="token_id", bare_ids=True, context="beside"),
    "llama.cpp": Dialect(tokens="whole", context="meta"),
    "sglang": Dialect(stops="named"),
    "openai": Dialect(takes_ids=False, strict=True),
    # What they do with characters of several tokens.
    "llama.cpp by tokens": Dialect(tokens="content", context="meta"),
    "aphrodite": Dialect(stops="kept", tokens="vocabulary"),
    "mlx": Dialect(takes_ids=False, tokens="ids", most_logprobs=10),
    "mlx of 2026": Dialect(takes_ids=False, tokens="content", switch=True, streams_logprobs=False, most_logprobs=10),
    "tgi": Dialect(
        takes_ids=False, tokens="none", lists_models=False, reasons={"eos": "eos_token", "stop": "stop_sequence"}
    ),
    "ollama": Dialect(takes_ids=False, tokens="none"),
    "transformers": Dialect(takes_ids=False, strict=True, stops="kept", tokens="none", settings=True, done=False),
    "lm studio": Dialect(takes_ids=False, tokens="chat", takes_stream_options=False),
}


class CompletionServer:
    """Serves a generator in a separate thread, from `start` to `stop`; again on the same port after another `start`.

    Args:
        generator: Of `tiny_model()`. It is not closed.
        dialect: How it speaks, a name in `DIALECTS`.
        key: Bearer token that it asks for.
        max_context: What it says and holds to.
        traits: What is different of the dialect.

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
        self,
        generator: Generator,
        dialect: str = "vllm",
        *,
        key: str | None = None,
        max_context: int = 2048,
        **traits: Any,
    ):
        self.generator, self.key, self.max_context = generator, key, max_context
        self.dialect = dataclasses.replace(DIALECTS[dialect], **traits)
        self._seen: set[str] = set()  # prompts whose tokens are cached
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
            if self.dialect.lists_models:
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
        model: dict[str, Any] = {"id": self.name, "object": "model"}
        if self.dialect.context == "beside":
            model["max_model_len"] = self.max_context
        if self.dialect.context == "meta":
            model["meta"] = {"n_ctx": self.max_context, "n_ctx_train": 4 * self.max_context}
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
        prompt, dialect = body["prompt"], self.dialect
        known = OPENAI_FIELDS | ({"generation_config"} if dialect.settings else set())
        if (unknown := set(body) - known) and dialect.strict:
            return refusal(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
        if not isinstance(prompt, str) and not dialect.takes_ids:
            return refusal(400, "'prompt' must be a string")
        if "logprobs" in body and isinstance(body["logprobs"], bool) != dialect.switch:
            return refusal(422, f"logprobs must be {'a boolean' if dialect.switch else 'an integer'}")
        wanted = body.get("top_logprobs" if dialect.switch else "logprobs", 0)
        if wanted > dialect.most_logprobs:
            return refusal(400, f"Requested sample logprobs of {wanted}, the most is {dialect.most_logprobs}")
        if body.get("stream") and not dialect.streams:
            return refusal(400, "streaming is not supported")
        if "stream_options" in body and not dialect.takes_stream_options:
            return refusal(400, "Unrecognized key: stream_options")
        ids = self._ids(prompt)
        if len(ids) + body["max_tokens"] > self.max_context:
            return refusal(
                400,
                f"This model's maximum context length is {self.max_context} tokens. However, you requested "
                f"{body['max_tokens']} output tokens and your prompt contains {len(ids)}.",
            )
        if dialect.num_ctx is not None:
            ids = ids[-dialect.num_ctx :]
        generated = await self._generate(ids, body, wanted)
        if generated.finish_reason == "error":
            return refusal(400, generated.message)
        choice = self._choice(generated, body, wanted)
        answer = {"object": "text_completion", "choices": [choice], **self._usage(ids, generated)}
        if not body.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for event in self._events(generated, choice, answer.get("usage")):
            await response.write(f"data: {event}\n\n".encode())
        await response.write_eof()
        return response

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if not isinstance(prompt, str):
            return prompt
        if self.dialect.template:
            prompt = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        if self.dialect.plain_control:
            prompt = prompt.replace("<|", "< |")
        return list(tiny_tokenizer().encode(prompt))

    def _usage(self, ids: list[int], generated: GenerationResult) -> dict[str, Any]:
        counted, counts = len(ids) + self.dialect.extra, self.dialect.counts
        if counts == "none":
            return {}
        usage: dict[str, Any] = {"prompt_tokens": counted, "completion_tokens": generated.num_generated}
        cached = len(ids) - 1 if str(ids) in self._seen else 0
        self._seen.add(str(ids))
        if counts in ("uncached", "silent"):
            usage["prompt_tokens"] -= cached
        if counts != "silent":
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return {"usage": usage}

    async def _generate(self, ids: list[int], body: dict[str, Any], logprobs: int) -> GenerationResult:
        """With the tokens that a server has after a stop: the last one whole, and the end-of-text token with them."""
        seeds, drawn = self.dialect.seeds, random.getrandbits(31)
        seed = body.get("seed", drawn)
        if seeds != "heeded":
            seed = drawn if seeds == "ignored" or (seeds == "one" and "seed" not in body) else 0
        settings = json.loads(body["generation_config"]) if "generation_config" in body else body
        params = SamplingParams(
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"] if settings.get("do_sample", not self.dialect.settings) else 0.0,
            top_p=body["top_p"],
            top_k=max(settings.get("top_k", 0), 0),
            stop=tuple(body.get("stop", ())),
            logprobs=logprobs,
            seed=seed,
        )
        result = await self.generator.generate(ids, params)
        if result.finish_reason != "stop":
            return result
        if any(result.text.endswith(stop) for stop in params.stop):
            whole = dataclasses.replace(params, stop=(), max_new_tokens=result.num_generated)
            uncut = await self.generator.generate(ids, whole)
            return dataclasses.replace(uncut, text=result.text, finish_reason="stop")
        eos = tiny_tokenizer().eos_token_id
        maps = [*result.top_logprobs, result.end_logprobs] if params.logprobs else []
        return dataclasses.replace(result, token_ids=[*result.token_ids, eos], top_logprobs=maps)

    def _choice(self, generated: GenerationResult, body: dict[str, Any], logprobs: int) -> dict[str, Any]:
        text, dialect = generated.text, self.dialect
        hit = next((stop for stop in body.get("stop", ()) if text.endswith(stop)), None)
        reason = "stop" if generated.finish_reason == "stop" else "length"
        reason = dialect.reasons.get("eos" if reason == "stop" and hit is None else reason, reason)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if dialect.stops != "kept" and hit is not None:
            text = text.removesuffix(hit)
        if dialect.bare_ids:
            choice |= {"stop_reason": hit, "token_ids": generated.token_ids}
        if dialect.stops == "named":
            choice["matched_stop"] = hit
        if logprobs and (dialect.streams_logprobs or not body.get("stream")):
            choice["logprobs"] = self._logprobs(generated)
        return {**choice, "text": text}

    def _logprobs(self, generated: GenerationResult) -> dict[str, Any] | None:
        pairs = list(zip(generated.token_ids, generated.top_logprobs, strict=True))
        kind = self.dialect.tokens
        if kind == "none":
            return None
        if kind == "ids":
            return {
                "tokens": [token for token, _ in pairs],
                "token_logprobs": [reported[token] for token, reported in pairs],
                "top_logprobs": [{str(i): value for i, value in reported.items()} for _, reported in pairs],
            }
        if kind in ("content", "chat"):
            return {"content": [self._entry(token, self._name(token), reported) for token, reported in pairs]}
        if kind == "whole":
            entries, run = [], []
            for token, reported in pairs:
                run.append(token)
                text = self._detokenizer.decode(run)
                if not text.endswith("\ufffd"):
                    entries.append(self._entry(token, text, reported))
                    run.clear()
            return {"content": entries}
        return {
            "tokens": [self._name(token) for token, _ in pairs],
            "token_logprobs": [reported[token] for token, reported in pairs],
            "top_logprobs": [{self._name(i): value for i, value in reported.items()} for _, reported in pairs]
            if self.dialect.alternatives
            else None,
        }

    def _entry(self, token: int, text: str, reported: Mapping[int, float]) -> dict[str, Any]:
        def one(i: int, text: str) -> dict[str, Any]:
            named = {} if self.dialect.tokens == "chat" else {"id": i}
            return {**named, "token": text, "logprob": reported[i]}

        return {**one(token, text), "top_logprobs": [one(i, self._name(i)) for i in reported]}

    def _name(self, token: int) -> str:
        if self.dialect.tokens == "token_id":
            return f"token_id:{token}"
        if self.dialect.tokens == "vocabulary":
            return str(tiny_tokenizer().convert_ids_to_tokens(token))
        if token in tiny_tokenizer().all_special_ids:
            return str(tiny_tokenizer().convert_ids_to_tokens(token))
        return self._detokenizer.decode([token])

    async def _events(
        self, generated: GenerationResult, choice: dict[str, Any], usage: dict[str, Any] | None
    ) -> AsyncIterator[str]:
        """A token an event, as servers do while they generate; text is held back until its characters are complete."""
        logprobs = {name: list(values) for name, values in (choice["logprobs"] or {}).items()}
        sent = ""
        count = len(generated.token_ids)
        for at in range(count):
            text = self._detokenizer.decode(generated.token_ids[: at + 1])
            text = choice["text"] if at == count - 1 else text if not text.endswith("\ufffd") else sent
            # Where tokens have no entry, the entry comes with the text.
            own = {} if self.dialect.tokens == "whole" and text == sent and at < count - 1 else logprobs
            part = {
                "index": 0,
                "text": text[len(sent) :],
                "finish_reason": choice["finish_reason"] if at == count - 1 else None,
                "logprobs": {name: [values.pop(0)] for name, values in own.items() if values} or None,
            }
            sent = text
            yield json.dumps({"choices": [part]})
            await asyncio.sleep(0)
        if self.dialect.done:
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
