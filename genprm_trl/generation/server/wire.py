"""The wire format of OpenAI-compatible `/v1/completions`: requests, and what servers make of the answer.

Servers agree on the outline and differ in what a verifier needs most: token ids and log-probabilities. Understood are

- vLLM: `token_ids` beside the text, and tokens written as `token_id:N` when asked for with
  `return_tokens_as_token_ids`;
- llama.cpp: `logprobs.content`, a list of tokens with their ids;
- SGLang, OpenAI and others: `logprobs.tokens` and `logprobs.top_logprobs` by the tokens' text, which is mapped back to
  ids through the tokenizer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genprm_trl.generation.assembly import Assembler, trimmed
from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.tokens import Detokenizer

_TOKEN_ID = "token_id:"
# No vocabulary has as many, and tokenizers take no larger numbers.
_TOKENS = 2**31
# Seeds are 32-bit numbers in some servers; ours are longer.
_SEEDS = 2**31
_TOO_LONG = re.compile(r"context (length|size|window)|maximum (context|model) length|exceeds? .*\bcontext\b", re.I)


class BadAnswer(Exception):
    """What a server answered is no completion."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server was found to do with a request.

    Attributes:
        prompts: Whether it takes token ids as the prompt, or only text.
        stops: Stop strings are `kept` in its text; or cut off, and `named` beside it; or it does neither, and the text
            is `streamed` until a stop string is seen.
        extras: Whether it takes fields that OpenAI's interface lacks, such as top_k.
        logprobs: Whether it reports log-probabilities.
        bare_ids: Whether it reports token ids without being asked for log-probabilities.
    """

    prompts: Literal["ids", "text"] = "ids"
    stops: Literal["kept", "named", "streamed"] = "kept"
    extras: bool = True
    logprobs: bool = True
    bare_ids: bool = True


def request_body(
    model: str, prompt: Sequence[int] | str, params: SamplingParams, limit: int, abilities: Abilities
) -> dict[str, Any]:
    """The JSON body of a request.

    Args:
        model: The name that the server knows the model by.
        prompt: Token ids, or text.
        params: How to sample.
        limit: Most tokens to generate.
        abilities: What the server can do.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": limit,
        "temperature": params.temperature,
        "top_p": params.top_p,
    }
    # Where ids come only with log-probabilities, one is asked for: re-encoded ids may differ from those written.
    logprobs = params.logprobs or (0 if abilities.bare_ids else 1)
    if logprobs and abilities.logprobs:
        body["logprobs"] = logprobs
    if params.seed is not None:
        body["seed"] = params.seed % _SEEDS
    if abilities.stops == "streamed":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    elif params.stop:
        body["stop"] = list(params.stop)
    if abilities.extras:
        body |= {
            "top_k": params.top_k or -1,
            # Sampling defaults of the model's directory, which servers would fill in, are not the caller's.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # Two names of one thing: vLLM's and SGLang's.
            "include_stop_str_in_output": True,
            "no_stop_trim": True,
        }
        if isinstance(prompt, str):
            body["add_special_tokens"] = False
    return body


class Tokens:
    """Tokenizer and text of generated tokens, as far as answers need them."""

    def __init__(self, tokenizer: Any, detokenizer: Detokenizer):
        self._tokenizer = tokenizer
        self.detokenizer = detokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer.encode("x")[:1] == [bos]
        self._by_text: dict[str, int] | None = None

    def prompt_text(self, ids: Sequence[int], *, adds_special_tokens: bool) -> str:
        """The text of a prompt, for a server that takes no ids and may put the begin-of-text token before it."""
        if adds_special_tokens and self._adds_bos and ids[0] == self._tokenizer.bos_token_id:
            ids = ids[1:]
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def id_of(self, token: str) -> int | None:
        """The id of a token from what a server calls it: `token_id:N`, or its text if only one token has that text."""
        if token.startswith(_TOKEN_ID) and token[len(_TOKEN_ID) :].isdecimal():
            return int(token[len(_TOKEN_ID) :])
        if self._by_text is None:
            self._by_text = {}
            for i in range(len(self._tokenizer)):
                text = self.detokenizer.decode([i])
                # Texts of several tokens (bytes of a character are all U+FFFD) are nobody's.
                self._by_text[text] = -1 if text in self._by_text else i
            for i in self.special:
                self._by_text[self._tokenizer.convert_ids_to_tokens(i)] = i
        found = self._by_text.get(token, -1)
        return found if found >= 0 else None


