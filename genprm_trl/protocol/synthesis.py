r"""Rationale synthesis: a strong reasoner critiques a whole solution with code (arXiv 2504.00891, section 3.2).

The reasoner answers in one turn: for each paragraph, under `### Paragraph {i}`, an `<analyze>` and a `<verify>` part;
at the end the index of the first wrong paragraph in `\boxed{}`, -1 for none. While it writes, generation stops at the
end of each code block, the block runs, and its output is appended. Paragraphs are numbered from 1.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genprm_trl.data.steps import fenced_lines
from genprm_trl.errors import ConfigError
from genprm_trl.grading.thinking import THINK_END, THINK_START
from genprm_trl.protocol.base import Action, Append, Execute, ExpectCode, Generate, OpenTurn, Written
from genprm_trl.protocol.critique import last_box, tag_paragraphs
from genprm_trl.protocol.genprm import (
    ANALYZE_END,
    ANALYZE_PREFIX,
    CODE_END,
    CODE_OUTPUT,
    CODE_START,
    NO_CODE_FOUND,
    OUTPUT_END,
    OUTPUT_PREFIX,
    VERIFY_END,
    VERIFY_PREFIX,
    last_code_block,
    parse_rationale,
)

SYNTHESIS_STOP = CODE_END  # kept in the text; the block's output follows in the form of `genprm.CODE_OUTPUT`

_PROMPT = """\
Below are a math problem and a solution to it. The solution is split into paragraphs, each enclosed in tags and \
numbered from 1.

[Math Problem]

{problem}

[Solution]

{tagged_response}

Check the solution one paragraph at a time, in order, up to and including the first wrong one. For each paragraph \
write exactly this:

### Paragraph {{ID}}
<analyze>
Your analysis of the paragraph: what it claims, and whether that follows from the problem and the paragraphs before.
</analyze>
<verify>
Python code that checks the claim, in a ```python block that prints what it finds. The code is run and its output is \
shown to you after the block; names stay defined from one block to the next.
</verify>

When you reach the first wrong paragraph, or the end, put the number of the first wrong paragraph in \\boxed{{}}, or \
-1 if every paragraph is right."""

_HEADING = re.compile(r"### Paragraph (?P<number>\d{1,6})(?=[^\S\n]*\n)")
# As models dress it up: `#### **Paragraph {1}: Setting up**`, `## paragraph_1`, with a part's tag on the same line.
_DRESSED_HEADING = re.compile(
    r"[^\S\n]*+[*_]{0,3}+[^\S\n]*+(?P<signs>\#{1,6}+)?[^\S\n]*+[*_]{0,3}+[^\S\n]*+(?:\d{1,6}[.)][^\S\n]*+)?"
    r"(?:(?:analysis|check|critique|review|verification)[^\S\n]++(?:of|for)[^\S\n]++)?"
    r"<?paragraph(?:[^\S\n]|[_:*$`\\\[({<\#]|no\.|number\b)*+(?P<number>\d{1,6})"
    r"(?!\d|[^\S\n]*+(?:to|and|through|&)[^\S\n]*+\d)",
    re.IGNORECASE,
)
_TO_ANALYSIS = re.compile(r"(?:[^\n<]|<(?!analyze>))*+\s*+<analyze>")
_SENTENCE = re.compile(r"[*_`$)\]}>]*+(?:[^\S\n]++[a-z]|['\u2019])")  # `Paragraph 1 is`, `Paragraph 1's`
_PART_TAG = re.compile(r"</?(?:analyze|verify)>")
# What models put around the number in the box. `Paragraph-1` is left alone: it may be 1 or -1.
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_AROUND_NUMBER = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf)\b|\\[,;:! ]|\b(?:paragraph|step)(?!-)|[{}()\[\]$_~#*\\]", re.IGNORECASE
)
_SPACED_MINUS = re.compile(r"^[\s$]*-\s+")
_INDEX = re.compile(r"([+-]?[0-9]{1,9})\s*[.,:]?")
_SPACED_CODE_START = re.compile(r"```python[^\S\n]++\n")


def synthesis_prompt(problem: str, steps: Sequence[str]) -> str:
    """The reasoner's user turn for one solution."""
    return _PROMPT.format(problem=problem, tagged_response=tag_paragraphs(steps, first=1))


@dataclass(frozen=True, slots=True)
class ParagraphCritique:
    """What the reasoner wrote for one paragraph.

    Attributes:
        number: The paragraph, from 1.
        analysis: Text of the `<analyze>` part.
        verification: Text of the `<verify>` part: code, its output, remarks.
    """

    number: int
    analysis: str
    verification: str


