"""Token ids of a verification conversation, through the model's own chat template.

Training and inference build their token ids with the same class, `Conversation`, so that a model is asked in exactly
the tokens it was trained on. Text is put together segment by segment: what the template, the protocol or the
interpreter adds is encoded where it is added, what the model wrote keeps the token ids it was written in. A prompt
extends the one before it, which is what prefix caches need: through the whole conversation with the turn opening
`generation_prompt`, within a turn with `as_published_ids_kept`, which renders a turn again once it is history. With
`as_published` the whole text is encoded anew for each request, as the published inference does.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time
from string import ascii_letters
from typing import Any, Literal, get_args

from genprm_trl.errors import ConfigError, check_one_of
from genprm_trl.grading.thinking import opens_thinking

logger = logging.getLogger(__name__)

TurnOpening = Literal["generation_prompt", "as_published", "as_published_ids_kept"]

# Stands for an assistant's turn while the template is rendered. Private-use characters: no template touches them.
_PLACEHOLDER = "\ue0f0turn\ue0f1"
# Contents that show what a template does with a message.
_PROBE, _OTHER_PROBE = "\ue0f2", "\ue0f3"
# Breaks a control token's string in text that is not ours; invisible, and no tokenizer has a token across it.
_BREAK = "\u200b"
# Text that others are encoded behind, to see how they are encoded in the middle of a text.
_ANCHORS = ("\n", ".", "x")
_INCOMPLETE_HISTORY = (
    "the chat template does not keep every turn of the history, which a conversation with one turn a step needs; "
    "give another with the option chat_template"
)
_LOST_TEXT = (
    "the chat template renders no text of a message, neither as a string nor as a list of parts; "
    "give another with the option chat_template"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

# What may stand between the per cent sign and the letter of a directive of `strftime`.
_CLOCK_FLAGS = "-_0^#EO"
# The end of a thinking block.
_THINKING = re.compile(r"(?:think(?:ing)?|thoughts?|reasoning)\W*$", re.IGNORECASE)
# What marks roles and turns in templates whose markers are plain text: tags, and headings such as `### Response:`.
_MARKER = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]|##+ ?\w[\w ]*:")


def _starts_of(strings: Sequence[str]) -> re.Pattern[str]:
    """Finds every character at which one of the strings starts, overlapping ones, too.

    Most characters are passed over by the first look-ahead, since a vocabulary may have hundreds of control tokens.
    """
    firsts = "".join(sorted({re.escape(string[0]) for string in strings}))
    return re.compile(f"(?=[{firsts}])(?={'|'.join(map(re.escape, strings))})(.)", re.DOTALL)


def neutralizer(marks: Iterable[str]) -> Callable[[str], str]:
    """What makes text of others safe to encode: each mark in it is broken after its first character.

    Half characters (lone surrogates), which no tokenizer takes, become U+FFFD.

    Args:
        marks: Strings that stand for control tokens and separators.
    """
    return functools.partial(_neutralized, _starts_of(sorted({_PLACEHOLDER, *marks})))


def _neutralized(starts: re.Pattern[str], text: str) -> str:
    return starts.sub(rf"\1{_BREAK}", _SURROGATE.sub("\ufffd", text))


def special_tokens(tokenizer: Any) -> set[str]:
    """Strings of a tokenizer's special tokens that text of others must not bring in.

    A single character, for instance a line break used as end-of-text, cannot be broken and is left alone.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {text for text in {*map(str, tokenizer.all_special_tokens), *added} if len(text.strip()) > 1}


def today() -> str:
    """Today's date as chat templates see it, such as `2026-12-01`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    [shown], _ = render_jinja_template(conversations=[[]], chat_template="{{ strftime_now('%Y-%m-%d') }}")
    return str(shown)


def check_date(day: Any) -> None:
    """Checks a day that a template is to show; None is not set.

    Raises:
        ConfigError: It is no day of the form `2026-12-01`.
    """
    try:
        if day is None or date.fromisoformat(day).isoformat() == day:
            return
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"template_date must be a day such as 2026-12-01, got {day!r}")


def shows_date(template: str) -> bool:
    """Whether a chat template may show today's date."""
    return "strftime_now" in template


