"""What a server does with what it will be asked for: found out by short requests before work starts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.server.wire import (
    MOST_LOGPROBS,
    Abilities,
    Tokens,
    disagreement,
    has_logprobs,
    prompt_count,
    says_too_long,
)
from genprm_trl.generation.tokens import PARTIAL

logger = logging.getLogger(__name__)

# Statuses that no other way to ask will change.
HOPELESS = (401, 403, 404, 405)

# A model goes on with what it reads: marks outside of ASCII, and something else each time.
_PROBE_TEXT = "Question: What is 12 + 30?\n\n12 + 30 = 42 ✓ √4 = 2 ✓ √9 = 3 ✓ Step 2: 42"
_SHORT_TEXT = "1 + 2 = 3"
_SEEDS_TEXT = "Twenty random words in any language:"
_PROBE = SamplingParams(max_new_tokens=12, temperature=0.0, logprobs=0)
_SAMPLE = SamplingParams(max_new_tokens=16, temperature=1.0, top_p=1.0, top_k=0, logprobs=0)
# Tokens that a server may put around a prompt, such as begin-of-text. A chat template has more.
_MOST_ADDED = 2


class Failed(Exception):
    """A request failed, and may be tried again.

    Attributes:
        wait: Seconds that the server asked for.
        counts: Whether it uses up a try. A server that is busy, or gone while others live, does not.
    """

    def __init__(self, message: str, *, wait: float = 0.0, counts: bool = True):
        super().__init__(message)
        self.wait, self.counts = wait, counts


class Refused(Exception):
    """A request that no try will make better.

    Attributes:
        status: The answer's.
        reason: What its result has as finish reason.
    """

    def __init__(self, message: str, status: int = 0, reason: FinishReason = "error"):
        super().__init__(message)
        self.status = status
        self.reason: FinishReason = "context" if status in (400, 413, 422) and says_too_long(message) else reason


Ask = Callable[[list[int], SamplingParams, Abilities], Awaitable[tuple[Any, GenerationResult]]]


class Probe:
    """The first requests to one server.

    Args:
        ask: Sends a request in one way, and returns the answer and the result that it amounts to.
        tokens: Text and ids of the tokens of the model that is expected.
        server: The server's name, and that of its model, for messages.
    """

    def __init__(self, ask: Ask, tokens: Tokens, server: str, model: str):
        self._ask, self._tokens, self._server, self._model = ask, tokens, server, model
        self._counts: list[tuple[int, int | None, int]] = []  # tokens sent, counted, and of these cached

    async def run(self) -> Abilities:
        """Finds out what the server can do.

        Raises:
            ConfigError: It cannot be used.
        """
        ids = self._encode(_PROBE_TEXT)
        try:
            abilities, answer = await self._find_prompts(ids)
            abilities = replace(abilities, bare_ids=isinstance(answer["choices"][0].get("token_ids"), list))
            abilities, answer, written = await self._find_logprobs(ids, abilities)
            self._check_tokenizer(answer, abilities)
            abilities = await self._find_counts(ids, await self._find_stops(ids, abilities, written.text))
            return await self._find_seeds(abilities)
        except Failed as error:
            raise ConfigError(f"a first short request failed: {error}") from error
        except Refused as error:
            raise ConfigError(f"a first short request was refused: {error}") from error

    def _encode(self, text: str) -> list[int]:
        return list(self._tokens.detokenizer.encode(text))

    async def _first(
        self, ids: list[int], params: SamplingParams, ways: Sequence[Abilities]
    ) -> tuple[Abilities, Any, GenerationResult]:
        """Asks in the first of several ways that works.

        Raises:
            Failed, Refused: What the last one meets.
        """
        for number, abilities in enumerate(ways, start=1):
            try:
                answer, result = await self._ask(ids, params, abilities)
            except (Failed, Refused) as error:
                if number == len(ways) or getattr(error, "status", 0) in HOPELESS:
                    raise
                logger.debug("a way to ask is not open: %s", error)
                continue
            prompt = self._tokens.prompt(ids, abilities)
            sent = self._tokens.count(prompt) if isinstance(prompt, str) else len(prompt)
            self._counts.append((sent, *prompt_count(answer)))
            return abilities, answer, result
        raise AssertionError("there is no way to ask")

    async def _find_prompts(self, ids: list[int]) -> tuple[Abilities, Any]:
        full, plain = Abilities("text", logprobs=0), Abilities("text", logprobs=0, extras=False)
        of_ids = [replace(way, prompts="ids") for way in (full, plain)]
        of_text = [full, replace(plain, generation_config=True), plain]
        abilities, answer, _ = await self._first(ids, _PROBE, of_ids + of_text)
        counted, cached = prompt_count(answer)
        if abilities.prompts == "ids" and counted is not None and len(ids) not in (counted, counted + cached):
            # The server took token ids for something else.
            self._counts.clear()
            abilities, answer, _ = await self._first(ids, _PROBE, [replace(abilities, prompts="text")])
        return abilities, answer

    async def _find_logprobs(self, ids: list[int], abilities: Abilities) -> tuple[Abilities, Any, GenerationResult]:
        wanted = replace(_PROBE, logprobs=MOST_LOGPROBS)
        ways = [replace(abilities, logprobs=count) for count in (MOST_LOGPROBS, 5, 2, 1)]
        ways += [replace(way, switch=True) for way in ways]
        found, answer, result = await self._first(ids, wanted, [*ways, abilities])
        if not has_logprobs(answer):
            return replace(abilities, logprobs=0), answer, result
        if found.logprobs < MOST_LOGPROBS:
            logger.warning(
                "%s refuses %d log-probabilities a token; rewards are read from %d",
                self._server,
                MOST_LOGPROBS,
                found.logprobs,
            )
        return found, answer, result

    def _check_tokenizer(self, answer: Any, abilities: Abilities) -> None:
        """Raises `ConfigError` if the server's model has another vocabulary than our tokenizer."""
        spelled = disagreement(answer, self._tokens, names=abilities.prompts == "ids")
        if spelled is not None:
            raise ConfigError(
                f"the tokenizer is not that of the served model '{self._model}': what the server writes as "
                f"{answer['choices'][0]['text']!r} reads {spelled!r}; give the right model or tokenizer"
            )

    async def _find_stops(self, ids: list[int], abilities: Abilities, written: str) -> Abilities:
        """Looks what the servers do with a stop string that they are sure to write, and whether they stream."""
        middle = len(written) // 2
        starts = sorted(range(len(written) - 1), key=lambda start: abs(start - middle))
        pairs = (written[start : start + 2] for start in starts)
        stop = next((pair for pair in pairs if PARTIAL not in pair), "")
        params = replace(_PROBE, stop=(stop, "never written") if stop else (), logprobs=MOST_LOGPROBS)
        # transformers serve writes an answer to its end for nobody, and others wait for that, unless it is streamed.
        if stop and not abilities.generation_config:
            try:
                _, answer, _ = await self._first(ids, params, [abilities])
                choice = answer["choices"][0]
                if choice["text"] == written[: written.find(stop) + len(stop)]:
                    return replace(abilities, stops="kept")
                if choice.get("stop_reason", choice.get("matched_stop")) == stop:
                    return replace(abilities, stops="named")
            except (Failed, Refused) as error:
                logger.info("stop strings are not taken: %s", error)
        ways = [replace(abilities, stops="streamed", stream_options=options) for options in (True, False)]
        ways.append(replace(abilities, stops="whole"))
        abilities, answer, _ = await self._first(ids, params, ways)
        return replace(abilities, streams_logprobs=not abilities.logprobs or has_logprobs(answer))

    async def _find_seeds(self, abilities: Abilities) -> Abilities:
        """Looks whether two seeds make two samples, and one seed one."""
        ids = self._encode(_SEEDS_TEXT)

        async def sample(seed: int, abilities: Abilities = abilities) -> str:
            return (await self._first(ids, replace(_SAMPLE, seed=seed), [abilities]))[2].text

        try:
            first, *others = [await sample(seed) for seed in (1, 2, 3)]
        except Refused as error:
            logger.warning("%s takes no seeds, so nothing can be repeated: %s", self._server, error)
            abilities = replace(abilities, seeds=False)
            first, *others = [await sample(seed, abilities) for seed in (1, 2, 3)]
        else:
            if any(other != first for other in others):
                # The seeds of some servers hold for requests that come alone.
                again, _ = await asyncio.gather(sample(1), sample(2))
                if again != first:
                    logger.warning(
                        "%s does not heed seeds, or not those of requests that come together: the same command gives "
                        "other verdicts",
                        self._server,
                    )
                return abilities
            unseeded = replace(abilities, seeds=False)
            if await sample(1, unseeded) != await sample(2, unseeded):
                logger.warning(
                    "%s makes the same sample of all seeds; it is sent none, and draws its own", self._server
                )
                return unseeded
        if all(other == first for other in others):
            logger.warning(
                "%s makes the same sample again and again at temperature 1 (%r). Several rationales or solutions are "
                "then no more than one.",
                self._server,
                first,
            )
        return abilities

    async def _find_counts(self, ids: list[int], abilities: Abilities) -> Abilities:
        """Compares what the servers say they have read with what they were sent.

        Raises:
            ConfigError: They read another prompt: with a chat template, cut, or by another tokenizer.
        """
        if any(counted is None for _, counted, _ in self._counts[:1]):
            logger.info("%s does not say how much of a prompt it has read: a cut one cannot be told", self._server)
            return replace(abilities, counted=None)
        added, counts_cached = self._added()
        way = replace(abilities, stops="whole")  # streams need not count
        if added is None or added < -_MOST_ADDED:
            # Perhaps they leave out what they have cached. A prompt that begins otherwise is not.
            sent, counted, _ = self._counts[0]
            self._counts.clear()
            await self._first(self._encode(f"{random.getrandbits(60)}: {_PROBE_TEXT}"), _PROBE, [way])
            fresh, _ = self._added()
            if fresh is not None and fresh >= -_MOST_ADDED:
                logger.warning("%s leaves cached tokens out of its counts: a cut prompt cannot be told", self._server)
                return replace(abilities, counted=None)
            if self._counts[0][1] == counted:
                raise ConfigError(f"{self._server} has read only {counted} of the {sent} tokens of a short prompt")
            raise self._other_tokenizer()
        if abilities.prompts == "text":
            await self._check_text(len(ids), way, added)
        return replace(abilities, counted=added, counts_cached=counts_cached)

    def _other_tokenizer(self) -> ConfigError:
        return ConfigError(
            f"the tokenizer is not that of the served model '{self._model}': {self._server} counts other "
            "tokens in the same text; give the right model or tokenizer"
        )

    def _added(self) -> tuple[int | None, bool]:
        """By how much counts exceed what was sent, None if not always by as much; and whether they count the cache."""
        counts = [(sent, counted, cached) for sent, counted, cached in self._counts if counted is not None]
        for counts_cached in (True, False):
            added = {counted + (0 if counts_cached else cached) - sent for sent, counted, cached in counts}
            if len(added) == 1 and (counts_cached or min(added) >= -_MOST_ADDED):
                [only] = added
                if counts_cached and only < -_MOST_ADDED and any(cached for *_, cached in counts):
                    continue
                return only, counts_cached
        return None, True

    async def _check_text(self, length: int, abilities: Abilities, added: int) -> None:
        """Looks whether a server that is given text reads that text, and control tokens as such.

        Raises:
            ConfigError: The server reads another text.
        """
        self._counts.clear()
        short = self._encode(_SHORT_TEXT)
        await self._first(short, _PROBE, [abilities])
        if self._added()[0] != added:
            raise self._other_tokenizer()
        if added > _MOST_ADDED:
            raise ConfigError(
                f"{self._server} reads {length + added} tokens where {length} were sent: it puts a chat template "
                "around the text. Start it so that /v1/completions takes the text as it stands (raw)"
            )
        control = self._tokens.control
        if control is not None:
            self._counts.clear()
            await self._first([*short, control, *short], _PROBE, [abilities])
            if self._added()[0] != added:
                name = self._tokens.prompt([control], abilities)
                raise ConfigError(
                    f"{self._server} reads control tokens such as {name!r} as plain text, so that it never sees the "
                    "turns of a conversation"
                )
