"""The token ids of a conversation, which training and inference build with the same class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from genprm_trl.conversation.template import ChatFormat
from genprm_trl.protocol.base import SegmentKind

TokenKind = Literal["template", "forced", "written", "interpreter", "mark", "end_of_turn"]


@dataclass(slots=True)
class _TurnSegment:
    kind: SegmentKind
    text: str
    ids: list[int]


@dataclass(slots=True)
class _Turn:
    opening: str  # the template's text from the end of the turn before to the start of this one
    segments: list[_TurnSegment] = field(default_factory=list)
    encoded: tuple[str, list[int]] | None = None  # opening and leading forced text, so that they are encoded once

    @property
    def begins_forced(self) -> bool:
        return bool(self.segments) and self.segments[0].kind == "forced"


class Conversation:
    """One conversation as the model sees it, grown turn by turn.

    Example:
        >>> chat = ChatFormat(tokenizer)  # doctest: +SKIP
        >>> conversation = Conversation(chat)  # doctest: +SKIP
        >>> conversation.open_turn([{"role": "user", "content": "1 + 1 = 2"}])  # doctest: +SKIP
        >>> conversation.append("<output>", "forced")  # doctest: +SKIP
        >>> prompt = conversation.token_ids  # doctest: +SKIP
    """

    def __init__(self, chat: ChatFormat):
        self._chat = chat
        self._messages: list[dict[str, str]] = []
        self._turns: list[_Turn] = []
        self._closed: list[int] = []  # ids of the finished turns as the open one sees them
        self._closed_text = ""  # or their text, where it is encoded anew
        self._prompt: list[int] | None = []  # these and the open turn's; None if they must be put together again

    def open_turn(self, messages: Iterable[dict[str, str]]) -> None:
        """Ends the open turn, adds `messages` (user and system) and opens the assistant's next turn."""
        for message in messages:
            self._messages.append({**message, "content": self._chat.neutralize(message["content"])})
        *pieces, opening = self._chat.render(self._messages, open_turn=True)
        if self._chat.turn_opening == "generation_prompt":
            # Turns stay as they were opened, whatever the template does to history.
            self._closed = self.token_ids if self._turns else []
        elif self._chat.encodes_anew:
            turns = zip(pieces, self._turns, strict=True)
            self._closed_text = "".join(piece + self._safe_text(turn) for piece, turn in turns)
        else:
            # Finished turns carry the template's marker, which they did not when they were written.
            self._closed = [
                token
                for index, (turn, piece) in enumerate(zip(self._turns, pieces, strict=True))
                for token in self._turn_ids(index, turn, piece)
            ]
        self._messages.append({"role": "assistant", "content": ""})
        self._turns.append(_Turn(opening))
        self._prompt = None

    def append(self, text: str, kind: SegmentKind) -> None:
        """Adds text to the open turn. Control tokens' strings in it stay text, except in a mark."""
        self.append_ids(self._chat.encode(safe_text(self._chat, text, kind)), text, kind)

    def append_ids(self, ids: Sequence[int], text: str, kind: SegmentKind = "written") -> None:
        """Adds text to the open turn in the token ids that it was generated in."""
        segments = self._turns[-1].segments
        segments.append(_TurnSegment(kind, text, list(ids)))
        if len(segments) == 1 or self._chat.encodes_anew:
            self._prompt = None  # a forced prefix is encoded with the template's text before it
        elif self._prompt is not None:
            self._prompt += ids

    def rewind(self, keep: int) -> None:
        """Drops all but the first `keep` segments of the open turn."""
        del self._turns[-1].segments[keep:]
        self._prompt = None

    @property
    def turn_count(self) -> int:
        """Turns of the assistant so far, the open one included."""
        return len(self._turns)

    @property
    def turn_text(self) -> str:
        """The open turn's text."""
        return "".join(segment.text for segment in self._turns[-1].segments)

    @property
    def turn_tokens(self) -> int:
        """Tokens in the open turn."""
        if self._chat.encodes_anew:  # as the published inference counts them
            return self._chat.count(self._safe_text(self._turns[-1]))
        return sum(len(segment.ids) for segment in self._turns[-1].segments)

    @property
    def turn_segments(self) -> int:
        """Segments in the open turn."""
        return len(self._turns[-1].segments)

    @property
    def token_ids(self) -> list[int]:
        """The whole conversation up to here, as the model continues it."""
        if self._prompt is None:
            index, turn = len(self._turns) - 1, self._turns[-1]
            if self._chat.encodes_anew:
                self._prompt = self._chat.encode_start(self._closed_text + turn.opening + self._safe_text(turn))
            else:
                self._prompt = self._closed + self._turn_ids(index, turn, turn.opening)
        return list(self._prompt)

    def _safe_texts(self, turn: _Turn) -> list[str]:
        """The texts of a turn's segments, in which nobody can have brought in a control token."""
        return [
            self._chat.written_text(each.text, each.ids)
            if each.kind == "written"
            else safe_text(self._chat, each.text, each.kind)
            for each in turn.segments
        ]

    def _safe_text(self, turn: _Turn) -> str:
        return "".join(self._safe_texts(turn))

    def _leading_ids(self, index: int, turn: _Turn, opening: str) -> list[int]:
        """Ids of the template's text that leads up to a turn, and of the forced prefix that the turn begins with."""
        text = opening
        if turn.begins_forced:
            # Nothing stands between the template's text and a forced prefix, so they are encoded as one text: in the
            # published inference, too, the model sees the tokens of the whole.
            text += self._chat.rest_of_header + self._chat.neutralize(turn.segments[0].text)
        if turn.encoded is None or turn.encoded[0] != text:
            turn.encoded = (text, self._chat.encode(text) if index else self._chat.encode_start(text))
        return turn.encoded[1]

    def _turn_ids(self, index: int, turn: _Turn, opening: str) -> list[int]:
        """Ids of a turn with what leads up to it."""
        ids = list(self._leading_ids(index, turn, opening))
        for segment in turn.segments[turn.begins_forced :]:
            ids += segment.ids
        return ids

    def _turn_kinds(self, index: int, turn: _Turn, opening: str) -> list[TokenKind]:
        """The kinds of `_turn_ids`."""
        leading = self._leading_ids(index, turn, opening)
        kinds: list[TokenKind] = []
        if index:
            # The text between two turns begins with what ends the one before: the model must learn to write it.
            kinds += ["end_of_turn"] * self._chat.closing_length(leading)
        prefix_tokens = len(turn.segments[0].ids) if turn.begins_forced else 0
        kinds += ["template"] * max(len(leading) - len(kinds) - prefix_tokens, 0)
        kinds += ["forced"] * (len(leading) - len(kinds))
        for segment in turn.segments[turn.begins_forced :]:
            kinds += [segment.kind] * len(segment.ids)
        return kinds

    def finished(self) -> tuple[list[int], list[TokenKind]]:
        """The finished conversation for training: token ids and, for each, who put it there."""
        pieces = self._chat.render(self._messages, open_turn=False)
        if self._chat.encodes_anew:
            return self._finished_anew(pieces)
        ids: list[int] = []
        kinds: list[TokenKind] = []
        for index, (turn, rendered) in enumerate(zip(self._turns, pieces[:-1], strict=True)):
            # As `open_turn` would see them in the next one.
            opening = turn.opening if self._chat.turn_opening == "generation_prompt" else rendered
            ids += self._turn_ids(index, turn, opening)
            kinds += self._turn_kinds(index, turn, opening)
        closing = self._chat.encode(pieces[-1])
        ends = self._chat.closing_length(closing)
        kinds += ["end_of_turn"] * ends
        kinds += ["template"] * (len(closing) - ends)
        return ids + closing, kinds

    def _finished_anew(self, pieces: Sequence[str]) -> tuple[list[int], list[TokenKind]]:
        """The same where the whole text is encoded anew. A token has the kind of its last character."""
        parts: list[tuple[str, TokenKind]] = []
        for piece, turn in zip(pieces, self._turns, strict=False):
            parts.append((piece, "template"))
            kinds_of = [segment.kind for segment in turn.segments]
            parts += zip(self._safe_texts(turn), kinds_of, strict=True)
        parts.append((pieces[-1], "template"))
        ids, ends = self._chat.spans("".join(text for text, _ in parts))
        kinds: list[TokenKind] = []
        place = 0  # of the next token
        until = 0  # the character at which the part ends
        for number, (text, kind) in enumerate(parts):
            until += len(text)
            start = place
            while place < len(ids) and (ends[place] <= until or number == len(parts) - 1):
                place += 1
            kinds += [kind] * (place - start)
            if number and kind == "template":
                # It begins with what ends the turn before it: the model must learn to write it.
                closing = self._chat.closing_length(ids[start:place])
                kinds[start : start + closing] = ["end_of_turn"] * closing
        return ids, kinds


def safe_text(chat: ChatFormat, text: str, kind: SegmentKind) -> str:
    """A segment's text as it is encoded: only a mark may hold control tokens (see `ChatFormat.neutralize`)."""
    return text if kind == "mark" else chat.neutralize(text)
