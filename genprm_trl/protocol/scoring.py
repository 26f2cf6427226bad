"""P(Yes): finding the verdict's token in what was written, and its probability from log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from genprm_trl.protocol.base import Action, Score, Written
from genprm_trl.records import StepStatus

_PART_OF_CHARACTER = "\ufffd"  # what decoders put where the bytes of a character are not complete


@dataclass(frozen=True, slots=True)
class WordToken:
    """The token that opens a word of a text.

    Attributes:
        index: The token's index in the list of tokens.
        lead: What the token holds before the word (the brace of `{Yes`).
    """

    index: int
    lead: str


def find_word_token(written: Written, position: int) -> WordToken | None:
    """The token that opens the word at character `position` of the text; None where tokens and text do not agree.

    The word begins with an ASCII letter.
    """
    # Only ASCII characters are counted, for only they are never split: a token that holds a part of a character does
    # not decode to it. The count begins at the end, so that few tokens of a long text are decoded.
    to_end, tail, index = _count_ascii(written.text[position:]), 0, len(written.tokens)
    while index > 0 and tail < to_end:
        index -= 1
        tail += _count_ascii(written.tokens[index])
    before = tail - to_end
    if before < 0 or to_end <= 0 or index >= len(written.tokens):
        return None
    token = written.tokens[index]
    start = [at for at, character in enumerate(token) if character.isascii()][before]
    opening, _, _ = token[start:].partition(_PART_OF_CHARACTER)
    return WordToken(index, token[:start]) if written.text.startswith(opening, position) else None


def score_word(
    written: Written, position: int, positive: str, negative: str
) -> Generator[Action, Any, tuple[float, StepStatus] | None]:
    """The part of a script that reads the probability of a word, however its text was generated.

    Args:
        written: What the model has written last.
        position: The character of `written.text` at which the word begins.
        positive: The word whose probability is asked for.
        negative: The other word.

    Returns:
        The probability (see `binary_probability`) and `ok`; 0.5 and why the generator failed; None if neither word is
        there.
    """
    alternatives: Sequence[tuple[str, float]] | None = None
    token = find_word_token(written, position)
    if token is not None and token.index >= len(written.top_logprobs):
        scored: Written = yield Score(token.index, (positive, negative))
        if scored.finish_reason in ("error", "context"):
            return 0.5, failure(scored)
        alternatives = scored.top_logprobs[0] if scored.top_logprobs else ()
    reward = binary_probability(written, position, positive, negative, alternatives)
    return None if reward is None else (reward, "ok")


def failure(written: Written) -> StepStatus:
    """The status of a step for which the generator reports `error` or `context`."""
    return "truncated" if written.finish_reason == "context" else "error"


def binary_probability(
    written: Written,
    position: int,
    positive: str,
    negative: str,
    alternatives: Sequence[tuple[str, float]] | None = None,
) -> float | None:
    """P(positive) / (P(positive) + P(negative)) at the token that opens the verdict word.

    The word at character `position` of `written.text` may start inside a token (`{Yes`) or span several (`Y`, `es`).
    An alternative counts for a word if it has the same characters before the word and then the word or more. The
    beginning of a word counts only where the word is not a single token. The probability is exact if both words are
    among the alternatives. If only one is, the other takes the smallest reported log-probability (the published rule).
    If a single log-probability is reported, the other word has the rest of the probability. Without any the written
    word decides: 1 or 0.

    Args:
        written: What the model wrote.
        position: The character of `written.text` at which the verdict word begins.
        positive: The word whose probability is asked for.
        negative: The other word.
        alternatives: (token text, log-probability) at the token that opens the word, if not in `written`.

    Returns:
        A probability in [0, 1], or None if `position` is outside of the text or neither word is there.
    """
    word_written = written.text[position:].casefold()
    hard = {word: word_written.startswith(word.casefold()) for word in (positive, negative)}
    if not any(hard.values()):
        return None
    token = find_word_token(written, position)
    if token is not None and alternatives is None and token.index < len(written.top_logprobs):
        alternatives = written.top_logprobs[token.index]
    if token is None or not alternatives:  # nothing to compare with
        return float(hard[positive])
    # One spelling a word, as published: "Yes" and "YES" are different tokens and are not added up. Case counts unless
    # the model itself wrote the word in another one.
    spelled_exactly = written.text.startswith((positive, negative), position)
    spell = str if spelled_exactly else str.casefold
    # A model that writes words as single tokens does not mean `Yes` by `Ye`, which would be the start of another word.
    said, other = (positive, negative) if hard[positive] else (negative, positive)
    one_token = len(written.tokens[token.index]) >= len(token.lead + said)
    whole = {said: one_token, other: written.is_token(token.lead + other) if written.is_token else one_token}
    best: dict[str, float] = {}
    for text, logprob in alternatives:
        rest = spell(text[len(token.lead) :])
        if not rest or not text.startswith(token.lead) or math.isnan(logprob):
            continue
        for word in (positive, negative):
            begins = not whole[word] and spell(word).startswith(rest)
            if begins or _starts_with_word(rest, spell(word)):
                best[word] = max(logprob, best.get(word, -math.inf))
    if not best:
        return float(hard[positive])
    if len(alternatives) == len(best) == 1:
        [(word, logprob)] = best.items()
        share = math.exp(min(logprob, 0.0))
        return share if word == positive else 1 - share
    floor = min(logprob for _, logprob in alternatives if not math.isnan(logprob))
    difference = best.get(positive, floor) - best.get(negative, floor)
    if math.isnan(difference):  # equal infinities
        return 0.5
    # A numerically safe sigmoid: exp never sees a large positive argument.
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    return math.exp(difference) / (1 + math.exp(difference))


def opens_word(text: str, word: str, is_token: Callable[[str], bool]) -> bool:
    """Whether a token may open a word, behind whatever stands before the word in the same token.

    `binary_probability` can count only such tokens for the word, in any case.

    Args:
        text: The token's text.
        word: The word, of letters.
        is_token: Says whether a text is one token.
    """
    start = next((at for at, character in enumerate(text) if character.isalpha()), len(text))
    lead, rest = text[:start], text[start:].casefold()
    if _starts_with_word(rest, word.casefold()):
        return True
    return bool(rest) and word.casefold().startswith(rest) and not is_token(lead + word)


def _count_ascii(text: str) -> int:
    return sum(map(str.isascii, text))


def _starts_with_word(text: str, word: str) -> bool:
    """Whether `text` starts with `word` as a whole word: `No}` does for `No`, `Not` does not."""
    return text.startswith(word) and not text[len(word) : len(word) + 1].isalpha()
