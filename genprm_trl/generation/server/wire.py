"""The wire format of OpenAI-compatible `/v1/completions`: requests, and what servers make of the answer.

Servers agree on the outline and differ in what a verifier needs most: token ids and log-probabilities. Understood are

- vLLM: `token_ids` beside the text, and tokens written as `token_id:N` when asked for with
  `return_tokens_as_token_ids`;
- llama.cpp and mlx-lm: `logprobs.content`, a list of tokens with their ids;
- transformers serve: text alone, and settings as a JSON text in `generation_config`;
- SGLang, OpenAI and others: `logprobs.tokens` and `logprobs.top_logprobs` by the tokens' text, by their names in the
  vocabulary, or by their ids.

An answer says what was written twice: as text, and as tokens. The text counts. Tokens are taken where they spell it;
what they do not spell is encoded again, and log-probabilities go to the tokens at their place in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genprm_trl.generation.assembly import Assembler, trimmed
from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.tokens import PARTIAL, Detokenizer

# What most servers report at most, and what a verifier asks for.
MOST_LOGPROBS = 20
_TOKEN_ID = "token_id:"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# No vocabulary has as many, and tokenizers take no larger numbers.
_TOKENS = 2**31
# A log-probability above 0 by no more than this was rounded.
_ROUNDING = 0.01
# Seeds are 32-bit numbers in some servers; ours are longer.
_SEEDS = 2**31
_TOO_LONG = re.compile(
    r"context (length|size|window)|maximum (context|model) length"
    r"|exceeds? .*\b(context|token limit|max_(seq|input|model)_len)\b"
    r"|(prompt|input)\b.* too long|longer than the (model's )?context|`inputs` (tokens|must have less)",
    re.I,
)
# Servers have many words for the end of a text. Whatever is not one of these is an end like any other.
_OF_LENGTH = frozenset({"length", "max_tokens", "max_length", "max_new_tokens", "limit"})
_OF_TROUBLE = re.compile(
    r"abort|block|cancel|disconnect|error|fail|filter|interrupt|kill|moderat|preempt|prohibit|refus|safety|timeout",
    re.I,
)
# Tokens that are looked for together where a text has been lost track of: one alone may stand anywhere.
_BLOCK = 8
# Characters that a run of replacement characters may stand for.
_LOST = 16


class BadAnswer(Exception):
    """What a server answered is no completion."""


class CutOff(BadAnswer):
    """The server ended the text for a reason that lies neither in the text nor in its length."""


class ErrorAnswer(BadAnswer):
    """An error that a server tells of in an answer with status 200.

    Attributes:
        status: The status that it should have had.
    """

    def __init__(self, error: Any):
        super().__init__(error_message(json.dumps({"error": error}, ensure_ascii=False)))
        code = error.get("code") if isinstance(error, dict) else None
        self.status = code if type(code) is int and 400 <= code < 600 else 500


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server was found to do with a request.

    Attributes:
        prompts: Whether it takes token ids as the prompt, or only text.
        stops: Stop strings are `kept` in its text; or cut off, and `named` beside it; or it does neither, and the text
            is `streamed` until a stop string is seen. Where nothing is streamed either, the `whole` text is cut here.
        extras: Whether it takes fields that OpenAI's interface lacks, such as top_k.
        generation_config: Whether it takes those of them that transformers has, as a JSON text in one field.
        logprobs: How many log-probabilities a token it reports at most; `MOST_LOGPROBS` if it may be more, 0 for none.
        bare_ids: Whether it reports token ids without being asked for log-probabilities.
        switch: Whether log-probabilities are asked for as those of a chat: by a switch and a number.
        streams_logprobs: Whether it reports log-probabilities in streams, too.
        stream_options: Whether it takes the options of a stream.
        seeds: Whether it may be sent seeds. One that makes the same sample of all of them draws its own.
        counted: By how much its count of a prompt's tokens exceeds those sent (begin-of-text); None if it does not
            count, or not in a way that can be checked.
        counts_cached: Whether that count includes tokens that it had in its cache.
    """

    prompts: Literal["ids", "text"] = "ids"
    stops: Literal["kept", "named", "streamed", "whole"] = "kept"
    extras: bool = True
    generation_config: bool = False
    logprobs: int = MOST_LOGPROBS
    bare_ids: bool = True
    switch: bool = False
    streams_logprobs: bool = True
    stream_options: bool = True
    seeds: bool = True
    counted: int | None = 0
    counts_cached: bool = True


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
    if abilities.logprobs < MOST_LOGPROBS:
        logprobs = min(logprobs, abilities.logprobs)
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": logprobs} if abilities.switch else {"logprobs": logprobs}
    if params.seed is not None and abilities.seeds:
        body["seed"] = params.seed % _SEEDS
    if abilities.stops == "streamed" and (abilities.streams_logprobs or not params.logprobs):
        body["stream"] = True
        if abilities.stream_options:
            body["stream_options"] = {"include_usage": True}
    elif params.stop and abilities.stops in ("kept", "named"):
        body["stop"] = list(params.stop)
    if abilities.extras:
        body |= {
            "top_k": params.top_k or -1,
            # Sampling defaults of the model's directory, which servers would fill in, are not the caller's.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # llama.cpp would apply top_p before the temperature, and whatever else its options name.
            "samplers": ["temperature", "top_k", "top_p"],
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # Two names of one thing: vLLM's and SGLang's.
            "include_stop_str_in_output": True,
            "no_stop_trim": True,
        }
        if isinstance(prompt, str):
            body["add_special_tokens"] = False
    elif abilities.generation_config:
        # Without the first, a model whose settings do not say that it samples would not.
        settings = {"do_sample": params.temperature > 0, "top_k": params.top_k}
        body["generation_config"] = json.dumps(settings | {"min_p": 0.0, "repetition_penalty": 1.0})
    return body


