"""A generator that asks servers: any with an OpenAI-compatible `/v1/completions` (vLLM, SGLang, llama.cpp)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import email.utils
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import tenacity
from transformers import PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, check_at_least, check_positive
from genprm_trl.generation.assembly import Assembler
from genprm_trl.generation.base import GenerationResult, SamplingParams
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.generation.loop_generator import CLOSED, LoopGenerator
from genprm_trl.generation.replicas import Replica, ReplicaPool, server_addresses
from genprm_trl.generation.server.wire import (
    Abilities,
    BadAnswer,
    Tokens,
    error_message,
    join_chunks,
    read_answer,
    read_chunk,
    request_body,
    says_too_long,
)
from genprm_trl.generation.tokens import Detokenizer

logger = logging.getLogger(__name__)

# Seconds between two looks at whether a server lives, and for its answer. One that is busy answers late; so a server
# that has requests is given up after several looks in vain.
_LOOK_EVERY = 2.0
_LOOK_TIMEOUT = 10.0
_LOOKS_IN_VAIN = 3
# Seconds between the first two tries, about; the next ones grow to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 20.0
# Seconds to open a connection.
_CONNECT_TIMEOUT = 10.0
# A server may ask for time, but not for ever.
_LONGEST_RETRY_AFTER = 120.0
_OVERLOADED = (429, 503)
# Of the first three it is the server that is at fault: it wanted no key and had the model at the start.
_WORTH_ANOTHER_TRY = (401, 403, 404, 408, 409, 425, 500, 502, 504)

_PROBE_TEXT = "Question: What is 12 + 30?\n\n12 + 30 = 42. Step 2: 42"
_PROBE = SamplingParams(max_new_tokens=12, temperature=0.0, logprobs=1)


class _Failed(Exception):
    """A request failed, and may be tried again.

    Attributes:
        wait: Seconds that the server asked for.
        counts: Whether it uses up a try. A server that is busy, or gone while others live, does not.
    """

    def __init__(self, message: str, *, wait: float = 0.0, counts: bool = True):
        super().__init__(message)
        self.wait, self.counts = wait, counts


class _Refused(Exception):
    """A request that no try will make better."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class ServerGenerator(LoopGenerator):
    r"""Generates through one or more servers with an OpenAI-compatible `/v1/completions`.

    Token ids go in and come out where the servers take and report them (vLLM); otherwise text does, and ids are found
    through the tokenizer. What a server can do is found out by two short requests at the start and said in the log.

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
        api_key_variable: Environment variable with the key. If it is set, the key is sent as bearer token.
        timeout: Seconds for one answer. A request is offered to busy servers for the same time.
        attempts: Tries of a request that fails.
        patience: Seconds to wait for a server when none answers.
        abilities: What the servers can do. Default: two short requests find it out.

    Raises:
        ConfigError: No server can be reached or has the model, or the key is refused. Or the tokenizer is missing or
            wrong, or the context length is unknown.

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
        api_key_variable: str = "OPENAI_API_KEY",
        timeout: float = 600.0,
        attempts: int = 5,
        patience: float = 60.0,
        abilities: Abilities | None = None,
    ):
        check_at_least(1, max_batch_size=max_batch_size, attempts=attempts)
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
        self._key = os.environ.get(api_key_variable) or None
        self._key_variable = api_key_variable
        self._timeout, self._attempts, self._patience = timeout, attempts, patience
        self._model = served_model_name or str(model)
        self.max_concurrent = max_batch_size * len(roots)
        super().__init__("server-generator")
        try:
            self._loop.run(self._connect(roots, max_batch_size, served_model_name is not None))
            context = self._served_context or max_context or _context_of(self.tokenizer)
            if context is None:
                raise ConfigError(
                    "neither the servers nor the tokenizer say how long the context is: give max_context"
                )
            self.max_context = min(context, max_context or context)
            self.abilities = abilities if abilities is not None else self._loop.run(self._probe())
        except BaseException:
            self._shut_down()
            raise
        _say(self.abilities, self._pool.replicas)
        self._watch = asyncio.run_coroutine_threadsafe(self._look_after(), self._loop.loop)
        atexit.register(self._shut_down)

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
        failures = 0

        def give_up(state: tenacity.RetryCallState) -> bool:
            nonlocal failures
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, _Failed) and error.counts:
                failures += 1
                return failures >= self._attempts
            return (state.seconds_since_start or 0.0) > self._timeout

        try:
            _, result = await self._ask_until(give_up, token_ids, params, limit, self.abilities, affinity)
            return result
        except _Failed as error:
            return GenerationResult("", [], finish_reason="error", message=str(error))
        except _Refused as error:
            if error.status in (400, 413, 422) and says_too_long(str(error)):
                return GenerationResult("", [], finish_reason="context", message=str(error))
            return GenerationResult("", [], finish_reason="error", message=str(error))
        except asyncio.CancelledError:
            if self._closed:
                return CLOSED
            raise

    async def _ask_until(
        self,
        give_up: Callable[[tenacity.RetryCallState], bool],
        token_ids: list[int],
        params: SamplingParams,
        limit: int,
        abilities: Abilities,
        affinity: str | None = None,
    ) -> tuple[Any, GenerationResult]:
        """Asks servers until one answers: the JSON value that it answers, and the result in it.

        Raises:
            _Failed: A try failed, and `give_up` says that it was the last one.
            _Refused: No try will be better.
        """
        body = request_body(self._model, self._prompt(token_ids, abilities), params, limit, abilities)
        replica: Replica | None = None
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Failed), wait=_pause, stop=give_up, reraise=True
        ):
            with attempt:
                replica = await self._pool.acquire(affinity, avoid=replica)
                try:
                    answer = await self._ask(replica, body, params)
                    return answer, read_answer(answer, params, limit, self._tokens, self._assembler)
                except BadAnswer as error:
                    raise _Failed(f"{replica.name} answers nonsense: {error}") from error
                finally:
                    self._pool.release(replica)
        raise AssertionError("a retry ends by a result or an error")

    def _prompt(self, token_ids: list[int], abilities: Abilities) -> list[int] | str:
        if abilities.prompts == "ids":
            return token_ids
        return self._tokens.prompt_text(token_ids, adds_special_tokens=not abilities.extras)

    async def _ask(self, replica: Replica, body: Mapping[str, Any], params: SamplingParams) -> Any:
        """One try at one server: the JSON value that it answers."""
        asking = asyncio.create_task(self._post(replica, body, params))
        gone = asyncio.create_task(replica.gone.wait())
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise _Failed(f"{replica.name} does not answer any more", counts=False)
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)

    async def _post(self, replica: Replica, body: Mapping[str, Any], params: SamplingParams) -> Any:
        url = f"{replica.name}/v1/completions"
        try:
            async with self._session.post(url, json=body) as response:
                if response.status != 200:
                    raise self._refusal(replica, response, await response.text(errors="replace"))
                if body.get("stream"):
                    return await _read_stream(response, params.stop)
                return json.loads(await response.read())
        except (ValueError, RecursionError) as error:
            raise BadAnswer(str(error)) from error
        except aiohttp.ClientPayloadError as error:
            raise _Failed(f"{replica.name} broke off its answer: {error}") from error
        except TimeoutError as error:
            raise _Failed(f"{replica.name} has not answered within {self._timeout:g} s") from error
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, ConnectionRefusedError) as error:
            self._take_out(replica, str(error))
            # While others live this is no fault of the request's, and when none does, patience decides.
            raise _Failed(f"{replica.name} cannot be reached: {error}", counts=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(f"{replica.name}: {type(error).__name__}: {error}") from error

    def _refusal(self, replica: Replica, response: aiohttp.ClientResponse, text: str) -> Exception:
        message = f"{replica.name} answers {response.status}: {error_message(text)}"
        status = response.status
        if status in _OVERLOADED:
            wait = _retry_after(response.headers.get("Retry-After"))
            if wait:
                self._pool.hold_off(replica, wait)
            return _Failed(message, wait=0.0 if len(self._pool.replicas) > 1 else wait, counts=status != 429)
        if status in _WORTH_ANOTHER_TRY or status > 504:
            return _Failed(message)
        return _Refused(status, message)

    # Finding the servers, and finding out what they can do

    async def _connect(self, roots: Sequence[str], capacity: int, named: bool) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT_TIMEOUT),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
        )
        self._pool = ReplicaPool(roots, capacity, self._patience)
        self._served_context: int | None = None
        found = await asyncio.gather(*(self._models(root) for root in roots), return_exceptions=True)
        reached = 0
        for replica, outcome in zip(self._pool.replicas, found, strict=True):
            if isinstance(outcome, _Refused) and outcome.status in (401, 403):
                key = "the key in" if self._key else "no key, for none is in"
                raise ConfigError(f"{outcome} ({key} the environment variable {self._key_variable} was sent)")
            if isinstance(outcome, BaseException):
                self._take_out(replica, str(outcome))
                continue
            reached += 1
            self._check_model(replica, outcome, named)
        if not reached:
            problems = "; ".join(str(outcome) for outcome in found)
            raise ConfigError(f"no server can be reached: {problems}. Is it running, and ready?")

    async def _models(self, root: str) -> list[dict[str, Any]]:
        """What a server says of its models."""
        try:
            async with self._session.get(
                f"{root}/v1/models", timeout=aiohttp.ClientTimeout(total=_LOOK_TIMEOUT)
            ) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise _Refused(response.status, f"{root} answers {response.status}: {error_message(text)}")
                listed = json.loads(text)["data"]
                return [{"id": str(one["id"]), **one} for one in listed]
        except TimeoutError as error:
            raise _Failed(f"{root} does not answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(f"{root}: {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _Failed(f"{root}/v1/models answers nonsense: {error!r}") from error

    def _check_model(self, replica: Replica, listed: list[dict[str, Any]], named: bool) -> None:
        ids = [one["id"] for one in listed]
        if self._model not in ids and len(ids) == 1 and not named:
            logger.info("%s knows the model %s as %s", replica.name, self._model, ids[0])
            self._model = ids[0]
        if self._model not in ids:
            raise ConfigError(
                f"{replica.name} has no model '{self._model}', only {', '.join(ids) or 'none'}; "
                "give served_model_name, or another server"
            )
        context = listed[ids.index(self._model)].get("max_model_len")
        if isinstance(context, int) and context > 0:
            self._served_context = min(context, self._served_context or context)

    async def _probe(self) -> Abilities:
        """Finds out by short requests what the servers can do."""
        ids = list(self._tokens.detokenizer.encode(_PROBE_TEXT))
        for abilities in (
            Abilities(),
            Abilities(extras=False),
            Abilities("text"),
            Abilities("text", extras=False),
        ):
            try:
                answer, result = await self._try(ids, _PROBE, abilities)
                break
            except _Refused as error:
                last = error
        else:
            raise ConfigError(f"the server takes neither token ids nor text: {last}")
        if abilities.prompts == "ids" and _prompt_tokens(answer) not in (None, len(ids)):
            return await self._probe_text(ids, abilities)
        return await self._probe_answer(ids, abilities, answer, result)

    async def _probe_text(self, ids: list[int], abilities: Abilities) -> Abilities:
        """After a server that took token ids for something else."""
        abilities = Abilities("text", extras=abilities.extras)
        answer, result = await self._try(ids, _PROBE, abilities)
        return await self._probe_answer(ids, abilities, answer, result)

    async def _probe_answer(
        self, ids: list[int], abilities: Abilities, answer: Any, result: GenerationResult
    ) -> Abilities:
        choice = answer["choices"][0]
        self._check_tokenizer(choice, result, _prompt_tokens(answer), len(ids))
        bare_ids = isinstance(choice.get("token_ids"), list)
        logprobs = bool(choice.get("logprobs"))
        stops = await self._probe_stops(ids, abilities, result.text)
        return Abilities(abilities.prompts, stops, abilities.extras, logprobs, bare_ids)

    async def _try(self, ids: list[int], params: SamplingParams, abilities: Abilities) -> tuple[Any, GenerationResult]:
        last = tenacity.stop_after_attempt(self._attempts)
        try:
            return await self._ask_until(last, ids, params, params.max_new_tokens, abilities)
        except _Failed as error:
            raise ConfigError(f"a first short request failed: {error}") from error

    def _check_tokenizer(
        self, choice: Mapping[str, Any], result: GenerationResult, counted: int | None, sent: int
    ) -> None:
        """Raises `ConfigError` if the server's model has another vocabulary than our tokenizer."""
        text = str(choice["text"])
        if result.text.rstrip("\ufffd").strip() != text.rstrip("\ufffd").strip():
            raise ConfigError(
                f"the tokenizer is not that of the served model '{self._model}': what the server writes as {text!r} "
                f"reads {result.text!r}; give the right model or tokenizer"
            )
        if counted is not None and counted != sent:
            logger.warning(
                "the server reads %d tokens where the tokenizer makes %d: is it that of the served model?",
                counted,
                sent,
            )

    async def _probe_stops(self, ids: list[int], abilities: Abilities, written: str) -> Any:
        """What the server does with a stop string that it is sure to write."""
        middle = len(written) // 2
        stop = written[middle : middle + 2]
        if not stop or "\ufffd" in stop:
            return "streamed"
        params = SamplingParams(_PROBE.max_new_tokens, 0.0, stop=(stop, "never written"), logprobs=1)
        answer, _ = await self._try(ids, params, abilities)
        choice = answer["choices"][0]
        if choice["text"].endswith(stop) and choice["text"] == written[: written.find(stop) + len(stop)]:
            return "kept"
        if choice.get("stop_reason", choice.get("matched_stop")) == stop:
            return "named"
        return "streamed"

    # Whether servers live

    async def _look_after(self) -> None:
        """Looks again and again whether servers live, takes out those that do not and in those that do again."""
        vain = dict.fromkeys(self._pool.replicas, 0)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await asyncio.gather(*(self._look_at(replica, vain) for replica in self._pool.replicas))

    async def _look_at(self, replica: Replica, vain: dict[Replica, int]) -> None:
        try:
            listed = await self._models(replica.name)
            if self._model not in [one["id"] for one in listed]:
                raise _Failed(f"it has no model '{self._model}' any more")
        except (_Failed, _Refused) as error:
            vain[replica] += 1
            if vain[replica] >= _LOOKS_IN_VAIN:
                self._take_out(replica, str(error))
            return
        vain[replica] = 0
        if not replica.up:
            logger.info("%s answers again", replica.name)
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
    return max(growing, error.wait) if isinstance(error, _Failed) else growing