@dataclass(frozen=True, slots=True)
class Synthesis:
    """A parsed critique of a whole solution.

    Attributes:
        paragraphs: The critiques of the paragraphs, in order.
        first_error: Index from 0 of the first wrong step; -1 for none; None if no verdict can be read.
    """

    paragraphs: tuple[ParagraphCritique, ...]
    first_error: int | None

    def render(self) -> str:
        """The reasoner's answer in the format above.

        Raises:
            ValueError: if a part holds one of the format's own delimiters and could not be read back.
        """
        text = "".join(
            f"### Paragraph {part.number}\n<analyze>\n{part.analysis}\n</analyze>\n"
            f"<verify>\n{part.verification}\n</verify>\n\n"
            for part in self.paragraphs
        )
        if self.first_error is not None:
            number = self.first_error + 1 if self.first_error >= 0 else -1
            text += f"\\boxed{{{number}}}"
        if parse_synthesis(text) != self:
            raise ValueError("the critique holds a delimiter of the format and cannot be read back")
        return text

    def rationale(self, index: int) -> str | None:
        """The rationale of step `index` (from 0) in the form of the verification conversation.

        None if the step was not critiqued, or in a way that is of no use to SFT: without a closed code block, with
        tags of the conversation in the wrong place, or in an answer without a verdict.
        """
        part = next((part for part in self.paragraphs if part.number == index + 1), None)
        if part is None or self.first_error is None:
            return None
        if "<analyze>" in part.analysis + part.verification:
            return None  # a part was not closed, and holds the next paragraph's
        if 0 <= self.first_error < index:
            return None  # the critique says nothing about what follows the first error
        # The conversation's forced prefix opens the first block itself, so what led up to it moves to the analysis.
        lead, fence, verification = _SPACED_CODE_START.sub(CODE_START, part.verification).partition(CODE_START)
        if not fence:
            return None
        analysis = part.analysis.strip() + (f"\n{lead.strip()}" if lead.strip() else "")
        verdict = "{No}" if self.first_error == index else "{Yes}"
        rationale = (
            f"{ANALYZE_PREFIX.format(n=index + 1)}{analysis}\n{ANALYZE_END}"
            f"{VERIFY_PREFIX}{verification.strip()}\n{VERIFY_END}"
            f"{OUTPUT_PREFIX}{verdict}$\n{OUTPUT_END}"
        )
        return rationale if parse_rationale(rationale).status == "ok" else None


def parse_synthesis(text: str) -> Synthesis:
    """Takes a reasoner's answer apart. Accepts any string; a thinking block that ends in `</think>` is left out."""
    text = text.rpartition("</think>")[2]
    headings = _headings(text)
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    paragraphs = []
    for heading, end in zip(headings, ends, strict=False):
        analysis, rest = _take_element(text[heading.end() : end], "analyze")
        verification, _ = _take_element(rest, "verify")
        paragraphs.append(ParagraphCritique(int(heading["number"]), analysis, verification))
    # The verdict stands after all parts, read or not; they may well box intermediate results, and an answer that was
    # cut in the middle of a part has no verdict.
    tail = text[max(text.rfind("</analyze>"), text.rfind("</verify>"), 0) :]
    complete = "<analyze>" not in tail and "<verify>" not in tail
    number = _boxed_number(tail) if complete else None
    if number is None or (number < 1 and number != -1):
        first_error = None
    else:
        first_error = number - 1 if number > 0 else -1
    return Synthesis(tuple(paragraphs), first_error)


def _boxed_number(text: str) -> int | None:
    """The integer in the last box, without what models put around it; None if there is anything else."""
    box = _SPACED_MINUS.sub("-", last_box(_WRAPPED.sub(r"\1", text)).replace("\u2212", "-"))
    index = _INDEX.fullmatch(_AROUND_NUMBER.sub(" ", box).strip())
    return int(index[1]) if index else None