def _with_date(template: str, day: date) -> str:
    """The template with a clock of its own, which stands still at the start of a day.

    It is a macro, since transformers passes no functions to a template.
    """
    shown = datetime.combine(day, time())
    directives = {}
    for directive in (f"%{flag}{letter}" for flag in ["", *_CLOCK_FLAGS] for letter in "%" + ascii_letters):
        try:
            value = shown.strftime(directive)
        except ValueError:  # what a system does not know is an error on one, and stays as it is on others
            continue
        if value != directive:
            directives[directive] = value
    # The line break goes with the tag before it. The template itself stays at the beginning of a line.
    return (
        "{%- macro strftime_now(format) -%}{%- set ns = namespace(text='', directive='') -%}"
        f"{{%- set directives = {json.dumps(directives)} -%}}"
        "{%- for letter in format -%}"
        "{%- if not ns.directive and letter != '%' -%}{%- set ns.text = ns.text ~ letter -%}"
        "{%- else -%}{%- set ns.directive = ns.directive ~ letter -%}"
        f"{{%- if ns.directive != '%' and letter not in '{_CLOCK_FLAGS}' -%}}"
        "{%- if ns.directive not in directives -%}"
        "{{- raise_exception('its date format ' ~ format ~ ' has an unknown directive, ' ~ ns.directive) -}}"
        "{%- endif -%}"
        "{%- set ns.text = ns.text ~ directives[ns.directive] -%}{%- set ns.directive = '' -%}"
        "{%- endif -%}{%- endif -%}"
        "{%- endfor -%}{{- ns.text ~ ns.directive -}}{%- endmacro %}\n" + template
    )