def _retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for; 0 without one. It holds seconds or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return 0.0
    seconds = 0.0
    try:
        seconds = float(header)
    except ValueError:
        with contextlib.suppress(ValueError, TypeError):
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


async def _read_stream(response: aiohttp.ClientResponse, stop: Sequence[str]) -> Any:
    """Reads server-sent events until a stop string is seen, and makes them one answer."""
    chunks: list[dict[str, Any]] = []
    tail, keep = "", max(map(len, stop), default=1) - 1
    ended = stopped = False
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            ended = True
            break
        chunk, text = read_chunk(data)
        chunks.append(chunk)
        tail += text
        if any(string in tail for string in stop):
            stopped = True
            break  # the connection is closed, at which the server stops
        tail = tail[-keep:] if keep else ""
    if not (ended or stopped):
        raise aiohttp.ClientPayloadError("the stream ended early")
    answer = join_chunks(chunks)
    if stopped:
        answer["choices"][0]["finish_reason"] = "stop"
        answer.pop("usage", None)
    return answer


def _context_of(tokenizer: Any) -> int | None:
    length = tokenizer.model_max_length
    return int(length) if length < 10**9 else None  # transformers' own "unknown" is about 1e30


def _prompt_tokens(answer: Any) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _say(abilities: Abilities, replicas: Sequence[Replica]) -> None:
    """Tells the log what the servers were found to do."""
    stops = {
        "kept": "stop strings are kept",
        "named": "stop strings are put back",
        "streamed": "text is streamed up to the stop string",
    }
    logger.info(
        "%d server%s (%s): prompts are sent as %s, %s%s",
        len(replicas),
        "" if len(replicas) == 1 else "s",
        ", ".join(replica.name for replica in replicas),
        "token ids" if abilities.prompts == "ids" else "text",
        stops[abilities.stops],
        "" if abilities.extras else ", no options beyond OpenAI's (top_k is not applied)",
    )
    if not abilities.logprobs:
        logger.warning("the servers report no log-probabilities, from which rewards are read")
