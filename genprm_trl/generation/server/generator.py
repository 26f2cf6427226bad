"""A generator that asks servers: any with an OpenAI-compatible `/v1/completions` (vLLM, SGLang, llama.cpp)."""

from __future__ import annotations

import asyncio
import atexit
import copy
import json
import logging
import os
import random
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import tenacity
from transformers import PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, check_at_least, check_positive
from genprm_trl.generation.assembly import Assembler
from genprm_trl.generation.base import GenerationResult, SamplingParams
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.generation.loop_generator import CLOSED, LoopGenerator
from genprm_trl.generation.replicas import (
    Replica,
    ReplicaPool,
    authorization,
    is_loopback,
    retry_after,
    server_addresses,
)
from genprm_trl.generation.server.probe import HOPELESS, Failed, Probe, Refused
from genprm_trl.generation.server.wire import (
    Abilities,
    BadAnswer,
    CutOff,
    ErrorAnswer,
    Tokens,
    error_message,
    join_chunks,
    prompt_count,
    read_answer,
    read_chunk,
    request_body,
)
from genprm_trl.generation.tokens import Detokenizer

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# Seconds between two looks at whether a server lives, and for its answer. One that is busy answers late; so a server
# that has requests is given up after several looks in vain.
_LOOK_EVERY = 2.0
_LOOK_TIMEOUT = 10.0
_LOOKS_IN_VAIN = 3
# Seconds between the first two tries, about; the next ones grow to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 20.0
# Seconds to open a connection.
_CONNECT_TIMEOUT = 10.0
_OVERLOADED = (429, 503)
_OPENAI = "https://api.openai.com"
_NO_KEY = "no key was sent; name the environment variable that holds it with api_key_variable"
# Of the first three it is the server that is at fault: it wanted no key and had the model at the start.
_WORTH_ANOTHER_TRY = (401, 403, 404, 408, 409, 425, 500, 502, 504)
# Fields of a request that asks for no more than the count of its prompt's tokens leaves out.
_NOT_FOR_A_COUNT = ("stream", "stream_options", "logprobs", "top_logprobs")
_ONE_TOKEN = SamplingParams(max_new_tokens=1, logprobs=0)
# A server without a list of its models.
_NO_LIST = (400, 404, 405, 501)
# What servers call the length of a model's context; llama.cpp, beside the length in training, that of one request.
_CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")


