"""Token ids of a verification conversation, through the model's own chat template.

Training and inference build their token ids with the same class, `Conversation`, so that a model is asked in exactly
the tokens it was trained on. Text is put together segment by segment: what the template, the protocol or the
interpreter adds is encoded where it is added, what the model wrote keeps the token ids it was written in. Nothing is
encoded twice, and a prompt always extends the one before it, which is what prefix caches need.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genprm_trl.errors import ConfigError
from genprm_trl.protocol.base import SegmentKind

TurnOpening = Literal["generation_prompt", "as_published"]
TokenKind = Literal["template", "forced", "written", "interpreter", "end_of_turn"]

# Stands for an assistant's turn while the template is rendered. Private-use characters: no template touches them.
_PLACEHOLDER = "\ue0f0turn\ue0f1"
# Breaks a special token's string in text that is not ours; invisible, and no tokenizer has a token across it.
_BREAK = "\u200b"


class ChatFormat:
    """A tokenizer's chat template, ready for verification conversations.

    Args:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
        turn_opening: How an assistant's turn opens. `generation_prompt`: with the template's generation prompt, kept
            in the history as it was; for models trained here. `as_published`: without it and with a trailing
            end-of-text token stripped, so that the forced prefix follows the user's text at once, while earlier turns
            carry the template's own marker; the released GenPRM checkpoints were measured so (the code published with
            arXiv 2504.00891).
        chat_template: A Jinja template to use in place of the tokenizer's own.

    Raises:
        ConfigError: if there is no chat template, or it cannot hold a conversation of several turns.
    """

    def __init__(
        self, tokenizer: Any, turn_opening: TurnOpening = "generation_prompt", chat_template: str | None = None
    ):
        if turn_opening not in ("generation_prompt", "as_published"):
            raise ConfigError(f"unknown turn_opening {turn_opening!r}; choose generation_prompt or as_published")
        if chat_template is None and not getattr(tokenizer, "chat_template", None):
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise ConfigError(
                f"the tokenizer '{name}' has no chat template; give one with the option chat_template "
                "(on the command line: --chat_template_path FILE.jinja)"
            )
        self.tokenizer = tokenizer
        self.turn_opening: TurnOpening = turn_opening
        self._template = chat_template
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
        special.discard("")
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if special else None
        self._special_ids = frozenset(tokenizer.convert_tokens_to_ids(list(special)))
        # Encoders of the SentencePiece family put a space before each text they are given; behind an anchor they
        # do not.
        joined = tokenizer.decode(self._plain_encode("x") + self._plain_encode("x"))
        self._anchor = "" if joined == "xx" else "\n"
        # Forced texts recur endlessly; a bounded cache spares encoding them anew in every step.
        self._encode_short = functools.lru_cache(maxsize=4096)(self._encode)
        self._system_role = self._supports_system_role()

    def _plain_encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _encode(self, text: str) -> tuple[int, ...]:
        if self._anchor:
            anchor = self._plain_encode(self._anchor)
            ids = self._plain_encode(self._anchor + text)
            if ids[: len(anchor)] == anchor:
                return tuple(ids[len(anchor) :])
        return tuple(self._plain_encode(text))

    def encode(self, text: str) -> list[int]:
        """Encodes text that continues other text: no special tokens are added."""
        return list(self._encode_short(text) if len(text) < 500 else self._encode(text))

    def encode_start(self, text: str) -> list[int]:
        """Encodes the start of a conversation: begin-of-text exactly once if the tokenizer would add it by itself."""
        ids = self._plain_encode(text)
        bos = self.tokenizer.bos_token_id
        adds_bos = bos is not None and self.tokenizer.encode("x", add_special_tokens=True)[:1] == [bos]
        return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids

    def neutralize(self, text: str) -> str:
        """Breaks every special token's string, so that a step or a program's output cannot end its turn."""
        if self._special is None:
            return text
        return self._special.sub(lambda match: match.group()[0] + _BREAK + match.group()[1:], text)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def _apply(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **({"chat_template": self._template} if self._template is not None else {}),
        )

    def _supports_system_role(self) -> bool:
        user = {"role": "user", "content": "x"}
        try:
            # The marker must come through: some templates refuse a system message, some drop it.
            return "\ue0f2" in self._apply([{"role": "system", "content": "\ue0f2"}, user], True)
        except Exception as refusal:
            try:
                self._apply([user], True)
            except Exception as error:
                raise ConfigError(f"the chat template cannot render a user message: {error}") from refusal
            return False

    def render(self, messages: Sequence[dict[str, str]], *, open_turn: bool) -> list[str]:
        """Renders the conversation and splits it where the assistant's turns stand.

        Args:
            messages: Messages; the content of an assistant's turn is ignored.
            open_turn: Whether an assistant's turn is to follow. Otherwise the last message is the assistant's.

        Returns:
            The template's text around the assistant's turns: one string more than there are such turns.
        """
        prepared: list[dict[str, str]] = []
        for message in messages:
            content = _PLACEHOLDER if message["role"] == "assistant" else self.neutralize(message["content"])
            if message["role"] != "assistant":
                content = content.replace(_PLACEHOLDER, "")
            prepared.append({"role": message["role"], "content": content})
        if prepared and prepared[0]["role"] == "system" and not self._system_role:
            system = prepared.pop(0)["content"]
            prepared[0] = {"role": "user", "content": f"{system}\n\n{prepared[0]['content']}"}
        generation_prompt = open_turn and self.turn_opening == "generation_prompt"
        try:
            text = self._apply(prepared, generation_prompt)
        except Exception as error:
            raise ConfigError(f"the chat template cannot render the conversation: {error}") from error
        if open_turn and self.turn_opening == "as_published":
            end = self.tokenizer.eos_token
            if end:
                text = text.removesuffix("\n") if text.endswith(end + "\n") else text
                text = text.removesuffix(end)
        pieces = text.split(_PLACEHOLDER)
        expected = sum(message["role"] == "assistant" for message in prepared) + 1
        if len(pieces) != expected:
            raise ConfigError(
                "the chat template does not keep every assistant turn of the history, which a conversation with one "
                "turn a step needs; give another with the option chat_template"
            )
        return pieces


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
        self._closed_kinds: list[TokenKind] = []

    def open_turn(self, messages: Iterable[dict[str, str]]) -> None:
        """Ends the open turn, adds `messages` (user and system) and opens the assistant's next turn."""
        pieces_needed = len(self._turns)
        if self._turns and self._chat.turn_opening == "generation_prompt":
            ids, kinds = self._turn_ids(self._turns[-1], first=len(self._turns) == 1)
            self._closed += ids
            self._closed_kinds += kinds
        self._messages += messages
        pieces = self._chat.render(self._messages, open_turn=True)
        assert len(pieces) == pieces_needed + 1
        if self._chat.turn_opening == "as_published":
            # Earlier turns now carry the template's marker, which they did not when they were written.
            self._closed, self._closed_kinds = [], []
            for number, (piece, turn) in enumerate(zip(pieces, self._turns, strict=False)):
                turn.opening = piece
                ids, kinds = self._turn_ids(turn, first=number == 0)
                self._closed += ids
                self._closed_kinds += kinds
        self._messages.append({"role": "assistant", "content": ""})
        self._turns.append(_Turn(pieces[-1]))

    def append(self, text: str, kind: SegmentKind) -> None:
        """Adds text to the open turn. Special tokens' strings in it are text."""
        self.append_ids(self._chat.encode(self._chat.neutralize(text)), text, kind)

    def append_ids(self, ids: Sequence[int], text: str, kind: SegmentKind = "written") -> None:
        """Adds text to the open turn in the token ids that it was generated in."""
        self._turns[-1].segments.append(_TurnSegment(kind, text, list(ids)))

    def rewind(self, keep: int) -> None:
        """Drops all but the first `keep` segments of the open turn."""
        del self._turns[-1].segments[keep:]

    @property
    def turn_text(self) -> str:
        """The open turn's text."""
        return "".join(segment.text for segment in self._turns[-1].segments)

    @property
    def turn_tokens(self) -> int:
        """Tokens in the open turn."""
        return sum(len(segment.ids) for segment in self._turns[-1].segments)

    @property
    def turn_segments(self) -> int:
        """Segments in the open turn."""
        return len(self._turns[-1].segments)

    @property
    def token_ids(self) -> list[int]:
        """The whole conversation up to here, as the model continues it."""
        ids, _ = self._turn_ids(self._turns[-1], first=len(self._turns) == 1)
        return self._closed + ids

    def _turn_ids(self, turn: _Turn, first: bool) -> tuple[list[int], list[TokenKind]]:
        """Ids and kinds of a turn with what leads up to it."""
        segments = turn.segments
        text = turn.opening
        kinds: list[TokenKind] = []
        forced = bool(segments) and segments[0].kind == "forced"
        if forced:
            # Nothing stands between the template's text and a forced prefix, so they are encoded as one text: in the
            # published inference, too, the model sees the tokens of the whole.
            text += self._chat.neutralize(segments[0].text)
        if turn.encoded is None or turn.encoded[0] != text:
            turn.encoded = (text, self._chat.encode_start(text) if first else self._chat.encode(text))
        ids = turn.encoded[1]
        if not first and ids and self._chat.is_special(ids[0]):
            # What opens the next turn ends the one before: the model must learn to write it.
            kinds = ["end_of_turn"]
        prefix_tokens = len(segments[0].ids) if forced else 0
        kinds += ["template"] * max(len(ids) - len(kinds) - prefix_tokens, 0)
        kinds += ["forced"] * (len(ids) - len(kinds))
        for segment in segments[1:] if forced else segments:
            ids = ids + segment.ids
            kinds += [segment.kind] * len(segment.ids)
        return ids, kinds

    def finished(self) -> tuple[list[int], list[TokenKind]]:
        """The finished conversation for training: token ids and, for each, who put it there."""
        pieces = self._chat.render(self._messages, open_turn=False)
        if self._chat.turn_opening == "as_published":
            ids: list[int] = []
            kinds: list[TokenKind] = []
            for number, (piece, turn) in enumerate(zip(pieces, self._turns, strict=False)):
                turn.opening = piece
                turn_ids, turn_kinds = self._turn_ids(turn, first=number == 0)
                ids += turn_ids
                kinds += turn_kinds
        else:
            turn_ids, turn_kinds = self._turn_ids(self._turns[-1], first=len(self._turns) == 1)
            ids, kinds = self._closed + turn_ids, self._closed_kinds + turn_kinds
        closing = self._chat.encode(pieces[-1])
        ends_turn = bool(closing) and self._chat.is_special(closing[0])
        kinds += ["end_of_turn" if ends_turn and not index else "template" for index in range(len(closing))]
        return ids + closing, kinds