def read_chunk(data: bytes) -> tuple[dict[str, Any], str]:
    """One event of a streamed answer: its JSON value, and the text that it adds.

    Raises:
        BadAnswer: It is no piece of a completion.
    """
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(str(error)) from error
    if not isinstance(chunk, dict) or "error" in chunk:
        raise BadAnswer(error_message(data.decode(errors="replace")))
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswer(f"the choices are {_brief(choices)}")
    text = choices[0].get("text") if choices else None
    return chunk, text if isinstance(text, str) else ""


def join_chunks(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer that the chunks of a streamed one amount to."""
    whole: dict[str, Any] = {"text": "", "finish_reason": None}
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or []:
            _extend(whole, choice)
    return {"choices": [whole], **({"usage": usage} if usage else {})}


def _extend(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        known = whole.get(name)
        if isinstance(known, list) and isinstance(value, list):
            whole[name] = [*known, *value]
        elif name == "text" and isinstance(value, str):
            whole[name] = f"{known}{value}"
        elif isinstance(known, dict) and isinstance(value, Mapping):
            _extend(known, value)
        elif value is not None:
            whole[name] = dict(value) if isinstance(value, Mapping) else value


def read_answer(
    answer: Any, params: SamplingParams, limit: int, tokens: Tokens, assembler: Assembler
) -> GenerationResult:
    """The result that an answer amounts to.

    Args:
        answer: The answer's JSON value.
        params: The request's parameters.
        limit: Most tokens that were asked for; fewer than `params.max_new_tokens` if the context has no room.
        tokens: Text and ids of the model's tokens.
        assembler: Applies the rules for stop strings.

    Raises:
        BadAnswer: It is not a completion.
    """
    choice, text, ended_by = _choice(answer)
    ids, maps = _tokens_of(choice, text, tokens)
    stop_reason = choice.get("stop_reason", choice.get("matched_stop"))
    reason: FinishReason = "stop"
    ended = False
    if ended_by == "length":
        reason = "length" if limit == params.max_new_tokens else "context"
    elif ids and not isinstance(stop_reason, str) and (ids[-1] == stop_reason or ids[-1] in tokens.special):
        ids, ended = ids[:-1], True
    if isinstance(stop_reason, str) and stop_reason in params.stop and not text.endswith(stop_reason):
        # The server cuts stop strings off, but says which it was.
        ids, maps = _with_text(ids, maps, text + stop_reason, tokens.detokenizer)

    def logprobs(count: int) -> list[dict[int, float]]:
        kept = maps[:count] + [{} for _ in range(count - len(maps))]
        return [trimmed(one, token, params.logprobs) for one, token in zip(kept, ids, strict=False)]

    generated = assembler.begin(params.stop, ids)
    return assembler.assemble(generated, logprobs, params, reason, ended=ended, num_generated=_generated(answer))


def _choice(answer: Any) -> tuple[Mapping[str, Any], str, str]:
    """The answer's one completion, its text, and why it ended."""
    if not isinstance(answer, dict):
        raise BadAnswer(f"expected a JSON object, got {_brief(answer)}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadAnswer(f"no choices in {_brief(answer)}")
    choice = choices[0]
    text, ended_by = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise BadAnswer(f"the text is {_brief(text)}")
    if ended_by not in ("stop", "length"):
        raise BadAnswer(f"the finish reason is {_brief(ended_by)}")
    return choice, text, ended_by


def _tokens_of(choice: Mapping[str, Any], text: str, tokens: Tokens) -> tuple[list[int], list[dict[int, float]]]:
    """Token ids, and log-probabilities at each of them if there are any."""
    reported = choice.get("logprobs")
    if reported is not None and not isinstance(reported, dict):
        raise BadAnswer(f"the logprobs are {_brief(reported)}")
    ids = choice.get("token_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < _TOKENS for i in ids)):
        raise BadAnswer(f"the token_ids are {_brief(ids)}")
    if reported is None:
        return (tokens.detokenizer.encode(text) if ids is None else ids), []
    if isinstance(reported.get("content"), list):
        named, maps = _from_content(reported["content"])
    else:
        strings, maps = _from_lists(reported, tokens)
        if ids is None:
            return _align(strings, maps, text, tokens)
        named = ids
    ids = named if ids is None else ids
    if len(maps) != len(ids):
        raise BadAnswer(f"{len(ids)} tokens have {len(maps)} log-probabilities")
    return ids, maps


def _from_lists(reported: Mapping[str, Any], tokens: Tokens) -> tuple[list[str], list[dict[int, float]]]:
    """OpenAI's form: the tokens' names, and log-probabilities by id."""
    names, own, top = (reported.get(key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadAnswer(f"the tokens are {_brief(names)}")
    if not isinstance(own, list) or len(own) != len(names):
        raise BadAnswer(f"the token_logprobs are {_brief(own)}")
    if not isinstance(top, list) or len(top) != len(names):
        top = [None] * len(names)
    maps = []
    for name, logprob, others in zip(names, own, top, strict=True):
        named = dict(others) if isinstance(others, dict) else {}
        named.setdefault(name, logprob)
        maps.append(
            {
                i: _number(value)
                for key, value in named.items()
                if value is not None and (i := tokens.id_of(key)) is not None
            }
        )
    return names, maps


def _from_content(content: list[Any]) -> tuple[list[int], list[dict[int, float]]]:
    """llama.cpp's form: ids, and log-probabilities by id."""
    ids: list[int] = []
    maps = []
    try:
        for entry in content:
            ids.append(int(entry["id"]))
            others = {int(other["id"]): _number(other["logprob"]) for other in entry.get("top_logprobs") or []}
            others.setdefault(int(entry["id"]), _number(entry["logprob"]))
            maps.append(others)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer(f"the logprobs' content is {_brief(content)}") from error
    return ids, maps


def _align(
    strings: Sequence[str], maps: Sequence[dict[int, float]], text: str, tokens: Tokens
) -> tuple[list[int], list[dict[int, float]]]:
    """Ids of tokens that are named by their text; text between those that have one is re-encoded."""
    aligned: list[int] = []
    aligned_maps: list[dict[int, float]] = []
    pending: list[str] = []
    at = 0  # in the text, right after what is aligned
    for string, reported in zip((*strings, None), (*maps, {}), strict=True):
        i = None if string is None else tokens.id_of(string)
        if i is None and string is not None:
            pending.append(string)
            continue
        own = "" if i is None else tokens.detokenizer.decode([i])
        if pending:
            between = _between("".join(pending), own if i is not None else None, text, at)
            encoded = tokens.detokenizer.encode(between)
            aligned += encoded
            aligned_maps += [{} for _ in encoded]
            at += len(between)
            pending.clear()
        if i is not None:
            aligned.append(i)
            aligned_maps.append(reported)
            at += len(own)
    return aligned, aligned_maps


def _between(named: str, following: str | None, text: str, at: int) -> str:
    """What tokens without an id stand for, from index `at` of the text, before the `following` token.

    Their names say it, but for tokens that hold some of a character's bytes (`\ufffd`, or `bytes:` and a code).
    """
    if text.startswith(named, at):
        return named
    end = len(text) if following is None else text.find(following, at + 1) if following else -1
    return text[at:end] if end >= 0 else named


def _with_text(
    ids: list[int], maps: list[dict[int, float]], text: str, detokenizer: Detokenizer
) -> tuple[list[int], list[dict[int, float]]]:
    """Ids whose text is `text`: as many of those given as fit, the rest re-encoded."""
    kept = len(ids)
    while kept and not text.startswith(detokenizer.decode(ids[:kept])):
        kept -= 1
    rest = detokenizer.encode(text[len(detokenizer.decode(ids[:kept])) :])
    maps = maps[:kept] + [{} for _ in range(kept - len(maps))] if maps else []
    return ids[:kept] + rest, maps + [{} for _ in rest] if maps else []


def _generated(answer: Mapping[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value < math.inf:
        raise BadAnswer(f"a log-probability is {_brief(value)}")
    return float(value)


def error_message(body: str) -> str:
    """What the body of an error says, on one line."""
    found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', body)
    return " ".join((found.group(1) if found else body).split())[:500]


def says_too_long(message: str) -> bool:
    """Whether a refusal is about the length of the prompt."""
    return _TOO_LONG.search(message) is not None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
