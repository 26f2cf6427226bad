"""Keys, tokens and passwords: how they are told, and what stands in their place in files, on pages and in logs.

A secret decides no result, so nothing that is kept or shown needs it. It is told by the name it goes by (`hf_token`,
`api_key`), by its place in a URL, by the marks of well-known services, or as the value of an environment variable with
such a name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# What comes before these words does not matter: `hf_hub_password`, `basic_auth`.
_SECRETS = re.compile(
    r"passwords?|passwd|passphrase|passcode|secrets?|credentials?|authorization|auth|cookie|jwt|bearer|"
    r"(?:api|access|secret)key|(?:api|auth|access|hf)token"
)
# A key or tokens with such a word before them open something; a sort key and prompt tokens do not.
_OPENERS = re.compile(
    r"api|access|secret|private|auth|account|admin|master|deploy|bearer|refresh|session|signing|encryption|service|"
    r"client|subscription|ssh|anthropic|aws|azure|cohere|gcp|gemini|github|gitlab|google|groq|hf|hub|huggingface|"
    r"mistral|nvidia|openai|openrouter|replicate|together|wandb"
)
# A pass with such a word before it is a password; a forward pass is not.
_USERS = re.compile(r"admin|db|database|ftp|http|login|mysql|pg|postgres|proxy|redis|root|smtp|ssh|sudo|user")
# A token with such a word before it is a piece of text: `pad_token`, `begin_of_text_token`.
_TEXTS = re.compile(
    r"additional|special|audio|begin|boi|bos|bot|cls|end|eoi|eom|eos|eot|fim|fill|final|first|forced|good|bad|image|"
    r"judge|label|last|mask|max|min|negative|new|newline|next|no|null|num|number|of|one|pad|placeholder|plus|minus|"
    r"positive|prefix|response|reward|role|score|sep|separator|start|step|stop|suffix|text|think|thinking|unk|verdict|"
    r"video|vision|yes"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # as in apiKey
# Shorter values of environment variables are switches and numbers rather than secrets.
_SHORTEST = 8

# What stands before the @ of a URL. A password may hold a / or an @; a path that holds an @ comes after no colon but a
# port's.
_USER = re.compile(
    r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)"
    r"(?:[^\s/?#'\"<>:@\[]*:(?!\d{1,5}(?:[/?#]|$))(?:(?!://)[^\s'\"<>])*|[^\s/?#'\"<>]*)@",
    re.IGNORECASE,
)
# The signature of a URL, as storage services give.
_SIGNED = re.compile(r"(?<=[?&])((?:[\w-]*-)?(?:sig|signature)=)[^\s&#'\"<>]+", re.IGNORECASE)
# What stands before a value: a word of a command line; one of a URL's query, a program or a list of arguments; a name
# in quotes, as JSON and Python write it; that of a header or in YAML. A mere word before a colon is prose
# (`a token: `) unless a line begins with it.
_HEAD = re.compile(
    r"(?<![\w-])--(?P<option>[\w-]+)(?:=|[ ]+(?![\s=-]))"
    r"|(?<![\w-])(?P<name>[\w-]+)[ \t]{0,4}=(?!=)[ \t]{0,4}"
    r"|(?P<quotes>\\{0,3}['\"])(?P<key>[\w-]{1,80})(?P=quotes)\s{0,4}:\s{0,4}"
    r"|(?:(?<![\w-])(?P<header>\w+[_-][\w-]+|(?i:authorization|cookie|apikey))|^[ \t]*(?:-[ ]+)?(?P<line>\w+))"
    r"[ \t]{0,4}:(?![:/])[ \t]{0,4}(?P<scheme>(?i:Bearer|Basic|Digest|Token|ApiKey)[ ]+)?",
    re.MULTILINE,
)
_QUOTED = r"(?P<quote>\\{0,3}['\"])(?:(?!(?P=quote))(?:\\.|[^\\]))*(?P<end>(?P=quote)|\Z|\\\Z)"
_VALUE = re.compile(
    rf"{_QUOTED}|(?P<many>[\[{{(][^\])}}]*)|(?P<word>[^\s,;&#'\"<>()\[\]{{}}\\][^\s,;&#'\"<>)\]}}\\]*)", re.DOTALL
)
# One of many: a text or a word. A name of another value is followed by a colon.
_ITEM = re.compile(rf"(?:{_QUOTED}|(?P<word>[^\s,:'\"\[\]{{}}()\\]+))(?P<colon>\s*:)?", re.DOTALL)
_CONSTANT = re.compile(r"-?\d+(?:\.\d*)?|true|false|null|none|~", re.IGNORECASE)
_BEARER = re.compile(r"(?<=\bBearer )[^\s'\"]+", re.IGNORECASE)
# The marks of well-known services.
_MARKED = re.compile(
    r"(?<![\w-])(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[opsru]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|"
    r"AIza[\w-]{30,}|gsk_[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|"
    r"glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})(?![\w-])"
)


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret.

    Examples:
        >>> [is_secret_name(name) for name in ("hf_token", "api_key", "OPENAI_API_KEY", "eos_token", "max_new_tokens")]
        [True, True, True, False, False]
    """
    words = re.split(r"[^a-z0-9]+", _HUMP.sub("_", name).lower())
    if len(words) > 1 and words[-1].isdecimal():  # api_key_2
        words.pop()
    *before, last = words
    last = last.rstrip("0123456789")
    if last in ("pwd", "pw"):  # alone, a shell's working directory
        return bool(before)
    if last == "pass":
        return bool(before) and _USERS.fullmatch(before[-1]) is not None
    if last in ("key", "keys", "tokens") and before:
        return _OPENERS.fullmatch(before[-1]) is not None or (last != "tokens" and name.isupper())
    if last == "token":
        return not any(map(_TEXTS.fullmatch, before))
    return _SECRETS.fullmatch(last) is not None


