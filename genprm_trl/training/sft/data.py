"""Rows with rationales, checked and turned into token ids and labels for `GenPRMTrainer`.

The token ids come from `Conversation`, turn by turn as the verifier builds them. So a model is trained on exactly the
tokens that the verifier uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, Features, IterableDataset, List, Value

from genprm_trl.conversation.conversation import Conversation, TokenKind, safe_text
from genprm_trl.conversation.settings import ProtocolName
from genprm_trl.conversation.template import ChatFormat, TurnOpening
from genprm_trl.data.sources import open_source, refuse_frame
from genprm_trl.errors import DataError
from genprm_trl.protocol.genprm import (
    DIRECT_SYSTEM_PROMPT,
    MODES,
    FirstTurn,
    GenPRMProtocol,
    Mode,
    Rationale,
    parse_rationale,
)
from genprm_trl.protocol.thinkprm import THINKING_OPENS, ThinkPRMProtocol, read_boxes, read_turn
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.training.prm.data import labelled_steps, refuse_transform
from genprm_trl.training.scores import IGNORED
from genprm_trl.training.sft.chains import read_chain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

Row: TypeAlias = RationaleRecord | Solution | Mapping[str, Any]
Rows: TypeAlias = Dataset | IterableDataset | Sequence[Row]

_ROW_FORMS = (
    "a row needs solution, rationales and labels (a RationaleRecord), or messages; with mode='direct', problem, steps "
    "and label, or prompt, completions and labels, are enough"
)
_ROLES_OF_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
_FEATURES = Features(
    {
        "input_ids": List(Value("int64")),
        "labels": List(Value("int64")),
        "verdicts": List(List(Value("int64"))),
        "mode": Value("string"),
        "kept": Value("int64"),
        "cut": Value("int64"),
        "problem": Value("string"),
    }
)


@dataclass(frozen=True, slots=True)
class JudgedConversation:
    """A finished verification conversation, as text.

    Attributes:
        mode: Name of the mode that its rationales are in; `full` where the protocol has none.
        openings: The messages before each turn of the assistant, since the previous one.
        rationales: The assistant's turns.
        judgements: The verdict of each; of a ThinkPRM, which has one turn, the verdict on each step.
    """

    mode: str
    openings: list[list[dict[str, str]]]
    rationales: list[str]
    judgements: list[bool]

    def to_row(self) -> dict[str, Any]:
        """A row with `messages` that `read_row` reads back."""
        messages: list[dict[str, str]] = []
        for opening, rationale in zip(self.openings, self.rationales, strict=True):
            messages += [*opening, {"role": "assistant", "content": rationale}]
        return {"messages": messages, "mode": self.mode}


def read_row(
    row: Row,
    mode: str | None = None,
    first_turn: FirstTurn = "evaluation",
    *,
    protocol: ProtocolName = "genprm",
    file: str | None = None,
    number: int = 1,
) -> JudgedConversation:
    """Reads a row of any form that `GenPRMTrainer` takes.

    Args:
        row: A `RationaleRecord` or its row; or a row with `messages` (or `conversations`, whose messages may have
            `from` and `value`), whose assistant turns are rationales; or, in the direct mode, any row with step labels
            that `labelled_steps` reads.
        mode: The mode to train in: parts that a rationale has beyond it are left out. None is the row's own mode, its
            field `mode` or `source.mode`; where it has none, the direct mode if its system prompt says so, or else
            the full one.
        first_turn: Form of the first user turn; see `protocol.GenPRMProtocol`.
        protocol: The format to train in. A `thinkprm` takes `messages` with one turn of the assistant, and the rows of
            `chains.read_chain`. It has no mode and no form of the first turn.
        file: Name of the dataset, for errors.
        number: Row number counted from 1, for errors.

    Raises:
        DataError: Something is missing, of the wrong type, or a rationale is not in the format of the mode. Names row
            and field.
    """
    try:
        return _read_chain_row(row, number) if protocol == "thinkprm" else _read_row(row, mode, first_turn, number)
    except DataError as error:
        raise error.at(file=file, row=number) from None


def _read_row(row: Row, mode: str | None, first_turn: FirstTurn, number: int) -> JudgedConversation:
    own: str | None = None
    if isinstance(row, Mapping):
        for name in ("messages", "conversations"):
            if row.get(name) is not None:
                return _read_messages(row, name, mode)
        own = _own_mode(row.get("mode"), "mode")
        if row.get("rationales") is not None:
            row = RationaleRecord.from_dict({"id": str(number), **_without_none(row)})
    if isinstance(row, RationaleRecord):
        return _read_record(row, mode, own or _own_mode(row.source.get("mode")), first_turn)
    if not isinstance(row, Mapping | Solution):
        raise DataError(f"must be a record or a mapping, got {type(row).__name__}")
    if (mode or own) != "direct":
        fields = "this is a Solution" if isinstance(row, Solution) else f"this one has {', '.join(row) or 'no field'}"
        raise DataError(f"missing; {_ROW_FORMS} ({fields})", field="rationales")
    steps = labelled_steps(row)
    rationales = [Rationale(index, label).render() for index, label in enumerate(steps.labels, start=1)]
    return _conversation("direct", steps.prompt, steps.steps, rationales, steps.labels, first_turn)


def _read_chain_row(row: Row, number: int) -> JudgedConversation:
    if isinstance(row, Mapping):
        for name in ("messages", "conversations"):
            if row.get(name) is not None:
                return _read_chain_messages(row, name)
    if not isinstance(row, Mapping | Solution | RationaleRecord):
        raise DataError(f"must be a record or a mapping, got {type(row).__name__}")
    chain = read_chain(row, number)
    opening = ThinkPRMProtocol().opening_messages(chain.problem, chain.steps)
    return JudgedConversation("full", [list(opening)], [chain.turn], chain.decisions)


def _read_chain_messages(row: Mapping[str, Any], name: str) -> JudgedConversation:
    openings, turns, places = _split_messages(row, name)
    if len(turns) > 1:
        raise DataError("must hold one turn of the assistant, in which it judges all steps", field=name)
    field_name = f"{name}[{places[0]}]"
    turn = turns[0] if turns[0].startswith(THINKING_OPENS) else THINKING_OPENS + turns[0]
    read = read_turn(turn)
    if read is None:
        raise DataError(
            "is no finished chain: it boxes correct or incorrect for each step, and ends with </think>, a line "
            "`Is the solution correct?` and Yes or No",
            field=field_name,
        )
    decisions, is_correct = read
    if is_correct != all(decisions):
        said = "Yes" if is_correct else "No"
        raise DataError(f"says {said} of the solution, but its boxes say otherwise", field=field_name)
    return JudgedConversation("full", openings, [turn], decisions)


def _without_none(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _own_mode(mode: Any, name: str = "source.mode") -> str | None:
    if mode is not None and (not isinstance(mode, str) or mode not in MODES):
        raise DataError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}", field=name)
    return mode


def _conversation(
    mode: str,
    problem: str,
    steps: Sequence[str],
    rationales: list[str],
    judgements: list[bool],
    first_turn: FirstTurn,
) -> JudgedConversation:
    protocol = GenPRMProtocol(mode, first_turn)
    openings = [list(protocol.opening_messages(problem, steps, index)) for index in range(len(rationales))]
    return JudgedConversation(mode, openings, rationales, judgements)


def _read_record(
    record: RationaleRecord, mode: str | None, own: str | None, first_turn: FirstTurn
) -> JudgedConversation:
    chosen = mode or own or "full"
    rationales = []
    for index, (text, label) in enumerate(zip(record.rationales, record.labels, strict=True)):
        if chosen == "direct" and own != "direct":
            rationales.append(Rationale(index + 1, label).render())
            continue
        text, judgement = _fit(text, index + 1, chosen, f"rationales[{index}]", may_reduce=mode is not None)
        if judgement != label:
            said, is_so = ("Yes", "wrong") if judgement else ("No", "correct")
            raise DataError(
                f"says {said}, but labels[{index}] says that the step is {is_so}; such rationales are to be filtered "
                "out before training",
                field=f"rationales[{index}]",
            )
        rationales.append(text)
    solution = record.solution
    return _conversation(chosen, solution.problem, solution.steps, rationales, list(record.labels), first_turn)


def _split_messages(row: Mapping[str, Any], name: str) -> tuple[list[list[dict[str, str]]], list[str], list[int]]:
    """What comes before each turn of the assistant, these turns, and their places among the messages."""
    messages = row[name]
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise DataError("must be a list of messages", field=name)
    openings: list[list[dict[str, str]]] = [[]]
    rationales: list[str] = []
    places: list[int] = []
    for index, message in enumerate(messages):
        role, content = _role_and_content(message, f"{name}[{index}]")
        if role == "assistant":
            if not openings[-1] or openings[-1][-1]["role"] != "user":
                raise DataError("an assistant's turn must follow a user's", field=f"{name}[{index}]")
            rationales.append(content)
            places.append(index)
            openings.append([])
        else:
            openings[-1].append({"role": role, "content": content})
    if openings.pop():
        raise DataError("must end with an assistant's turn", field=name)
    return openings, rationales, places


def _read_messages(row: Mapping[str, Any], name: str, mode: str | None) -> JudgedConversation:
    openings, rationales, places = _split_messages(row, name)
    own = _own_mode(row.get("mode"), "mode")
    chosen = mode or own
    if chosen is None:
        chosen = "direct" if openings[0][0]["content"] == DIRECT_SYSTEM_PROMPT else "full"
    judgements = []
    for turn, (place, text) in enumerate(zip(places, rationales, strict=True), start=1):
        # A ready conversation is trained on as it stands, so nothing is left out of it.
        judgements.append(_fit(text, turn, chosen, f"{name}[{place}]", may_reduce=False)[1])
    return JudgedConversation(chosen, openings, rationales, judgements)


def _role_and_content(message: Any, field_name: str) -> tuple[str, str]:
    """Of a message with `role` and `content`, or with `from` and `value`, which SFTTrainer takes for the same."""
    if not isinstance(message, Mapping):
        raise DataError(
            f"must have a role (system, user or assistant) and text as content, got {type(message).__name__}",
            field=field_name,
        )
    if message.get("from") is None:
        needed, role, content = "a role (system, user or assistant) and text as content", "role", "content"
    else:
        needed = "a from (system, human or user, gpt, chatgpt or assistant) and text as value"
        role, content = "from", "value"
    said, text = message.get(role), message.get(content)
    if isinstance(said, str) and role == "from":
        said = _ROLES_OF_SHAREGPT.get(said, said)
    if said in ("system", "user", "assistant") and isinstance(text, str):
        return said, text
    told = f"{role} {message.get(role)!r}" + ("" if isinstance(text, str) else f", {content} {text!r:.40}")
    raise DataError(f"must have {needed}, got {told}", field=field_name)


def _fit(text: str, number: int, mode_name: str, field_name: str, *, may_reduce: bool) -> tuple[str, bool]:
    """A rationale in the form of the mode, and its verdict."""

    def bad(message: str) -> DataError:
        return DataError(message, field=field_name)

    parsed = parse_rationale(text, step=number)
    rationale, judgement = parsed.rationale, parsed.rationale.judgement
    if parsed.status == "no_verdict":
        raise bad("has no verdict; a rationale ends with <output>, **Judgement**: $\\boxed{Yes}$ (or No), </output>")
    if parsed.status != "ok" or judgement is None:
        raise bad("is not in the format of a rationale (see genprm_trl.protocol.Rationale)")
    if rationale.step != number:
        raise bad(f"speaks of paragraph {rationale.step}, but is the turn of paragraph {number}")
    mode = Mode.of(mode_name)
    missing = (
        "analysis"
        if mode.analyze and rationale.analysis is None
        else "code"
        if mode.verify and not rationale.blocks
        else "output of its code"
        if mode.execute and any(block.output is None for block in rationale.blocks)
        else None
    )
    if missing:
        raise bad(f"has no {missing}, which the mode '{mode_name}' needs")
    fitted = Rationale(
        number,
        judgement,
        rationale.analysis if mode.analyze else None,
        rationale.blocks if mode.verify else (),
        rationale.remark if mode.verify else "",
    )
    if fitted == rationale:
        return text, judgement
    if not may_reduce:
        raise bad(f"has parts beyond the mode '{mode_name}'")
    return fitted.render(), judgement


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """Token ids of a conversation for training.

    Attributes:
        input_ids: Token ids, shape (length,).
        labels: The ids that are trained on, -100 elsewhere, shape (length,).
        verdicts: One `[position, judgement, yes_id, no_id]` per judged step: the position in `input_ids` of the token
            that tells Yes from No, the verdict (1 or 0), and the token for either word.
        cut: Turns at the end that did not fit.
    """

    input_ids: list[int]
    labels: list[int]
    verdicts: list[list[int]]
    cut: int


@dataclass
class ConversationEncoder:
    """Turns rows into token ids and labels; called by `datasets` in as many processes as it likes.

    Attributes:
        tokenizer: The model's tokenizer.
        turn_opening: How an assistant's turn opens; see `template.ChatFormat`.
        first_turn: Form of the first user turn; see `protocol.GenPRMProtocol`.
        template_date: The day that the chat template shows as today's; see `template.ChatFormat`.
        mode: The mode to train in; see `read_row`.
        protocol: The format to train in; see `read_row`.
        trained: Kinds of tokens that are trained on.
        max_length: Bound on the tokens of a conversation; turns at its end that do not fit are left out.
        skip_bad_rows: Report a bad row instead of raising `DataError`.
        name: Name of the rows in errors.
        met: If given, a 1 is put here for the mode of each encoded row, shape (number of `protocol.MODES`,) in their
            order. In shared memory it tells of rows that are read in other processes.
    """

    tokenizer: PreTrainedTokenizerBase
    turn_opening: TurnOpening = "generation_prompt"
    first_turn: FirstTurn = "evaluation"
    template_date: str | None = None
    mode: str | None = None
    protocol: ProtocolName = "genprm"
    trained: tuple[TokenKind, ...] = ("written", "mark", "end_of_turn")
    max_length: int | None = None
    skip_bad_rows: bool = False
    name: str | None = None
    met: torch.Tensor | None = field(default=None, repr=False, compare=False)
    _chat: ChatFormat | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # `datasets` hashes and pickles its functions; the chat format holds caches and is made again where it is used.
        return {**self.__dict__, "_chat": None}

    @property
    def chat(self) -> ChatFormat:
        """The tokenizer's chat format."""
        if self._chat is None:
            self._chat = ChatFormat(self.tokenizer, self.turn_opening, template_date=self.template_date)
        return self._chat

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A row's columns: those of `EncodedConversation`, `mode`, turns `kept`, and the `problem` of a bad row."""
        try:
            conversation = read_row(
                row, self.mode, self.first_turn, protocol=self.protocol, file=self.name, number=index + 1
            )
        except DataError as error:
            if not self.skip_bad_rows:
                raise
            nothing: dict[str, Any] = {"input_ids": [], "labels": [], "verdicts": [], "mode": "", "kept": 0, "cut": 0}
            return {**nothing, "problem": str(error)}
        encoded = self.encode(conversation)
        if self.met is not None and encoded.verdicts:
            self.met[list(MODES).index(conversation.mode)] = 1
        return {
            "input_ids": encoded.input_ids,
            "labels": encoded.labels,
            "verdicts": encoded.verdicts,
            "mode": conversation.mode,
            "kept": len(encoded.verdicts),
            "cut": encoded.cut,
            "problem": "",
        }

    def encode(self, conversation: JudgedConversation) -> EncodedConversation:
        """Encodes a conversation, cut at a whole turn so that it fits `max_length`.

        Raises:
            ConfigError: if the tokenizer's chat template cannot hold such a conversation.
        """
        turns = len(conversation.rationales)
        encoded = self._encode(conversation, turns)
        if self.max_length is not None and len(encoded.input_ids) > self.max_length:
            # Conversations grow with every turn: find the longest one that fits.
            low, high = 0, turns - 1
            while low < high:
                middle = (low + high + 1) // 2
                fits = len(self._encode(conversation, middle).input_ids) <= self.max_length
                low, high = (middle, high) if fits else (low, middle - 1)
            encoded = self._encode(conversation, low)
        return encoded

    def _encode(self, conversation: JudgedConversation, turns: int) -> EncodedConversation:
        total = len(conversation.rationales)
        if not turns:
            return EncodedConversation([], [], [], total)
        tokens, verdicts = (
            self._grow_chain(conversation) if self.protocol == "thinkprm" else self._grow(conversation, turns)
        )
        input_ids, kinds = tokens.finished()
        if self.chat.encodes_anew:
            verdicts = [self._verdict_anew(conversation, turns, turn, input_ids) for turn in range(turns)]
        else:
            places = [place for place, kind in enumerate(kinds) if kind == "written"]
            verdicts = [[places[at], *rest] for at, *rest in verdicts]
        return EncodedConversation(
            input_ids,
            [token if kind in self.trained else IGNORED for token, kind in zip(input_ids, kinds, strict=True)],
            verdicts,
            total - turns,
        )

    def _grow(
        self, conversation: JudgedConversation, turns: int, otherwise: int | None = None
    ) -> tuple[Conversation, list[list[int]]]:
        """The first turns as a verifier would have grown them, and their verdicts (see `_verdict`).

        Args:
            conversation: The row.
            turns: How many turns.
            otherwise: The turn that says the opposite, if one does.
        """
        protocol = GenPRMProtocol(conversation.mode, self.first_turn)
        tokens = Conversation(self.chat)
        written = 0  # tokens of kind `written` up to here, which keep their ids whatever the template does around them
        verdicts = []
        for turn in range(turns):
            tokens.open_turn(conversation.openings[turn])
            segments = protocol.segments(conversation.rationales[turn])
            for segment in segments:
                text, is_last = segment.text, segment is segments[-1]
                if is_last and turn == otherwise:
                    text = _opposite(text, conversation.judgements[turn])
                ids = self.chat.encode(self.chat.neutralize(text))
                tokens.append_ids(ids, text, segment.kind)
                if segment.kind == "written":
                    if is_last and not self.chat.encodes_anew:
                        verdicts.append(self._verdict(text, ids, conversation.judgements[turn], written))
                    written += len(ids)
        return tokens, verdicts

    def _grow_chain(self, conversation: JudgedConversation) -> tuple[Conversation, list[list[int]]]:
        """The turn of a ThinkPRM, and a verdict (see `_verdict`) for each step: the word in its box."""
        protocol = ThinkPRMProtocol(as_published=False, opens_thinking=self.chat.opens_thinking)
        tokens = Conversation(self.chat)
        tokens.open_turn(conversation.openings[0])
        [turn] = conversation.rationales
        verdicts: list[list[int]] = []
        for segment in protocol.segments(turn.removeprefix(THINKING_OPENS) if protocol.opens_thinking else turn):
            text = segment.text
            ids = self.chat.encode(safe_text(self.chat, text, segment.kind))
            tokens.append_ids(ids, text, segment.kind)
            if segment.kind == "written" and not verdicts:  # the chain; the answer comes after it
                boxes = {box.step: box for box in read_boxes(text, len(conversation.judgements))}
                for step, judgement in enumerate(conversation.judgements):
                    box = boxes[step]
                    opposite = text[: box.word] + ("incorrect" if judgement else "correct") + text[box.end :]
                    others = self.chat.encode(self.chat.neutralize(opposite))
                    verdicts.append(_difference(ids, others, judgement))
        return tokens, verdicts

    def _verdict(self, text: str, ids: list[int], judgement: bool, written: int) -> list[int]:
        """The first token that would differ if the verdict at the end of `text` were the other one."""
        at, *rest = _difference(ids, self.chat.encode(self.chat.neutralize(_opposite(text, judgement))), judgement)
        return [written + at, *rest]

    def _verdict_anew(self, conversation: JudgedConversation, turns: int, turn: int, ids: list[int]) -> list[int]:
        """The same for a turn of a conversation that is encoded as one text, `ids`."""
        others = self._grow(conversation, turns, otherwise=turn)[0].finished()[0]
        return _difference(ids, others, conversation.judgements[turn])