class ChatFormat:
    """A tokenizer's chat template, ready for verification conversations.

    Args:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
        turn_opening: How an assistant's turn opens. `generation_prompt`: with the template's generation prompt, kept
            in the history as it was; for models trained here. `as_published`: without it and with a trailing
            end-of-text token stripped, so that the forced prefix follows the user's text at once, while earlier turns
            carry the template's own marker; each request holds the ids of the whole text, encoded anew. The released
            GenPRM checkpoints were measured so (the code published with arXiv 2504.00891). `as_published_ids_kept`:
            the same text, in which parts keep the ids they were added in.
        chat_template: A Jinja template to use in place of the tokenizer's own.
        template_date: The day that the template shows as today's, such as `2026-12-01`. Default: the day on which this
            object is made. It does not change while the object lives.

    Raises:
        ConfigError: if there is no chat template, it cannot hold a conversation of several turns, or the day is none.
    """

    def __init__(
        self,
        tokenizer: Any,
        turn_opening: TurnOpening = "generation_prompt",
        chat_template: str | None = None,
        template_date: str | None = None,
    ):
        check_one_of(get_args(TurnOpening), turn_opening=turn_opening)
        check_date(template_date)
        if chat_template is None and not getattr(tokenizer, "chat_template", None):
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise ConfigError(
                f"the tokenizer '{name}' has no chat template; give one with the option chat_template "
                "(on the command line: --chat_template_path FILE.jinja)"
            )
        self.tokenizer = tokenizer
        self.turn_opening: TurnOpening = turn_opening
        self._template = chat_template
        if shows_date(source := self.source()):
            self._template = _with_date(source, date.fromisoformat(template_date or today()))
        self._in_parts = False
        control = self.control_tokens()
        control_ids = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(control)}
        self._control_ids = frozenset(control_ids - {tokenizer.unk_token_id})
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer.encode("x", add_special_tokens=True)[:1] == [bos]
        # Encoders of the SentencePiece family put a space before each text they are given, so that text in the middle
        # of others has to be encoded behind an anchor.
        adds_space = tokenizer.decode(self._plain_encode("x") + self._plain_encode("x")) != "xx"
        self._anchors = [(anchor, self._plain_encode(anchor)) for anchor in _ANCHORS if adds_space]
        # Forced texts recur in every step, and what opens a turn in every chain of a solution.
        self._known_ids = functools.lru_cache(maxsize=1024)(self._encode)
        self._in_parts = self._takes_parts()
        self.takes_system = self._supports_system_role()
        # The chains of a solution open their turns with the same texts.
        self._known_pieces = functools.lru_cache(maxsize=512)(self._render)
        self._check_history()
        self._neutralize = neutralizer([*control, *self.plain_markers()])
        self.rest_of_header = self._rest_of_header() if turn_opening == "generation_prompt" else ""

    def source(self) -> str:
        """The template's Jinja text."""
        if self._template is not None:
            return self._template
        own = self.tokenizer.chat_template
        return own if isinstance(own, str) else str(self.tokenizer.get_chat_template())

    @property
    def as_published(self) -> bool:
        """Whether a model is asked as the released checkpoints were."""
        return self.turn_opening != "generation_prompt"

    @property
    def encodes_anew(self) -> bool:
        """Whether each request holds the ids of its whole text, whatever ids its parts were generated in."""
        return self.turn_opening == "as_published"

    @property
    def opens_thinking(self) -> bool:
        """Whether the generation prompt leaves a thinking block open (as those of QwQ and DeepSeek-R1)."""
        [opening] = self.render([{"role": "user", "content": "x"}], open_turn=True)
        return opens_thinking(opening)

    def control_tokens(self) -> list[str]:
        """Strings of the tokens that text of others must not bring in: special ones, and those the template writes.

        A turn's markers are not always special tokens (DeepSeek-R1-Distill's `<｜User｜>` is not one).
        """
        template = self.source()
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        written = {text for text in added if text in template and not text.isalnum() and len(text.strip()) > 1}
        return sorted(written | special_tokens(self.tokenizer))

    def _plain_encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        """Encodes text that continues other text: no special tokens are added."""
        return list(self._known_ids(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        for anchor, anchor_ids in self._anchors:
            ids = self._plain_encode(anchor + text)
            if ids[: len(anchor_ids)] == anchor_ids:  # otherwise the text's start was merged with this anchor
                return tuple(ids[len(anchor_ids) :])
        return tuple(self._plain_encode(text))

    def encode_start(self, text: str) -> list[int]:
        """Encodes the start of a conversation: it begins with begin-of-text if the tokenizer would add it by itself.

        The token that the template begins with is not doubled. White space that the template puts before it is left
        out. A template that writes the token twice, or other text before it, is encoded as it stands, so that the
        token is there again further on.
        """
        return self._with_begin(self._plain_encode(self._from_begin(text)))

    def _with_begin(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self._adds_bos and ids[:1] != [bos] else ids

    def _from_begin(self, text: str) -> str:
        stripped = text.lstrip()
        return stripped if self._adds_bos and stripped.startswith(self.tokenizer.bos_token) else text

    def count(self, text: str) -> int:
        """How many tokens a text has by itself."""
        return len(self._plain_encode(text))

    def spans(self, text: str) -> tuple[list[int], list[int]]:
        """`encode_start` with the place in `text` at which each token ends.

        Raises:
            ConfigError: The tokenizer cannot say where its tokens stand.
        """
        if not self.tokenizer.is_fast:
            raise ConfigError(
                f"{type(self.tokenizer).__name__} does not say where its tokens stand in a text, which training with "
                "turn_opening as_published needs; load a fast tokenizer or set turn_opening to as_published_ids_kept"
            )
        start = self._from_begin(text)
        encoded = self.tokenizer(start, add_special_tokens=False, return_offsets_mapping=True)
        ids, before = self._with_begin(list(encoded["input_ids"])), len(text) - len(start)
        ends = [before + end for _, end in encoded["offset_mapping"]]
        return ids, [0] * (len(ids) - len(ends)) + ends

    def neutralize(self, text: str) -> str:
        """Makes text of others safe to encode.

        Every control token's string is broken, and so is every marker that the template writes as plain text. A step
        or a program's output can then neither end its turn nor open one. Half characters (lone surrogates), which no
        tokenizer takes, become U+FFFD.
        """
        return self._neutralize(text)

    def written_text(self, text: str, ids: Sequence[int]) -> str:
        """What a model wrote, safe to encode anew: it brings in no control token that `ids`, its own, do not hold."""
        safe = self.neutralize(text)
        if safe != text and self._control_ids.intersection(self._plain_encode(text)) <= set(ids):
            return _SURROGATE.sub("\ufffd", text)
        return safe

    def closing_length(self, ids: Sequence[int]) -> int:
        """How many of the ids that follow an assistant's text end its turn: up to the first control token.

        0 if other text comes first: then the template has no token that ends a turn.
        """
        first = next((place for place, token in enumerate(ids) if token in self._control_ids), None)
        if first is None or (first and self.tokenizer.decode(ids[:first]).strip()):
            return 0
        return first + 1

    def untrained_end(self) -> str | None:
        """Whose end the template marks with no token: `every turn`, `the last turn`, or None.

        A model that is trained on such turns is not taught to end them.
        """
        user, assistant = {"role": "user", "content": "x"}, {"role": "assistant"}
        *_, between, last = self.render([user, assistant, user, assistant], open_turn=False)
        if self.closing_length(self.encode(last)):
            return None
        return "the last turn" if self.closing_length(self.encode(between)) else "every turn"

    def _apply(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> str:
        shown: list[dict[str, Any]] = list(messages)
        if self._in_parts:
            shown = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        return self.tokenizer.apply_chat_template(
            shown,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **({"chat_template": self._template} if self._template is not None else {}),
        )

    def _takes_parts(self) -> bool:
        """Whether a message's content must be a list of parts, as in templates of models that see images."""
        problem: Exception | None = None
        for self._in_parts in (False, True):
            try:
                text = self._apply([{"role": "user", "content": _PROBE}], True)
                # A template for strings may print the list as it is.
                if _PROBE in text and "'type'" not in text:
                    return self._in_parts
            except Exception as error:
                problem = problem or error
        if problem is not None:
            raise ConfigError(f"the chat template cannot render a user message: {problem}") from problem
        raise ConfigError(_LOST_TEXT)

    def _supports_system_role(self) -> bool:
        system, user = {"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}
        try:
            # The marker must come through: some templates refuse a system message, some drop it.
            if _PROBE not in self._apply([system, user], True):
                return False
            if self.turn_opening == "generation_prompt":
                return True
            # History is rendered again. Some templates put the message before the last user's, wherever that is.
            turn = [user, {"role": "assistant", "content": _PLACEHOLDER}]
            longer = [self._apply([system, *turn, *more], False) for more in ([], [user], turn)]
            return all(_PROBE in text.partition(_PLACEHOLDER)[0] for text in longer)
        except Exception:
            return False

    def _history(self) -> tuple[str, str]:
        """What leads up to the assistant's turn between two user turns, and what follows it."""
        first, second = {"role": "user", "content": _PROBE}, {"role": "user", "content": _OTHER_PROBE}
        before, after = self.render([first, {"role": "assistant"}, second], open_turn=True)
        return before, after

    def _check_history(self) -> None:
        before, after = self._history()
        if _PROBE not in before or _OTHER_PROBE not in after:
            raise ConfigError(_INCOMPLETE_HISTORY)

    def plain_markers(self) -> set[str]:
        """Markers that the template puts around contents and that are no tokens: OLMo 2's `<|user|>`, `[INST]`."""
        said = {"role": "user", "content": "x"}
        told = {"role": "system", "content": "x"}
        conversation = [told, said, {"role": "assistant"}, said]
        pieces = self.render(conversation, open_turn=True)
        pieces += self.render([*conversation, {"role": "assistant"}], open_turn=False)
        return {marker for piece in pieces for marker in _MARKER.findall(piece)}

    def _rest_of_header(self) -> str:
        """What history has between the generation prompt and a turn's text, where that belongs to the turn's header.

        The generation prompt of some templates ends within the header: the model would choose a channel or a recipient
        (gpt-oss: `<|start|>assistant`, then `<|channel|>final<|message|>`). Forced text must come after all of it.
        """
        [opening] = self.render([{"role": "user", "content": _PROBE}], open_turn=True)
        opening, header = (text.rpartition(_PROBE)[2] for text in (opening, self._history()[0]))
        ids = self.encode(opening)
        last = max((place for place, token in enumerate(ids) if token in self._control_ids), default=-1)
        # A role's bare name behind a control token: no template ends a header so.
        within = last >= 0 and re.fullmatch(r"\w+", self.tokenizer.decode(ids[last + 1 :])) is not None
        if not header.startswith(opening):
            # Or behind a control token that history does not have, unless that opens or closes a thinking block.
            shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(opening, header, strict=False))
            beyond = opening[len(list(shared)) :]
            at_token = bool(beyond.strip()) and last == len(ids) - 1 and _THINKING.search(beyond) is None
            if within or at_token:
                logger.warning(
                    "The chat template's generation prompt ends within the header of a turn (%r), and its history "
                    "does not show how the header goes on. Forced text follows the prompt as it is; to avoid that, "
                    "give another template with the option chat_template.",
                    opening[-40:],
                )
            return ""
        rest = header.removeprefix(opening)
        if not within and _THINKING.search(rest):
            return ""  # an empty thinking block
        return rest if within or self._control_ids.intersection(self.encode(rest)[-1:]) else ""

    def render(self, messages: Sequence[dict[str, str]], *, open_turn: bool) -> list[str]:
        """Renders the conversation and splits it where the assistant's turns stand.

        Args:
            messages: Messages with contents that went through `neutralize`; an assistant's content is ignored.
            open_turn: Whether an assistant's turn is to follow. Otherwise the last message is the assistant's.

        Returns:
            The template's text around the assistant's turns: one string more than there are such turns.
        """
        shown = ((m["role"], _PLACEHOLDER if m["role"] == "assistant" else m["content"]) for m in messages)
        return list(self._known_pieces(tuple(shown), open_turn))

    def _render(self, messages: Sequence[tuple[str, str]], open_turn: bool) -> list[str]:
        prepared = [{"role": role, "content": content} for role, content in messages]
        if prepared and prepared[0]["role"] == "system" and not self.takes_system:
            system = prepared.pop(0)["content"]
            prepared[0] = {"role": "user", "content": f"{system}\n\n{prepared[0]['content']}"}
        generation_prompt = open_turn and self.turn_opening == "generation_prompt"
        try:
            text = self._apply(prepared, generation_prompt)
        except Exception as error:
            raise ConfigError(f"the chat template cannot render the conversation: {error}") from error
        if open_turn and self.as_published:
            end = self.tokenizer.eos_token
            if end:
                text = text.removesuffix("\n") if text.endswith(end + "\n") else text
                text = text.removesuffix(end)
        pieces = text.split(_PLACEHOLDER)
        expected = sum(message["role"] == "assistant" for message in prepared) + 1
        if len(pieces) != expected:
            raise ConfigError(_INCOMPLETE_HISTORY)
        return pieces