class Tokens:
    """Tokenizer and text of generated tokens, as far as answers need them."""

    def __init__(self, tokenizer: Any, detokenizer: Detokenizer):
        self._tokenizer = tokenizer
        self.detokenizer = detokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        self.control: int | None = tokenizer.eos_token_id
        names = sorted(map(re.escape, tokenizer.all_special_tokens), key=len, reverse=True)
        self._special_names = re.compile("|".join(names) or r"(?!)")
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer.encode("x")[:1] == [bos]
        self._by_text: dict[str, int] | None = None
        self._by_name: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._tokenizer)

    def prompt(self, ids: list[int], abilities: Abilities) -> list[int] | str:
        """A prompt as a server takes it. One that adds begin-of-text to a text is not sent it."""
        if abilities.prompts == "ids":
            return ids
        adds = abilities.counted or (abilities.counted is None and not abilities.extras)
        if adds and self._adds_bos and ids[0] == self._tokenizer.bos_token_id:
            ids = ids[1:]
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def count(self, text: str) -> int:
        """How many tokens a prompt has that is sent as text, without those that a server adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def without_special(self, text: str) -> tuple[str, bool]:
        """A text without the special tokens that a server has spelled out, and whether one of them ended it."""
        ends = [found.end() for found in self._special_names.finditer(text)]
        return (self._special_names.sub("", text), ends[-1] == len(text)) if ends else (text, False)

    def id_of(self, token: str) -> int | None:
        """The id of a token from its text, if only one token has that text."""
        if self._by_text is None:
            self._by_text = {}
            for i, name in enumerate(self._tokenizer.convert_ids_to_tokens(range(len(self._tokenizer)))):
                if name is None or _BYTE.fullmatch(name):
                    continue  # SentencePiece's bytes, which a character stands for where there is one
                text = self.detokenizer.decode([i])
                # Texts of several tokens (bytes of a character are all U+FFFD) are nobody's.
                self._by_text[text] = -1 if text in self._by_text else i
            for i in self.special:
                self._by_text[self._tokenizer.convert_ids_to_tokens(i)] = i
        found = self._by_text.get(token, -1)
        return found if found >= 0 else None

    def knows(self, token: str) -> bool:
        """Whether any token has this text or this name."""
        return self.id_of(token) is not None or token in (self._by_text or {}) or self.id_by_name(token) is not None

    def id_by_name(self, token: str) -> int | None:
        """The id of a token from what the vocabulary calls it (`Ġso`, `▁so`)."""
        if self._by_name is None:
            self._by_name = dict(self._tokenizer.get_vocab())
        return self._by_name.get(token)


def read_chunk(data: bytes) -> tuple[dict[str, Any], str]:
    """One event of a streamed answer: its JSON value, and the text that it adds.

    Raises:
        BadAnswer: It is no piece of a completion.
    """
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(str(error)) from error
    if not isinstance(chunk, dict):
        raise BadAnswer(f"a piece of the stream is {_brief(chunk)}")
    if chunk.get("error"):
        raise ErrorAnswer(chunk["error"])
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
        elif value is not None and (value or name != "finish_reason"):
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
        CutOff: The server ended the text for another reason, such as a filter.
        BadAnswer: It is not a completion.
    """
    choice, text, ended_by = _choice(answer)
    text, ended = tokens.without_special(text)
    stop_reason = choice.get("stop_reason", choice.get("matched_stop"))
    generated = _count(answer, "completion_tokens")
    out_of_tokens = ended_by in _OF_LENGTH or (not ended_by and not ended and generated == limit)
    told = _Told.of(choice, tokens)
    if not out_of_tokens and not isinstance(stop_reason, str):
        ended = told.drop_end(stop_reason, tokens) or ended
    # The server cuts stop strings off, but says which it was.
    named = isinstance(stop_reason, str) and stop_reason in params.stop and not text.endswith(stop_reason)
    ids, maps = told.spelling(text, text + stop_reason if named else text, params.stop, tokens)
    if not out_of_tokens and ids and ids[-1] in tokens.special:
        ids, ended = ids[:-1], True
    reason: FinishReason = "stop"
    if out_of_tokens:
        # A server that ends before the bound has no more room than that.
        short = generated is not None and 0 < generated < limit and len(ids) < limit
        reason = "context" if short or limit < params.max_new_tokens else "length"

    at_end = told.end or (maps[len(ids)] if len(maps) > len(ids) else {})

    def logprobs(count: int) -> list[dict[int, float]]:
        kept = maps[:count] + [{} for _ in range(count - len(maps))]
        places = [trimmed(one, token, params.logprobs) for one, token in zip(kept, ids, strict=False)]
        return [*places, at_end][:count]

    written = assembler.begin(params.stop, ids)
    return assembler.assemble(written, logprobs, params, reason, ended=ended, num_generated=generated or None)