def _opposite(text: str, judgement: bool) -> str:
    """A text that ends with a judgement, with the other one in its place."""
    word, other = ("Yes", "No") if judgement else ("No", "Yes")
    head, _, tail = text.rpartition(word)
    return head + other + tail


def _difference(ids: list[int], others: list[int], judgement: bool) -> list[int]:
    """Where ids first differ from those of the opposite judgement, the judgement, and the tokens of Yes and No."""
    at = next(i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b)
    yes_and_no = (ids[at], others[at]) if judgement else (others[at], ids[at])
    return [at, int(judgement), *yes_and_no]


def as_dataset(rows: Any, encoder: ConversationEncoder) -> Dataset | IterableDataset:
    """A dataset as it is; a list of rows or records as a dataset of conversations.

    Raises:
        DataError: A row of the list is unusable (and `skip_bad_rows` is off), or there are no rows.
    """
    if isinstance(rows, Dataset | IterableDataset):
        if not (len(rows) if isinstance(rows, Dataset) else any(True for _ in rows.take(1))):
            raise DataError("has no rows", file=encoder.name)
        return rows
    refuse_frame(rows, encoder.name)
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise DataError(
            f"must be a `datasets.Dataset`, an `IterableDataset` or a list of rows, got {type(rows).__name__}",
            file=encoder.name,
        )
    numbered = enumerate(rows, start=1)
    return _conversations(
        numbered, encoder.name, encoder.mode, encoder.first_turn, encoder.protocol, encoder.skip_bad_rows
    )


