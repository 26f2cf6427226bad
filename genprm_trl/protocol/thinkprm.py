r"""ThinkPRM's verification chain (Khalifa et al. 2025, arXiv 2504.16828, and the code at github.com/mukhal/ThinkPRM).

One chain of thought judges all steps, without code. After each step it boxes `correct` or `incorrect`. Then the model
says whether the solution as a whole is correct. Released checkpoints were trained on these exact strings.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from genprm_trl.errors import check_at_least, check_positive
from genprm_trl.grading.thinking import THINK_END, THINK_START
from genprm_trl.protocol.base import (
    Action,
    Append,
    ChainScript,
    Generate,
    Judge,
    OpenTurn,
    Rewind,
    Score,
    Segment,
    Written,
)
from genprm_trl.protocol.scoring import binary_probability, failure, score_word
from genprm_trl.records import StepJudgement, StepStatus

PROMPT = (
    "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\n{problem}\n\n"
    "[Solution]\n\n{solution}\n\nReview and critique each step in the proposed solution to determine whether each "
    "step is correct. If the solution is incomplete, only verify the provided steps."
)
OPENING = "Let's verify step by step:"
# Without the space behind it, which is a part of the answer's token: ` yes`.
QUESTION = "\nIs the solution correct?"
THINKING_OPENS = THINK_START + "\n"

_STOPS = (QUESTION.strip(), THINK_END)
_ANSWER_TOKENS = 4
_STEP_NUMBER = re.compile(r"Step \d+:")
_BOX = re.compile(
    r"\\boxed\s*+\{(?:\\(?:text|math)[a-z]*+\s*+\{|[{*_$\s])*+(correct|incorrect)(?!\s*+/|[\s.,;:-]*+[A-Za-z])",
    re.IGNORECASE,
)
_TEXT_IN_BOX = re.compile(r"\\boxed\s*+\{\s*+\\text\s*+\{\s*+(correct|incorrect)\s*+\}\s*+\}", re.IGNORECASE)
_END_OF_BOX = re.compile(r"[\s*_$]*+\}++\$?")
# What stands between two boxes of which the text says that one of them will follow: they are no verdicts.
_OR = re.compile(r"[\s}*_$`'\"”’]*+[,(]?\s*+(?:/|\||(?:and/)?or\b(?:\s++else\b)?)[\s(*_$`'\"“‘]*+", re.IGNORECASE)
# A line that says which step it is about: `Step 3:`, `**Step 3:**`, `### Step 3:`.
_HEADING = re.compile(r"^[^\S\n]*+[#>*_-]*+[^\S\n]*+[*_]*+Step[^\S\n]++(\d{1,9})[*_]*+[^\S\n]*+:", re.I | re.M)
_ANSWER = re.compile(r"[\s*_$]*+(yes|no)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    """What a chain says of a step.

    Attributes:
        step: The step, from 0.
        word: The character at which `correct` or `incorrect` begins.
        end: The character behind that word.
    """

    step: int
    word: int
    end: int


def read_boxes(text: str, num_steps: int) -> list[Box]:
    r"""The boxes in a chain that are about a step, in the order of the text. Accepts any string.

    A box is about the step of the last heading before it (`Step 3:` at the start of a line). Before the first heading
    the boxes are counted. Boxes about steps that do not exist are left out. The word is all that its box says:
    `correct or incorrect` is none, and boxes with `or` between them say what will be written.

    Examples:
        >>> [box.step for box in read_boxes("Fine: \\boxed{correct}\nStep 3: no. \\boxed{incorrect}", 3)]
        [0, 2]
        >>> read_boxes("I write \\boxed{correct} or \\boxed{incorrect} after each step.", 3)
        []
    """
    boxes = []
    number = at = 0
    has_headings = False
    for found in _verdicts(text):
        number += not has_headings
        for heading in _HEADING.finditer(text, at, found.start()):
            number, has_headings = int(heading[1]), True
        at = found.end()
        if 1 <= number <= num_steps:
            boxes.append(Box(number - 1, found.start(1), found.end()))
    return boxes


@dataclass(frozen=True, slots=True)
class ThinkPRMProtocol:
    r"""ThinkPRM's chain as a verification protocol.

    The released code asks its models in another form than they were trained in. With `as_published` the opening begins
    with a line break, which leaves a blank line behind a template's `<think>`; the question follows without a
    `</think>`; and ` yes` and ` no` are compared, though the models learned ` Yes` and ` No`. Otherwise all is as in
    training: `<think>\nLet's verify step by step:`, the chain, `\n</think>\nIs the solution correct?`, and ` Yes` or
    ` No`. In all forms the answer's token begins with the space.

    Attributes:
        as_published: Whether models are asked as in the released code.
        opens_thinking: Whether the chat template's generation prompt ends with `<think>`.
        max_tokens: Bound on the tokens that a chain writes, without the prompt's: 8,192 as in the released code that
            asks servers. The one that runs models itself counts the prompt, too.
        decision_temperature: Divides the log-odds of `yes` to `no`.
    """

    as_published: bool = True
    opens_thinking: bool = False
    max_tokens: int = 8192
    decision_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(1, max_tokens=self.max_tokens)
        check_positive(decision_temperature=self.decision_temperature)

    def opening_messages(
        self, problem: str, steps: Sequence[str], *, numbered: bool = False
    ) -> tuple[dict[str, str], ...]:
        """The user's turn.

        Args:
            problem: The problem.
            steps: The steps. Their own numbers (`Step 2:`) are left out, as published.
            numbered: Whether to number them anew, as the published search does.
        """
        shown = [_STEP_NUMBER.sub("", step).strip() for step in steps]
        if numbered:
            shown = [f"Step {number}: {step}" for number, step in enumerate(shown, start=1)]
        content = PROMPT.format(problem=problem, solution="\n".join(shown))
        return ({"role": "user", "content": content},)

    def chain(self, problem: str, steps: Sequence[str]) -> ChainScript:
        """One chain over the whole solution (see `base.VerificationProtocol.chain`)."""
        return self._chain(problem, steps, (), numbered=False)

    def resumed_chain(self, problem: str, steps: Sequence[str], judged: Sequence[StepJudgement]) -> ChainScript:
        """A chain that judges the whole prefix from the start, of which the new steps' judgements count.

        As in the published search, steps are numbered, and a chain ends where it turns to a step that is not there.
        A chain may find a step wrong and say nothing of those behind it. They then have the reward of the box of the
        first wrong step, so that a search sees what the chain has found.
        """
        for index, earlier in enumerate(judged):
            yield Judge(index, earlier.reward, earlier.status, earlier.rationale, earlier.solution_reward)
        yield from self._chain(problem, steps, judged, numbered=True)

    def _chain(
        self, problem: str, steps: Sequence[str], judged: Sequence[StepJudgement], *, numbered: bool
    ) -> ChainScript:
        if len(judged) == len(steps):
            return
        stops = (*_STOPS, f"Step {len(steps) + 1}:") if numbered else _STOPS
        yield OpenTurn(self.opening_messages(problem, steps, numbered=numbered))
        opening = self._opening()
        for segment in opening:
            yield Append(segment.text, segment.kind)
        written: Written = yield Generate(stops, self.max_tokens, logprobs=False)
        has_failed = written.finish_reason in ("error", "context")
        missing: StepStatus = failure(written) if has_failed else "no_verdict"

        stop = next((stop for stop in stops if written.text.endswith(stop)), "")
        text = written.text.removesuffix(stop)
        boxes = read_boxes(text, len(steps))
        parts = _parts(text, boxes, len(steps))
        parts[0] = "".join(segment.text for segment in opening) + parts[0]
        said = {box.step: box for box in boxes}  # the last box about a step counts
        wrong = (box for box in said.values() if not _calls_correct(text, box))
        first_wrong = min(wrong, key=lambda box: box.step, default=None)
        last = len(steps) - 1
        for index in range(len(judged), len(steps)):
            read: tuple[float, StepStatus] | None = None
            box = said.get(index)
            if box is None and numbered and not has_failed and first_wrong is not None and first_wrong.step < index:
                box = first_wrong
            if box is not None:
                read = yield from score_word(written, box.word, "correct", "incorrect")
            reward, status = read or (0.5, missing)
            solution_reward = None
            if index == last and not has_failed:
                if stop:  # published servers leave it out
                    yield Rewind(len(opening))
                    yield Append(text, "written")
                solution_reward, conversation, failed = yield from self._ask(text)
                parts[last] += conversation
                # A step that has been read stays so where the context is full; a failed request is to be repeated.
                if failed == "error" or (failed is not None and status == "no_verdict"):
                    reward, status = 0.5, failed
            yield Judge(index, reward, status, parts[index], solution_reward)

    def _opening(self) -> tuple[Segment, ...]:
        if self.as_published:
            return (Segment("forced", "\n" + OPENING),)
        opening = Segment("forced", OPENING)
        return (opening,) if self.opens_thinking else (Segment("mark", THINKING_OPENS), opening)

    def _ask(self, text: str) -> Generator[Action, Any, tuple[float | None, str, StepStatus | None]]:
        """Asks whether the solution is correct.

        Returns:
            The probability, or None if no answer can be read; question and answer; the status of a failed request.
        """
        question = QUESTION
        if not self.as_published:
            question = ("" if text.endswith("\n") else "\n") + THINK_END + QUESTION
        yield Append(question, "mark")
        written: Written = yield Generate(("\n",), _ANSWER_TOKENS, words=("Yes", "No"))
        answer = written
        has_ended = not written.tokens and written.finish_reason not in ("error", "context")
        if has_ended and self.read_answer(written) is None:
            # The turn was ended in the answer's place, and the engine does not say what else was likely there. It does
            # so with the likeliest token, if that is another one.
            answer = yield Score(0, ("Yes", "No"))
        has_failed = answer.finish_reason == "error" or (answer.finish_reason == "context" and not answer.tokens)
        return (
            None if has_failed else self.read_answer(answer),
            question + written.text,
            failure(answer) if has_failed else None,
        )

    def read_answer(self, written: Written) -> float | None:
        """P(yes) / (P(yes) + P(no)) at the first token after the question; None if there is none.

        Whatever the model has written, and if it has ended its text, ` yes` and ` no` are compared as published, and
        ` Yes` and ` No` in the form of the training. Where the engine does not report both, or calls both impossible,
        the written answer is read. If there is none, ` Yes` and ` No` are compared in both forms.
        """
        answer = _ANSWER.match(written.text)
        alternatives = written.top_logprobs[0] if written.top_logprobs else ()
        known = dict(alternatives)

        def compared(yes: str, no: str) -> float | None:
            if not {yes, no} <= known.keys() or max(known[yes], known[no]) == -math.inf:
                return None
            return binary_probability(Written(yes, tokens=(yes,)), 0, yes, no, alternatives)

        reward = compared(" yes", " no") if self.as_published else compared(" Yes", " No")
        if reward is None and answer is not None:
            reward = binary_probability(written, answer.start(1), "Yes", "No")
        elif reward is None:
            reward = compared(" Yes", " No")
        if reward is None or reward in (0, 1):
            return reward
        log_odds = math.log(reward) - math.log1p(-reward)
        return (1 + math.tanh(log_odds / self.decision_temperature / 2)) / 2

    def messages(self, problem: str, steps: Sequence[str], rationales: Sequence[str]) -> list[dict[str, str]]:
        """The finished conversation over the first `len(rationales)` steps: one turn of each side."""
        turn = {"role": "assistant", "content": "".join(rationales)}
        return [*self.opening_messages(problem, steps[: len(rationales)]), turn]

    def segments(self, rationale: str) -> list[Segment]:
        """Splits an assistant turn into what is forced, marks of the format, and what the model writes."""
        parts = []
        if not self.opens_thinking and rationale.startswith(THINKING_OPENS):
            parts.append(Segment("mark", THINKING_OPENS))
            rationale = rationale.removeprefix(THINKING_OPENS)
        for opening in (OPENING, "\n" + OPENING):
            if rationale.startswith(opening):
                parts.append(Segment("forced", opening))
                rationale = rationale.removeprefix(opening)
                break
        chain, end, answer = rationale.rpartition(THINK_END + QUESTION)
        parts += [Segment("written", chain), Segment("mark", end), Segment("written", answer)]
        return [part for part in parts if part.text]


def read_decisions(chain: str) -> list[bool] | None:
    """Whether a chain calls each step correct, from the first one on; None if it leaves one out."""
    said = {box.step: _calls_correct(chain, box) for box in read_boxes(chain, len(chain))}
    return [said[step] for step in range(len(said))] if said.keys() == {*range(len(said))} else None


def follows_labels(decisions: Sequence[bool], labels: Sequence[bool]) -> bool:
    """Whether a chain is kept for training, by the published filter.

    It must agree with the labels up to the first wrong step. It must end there, or with the last step.

    Examples:
        >>> [follows_labels(said, [True, False, False]) for said in ([True], [True, False], [True, False, True])]
        [False, True, True]
    """
    until = [*labels, False].index(False) + 1
    return len(decisions) in (min(until, len(labels)), len(labels)) and [*decisions[:until]] == [*labels[:until]]


def clean_chain(text: str) -> str:
    r"""A chain as another model wrote it, without what surrounds it.

    Its thinking tags and opening are left out, and so is all that follows the last box. A `\text{correct}` in a box
    becomes `correct`.
    """
    text = text.partition(THINK_END)[0].strip().removeprefix(THINK_START).strip().removeprefix(OPENING).strip()
    text = _TEXT_IN_BOX.sub(lambda found: f"\\boxed{{{found[1].lower()}}}", text)
    boxes = _verdicts(text)
    if not boxes:
        return text
    end = boxes[-1].end()
    closed = _END_OF_BOX.match(text, end)
    return text[: closed.end() if closed else end]


def finished_turn(chain: str, is_correct: bool) -> str:
    """The assistant's turn that a model is trained on: opening, chain, and whether the solution is correct."""
    return f"{THINKING_OPENS}{OPENING}\n{chain}\n{THINK_END}{QUESTION} {'Yes' if is_correct else 'No'}"


