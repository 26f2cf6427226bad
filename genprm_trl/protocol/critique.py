"""The one-turn critique that ProcessBench asks of critic models (Zheng et al. 2024, arXiv 2412.06559, section 4).

BIG-Bench Mistake is asked in the same form. Its tasks are not mathematical, so the words differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Literal

from genprm_trl.errors import ConfigError, check_at_least, check_text
from genprm_trl.grading.thinking import THINK_START, without_thinking
from genprm_trl.protocol.base import ChainScript, Generate, Judge, OpenTurn, Segment, Written
from genprm_trl.protocol.scoring import failure
from genprm_trl.records import StepJudgement, StepStatus

_BOX = "\\boxed{"


# What asks for a critique: a benchmark, after which its template is named.
CritiqueTask = Literal["processbench", "bigbench_mistake"]


@cache
def critique_template(asked: CritiqueTask = "processbench") -> str:
    """The benchmark's prompt, with the `str.format` fields `problem` and `tagged_response`.

    That of ProcessBench is the benchmark's, byte for byte.
    """
    return (files("genprm_trl.protocol") / f"{asked}_critique.txt").read_text(encoding="utf-8")


def tag_paragraphs(steps: Sequence[str], first: int = 0) -> str:
    """Steps enclosed as `<paragraph_i>` elements, joined by blank lines, numbered from `first`."""
    return "\n\n".join(
        f"<paragraph_{number}>\n{step}\n</paragraph_{number}>" for number, step in enumerate(steps, start=first)
    )


def critique_prompt(problem: str, steps: Sequence[str], asked: CritiqueTask = "processbench") -> str:
    """The user turn of the benchmark for one solution; paragraphs are numbered from 0."""
    return critique_template(asked).format(problem=problem, tagged_response=tag_paragraphs(steps))


def parse_critique(text: str, num_steps: int | None = None) -> int | None:
    r"""The index in the last `\boxed{}`: -1 for no error, None where it cannot be read as an integer.

    Args:
        text: Any text.
        num_steps: If given, an index outside of [-1, num_steps) is unreadable as well. The benchmark itself does not
            check this (such an index is then simply wrong).
    """
    answer = last_box(text).strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", answer):
        return None
    index = int(answer)
    return index if num_steps is None or -1 <= index < num_steps else None


def last_box(text: str) -> str:
    r"""What the last match of the benchmark's `\boxed\{([^}]*)\}` holds; empty for none.

    Plain searches, since that expression takes quadratic time on boxes that never close.
    """
    content = ""
    start = text.find(_BOX)
    while start >= 0:
        start += len(_BOX)
        end = text.find("}", start)
        if end < 0:
            break
        content = text[start:end]
        start = text.find(_BOX, end)
    return content


def vote(predictions: Iterable[int | None]) -> int | None:
    """The most common readable prediction of a solution's samples; the one seen first wins a tie; None for none."""
    counts = Counter(prediction for prediction in predictions if prediction is not None)
    return counts.most_common(1)[0][0] if counts else None


@dataclass(frozen=True, slots=True)
class CriticProtocol:
    r"""A critique as a verification protocol: one answer of a chat model judges all steps.

    The answer names the first wrong step. It gives the steps before that one the reward 1, and that one and those
    after it 0. The rewards of N answers are averaged. So the reward of a step is the share of answers that find no
    error up to it, and the prediction is the first step where that share is below the threshold.

    Attributes:
        template: The prompt, with the `str.format` fields `problem` and `tagged_response` (see `tag_paragraphs`). It
            must ask for the index of the first wrong paragraph, from 0, or -1, in `\boxed{}`. Default: ProcessBench's.
        max_tokens: Bound on the tokens of an answer, thoughts included.
        opens_thinking: Whether the chat template's generation prompt opens a thinking block.

    Raises:
        ConfigError: The template lacks a field, or has others.
    """

    template: str | None = None
    max_tokens: int = 8192
    opens_thinking: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, max_tokens=self.max_tokens)
        check_text(template=self.template)
        if self.template is not None:
            _check_template(self.template)

    def opening_messages(self, problem: str, steps: Sequence[str]) -> tuple[dict[str, str], ...]:
        """The user's turn."""
        template = critique_template() if self.template is None else self.template
        content = template.format(problem=problem, tagged_response=tag_paragraphs(steps))
        return ({"role": "user", "content": content},)

    def chain(self, problem: str, steps: Sequence[str]) -> ChainScript:
        """One answer on the whole solution (see `base.VerificationProtocol.chain`)."""
        return self.resumed_chain(problem, steps, ())

    def resumed_chain(self, problem: str, steps: Sequence[str], judged: Sequence[StepJudgement]) -> ChainScript:
        """A new answer on the whole prefix, of which what it says of the new steps counts."""
        for index, earlier in enumerate(judged):
            yield Judge(index, earlier.reward, earlier.status, earlier.rationale)
        if len(judged) == len(steps):
            return
        yield OpenTurn(self.opening_messages(problem, steps))
        written: Written = yield Generate((), self.max_tokens, logprobs=False)
        answer = without_thinking((THINK_START if self.opens_thinking else "") + written.text)
        first_error = parse_critique(answer, len(steps))
        status: StepStatus = "ok"
        if written.finish_reason in ("error", "context"):
            first_error, status = None, failure(written)
        elif first_error is None:
            status = "no_verdict"
        for index in range(len(judged), len(steps)):
            reward = 0.5 if first_error is None else float(first_error < 0 or index < first_error)
            # The answer is about all steps; it is kept once.
            yield Judge(index, reward, status, written.text if index == len(judged) else "")

    def messages(self, problem: str, steps: Sequence[str], rationales: Sequence[str]) -> list[dict[str, str]]:
        """The finished conversation over the first `len(rationales)` steps: one turn of each side."""
        turn = {"role": "assistant", "content": "".join(rationales)}
        return [*self.opening_messages(problem, steps[: len(rationales)]), turn]

    def segments(self, rationale: str) -> list[Segment]:
        """The assistant's turn, all of which the model writes."""
        return [Segment("written", rationale)]


def _check_template(template: str) -> None:
    needed = {"problem", "tagged_response"}
    hint = "write braces of the text twice: \\boxed{{}}"
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
        template.format(problem="", tagged_response="")
    except (ValueError, LookupError, AttributeError) as error:
        raise ConfigError(f"the critic's prompt cannot be filled in ({error}); {hint}") from None
    if fields != needed:
        wrong = ", ".join(sorted(f"{{{field}}}" for field in fields - needed)) or "not both"
        raise ConfigError(
            f"the critic's prompt needs the fields {{problem}} and {{tagged_response}}, has {wrong}; {hint}"
        )