def has_logprobs(answer: Any) -> bool:
    """Whether an answer, which `read_answer` has read, reports log-probabilities."""
    reported = answer["choices"][0].get("logprobs")
    return bool(reported) and bool(reported.get("content") or reported.get("tokens"))


def disagreement(answer: Any, tokens: Tokens, *, names: bool) -> str | None:
    """What an answer's tokens spell, if that is not its text and pieces of characters are not the cause.

    The tokens are then those of another vocabulary.

    Args:
        answer: A completion that was not ended by a stop string.
        tokens: Text and ids of the tokens that are expected.
        names: Whether tokens that are told by their text must be known, too.
    """
    choice, text, _ = _choice(answer)
    told = _Told.of(choice, tokens)
    ids = told.ids if told.ids is not None else told.entry_ids()
    text, _ = tokens.without_special(text)
    if ids is None:
        strings = [entry.key for entry in told.entries if isinstance(entry.key, str) and PARTIAL not in entry.key]
        unknown = [name for name in strings if not tokens.knows(name)]
        return " ".join(unknown) if names and 2 * len(unknown) > len(strings) else None
    shown = [i for i in ids if i not in tokens.special]
    strings = [tokens.detokenizer.token_text(i) for i in shown]
    places = _places(strings, text)
    wrong = [
        not string or (place is None and PARTIAL not in string) for string, place in zip(strings, places, strict=True)
    ]
    return tokens.detokenizer.decode(shown) if any(wrong) and not _spells(shown, text, (), tokens) else None


def prompt_count(answer: Any) -> tuple[int | None, int]:
    """How many tokens of the prompt a server says that it has read (None: it does not), and had in its cache."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return _count(answer, "prompt_tokens") or None, cached if type(cached) is int and cached > 0 else 0


def _choice(answer: Any) -> tuple[Mapping[str, Any], str, str]:
    """The answer's one completion, its text, and why it ended; an empty reason where the server gives none."""
    if not isinstance(answer, dict):
        raise BadAnswer(f"expected a JSON object, got {_brief(answer)}")
    choices = answer.get("choices")
    if not choices and answer.get("error"):
        raise ErrorAnswer(answer["error"])
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadAnswer(f"no choices in {_brief(answer)}")
    choice = choices[0]
    text, ended_by = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str) or not _is_unicode(text):
        raise BadAnswer(f"the text is {_brief(text)}")
    if isinstance(ended_by, dict):
        ended_by = ended_by.get("type")
    if not isinstance(ended_by, str | None):
        raise BadAnswer(f"the finish reason is {_brief(ended_by)}")
    if ended_by and _OF_TROUBLE.search(ended_by):
        raise CutOff(f"the server ended the text with the reason {_brief(ended_by)}")
    return choice, text, (ended_by or "").lower()