def _headings(text: str) -> list[re.Match[str]]:
    """The headings of paragraphs: for each analysis the line before it that is most like one, if there is any.

    Other lines that name a paragraph belong to what is said. Those are lines within a part, and lines after which no
    analysis comes.
    """
    lines = text.split("\n")
    fenced = fenced_lines(lines)
    tags = deque(_PART_TAG.finditer(text))
    found: list[re.Match[str]] = []
    best: re.Match[str] | None = None
    best_rank, is_open, start = 0, False, 0
    for number, line in enumerate([*lines, ""]):
        while tags and tags[0].start() < start:
            tag = tags.popleft().group()
            is_open = not tag.startswith("</")
            if tag == "<analyze>" and best is not None:
                found.append(best)
                best, best_rank = None, 0
        heading, asked_for = _DRESSED_HEADING.match(text, start), _HEADING.match(text, start) is not None
        if heading and (asked_for or number not in fenced):  # in code these are comments
            # Right before an analysis it is a heading even where the part before was not closed, or without signs.
            leads = _TO_ANALYSIS.match(text, heading.end()) is not None
            if leads or (heading["signs"] and not is_open):
                rank = 1 + asked_for + leads + (_SENTENCE.match(text, heading.end()) is None)
                if rank >= best_rank:
                    best, best_rank = heading, rank
        start += len(line) + 1
    return found


def _take_element(text: str, tag: str) -> tuple[str, str]:
    """The content of the first `<tag>` element, without the line breaks next to its tags, and what follows it.

    Without a complete element, nothing and the whole text.
    """
    content, closed, rest = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return (content.removeprefix("\n").removesuffix("\n"), rest) if closed else ("", text)


CritiqueStatus = Literal[
    "complete",  # the model ended its answer
    "unfinished_thinking",  # tokens ran out, or the model ended its text, inside a thinking block
    "out_of_tokens",  # the bound on tokens or the model's context was reached in the answer
    "out_of_code_rounds",  # it wrote more code than may be run
    "generator_failed",
    "sandbox_failed",
]


@dataclass(frozen=True, slots=True)
class Critique:
    """What a reasoner wrote about one solution.

    Attributes:
        status: How it ended.
        answer: The answer with the outputs of its code, thinking left out.
        thinking: Text of the thinking blocks, without their tags.
        message: Why the generator failed, if it did.
    """

    status: CritiqueStatus
    answer: str
    thinking: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class SynthesisProtocol:
    """How a reasoner is asked for a critique.

    Attributes:
        max_tokens: Bound on the tokens of a whole critique: thinking, answer, and what the interpreter printed.
        max_code_rounds: Code blocks that may run for one critique.
        opens_thinking: Whether the chat template's generation prompt leaves a thinking block open.
    """

    max_tokens: int = 16384
    max_code_rounds: int = 32
    opens_thinking: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_code_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    def messages(self, problem: str, steps: Sequence[str]) -> tuple[dict[str, str], ...]:
        """The messages before the reasoner's turn."""
        return ({"role": "user", "content": synthesis_prompt(problem, steps)},)

    def chain(self, problem: str, steps: Sequence[str]) -> Generator[Action, Any, Critique]:
        """The script of one critique; it returns the critique whatever the model writes."""
        yield ExpectCode()
        yield OpenTurn(self.messages(problem, steps))
        thinking, rounds, used = self.opens_thinking, 0, 0
        thoughts: list[str] = []
        answer: list[str] = []

        def end(status: CritiqueStatus, message: str = "") -> Critique:
            # A model may close a block that it did not open; the text before it was thinking, too.
            before, _, after = "".join(answer).rpartition(THINK_END)
            return Critique(status, after, "".join([*thoughts, before]).strip(), message)

        while used < self.max_tokens:
            stop = (THINK_END,) if thinking else (SYNTHESIS_STOP, THINK_START)
            written: Written = yield Generate(stop, self.max_tokens - used)
            used = written.turn_tokens
            if written.finish_reason == "error":
                return end("generator_failed", written.message)
            if thinking:
                thoughts.append(written.text.removesuffix(THINK_END))
                if not written.text.endswith(THINK_END):
                    return end("unfinished_thinking")
                thinking = False
            elif written.text.endswith(THINK_START):
                answer.append(written.text.removesuffix(THINK_START))
                thinking = True
            elif written.text.endswith(SYNTHESIS_STOP):
                answer.append(written.text)
                if rounds == self.max_code_rounds:
                    return end("out_of_code_rounds")
                rounds += 1
                # Only what this round wrote: a block that has run already must not run again.
                code = last_code_block(written.text)
                output = NO_CODE_FOUND if code is None else (yield Execute(code))
                if output is None:
                    return end("sandbox_failed")
                answer.append(CODE_OUTPUT.format(output=output))
                used = yield Append(answer[-1], "interpreter")
            else:
                answer.append(written.text)
                return end("complete" if written.finish_reason == "stop" else "out_of_tokens")
        return end("unfinished_thinking" if thinking else "out_of_tokens")