def load_conversations(
    source: Any,
    *,
    split: str | None = None,
    mode: str | None = None,
    first_turn: FirstTurn = "evaluation",
    protocol: ProtocolName = "genprm",
    skip_bad_rows: bool = False,
) -> Dataset:
    """Reads a file of rows that `GenPRMTrainer` takes; errors name the file and its row.

    Args:
        source: A file or dataset of any kind that `loading.load_solutions` takes.
        split: The split, where the source has several.
        mode: The mode to train in; see `read_row`.
        first_turn: Form of the first user turn; see `read_row`.
        protocol: The format to train in; see `read_row`.
        skip_bad_rows: Leave bad rows out, with a warning that counts them.

    Returns:
        A dataset with the columns `messages` and `mode`.

    Raises:
        DataError: The source is unreadable or has no usable row; or, unless `skip_bad_rows`, a row is bad.
    """
    name, _, rows = open_source(source, split)
    return _conversations(rows, name, mode, first_turn, protocol, skip_bad_rows)


def _conversations(
    rows: Iterable[tuple[int, Row | DataError]],
    name: str | None,
    mode: str | None,
    first_turn: FirstTurn,
    protocol: ProtocolName,
    skip_bad_rows: bool,
) -> Dataset:
    read, problems = [], []
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            read.append(read_row(row, mode, first_turn, protocol=protocol, file=name, number=number).to_row())
        except DataError as error:
            if not skip_bad_rows:
                raise
            problems.append(str(error))
    _report_bad(name, problems, len(read) + len(problems))
    if not read:
        raise DataError("has no usable row" if problems else "has no rows", file=name)
    return Dataset.from_list(read)