@dataclass(slots=True)
class _Entry:
    """One token as log-probabilities tell of it.

    Attributes:
        key: Its id, or what the server calls it.
        shown: Its text, if the server says it beside the id.
        logprobs: Log-probabilities by id or name: its own, and those of its alternatives.
    """

    key: int | str
    shown: str | None
    logprobs: dict[int | str, float]


Reading = Callable[[str], int | None]


@dataclass(slots=True)
class _Told:
    """What an answer says of its tokens.

    Attributes:
        ids: Their ids, if it lists them.
        entries: The tokens that have log-probabilities.
        end: Log-probabilities in the place of the end-of-text token that was dropped.
    """

    ids: list[int] | None
    entries: list[_Entry]
    end: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, choice: Mapping[str, Any], tokens: Tokens) -> _Told:
        ids, reported = choice.get("token_ids"), choice.get("logprobs")
        if ids is not None and not (isinstance(ids, list) and all(map(_is_id, ids))):
            raise BadAnswer(f"the token_ids are {_brief(ids)}")
        if reported is not None and not isinstance(reported, dict):
            raise BadAnswer(f"the logprobs are {_brief(reported)}")
        if reported is None:
            return cls(ids, [])
        content = reported.get("content")
        return cls(ids, _from_content(content) if isinstance(content, list) else _from_lists(reported))

    def drop_end(self, token: Any, tokens: Tokens) -> bool:
        """Drops the end-of-text token, which has no text; `token` if the server names it."""
        ended = False
        if self.ids and (self.ids[-1] == token or self.ids[-1] in tokens.special):
            del self.ids[-1]
            ended = True
        if self.entries and (self.entries[-1].key == token or self.entries[-1].key in tokens.special):
            self.end = _by_id(self.entries.pop().logprobs, tokens.id_of)
            ended = True
        return ended

    def entry_ids(self, read: Reading = lambda name: None) -> list[int] | None:
        """The ids of the tokens with log-probabilities; None if one is not known."""
        ids = [_id(entry.key, read) for entry in self.entries]
        return [i for i in ids if i is not None] if ids and None not in ids else None

    def spelling(
        self, text: str, full: str, stop: Sequence[str], tokens: Tokens
    ) -> tuple[list[int], list[dict[int, float]]]:
        """Ids that spell a text, and log-probabilities at each of them if there are any.

        Args:
            text: What the server wrote.
            full: The same with the stop string that it cut off.
            stop: The request's stop strings.
            tokens: Text and ids of the model's tokens.
        """
        ids = None if self.ids is None else _spells(self.ids, text, stop, tokens, full)
        if not self.entries:
            return (tokens.detokenizer.encode(full) if ids is None else ids), []
        readings = (tokens.id_of, tokens.id_by_name) if self.entry_ids() is None else (tokens.id_of,)
        best: tuple[int, list[int], list[dict[int, float]]] | None = None
        for read in readings:
            named = self.entry_ids(read)
            maps = [_by_id(entry.logprobs, read) for entry in self.entries]
            if named is not None and (ids is None or ids[: len(named)] == named):
                spelled = _spells(named, text, stop, tokens, full)
                if spelled is not None:
                    return spelled, maps
            found = self._placed(read, maps, full, tokens)
            if best is None or found[0] > best[0]:
                best = found
        assert best is not None
        _, built, built_maps = best
        return (built, built_maps) if ids is None else (ids, _moved(ids, built, built_maps, tokens))

    def _placed(
        self, read: Reading, maps: Sequence[dict[int, float]], text: str, tokens: Tokens
    ) -> tuple[int, list[int], list[dict[int, float]]]:
        """How much of a text the tokens are; and they, with what is encoded again between them."""
        known = [_id(entry.key, read) for entry in self.entries]
        strings = [
            entry.shown
            if entry.shown is not None
            else tokens.detokenizer.token_text(i)
            if i is not None
            else entry.key
            if read == tokens.id_of and isinstance(entry.key, str)
            else None
            for entry, i in zip(self.entries, known, strict=True)
        ]
        ids: list[int] = []
        logprobs: list[dict[int, float]] = []
        at = placed = 0

        def encode(start: int, end: int) -> None:
            encoded = tokens.detokenizer.encode(text[start:end]) if end > start else []
            ids.extend(encoded)
            logprobs.extend({} for _ in encoded)

        for i, reported, place in zip(known, maps, _places(strings, text), strict=True):
            if place is None or place[0] < at or place[0] == place[1]:
                continue
            encode(at, place[0])
            at, piece = place[1], text[place[0] : place[1]]
            placed += len(piece)
            if i is not None and tokens.detokenizer.token_text(i) == piece:
                ids.append(i)
                logprobs.append(reported)
                continue
            # A character of several tokens, told of at its last one; or a text that several tokens have.
            before = len(ids)
            encode(*place)
            if len(ids) > before and (ids[-1] == i or (i is None and len(ids) == before + 1)):
                logprobs[-1] = reported
        encode(at, len(text))
        if tokens.detokenizer.decode(ids) != text:  # tokens on either side of a seam make another text together
            whole = tokens.detokenizer.encode(text)
            ids, logprobs = whole, _moved(whole, ids, logprobs, tokens)
        return placed, ids, logprobs


