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

# What comes before these words does not matter: `hf_hub_password`.
_SECRETS = re.compile(
    r"passwords?|passwd|passphrase|secrets?|credentials?|authorization|cookie|(?:api|access|secret)key|"
    r"(?:api|auth|access|hf)token"
)
# A key with such a word before it opens something; a sort key does not.
_KEYS = re.compile(r"api|access|secret|private|auth|account|signing|encryption|service|client")
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

# What stands before the @ of a URL.
_USER = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)[^\s/?#'\"<>]*@", re.IGNORECASE)
# A word of a command line, of a URL's query or of a list of arguments, and what follows it.
_ASSIGNED = re.compile(
    r"(?<![\w-])(?:--(?P<option>[\w-]+)[= ]|(?P<name>[\w-]+)=)(?![\s=-])(?P<value>[^\s,;&#'\"<>)\]}]+)"
)
# "name": "value", as JSON and Python write it.
_QUOTED = re.compile(
    r"(['\"])(?P<name>[\w-]{1,80})\1\s{0,4}:\s{0,4}(?P<quote>['\"])(?P<value>(?:(?!(?P=quote))[^\\]|\\.)+)(?=(?P=quote)|$)"
)
_BEARER = re.compile(r"(?<=\bBearer )[^\s'\"]+", re.IGNORECASE)
# The marks of well-known services.
_MARKED = re.compile(
    r"(?<![\w-])(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[opsru]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|"
    r"glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})(?![\w-])"
)


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret.

    Examples:
        >>> [is_secret_name(name) for name in ("hf_token", "api_key", "OPENAI_API_KEY", "eos_token", "max_new_tokens")]
        [True, True, True, False, False]
    """
    words = re.split(r"[^a-z0-9]+", _HUMP.sub("_", name).lower())
    *before, last = words
    if last == "pwd":  # alone, a shell's working directory
        return bool(before)
    if last in ("key", "keys") and before:
        return _KEYS.fullmatch(before[-1]) is not None or name.isupper()
    if last == "token":
        return not any(map(_TEXTS.fullmatch, before))
    return _SECRETS.fullmatch(last) is not None or words == ["auth"]


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
    for pattern in (_QUOTED, _ASSIGNED):
        text = pattern.sub(_without_value, text)
    text = _BEARER.sub(MASK, text)
    return _MARKED.sub(MASK, text)


def _without_value(found: re.Match[str]) -> str:
    """What was found, with the mask in place of its value if that is a secret by its name."""
    named = found.groupdict()
    if not is_secret_name(named["name"] or named["option"]):
        return found[0]
    return found[0].removesuffix(named["value"]) + MASK


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