def mask_text(text: str) -> str:
    """A text without its secrets.

    Examples:
        >>> mask_text("https://me:pw@host/v1?token=abc and api_key=abc, token ids 1, 2")
        'https://***@host/v1?token=*** and api_key=***, token ids 1, 2'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and is_secret_name(name):
            text = text.replace(value, MASK)
    text = _USER.sub(rf"\1{MASK}@", text)
    text = _SIGNED.sub(rf"\1{MASK}", text)
    text = _without_values(text)
    text = _BEARER.sub(MASK, text)
    return _MARKED.sub(MASK, text)


def _without_values(text: str) -> str:
    """A text with the mask in place of values that are secrets by their names."""
    parts, at = [], 0
    for head in _HEAD.finditer(text):
        name = head["option"] or head["name"] or head["key"] or head["header"] or head["line"]
        if head.start() < at or not is_secret_name(name):
            continue
        if (found := _VALUE.match(text, head.end())) is None:
            continue
        if found["many"]:
            value = _ITEM.sub(_without_item, found["many"])
        elif found["word"] and not (head["option"] or head["name"]) and _CONSTANT.fullmatch(found["word"]):
            value = found["word"]  # a switch, as JSON and YAML write it
        else:
            value = _masked(found)
        parts += [text[at : head.end()], value]
        at = found.end()
    return "".join([*parts, text[at:]])


def _without_item(found: re.Match[str]) -> str:
    if found["colon"] or (found["word"] and _CONSTANT.fullmatch(found["word"])):
        return found[0]
    return _masked(found)


def _masked(found: re.Match[str]) -> str:
    """The mask in the quotes of what was found, if it has any. An empty text stays."""
    if found["quote"] is None:
        return MASK
    return found[0] if found[0] == found["quote"] + found["end"] else found["quote"] + MASK + found["end"]


def mask(value: Any) -> Any:
    """A JSON value without the secrets in it: texts that go by a secret's name, and those within other texts.

    Examples:
        >>> mask({"model_kwargs": {"token": "abc", "use_auth_token": True}, "urls": ["http://me:pw@host"]})
        {'model_kwargs': {'token': '***', 'use_auth_token': True}, 'urls': ['http://***@host']}
    """
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: _hidden(item) if is_secret_name(str(key)) else mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item) for item in value]
    return value


def _hidden(value: Any) -> Any:
    """A value that goes by a secret's name: without its texts. Numbers are ids and switches."""
    if isinstance(value, str):
        return MASK if value else value
    if isinstance(value, Mapping):
        return {key: _hidden(item) for key, item in value.items()}
    return [_hidden(item) for item in value] if isinstance(value, list | tuple) else value


class MaskingFilter(logging.Filter):
    """Takes the secrets out of log records, for a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Masks a record's message and lets it pass."""
        record.msg, record.args = mask_text(record.getMessage()), ()
        return True