def encode_dataset(
    dataset: Dataset | IterableDataset, encoder: ConversationEncoder, num_proc: int | None = None
) -> Dataset | IterableDataset:
    """Encodes a dataset: columns `input_ids`, `labels`, `verdicts` (see `EncodedConversation`) and `mode`.

    Rows of which no turn fits are dropped. Warnings count them, the turns that were cut, and the bad rows skipped; a
    streamed dataset, which is read row by row while it is trained on, is not counted.

    Raises:
        DataError: A row is unusable, there are no rows, or none is left. A streamed dataset is read up to its first
            usable row; a bad row after that is found when it is read.
    """
    refuse_transform(
        dataset,
        encoder.name,
        ", or set dataset_kwargs={'skip_prepare_dataset': True} and return trainer-ready rows (input_ids, labels)",
    )
    helpers = ["kept", "cut", "problem"]
    if isinstance(dataset, IterableDataset):
        columns = dataset.column_names or list(next(iter(dataset), {}))
        streamed = dataset.map(encoder, with_indices=True, remove_columns=columns, features=_FEATURES)
        streamed = streamed.filter(_has_tokens).remove_columns(helpers)
        if next(iter(streamed), None) is None:
            skipped = " that is not bad" if encoder.skip_bad_rows else ""
            raise DataError(f"no row{skipped} has a turn within max_length={encoder.max_length}", file=encoder.name)
        return streamed
    # One process encodes and the others read its cache, where the dataset has one.
    with PartialState().main_process_first():
        encoded = dataset.with_format(None).map(
            encoder,
            with_indices=True,
            remove_columns=dataset.column_names,
            features=_FEATURES,
            num_proc=num_proc,
            desc=f"Tokenizing {encoder.name}",
        )
    problems = [problem for problem in encoded["problem"] if problem]
    _report_bad(encoder.name, problems, len(encoded))
    cut = np.asarray(encoded["cut"])
    if cut.any():
        logger.warning(
            f"{encoder.name}: {int(cut.sum())} turns at the end of {int((cut > 0).sum())} conversations left out, "
            f"over max_length={encoder.max_length}."
        )
    kept = np.flatnonzero(np.asarray(encoded["kept"]))
    if len(kept) == 0:
        raise DataError(f"no row has a turn within max_length={encoder.max_length}", file=encoder.name)
    dropped = len(encoded) - len(kept) - len(problems)
    if dropped:
        logger.warning(
            f"{encoder.name}: {dropped} of {len(encoded)} rows dropped, no turn within "
            f"max_length={encoder.max_length}."
        )
    if len(kept) < len(encoded):
        encoded = encoded.select(kept)
    return encoded.remove_columns(helpers)


def _has_tokens(row: Mapping[str, Any]) -> bool:
    return row["kept"] > 0


def _report_bad(name: str | None, problems: Sequence[str], total: int) -> None:
    if problems:
        logger.warning(f"{name}: {len(problems)} of {total} rows skipped. The first: {problems[0]}")
