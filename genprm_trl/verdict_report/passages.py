"""A rationale in parts for reading: analysis, code, output, verdict.

Unlike `protocol.parse_rationale` this takes any text, in the format or not, in pieces that join to exactly that text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from genprm_trl.protocol.genprm import CODE_END, CODE_OUTPUT_START, NO_CODE_FOUND
from genprm_trl.records import CodeRound

PassageKind = Literal[
    "text",  # whatever stands outside of the other parts
    "analysis",
    "code",
    "output",  # what the interpreter answered; `ran` says how the code ended
    "claimed_output",  # the same form, but no such run was recorded: the model's own words
    "verdict",
    "mark",  # tags and fences, which carry no meaning
]

_ANALYSIS, _ANALYSIS_END = "<analyze>\n", "</analyze>"
_VERDICT, _VERDICT_END = "<output>\n", "</output>"
_CODE = "```python\n"
_OPENERS = re.compile("|".join(map(re.escape, (_ANALYSIS, _VERDICT, _CODE, CODE_OUTPUT_START))))
_MARKS = re.compile(r"</?(?:analyze|verify|output)>\n?")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a rationale.

    Attributes:
        kind: What it is.
        text: The text, unchanged.
        ran: The code round that printed an output; None if the interpreter found no code to run.
    """

    kind: PassageKind
    text: str
    ran: CodeRound | None = None


@dataclass(frozen=True, slots=True)
class ReadableRationale:
    """A rationale taken apart.

    Attributes:
        passages: Their texts join to the rationale.
        other_rounds: Code that ran but whose output is not in the rationale. A fallback, for example, drops the text
            of the code rounds.
    """

    passages: tuple[Passage, ...]
    other_rounds: tuple[CodeRound, ...]


def read_rationale(text: str, code_rounds: Sequence[CodeRound] = ()) -> ReadableRationale:
    """Takes a rationale apart. Accepts any text, and any code rounds beside it."""
    passages: list[Passage] = []
    shown: set[int] = set()
    next_round = 0

    def add(kind: PassageKind, piece: str, ran: CodeRound | None = None) -> None:
        if piece:
            passages.append(Passage(kind, piece, ran))

    def add_plain(piece: str) -> None:
        """Text with its tags set apart."""
        start = 0
        for mark in _MARKS.finditer(piece):
            add("text", piece[start : mark.start()])
            add("mark", mark.group())
            start = mark.end()
        add("text", piece[start:])

    position = 0
    while opener := _OPENERS.search(text, position):
        add_plain(text[position : opener.start()])
        add("mark", opener.group())
        position = opener.end()
        if opener.group() == CODE_OUTPUT_START:
            # An output may hold what looks like its own end; the record of the run says where it does end.
            for number in range(next_round, len(code_rounds)):
                if text.startswith(code_rounds[number].output + CODE_END, position):
                    add("output", code_rounds[number].output, code_rounds[number])
                    position += len(code_rounds[number].output)
                    shown.add(number)
                    next_round = number + 1
                    break
            else:
                end = _find(text, CODE_END, position)
                output = text[position:end]
                add("output" if output == NO_CODE_FOUND else "claimed_output", output)
                position = end
        else:
            kind: PassageKind
            if opener.group() == _ANALYSIS:
                kind, closer = "analysis", _ANALYSIS_END
            elif opener.group() == _VERDICT:
                kind, closer = "verdict", _VERDICT_END
            else:
                kind, closer = "code", CODE_END.rstrip("\n")
            end = _find(text, closer, position)
            add(kind, text[position:end])
            position = end
        if text.startswith(CODE_END, position):
            add("mark", CODE_END)
            position += len(CODE_END)
    add_plain(text[position:])
    others = tuple(code_round for number, code_round in enumerate(code_rounds) if number not in shown)
    return ReadableRationale(tuple(passages), others)


def _find(text: str, end: str, start: int) -> int:
    """Where `end` begins; the text's end where it does not come."""
    found = text.find(end, start)
    return len(text) if found < 0 else found