def read_turn(turn: str) -> tuple[list[bool], bool] | None:
    """Whether a finished turn calls each step, and the solution, correct; None if it is not finished."""
    chain, _, answer = turn.rpartition(THINK_END + QUESTION)
    decisions = None if ends_early(chain) else read_decisions(chain)
    return (decisions, answer == " Yes") if decisions and answer in (" Yes", " No") else None


def ends_early(chain: str) -> bool:
    """Whether a chain holds what ends it. A model that writes such a text is stopped there, and cannot go on."""
    return any(stop in chain for stop in _STOPS)


def _verdicts(text: str) -> list[re.Match[str]]:
    """The boxes of a text, without those that are named as the choice between them."""
    boxes = list(_BOX.finditer(text))
    joined = [bool(_OR.fullmatch(text, one.end(), other.start())) for one, other in itertools.pairwise(boxes)]
    return [
        box
        for box, before, behind in zip(boxes, [False, *joined], [*joined, False], strict=False)
        if not (before or behind)
    ]


def _calls_correct(text: str, box: Box) -> bool:
    return text[box.word : box.end].casefold() == "correct"


def _parts(text: str, boxes: Sequence[Box], num_steps: int) -> list[str]:
    """The text about each step, from the box before to its own. The last step has what follows the last box."""
    parts, at = [""] * num_steps, 0
    for box in boxes:
        parts[box.step] += text[at : box.end]
        at = box.end
    parts[-1] += text[at:]
    return parts
