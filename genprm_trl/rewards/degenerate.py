"""A penalty for degenerate text, from T1's recipe (Hou et al. 2025, arXiv 2501.11651).

T1 samples many completions of a prompt at a temperature above 1. Some of them repeat themselves, run on to the length
bound, or fall into other scripts. Its reward of those is -1. Its code was not published, so the bounds here are ours.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from genprm_trl.errors import ConfigError, check_at_least, check_share
from genprm_trl.rewards.texts import completion_text, problem_text

# Mathematics is written with these, whatever the language of the problem. MODIFIER letters, as primes, have no script.
_EVERYWHERE = frozenset(("LATIN", "GREEK", "LETTERLIKE", "MODIFIER"))


def repeated_share(text: str, size: int = 8) -> float:
    """The share of a text's runs of `size` words that came before, 0 for a text of fewer words.

    Example:
        >>> repeated_share("so it is so it is so it is", size=3)
        0.5714285714285714
    """
    words = text.split()
    runs = Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


def foreign_share(text: str, prompt: str) -> float:
    """The share of a text's letters that are of a script which the prompt does not use.

    Latin, Greek and the letters of mathematics are at home anywhere. Characters that replace half a character
    (U+FFFD) count as foreign letters.

    Example:
        >>> foreign_share("So it is \u0442\u0430\u043a.", "What is 2 + 3?")
        0.3333333333333333
    """
    at_home = _EVERYWHERE | {_script(character) for character in prompt if character.isalpha()}
    letters = [character for character in text if character.isalpha() or character == "\ufffd"]
    return sum(_script(letter) not in at_home for letter in letters) / len(letters) if letters else 0.0


def degenerate_text_penalty(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    max_tokens: int | None = None,
    most_repeated: float = 0.3,
    most_foreign: float = 0.1,
    **kwargs: Any,
) -> list[float]:
    """-1 for a completion that repeats itself, runs on to the length bound, or is garbled; else 0.

    It is added to a reward of 1 for a right answer and 0 for a wrong one. (T1 has -1 for a degenerate one that is
    right, too.)

    Args:
        completions: Texts, or lists of messages.
        prompts: The prompts, whose scripts are no garble.
        completion_ids: The token ids of each completion.
        max_tokens: Completions of so many tokens or more are too long: the trainer's `max_completion_length`. Default:
            no bound. `functools.partial` sets this and what follows.
        most_repeated: The largest `repeated_share` that is not degenerate.
        most_foreign: Likewise of `foreign_share`.
        **kwargs: What else a trainer passes; `log_metric` is told the shares `degenerate/repeated`,
            `degenerate/too_long` and `degenerate/garbled` of the completions.

    Raises:
        ConfigError: A bound is out of range, or `max_tokens` is set and the trainer gives no `completion_ids`.

    Example:
        >>> from genprm_trl.rewards import degenerate_text_penalty
        >>> degenerate_text_penalty(["The answer is 5.", "Wait, no. " * 20])
        [0.0, -1.0]
    """
    check_share(most_repeated=most_repeated, most_foreign=most_foreign)
    check_at_least(1, max_tokens=max_tokens)
    if max_tokens is not None and completion_ids is None:
        raise ConfigError("degenerate_text_penalty counts tokens, and the trainer gives no completion_ids")
    texts = [completion_text(completion) for completion in completions]
    asked = [problem_text(prompt) for prompt in prompts] if prompts is not None else [""] * len(texts)
    found = {
        "repeated": [repeated_share(text) > most_repeated for text in texts],
        "too_long": [max_tokens is not None and len(ids) >= max_tokens for ids in completion_ids or texts],
        "garbled": [foreign_share(text, prompt) > most_foreign for text, prompt in zip(texts, asked, strict=True)],
    }
    if (log_metric := kwargs.get("log_metric")) is not None and texts:
        for name, values in found.items():
            log_metric(f"degenerate/{name}", sum(values) / len(values))
    return [-float(any(causes)) or 0.0 for causes in zip(*found.values(), strict=True)]


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of the name of the letter's plain form, which is that of its script: LATIN for a raised n."""
    if "\u2100" <= letter <= "\u214f":  # Unicode's letterlike symbols; the plain form of its aleph is a Hebrew letter
        return "LETTERLIKE"
    plain = next(filter(str.isalpha, unicodedata.normalize("NFKC", letter)), letter)
    return unicodedata.name(plain, "UNKNOWN").split()[0]