def _from_lists(reported: Mapping[str, Any]) -> list[_Entry]:
    """OpenAI's form: lists of the tokens' names (or ids), of their log-probabilities, and of maps from names."""
    names, own, top = (reported.get(key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(names, list) or not all(isinstance(name, str) or _is_id(name) for name in names):
        raise BadAnswer(f"the tokens are {_brief(names)}")
    if not isinstance(own, list) or len(own) != len(names):
        raise BadAnswer(f"the token_logprobs are {_brief(own)}")
    if not top:  # some servers report the written tokens alone
        top = [None] * len(names)
    if not isinstance(top, list) or len(top) != len(names):
        raise BadAnswer(f"the top_logprobs are {_brief(top)}")
    entries = []
    for name, logprob, others in zip(names, own, top, strict=True):
        key = _key(name)
        pairs = others.items() if isinstance(others, dict) else others if isinstance(others, list) else ()
        logprobs: dict[int | str, float] = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or pair[1] is None:
                continue
            other = pair[0]
            if isinstance(key, int) and isinstance(other, str) and other.isascii() and other.isdecimal():
                other = int(other)  # JSON has no other keys than strings
            if isinstance(other, str) or _is_id(other):
                logprobs[_key(other)] = _number(pair[1])
        if logprob is not None:
            logprobs.setdefault(key, _number(logprob))
        entries.append(_Entry(key, None, logprobs))
    return entries


def _from_content(content: list[Any]) -> list[_Entry]:
    """A chat's form: a list of tokens with their text, of llama.cpp and mlx-lm with their ids as well."""
    entries = []
    for item in content:
        if not isinstance(item, dict):
            raise BadAnswer(f"the logprobs' content is {_brief(content)}")
        key, logprobs = _content_key(item), {}
        others = item.get("top_logprobs")
        for other in others if isinstance(others, list) else ():
            if not isinstance(other, dict):
                raise BadAnswer(f"the logprobs' content is {_brief(content)}")
            if other.get("logprob") is not None:
                logprobs[_content_key(other)] = _number(other["logprob"])
        if item.get("logprob") is not None:
            logprobs.setdefault(key, _number(item["logprob"]))
        shown = item.get("token")
        entries.append(_Entry(key, shown if isinstance(shown, str) and shown != key else None, logprobs))
    return entries


def _content_key(item: Mapping[str, Any]) -> int | str:
    key, name = item.get("id"), item.get("token")
    if isinstance(key, int) and _is_id(key):
        return key
    if not isinstance(name, str):
        raise BadAnswer(f"a token of the logprobs' content is {_brief(item)}")
    return name


def _key(name: Any) -> int | str:
    """An id or a name as the server writes it: `token_id:N` is an id."""
    if isinstance(name, str) and name.startswith(_TOKEN_ID):
        number = name[len(_TOKEN_ID) :]
        if number.isascii() and number.isdecimal() and len(number) < 11 and _is_id(int(number)):
            return int(number)
    return name if isinstance(name, str) else int(name)


def _id(key: int | str, read: Reading) -> int | None:
    return key if isinstance(key, int) else read(key)


def _by_id(logprobs: Mapping[int | str, float], read: Reading) -> dict[int, float]:
    return {i: value for key, value in logprobs.items() if (i := _id(key, read)) is not None}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _TOKENS


def _spells(
    ids: list[int], text: str, stop: Sequence[str], tokens: Tokens, full: str | None = None
) -> list[int] | None:
    """Ids that spell a text, or the same and the rest of a stop string that was cut off; None if they do not.

    They may go on after a stop string, and end within a character.
    """
    full = text if full is None else full
    written = tokens.detokenizer.decode(ids)
    for wanted in dict.fromkeys((full, text)):
        shown = wanted.rstrip(PARTIAL)
        # Some decoders drop the space that a text begins with.
        for offset in (0, 1) if written.startswith(" ") and not shown.startswith(" ") else (0,):
            length = _prefix(shown, written[offset:])
            if length is None:
                continue
            rest = written[offset + length :]
            if wanted != full:
                if full.startswith(wanted + rest):
                    return ids + tokens.detokenizer.encode(full[len(wanted + rest) :])
            elif shown.endswith(tuple(stop)) or rest.startswith(tuple(stop)) or _is_held_back(rest, ids, tokens):
                return ids
    return None


def _is_held_back(rest: str, ids: list[int], tokens: Tokens) -> bool:
    """Whether a server holds the rest of a text back: its last token, or the last few, end within a character."""
    if not rest.strip(PARTIAL):
        return True
    run = 1
    while run < len(ids) and tokens.detokenizer.decode(ids[-run - 1 : -1]).endswith(PARTIAL):
        run += 1
    return rest.endswith(PARTIAL) and tokens.detokenizer.decode(ids[-run:]).endswith(rest)


def _prefix(text: str, written: str) -> int | None:
    """How many characters at the start of `written` are `text`; None if it does not start so.

    A replacement character stands for whatever a server could not show.
    """
    if written.startswith(text):
        return len(text)
    if PARTIAL not in text:
        return None
    first, *pieces = re.split(f"{PARTIAL}+", text)
    if not written.startswith(first):
        return None
    at = len(first)
    for piece in pieces:
        found = written.find(piece, at + 1, at + _LOST + len(piece))
        if found < 0:
            return None
        at = found + len(piece)
    return at


def _places(strings: Sequence[str | None], text: str) -> list[tuple[int, int] | None]:
    """Where tokens stand in a text, by what they are called; None for those that do not.

    Tokens of a part of a character are called by a replacement character, which is found nowhere.
    """
    places: list[tuple[int, int] | None] = [None] * len(strings)
    end, last = len(text), len(strings)
    while (
        last and (string := strings[last - 1]) is not None and PARTIAL not in string and text.endswith(string, 0, end)
    ):
        places[last - 1] = (end - len(string), end)
        end, last = end - len(string), last - 1
    at, lost, index = 0, False, 0
    while index < last:
        string = strings[index]
        if string is None or PARTIAL in string:
            lost = True
            index += 1
            continue
        if lost or not text.startswith(string, at, end):
            block = ""
            for following in strings[index : min(index + _BLOCK, last)]:
                if following is None or PARTIAL in following:
                    break
                block += following
            found = text.find(block, at, end) if block else -1
            if found < 0:
                lost = True
                index += 1
                continue
            at = found
        places[index] = (at, at + len(string))
        at, lost, index = at + len(string), False, index + 1
    return places


def _moved(
    ids: Sequence[int], others: Sequence[int], maps: Sequence[dict[int, float]], tokens: Tokens
) -> list[dict[int, float]]:
    """The log-probabilities of other tokens of the same text, for those that begin where these do and are the same."""
    spans = dict(zip(_spans(others, tokens.detokenizer), zip(others, maps, strict=True), strict=True))
    moved = []
    for i, span in zip(ids, _spans(ids, tokens.detokenizer), strict=True):
        other, reported = spans.get(span, (None, {}))
        moved.append(reported if other == i else {})
    return moved


def _spans(ids: Sequence[int], detokenizer: Detokenizer) -> list[tuple[int, int]]:
    """Where tokens begin and end in their text; those of one character together, at its last one."""
    spans, at, run = [], 0, list[int]()
    for i in ids:
        run.append(i)
        piece = detokenizer.token_text(i) if len(run) == 1 else detokenizer.decode(run)
        if piece.endswith(PARTIAL):
            spans.append((at, -len(run)))
            continue
        spans.append((at, at + len(piece)))
        at += len(piece)
        run.clear()
    return spans


def _count(answer: Any, name: str) -> int | None:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value < _ROUNDING:
        raise BadAnswer(f"a log-probability is {_brief(value)}")
    return float(value)


def error_message(body: str) -> str:
    """What the body of an error says, on one line."""
    found = re.search(r'"(?:message|error|detail)"\s*:\s*"((?:[^"\\]|\\.)*)"', body)
    return " ".join((found.group(1) if found else body).split())[:500]


def says_too_long(message: str) -> bool:
    """Whether a refusal is about the length of the prompt."""
    return _TOO_LONG.search(message) is not None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
