"""Stop strings: finding them as tokens arrive, and cutting text and tokens right after them."""

from __future__ import annotations

from collections.abc import Sequence

from genprm_trl.generation.tokens import PARTIAL, Detokenizer


class StopStrings:
    """The stop strings of a request, and which tokens can complete one.

    Args:
        stop: The strings, none of them empty.
        detokenizer: Decodes with the model's tokenizer.
    """

    def __init__(self, stop: Sequence[str], detokenizer: Detokenizer):
        self.strings = tuple(stop)
        self.longest = max(map(len, stop), default=0)
        self._detokenizer = detokenizer
        self._last = {s[-1] for s in stop}
        # The last bytes of a character outside ASCII may come alone, as a token that shows no character.
        if any(not c.isascii() for c in self._last):
            self._last.add(PARTIAL)
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
        if piece.endswith(PARTIAL):
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
            the kept part of a token that spilled over, re-encoded.
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
            if text.startswith(head) and not head.endswith(PARTIAL):
                break
        return text, self.ids[:kept] + self._detokenizer.encode(text[len(head) :]), kept
