"""Stop strings: finding them as tokens arrive, and cutting text and tokens right after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PARTIAL = "\ufffd"  # what decoders put where the bytes of a character are not complete (yet)


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

    def token_text(self, token: int) -> str:
        """The text of one token, remembered."""
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.decode([token])
        return text


class StopStrings:
    """The stop strings of a request, and which tokens can complete one.

    Args:
        stop: The strings, none of them empty.
        detokenizer: Of the model's tokenizer.
    """

    def __init__(self, stop: Sequence[str], detokenizer: Detokenizer):
        self.strings = tuple(stop)
        self.longest = max(map(len, stop), default=0)
        self._detokenizer = detokenizer
        self._last = {s[-1] for s in stop}
        # The last bytes of a character outside ASCII may come alone, as a token that shows no character.
        if any(not c.isascii() for c in self._last):
            self._last.add(_PARTIAL)
        self._known: dict[int, bool] = {}

    def may_end_with(self, token: int) -> bool:
        """Whether a stop string can be complete after this token and was not before: it has one's last character.

        Most tokens cannot, and text is decoded only for those that can.
        """
        may = self._known.get(token)
        if may is None:
            text = self._detokenizer.token_text(token)
            may = self._known[token] = any(c in text for c in self._last)
        return may

    def find_end(self, text: str, start: int) -> int:
        """Where the first stop string to be complete ends, or -1. None is known to end at or before `start`."""
        begin = max(0, start - self.longest + 1)
        found = ((text.find(s, begin), len(s)) for s in self.strings)
        return min((at + length for at, length in found if at >= 0), default=-1)


class GeneratedText:
    """The tokens that a request has generated and their text, decoded piece by piece: each token about once.

    Attributes:
        ids: The tokens so far; append to it freely.
        stop: The stop strings looked for.
    """

    def __init__(self, stop: StopStrings, detokenizer: Detokenizer):
        self.ids: list[int] = []
        self.stop = stop
        self._detokenizer = detokenizer
        self._text = ""  # of ids[:_decoded], which ends with a complete character
        self._decoded = 0
        self._searched = 0  # no stop string ends at or before this index of the text

    def text(self) -> str:
        """The text of all tokens so far. An incomplete character at its end is U+FFFD."""
        piece = self._detokenizer.decode(self.ids[self._decoded :])
        if piece.endswith(_PARTIAL):
            return self._text + piece
        self._text += piece
        self._decoded = len(self.ids)
        return self._text

    def find_stop(self) -> int:
        """Index of the text right after the first stop string, or -1."""
        text = self.text()
        end = self.stop.find_end(text, self._searched)
        if end < 0:
            self._searched = len(self._text)
        return end

    def cut(self, end: int) -> tuple[str, list[int], int]:
        """Cuts the text at index `end`.

        Returns:
            The text up to `end`, token ids with that text, and how many of them are the ones generated; the rest is
            the kept part of a token that spilled over, encoded anew.
        """
        text = self.text()
        if end == len(text):
            return text, list(self.ids), len(self.ids)
        text = text[:end]
        # The end lies within the last token, or the last few if those only make a character together.
        kept, head = len(self.ids), ""
        while kept > 0:
            kept -= 1
            head = self._detokenizer.decode(self.ids[:kept])
            if text.startswith(head) and not head.endswith(_PARTIAL):
                break
        return text, self.ids[:kept] + self._detokenizer.encode(text[len(head) :]), kept