class ServerGenerator(LoopGenerator):
    r"""Generates through one or more servers with an OpenAI-compatible `/v1/completions`.

    Token ids go in and come out where the servers take and report them (vLLM); otherwise text does, and ids are found
    through the tokenizer. What a server can do is found out by short requests at the start and said in the log.

    Every answer is held against itself. Its text counts where its tokens do not spell it. If a server has read fewer
    tokens of a prompt than it was sent, the request ends with the reason `context`; if more, with an error.

    With several servers, a request goes to the one that its `affinity` has been to before, or to the least busy one
    (see `ReplicaPool`). If a server cannot be reached, its requests go to the others until it answers again. A failing
    request is retried with growing pauses, or with those that a server asks for by Retry-After. If no server answers
    for `patience` seconds, requests raise `GenPRMError`.

    Args:
        model: What the tokenizer is loaded from, and the name that the servers may know the model by.
        tokenizer: The tokenizer, or where to load it from; by default from `model`.
        urls: Base URLs of servers with the same model, for example `http://localhost:8000/v1`.
        served_model_name: The name that the servers know the model by. Default: `model`, or the only one they have.
        max_context: Bound on prompt and output together; by default what the servers say, else what the tokenizer
            does.
        max_batch_size: Requests in flight at each server.
        api_key_variable: Environment variable with the key that all of `urls` are sent as bearer token. Default:
            OPENAI_API_KEY for `https://api.openai.com` and the server that OPENAI_BASE_URL names, none for others.
        timeout: Seconds for one answer. A request is offered to busy servers for the same time.
        attempts: Tries of a request that fails.
        patience: Seconds to wait for a server when none answers.
        abilities: What the servers can do. Default: short requests to each find it out.

    Raises:
        ConfigError: No server can be reached or has the model, or the key is missing or refused. Or the tokenizer is
            missing or wrong, or the context length is unknown. Or the servers put a chat template around prompts.

    Example:
        ```python
        urls = ["http://gpu-1:8000/v1", "http://gpu-2:8000/v1"]
        async with ServerGenerator("GenPRM/GenPRM-7B", urls=urls) as generator:
            ids = generator.tokenizer.encode("Two and two is")
            result = await generator.generate(ids, SamplingParams(max_new_tokens=20, stop=("\n",)))
        ```
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        *,
        urls: Sequence[str] | str,
        served_model_name: str | None = None,
        max_context: int | None = None,
        max_batch_size: int = 256,
        api_key_variable: str | None = None,
        timeout: float = 600.0,
        attempts: int = 5,
        patience: float = 60.0,
        abilities: Abilities | None = None,
    ):
        check_at_least(1, max_batch_size=max_batch_size, max_context=max_context, attempts=attempts)
        check_positive(timeout=timeout, patience=patience)
        # Some write the `/v1` at the end of the address, and some do not.
        listed = [urls] if isinstance(urls, str) else urls
        roots = server_addresses([url.strip().rstrip("/").removesuffix("/v1") for url in listed])
        source = model if tokenizer is None else tokenizer
        self.tokenizer = load_tokenizer(source) if isinstance(source, str | Path) else source
        # Callers encode with the tokenizer while answers are decoded; fast tokenizers may not be shared like that.
        own = copy.deepcopy(self.tokenizer)
        self._tokens = Tokens(own, Detokenizer(own))
        self._assembler = Assembler(self._tokens.detokenizer)
        self._keys = {root: _key_for(root, api_key_variable) for root in roots}
        self._timeout, self._attempts, self._patience = timeout, attempts, patience
        self._model = served_model_name or str(model)
        self._given = abilities
        self._abilities: dict[Replica, Abilities] = {}
        self._unfit: set[Replica] = set()  # those that answer and cannot be used
        self._welcomes: dict[Replica, asyncio.Task[None]] = {}  # those that are being tried out
        self._read: dict[Replica, int] = {}  # the longest prompt that a server is known to have read in full
        self._warned: set[str] = set()
        self.max_concurrent = max_batch_size * len(roots)
        super().__init__("server-generator")
        try:
            self._loop.run(self._connect(roots, max_batch_size, served_model_name is not None))
            self._loop.run(self._probe_all())
            context = self._served_context or max_context or _context_of(self.tokenizer)
            if context is None:
                raise ConfigError(
                    "neither the servers nor the tokenizer say how long the context is: give max_context"
                )
            self.max_context = min(context, max_context or context)
        except BaseException:
            self._shut_down()
            raise
        self._watch = asyncio.run_coroutine_threadsafe(self._look_after(), self._loop.loop)
        atexit.register(self._shut_down)

    @property
    def abilities(self) -> Abilities:
        """What the first server that answers can do."""
        return next(self._abilities[replica] for replica in self._pool.replicas if replica in self._abilities)

    def _shut_down(self) -> None:
        if self._closed:
            return
        self._closed = True
        if session := getattr(self, "_session", None):
            self._loop.run(self._end(session))
        self._loop.close()
        atexit.unregister(self._shut_down)

    # The rest runs in the loop's thread.

    async def _end(self, session: aiohttp.ClientSession) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        await session.close()

    async def _generate(self, token_ids: list[int], params: SamplingParams, affinity: str | None) -> GenerationResult:
        limit = min(params.max_new_tokens, self.max_context - len(token_ids))
        replica: Replica | None = None

        async def once() -> GenerationResult:
            nonlocal replica
            replica = await self._pool.acquire(affinity, avoid=replica)
            try:
                abilities = self._abilities[replica]
                body, answer, result = await self._exchange(replica, token_ids, params, limit, abilities)
                await self._check_count(replica, answer, token_ids, body)
                self._check_logprobs(replica, result, body)
                return result
            finally:
                self._pool.release(replica)

        try:
            return await self._persist(once)
        except Failed as error:
            return GenerationResult("", [], finish_reason="error", message=str(error))
        except Refused as error:
            return GenerationResult("", [], finish_reason=error.reason, message=str(error))
        except asyncio.CancelledError:
            if self._closed:
                return CLOSED
            raise

    async def _persist(self, once: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Tries until it succeeds or is to be given up.

        Raises:
            Failed: Every try has failed.
            Refused: No try would help.
            GenPRMError: There are no servers any more.
        """
        failures = 0

        def give_up(state: tenacity.RetryCallState) -> bool:
            nonlocal failures
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, Failed) and error.counts:
                failures += 1
                return failures >= self._attempts
            return (state.seconds_since_start or 0.0) > self._timeout

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Failed), wait=_pause, stop=give_up, reraise=True
        )
        return await retrying(once)

    async def _exchange(
        self, replica: Replica, ids: list[int], params: SamplingParams, limit: int, abilities: Abilities
    ) -> tuple[dict[str, Any], Any, GenerationResult]:
        """One try at one server: what it is sent, what it answers, and the result in that."""
        # A server that is being tried out may still be taken for gone.
        ask = self._ask if replica in self._abilities else self._post
        if abilities.prompts == "text" and max(ids) >= len(self._tokens):
            raise Refused("the prompt has token ids that the tokenizer does not know")
        body = request_body(self._model, self._tokens.prompt(ids, abilities), params, limit, abilities)
        try:
            answer = await ask(replica, body, params)
            return body, answer, read_answer(answer, params, limit, self._tokens, self._assembler)
        except ErrorAnswer as error:
            raise self._refusal(replica, error.status, str(error)) from error
        except CutOff as error:
            raise Refused(f"{replica.name}: {error}") from error
        except BadAnswer as error:
            raise Failed(f"{replica.name} answers nonsense: {error}") from error

    async def _check_count(self, replica: Replica, answer: Any, ids: list[int], body: Mapping[str, Any]) -> None:
        """Holds what a server says it has read against what it was sent.

        A stream that ended at its stop string says nothing. Then a request for one token does, unless the server has
        read a prompt as long as this one before.

        Raises:
            Refused: It has read another prompt than this one.
        """
        abilities = self._abilities[replica]
        if abilities.counted is None:
            return
        counted, cached = prompt_count(answer)
        if counted is None and "stream" in body and len(ids) > self._read.get(replica, 0):
            short = {name: value for name, value in body.items() if name not in _NOT_FOR_A_COUNT}
            counted, cached = prompt_count(await self._ask(replica, short | {"max_tokens": 1}, _ONE_TOKEN))
        if counted is None:
            return
        counted += 0 if abilities.counts_cached else cached
        sent = len(ids) + abilities.counted
        if counted != sent and isinstance(body["prompt"], str):
            # Text is encoded as a whole there, and was encoded piece by piece here.
            sent = self._tokens.count(body["prompt"]) + abilities.counted
        if counted == sent:
            self._read[replica] = max(self._read.get(replica, 0), len(ids))
        elif counted < sent:
            self._warn_once(
                "cut",
                "%s has read only %d of the %d tokens of a prompt; give max_context",
                replica.name,
                counted,
                sent,
            )
            raise Refused(f"{replica.name} has read only {counted} of {sent} tokens of the prompt", reason="context")
        else:
            raise Refused(f"{replica.name} has read {counted} tokens where {sent} were sent: another prompt")

    def _check_logprobs(self, replica: Replica, result: GenerationResult, body: Mapping[str, Any]) -> None:
        if "logprobs" not in body or not result.top_logprobs:
            return
        if not any(result.top_logprobs):
            self._warn_once(
                "logprobs", "%s reports no log-probabilities for the text that it has written", replica.name
            )
        elif body.get("top_logprobs", body["logprobs"]) > 1 and max(map(len, result.top_logprobs)) < 2:
            self._warn_once(
                "alternatives",
                "%s reports log-probabilities of the written tokens alone; rewards are read from those",
                replica.name,
            )

    def _warn_once(self, what: str, message: str, *values: object) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(message, *values)

    async def _ask(self, replica: Replica, body: Mapping[str, Any], params: SamplingParams) -> Any:
        """One try at one server: the JSON value that it answers."""
        asking = asyncio.create_task(self._post(replica, body, params))
        gone = asyncio.create_task(replica.gone.wait())
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise Failed(f"{replica.name} does not answer any more", counts=False)
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)

    async def _post(self, replica: Replica, body: Mapping[str, Any], params: SamplingParams) -> Any:
        url = f"{_base(replica.url)}/completions"
        headers = authorization(replica.url, self._keys[replica.url])
        try:
            async with self._session.post(url, json=body, headers=headers) as response:
                if response.status != 200:
                    text = error_message(await response.text(errors="replace"))
                    raise self._refusal(replica, response.status, text, response.headers.get("Retry-After"))
                if body.get("stream") and response.content_type != "application/json":
                    return await _read_stream(response, params.stop)
                return json.loads(await response.read())
        except (ValueError, RecursionError) as error:
            raise BadAnswer(str(error)) from error
        except aiohttp.ClientPayloadError as error:
            raise Failed(f"{replica.name} broke off its answer: {error}") from error
        except TimeoutError as error:
            raise Failed(f"{replica.name} has not answered within {self._timeout:g} s") from error
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, ConnectionRefusedError) as error:
            self._take_out(replica, str(error))
            # While others live this is no fault of the request's, and when none does, patience decides.
            raise Failed(
                f"{replica.name} cannot be reached: {error}", counts=replica not in self._abilities
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(f"{replica.name}: {type(error).__name__}: {error}") from error

    def _refusal(self, replica: Replica, status: int, text: str, header: str | None = None) -> Exception:
        message = f"{replica.name} answers {status}: {text}"
        if status in _OVERLOADED:
            wait = retry_after(header)
            if wait:
                self._pool.hold_off(replica, wait)
            return Failed(message, wait=0.0 if len(self._pool.replicas) > 1 else wait, counts=status != 429)
        if (status in _WORTH_ANOTHER_TRY or status > 504) and (replica in self._abilities or status not in HOPELESS):
            return Failed(message)
        return Refused(message, status)

    # Finding the servers, and finding out what they can do

    async def _connect(self, roots: Sequence[str], capacity: int, named: bool) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT_TIMEOUT),
        )
        self._pool = ReplicaPool(roots, capacity, self._patience)
        self._served_context: int | None = None
        self._lists: set[Replica] = set()  # those that list their models
        found = await asyncio.gather(*map(self._models, self._pool.replicas), return_exceptions=True)
        reached = 0
        for replica, outcome in zip(self._pool.replicas, found, strict=True):
            if isinstance(outcome, Refused) and outcome.status in (401, 403):
                sent = "the key that was sent is refused" if self._keys[replica.url] else _NO_KEY
                raise ConfigError(f"{outcome} ({sent})")
            if isinstance(outcome, Refused) and outcome.status in _NO_LIST:
                logger.info("%s; its model is taken to be '%s'", outcome, self._model)
                reached += 1
                continue
            if isinstance(outcome, BaseException):
                self._take_out(replica, str(outcome))
                continue
            reached += 1
            self._lists.add(replica)
            self._check_model(replica, outcome, named)
        if not reached:
            problems = "; ".join(str(outcome) for outcome in found)
            raise ConfigError(f"no server can be reached: {problems}. Is it running, and ready?")

    async def _models(self, replica: Replica) -> list[dict[str, Any]]:
        """What a server says of its models.

        Raises:
            Refused: The server answers, and names no models.
            Failed: The server does not answer.
        """
        try:
            async with self._session.get(
                f"{_base(replica.url)}/models",
                headers=authorization(replica.url, self._keys[replica.url]),
                timeout=aiohttp.ClientTimeout(total=_LOOK_TIMEOUT),
            ) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise Refused(f"{replica.name} answers {response.status}: {error_message(text)}", response.status)
                listed = json.loads(text)["data"]
                return [{"id": str(one["id"]), **one} for one in listed]
        except TimeoutError as error:
            raise Failed(f"{replica.name} does not answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(f"{replica.name}: {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(f"{_base(replica.name)}/models is no list of models", 404) from error

    def _check_model(self, replica: Replica, listed: list[dict[str, Any]], named: bool) -> None:
        ids = [one["id"] for one in listed]
        if self._model not in ids and len(ids) == 1 and not named:
            logger.info("%s knows the model %s as %s", replica.name, self._model, ids[0])
            self._model = ids[0]
        if self._model not in ids and f"{self._model}:latest" in ids:
            self._model = f"{self._model}:latest"
        if self._model not in ids:
            raise ConfigError(
                f"{replica.name} has no model '{self._model}', only {', '.join(ids) or 'none'}; "
                "give served_model_name, or another server"
            )
        described = listed[ids.index(self._model)]
        if isinstance(described.get("meta"), dict):
            described = described["meta"] | described
        context = next((described[name] for name in _CONTEXT_NAMES if name in described), None)
        if type(context) is int and context > 0:
            self._served_context = min(context, self._served_context or context)

    async def _probe_all(self) -> None:
        """Finds out what the servers that answer can do.

        Raises:
            ConfigError: None can be used.
        """
        here = [replica for replica in self._pool.replicas if replica.up]
        if self._given is not None:
            self._abilities = dict.fromkeys(self._pool.replicas, self._given)
            return
        outcomes = await asyncio.gather(*map(self._probe, here), return_exceptions=True)
        errors = [outcome for outcome in outcomes if outcome is not None]
        for error in errors:
            if len(errors) == len(here) or not isinstance(error, ConfigError):
                raise error
        for replica, outcome in zip(here, outcomes, strict=True):
            if outcome is not None:
                self._unfit.add(replica)
                self._take_out(replica, str(outcome))

    async def _probe(self, replica: Replica) -> None:
        async def ask(ids: list[int], params: SamplingParams, abilities: Abilities) -> tuple[Any, GenerationResult]:
            async def once() -> tuple[Any, GenerationResult]:
                return (await self._exchange(replica, ids, params, params.max_new_tokens, abilities))[1:]

            return await self._persist(once)

        self._abilities[replica] = await Probe(ask, self._tokens, replica.name, self._model).run()
        _say(replica, self._abilities[replica])

    # Whether servers live

    async def _look_after(self) -> None:
        """Looks again and again whether servers live, takes out those that do not and in those that do again."""
        vain = dict.fromkeys(self._pool.replicas, 0)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await asyncio.gather(*(self._look_at(replica, vain) for replica in self._pool.replicas))

    async def _look_at(self, replica: Replica, vain: dict[Replica, int]) -> None:
        try:
            listed = await self._models(replica)
            if self._model not in [one["id"] for one in listed]:
                raise Failed(f"it has no model '{self._model}' any more")
        except (Failed, Refused) as error:
            if isinstance(error, Refused) and error.status in _NO_LIST and replica not in self._lists:
                return self._is_there(replica, vain)
            self._unfit.discard(replica)
            vain[replica] += 1
            if vain[replica] >= _LOOKS_IN_VAIN:
                self._take_out(replica, str(error))
            return
        self._is_there(replica, vain)

    def _is_there(self, replica: Replica, vain: dict[Replica, int]) -> None:
        vain[replica] = 0
        if replica.up or replica in self._unfit or replica in self._welcomes:
            return
        if replica in self._abilities:
            self._welcome(replica)
        else:
            # In a separate task: the other servers are looked at meanwhile.
            self._welcomes[replica] = asyncio.create_task(self._try_out(replica))

    async def _try_out(self, replica: Replica) -> None:
        try:
            await self._probe(replica)
            self._welcome(replica)
        except ConfigError as error:
            self._unfit.add(replica)
            logger.warning("%s answers and cannot be used: %s", replica.name, error)
        finally:
            del self._welcomes[replica]

    def _welcome(self, replica: Replica) -> None:
        logger.info("%s answers again", replica.name)
        self._read.pop(replica, None)  # it may have another context now
        self._pool.mark_up(replica)

    def _take_out(self, replica: Replica, why: str) -> None:
        if replica.up:
            others = sum(other.up for other in self._pool.replicas) - 1
            logger.warning(
                "%s is taken out until it answers again (%s); %d of %d servers are left",
                replica.name,
                why,
                others,
                len(self._pool.replicas),
            )
            self._pool.mark_down(replica)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what the server asked for, or growing ones, with jitter either way."""
    growing = tenacity.wait_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)(state)
    growing += random.uniform(0.0, _FIRST_PAUSE)
    error = state.outcome.exception() if state.outcome else None
    return max(growing, error.wait) if isinstance(error, Failed) else growing


def _key_for(url: str, variable: str | None) -> str | None:
    """The key that a server is sent, or None.

    Raises:
        ConfigError: The variable that the user has named is not set.
    """
    if variable is not None:
        if not os.environ.get(variable):
            raise ConfigError(f"the environment variable {variable}, which api_key_variable names, is not set")
        return os.environ[variable]
    # A key that nobody has named for this server goes where it belongs, and not in the clear.
    of_the_key = (_OPENAI, os.environ.get("OPENAI_BASE_URL", ""))
    if _origin(url) not in map(_origin, of_the_key):
        return None
    scheme, host, _ = _origin(url)
    return os.environ.get("OPENAI_API_KEY") if scheme == "https" or is_loopback(host) else None


def _origin(url: str) -> tuple[str, str, int | None]:
    parsed = urllib.parse.urlsplit(url)
    return parsed.scheme, parsed.hostname or "", parsed.port or {"http": 80, "https": 443}.get(parsed.scheme)


def _base(root: str) -> str:
    """The address that requests begin with: some servers have another version than `/v1` in it."""
    return root if re.search(r"/v[0-9]+$", root) else f"{root}/v1"


async def _read_stream(response: aiohttp.ClientResponse, stop: Sequence[str]) -> Any:
    """Reads server-sent events until a stop string is seen, and makes them one answer."""
    chunks: list[dict[str, Any]] = []
    tail, keep = "", max(map(len, stop), default=1) - 1
    ended = stopped = False
    try:
        async for line in response.content:
            if line.startswith(b"error:"):
                raise ErrorAnswer(error_message(line[6:].decode(errors="replace")))
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                ended = True
                break
            chunk, text = read_chunk(data)
            chunks.append(chunk)
            # Not every server says more after the chunk with a reason.
            ended = ended or any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
            tail += text
            if any(string in tail for string in stop):
                stopped = True
                break  # the connection is closed, at which the server stops
            tail = tail[-keep:] if keep else ""
    except aiohttp.ClientPayloadError:
        if not ended:
            raise
    if not (ended or stopped):
        raise aiohttp.ClientPayloadError("the stream ended early")
    answer = join_chunks(chunks)
    if stopped:
        answer["choices"][0]["finish_reason"] = "stop"
        answer.get("usage", {}).pop("completion_tokens", None)
    return answer


def _context_of(tokenizer: Any) -> int | None:
    length = tokenizer.model_max_length
    return int(length) if length < 10**9 else None  # transformers' own "unknown" is about 1e30


def _say(replica: Replica, abilities: Abilities) -> None:
    """Tells the log what a server was found to do."""
    stops = {
        "kept": "stop strings are kept",
        "named": "stop strings are put back",
        "streamed": "text is streamed up to the stop string",
        "whole": "stop strings do not end a text early",
    }
    logger.info(
        "%s: prompts are sent as %s, %s%s",
        replica.name,
        "token ids" if abilities.prompts == "ids" else "text",
        stops[abilities.stops],
        ""
        if abilities.extras
        else ", options as a generation_config"
        if abilities.generation_config
        else ", no options beyond OpenAI's (top_k is not applied)",
    )
    if not abilities.logprobs:
        logger.warning("%s reports no log-probabilities, from which rewards are read", replica.name)
