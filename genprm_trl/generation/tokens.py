"""Token ids back into text, piece by piece."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

PARTIAL = "\ufffd"  # what decoders put where the bytes of a character are not complete (yet)


class Detokenizer:
    """Text of generated tokens, independent of where in a text they stand.

    Some tokenizers (SentencePiece's) drop a space at the start of whatever they decode. Generated tokens are the
    middle of a text, so they are decoded behind an anchor token whose text is cut off again.

    Args:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        anchor = tokenizer.encode("\n", add_special_tokens=False)[-1:]
        self._anchor: list[int] = anchor
        self._anchor_text: str = self._raw_decode(anchor)
        self._token_texts: dict[int, str] = {}

    def _raw_decode(self, ids: list[int]) -> str:
        # Clean-up drops spaces before punctuation: the text would no longer be that of the tokens.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._raw_decode(self._anchor + ids)[len(self._anchor_text) :] if ids else ""

    def encode(self, text: str) -> list[int]:
        """Tokens whose text is `text` in the middle of a text, as far as the tokenizer has such."""
        # A tokenizer that puts a space before whatever it encodes is asked for the text behind something else, which
        # must not merge with it.
        for before in ("", "\n", "a", "1"):
            ids = list(self._tokenizer.encode(before + text, add_special_tokens=False))
            for start in range(len(ids)):
                if self.decode(ids[start:]) == text:
                    return ids[start:]
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def tokens_with(self, pattern: re.Pattern[str], accept: Callable[[str], bool]) -> tuple[int, ...]:
        """The tokens of the vocabulary whose text is accepted, in order.

        Args:
            pattern: What the beginning of their names in the vocabulary matches, which spares decoding all of it. In
                names, ASCII stands for itself, and a space or another byte for some other character.
            accept: Says whether a token's text will do.
        """
        likely = (i for name, i in self._tokenizer.get_vocab().items() if pattern.match(name))
        return tuple(i for i in sorted(likely) if accept(self.token_text(i)))

    def token_text(self, token: int) -> str:
        """The text of one token, remembered."""
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.decode([token])
        return text
