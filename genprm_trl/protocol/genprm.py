"""GenPRM's verification conversation (Zhao et al. 2025, arXiv 2504.00891, section 3 and the released inference).

One user turn a step, one assistant turn a step. The assistant's turn is a rationale: an analysis, Python code that
checks the step, what the code printed, and a judgement. Released checkpoints were trained on these exact strings.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from genprm_trl.errors import ConfigError, check_at_least, check_one_of
from genprm_trl.protocol.base import (
    Action,
    Append,
    ChainScript,
    Execute,
    ExpectCode,
    Generate,
    Judge,
    OpenTurn,
    Rewind,
    Segment,
    SegmentKind,
    Written,
)
from genprm_trl.protocol.scoring import binary_probability, failure, score_word
from genprm_trl.records import StepJudgement, StepStatus

SYSTEM_PROMPT = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
DIRECT_SYSTEM_PROMPT = (
    "You are a math teacher. Your task is to review and critique the paragraphs in solution directly. Output your "
    "judgement in the format of `\\boxed{Yes}` if the paragraph is correct, or `\\boxed{No}` if the paragraph is "
    "incorrect."
)
ANALYZE_PREFIX = "<analyze>\nLet's analyze the Paragraph {n} step by step: "
ANALYZE_END = "</analyze>\n"
VERIFY_PREFIX = "<verify>\nLet's use python code to find any potential error:\n```python\n"
VERIFY_END = "</verify>\n"
CODE_START = "```python\n"
CODE_END = "\n```\n"
OUTPUT_PREFIX = "<output>\n**Judgement**: $\\boxed"
OUTPUT_END = "</output>\n"
VERDICT_WORDS = ("Yes", "No")
_OUTPUT_CLOSED = OUTPUT_END.rstrip()
CODE_OUTPUT_START = "[Code Output]\n\n```\n"
CODE_OUTPUT = CODE_OUTPUT_START + "{output}" + CODE_END
NO_CODE_FOUND = "Code format error: No code found."

_ANALYZE_PREFIX_PATTERN = re.compile(r"<analyze>\nLet's analyze the Paragraph ([0-9]{1,9}) step by step: ")
_PARTS_PATTERN = re.compile(
    r"<analyze>\n(?P<analysis>.*?)(?=</analyze>|\Z)|<output>\n(?P<verdict>.*?)(?=</output>|\Z)"
    r"|```python\n(?P<code>.*?)(?=\n```|\Z)|</?(?:analyze|verify|output)>\n?|\n```\n",
    re.DOTALL,
)
_BOX = re.compile(r"\\boxed\s*+\{")
# The word at the beginning of its box. `No error` is another word.
_VERDICT_PATTERN = re.compile(
    _BOX.pattern + r"(?:\\(?:text|math)[a-z]*+\s*+\{|[{*_$\s])*+(Yes|No)(?![A-Za-z]|\s++[A-Za-z])", re.IGNORECASE
)
# In an `<output>` part without a box, the word as all that is in braces.
_BRACED_VERDICT = re.compile(r"(?<!\\)\{\s*+(?:\\text\{\s*+)?(Yes|No)\s*+\.?\s*+(?:\}|\Z)", re.IGNORECASE)
_LONGEST_CHOICE = 80  # characters of a box that may repeat the prompt's choice
_COMMAND_OR_WORD = re.compile(r"\\[A-Za-z]++|([A-Za-z]++)")

FirstTurn = Literal["evaluation", "demonstration"]


@dataclass(frozen=True, slots=True)
class Mode:
    """Which parts of a rationale the model writes: the paper's ablation (section 5).

    Attributes:
        analyze: An analysis in words.
        verify: Python code.
        execute: The code is run and its output shown to the model; otherwise the model imagines the output.
    """

    analyze: bool = True
    verify: bool = True
    execute: bool = True

    def __post_init__(self) -> None:
        if self.execute and not self.verify:
            raise ConfigError("a mode that executes code must also verify with code: set verify=True or execute=False")

    @property
    def direct(self) -> bool:
        """No rationale at all: the verdict is the whole answer."""
        return not (self.analyze or self.verify)

    @property
    def name(self) -> str:
        """The name in `MODES` of the mode with the same parts."""
        return next(name for name, mode in MODES.items() if mode == self)

    @classmethod
    def of(cls, mode: Mode | str) -> Mode:
        """A mode by its name.

        Raises:
            ConfigError: for an unknown name, listing the known ones.
        """
        if isinstance(mode, Mode):
            return mode
        check_one_of(MODES, mode=mode)
        return MODES[mode]


MODES: dict[str, Mode] = {
    "full": Mode(),
    "analysis_code": Mode(execute=False),
    "analysis": Mode(verify=False, execute=False),
    "code_execution": Mode(analyze=False),
    "code": Mode(analyze=False, execute=False),
    "direct": Mode(analyze=False, verify=False, execute=False),
}


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A code block in the `<verify>` part.

    Attributes:
        code: The Python source between the fences.
        output: What the interpreter printed; None if it was not run.
        lead: Text between the part before and the code fence. The first block's must be the forced
            `VERIFY_PREFIX`'s own, so it is empty.
    """

    code: str
    output: str | None = None
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Rationale:
    """A rationale taken apart. `render` and `parse_rationale` are inverse to one another on what `render` accepts.

    Attributes:
        step: Number of the paragraph, from 1.
        judgement: Whether the step is correct; None if there is no verdict.
        analysis: The analysis after its forced prefix; None if the mode has none.
        blocks: The code blocks; empty if the mode has none.
        remark: Text after the last block's output and before `</verify>`.
    """

    step: int
    judgement: bool | None
    analysis: str | None = None
    blocks: tuple[CodeBlock, ...] = ()
    remark: str = ""

    def render(self) -> str:
        """The assistant's turn, byte for byte as checkpoints were trained on it.

        Raises:
            ValueError: if a part holds one of the format's own delimiters and could not be read back.
        """
        text = ""
        if self.analysis is not None:
            text += ANALYZE_PREFIX.format(n=self.step) + self.analysis + ANALYZE_END
        for number, block in enumerate(self.blocks):
            text += (VERIFY_PREFIX if number == 0 else block.lead + CODE_START) + block.code + CODE_END
            if block.output is not None:
                text += CODE_OUTPUT.format(output=block.output)
        if self.blocks:
            text += self.remark + VERIFY_END
        if self.judgement is not None:
            text += OUTPUT_PREFIX + ("{Yes}" if self.judgement else "{No}") + "$\n" + OUTPUT_END
        if parse_rationale(text, step=self.step).rationale != self:
            raise ValueError(f"rationale of step {self.step} holds a delimiter of the format and cannot be read back")
        return text


ParseStatus = Literal["ok", "no_verdict", "malformed"]


@dataclass(frozen=True, slots=True)
class ParsedRationale:
    """What `parse_rationale` found.

    Attributes:
        rationale: What could be read.
        status: `ok`: complete and well formed. `no_verdict`: well formed as far as it goes, but without a verdict.
            `malformed`: something stands outside of the format.
    """

    rationale: Rationale
    status: ParseStatus


def parse_rationale(text: str, step: int | None = None) -> ParsedRationale:
    """Takes an assistant turn apart. Accepts any string.

    Args:
        text: The assistant's turn.
        step: The paragraph's number, used if the text does not say it; default 1.
    """
    at, well_formed = 0, True
    analysis: str | None = None
    opening = _ANALYZE_PREFIX_PATTERN.match(text)
    if opening:
        step = int(opening.group(1))
        analysis, well_formed, at = _until(ANALYZE_END, text, opening.end())
    blocks: list[CodeBlock] = []
    remark = ""
    if text.startswith(VERIFY_PREFIX, at):
        at, lead = at + len(VERIFY_PREFIX), ""
        while True:
            code, closed, at = _until(CODE_END, text, at)
            if not closed:
                well_formed = False
                blocks.append(CodeBlock(code, None, lead))
                break
            output = None
            if text.startswith(CODE_OUTPUT_START, at):
                output, closed, at = _until(CODE_END, text, at + len(CODE_OUTPUT_START))
                well_formed = well_formed and closed
            blocks.append(CodeBlock(code, output, lead))
            fence = text.find(CODE_START, at)
            if fence < 0 or text.find(VERIFY_END, at, fence) >= 0:
                remark, closed, at = _until(VERIFY_END, text, at)
                well_formed = well_formed and closed
                break
            lead, at = text[at:fence], fence + len(CODE_START)
    rest = text[at:]
    judgement: bool | None = None
    for verdict in (True, False):
        if rest == OUTPUT_PREFIX + ("{Yes}" if verdict else "{No}") + "$\n" + OUTPUT_END:
            judgement, rest = verdict, ""
    if judgement is None:
        # A verdict written a little off the format still counts, as in the published inference.
        found = _last_verdict(rest)
        if found:
            judgement, well_formed = found.group(1).casefold() == "yes", False
    well_formed = well_formed and not rest
    rationale = Rationale(step if step is not None else 1, judgement, analysis, tuple(blocks), remark)
    status: ParseStatus = "malformed" if not well_formed else "ok" if judgement is not None else "no_verdict"
    return ParsedRationale(rationale, status)


def _until(end: str, text: str, start: int) -> tuple[str, bool, int]:
    """What stands before the next `end`, whether there is one, and where the text goes on after it."""
    found = text.find(end, start)
    return (text[start:], False, len(text)) if found < 0 else (text[start:found], True, found + len(end))


def split_parts(text: str) -> list[tuple[str, str]]:
    """Takes an assistant turn without interpreter output apart, however badly formed it is.

    Returns:
        Kinds and texts, which join to `text`: `analysis`, `code`, `verdict`, `text` outside of them, and `mark` for
        tags and fences.
    """
    parts, position = [], 0
    for match in _PARTS_PATTERN.finditer(text):
        kind = match.lastgroup
        opened = match.start(kind) if kind else match.end()
        parts += [("text", text[position : match.start()]), ("mark", text[match.start() : opened])]
        parts += [(kind, match[kind])] if kind else []
        position = match.end()
    return [*parts, ("text", text[position:])]


def argument(text: str) -> str:
    """What an assistant turn says before its verdict: its analysis, or else its code and what that printed.

    Empty for a bare verdict. Accepts any string.
    """
    analysis = (parse_rationale(text).rationale.analysis or "").strip()
    if analysis:
        return analysis
    before = text.partition(OUTPUT_PREFIX)[0]
    code = before.removeprefix(VERIFY_PREFIX)
    return (CODE_START if code != before else "") + code.replace(VERIFY_END, "").strip()


def last_code_block(text: str) -> str | None:
    """The last fenced Python block of a text, stripped; None if there is none."""
    # Plain searches: a regular expression takes cubic time on long runs of white space.
    code = None
    start = text.find("```python")
    while start >= 0:
        start += len("```python")
        end = text.find("```", start)
        if end < 0:
            break
        code = text[start:end].strip()
        start = text.find("```python", end + len("```"))
    return code


@dataclass(frozen=True, slots=True)
class GenPRMProtocol:
    r"""GenPRM's conversation as a verification protocol.

    Attributes:
        mode: Parts of the rationale, by name or as a `Mode`.
        first_turn: `evaluation` joins problem and first step as `{problem}\n{step}` (the published evaluation);
            `demonstration` as `Question: {problem}\n\n{step}` (the published example).
        max_step_tokens: Bound on the tokens of an assistant turn, interpreter output included (2,048 as published).
        max_code_rounds: Generations after the analysis before the verdict is forced (3 as published).
        verdict_tokens: Tokens for a forced verdict (20 as published).
    """

    mode: Mode | str = "full"
    first_turn: FirstTurn = "evaluation"
    max_step_tokens: int = 2048
    max_code_rounds: int = 3
    verdict_tokens: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", Mode.of(self.mode))
        check_one_of(get_args(FirstTurn), first_turn=self.first_turn)
        check_at_least(
            1,
            max_step_tokens=self.max_step_tokens,
            max_code_rounds=self.max_code_rounds,
            verdict_tokens=self.verdict_tokens,
        )

    @property
    def _mode(self) -> Mode:
        assert isinstance(self.mode, Mode)  # set by __post_init__; tells the type checker
        return self.mode

    @property
    def system_prompt(self) -> str:
        """The system message, which asks for a bare verdict where the mode writes no rationale."""
        return DIRECT_SYSTEM_PROMPT if self._mode.direct else SYSTEM_PROMPT

    def user_turn(self, problem: str, steps: Sequence[str], index: int) -> str:
        """The user's turn for step `index` (from 0): the bare step, the first one led by the problem."""
        if index > 0:
            return steps[index]
        if self.first_turn == "evaluation":
            return f"{problem}\n{steps[0]}"
        return f"Question: {problem}\n\n{steps[0]}"

    def opening_messages(self, problem: str, steps: Sequence[str], index: int) -> tuple[dict[str, str], ...]:
        """The messages that come before the assistant's turn on step `index` (from 0), the system's at first."""
        user = {"role": "user", "content": self.user_turn(problem, steps, index)}
        return ({"role": "system", "content": self.system_prompt}, user) if index == 0 else (user,)

    def messages(self, problem: str, steps: Sequence[str], rationales: Sequence[str]) -> list[dict[str, str]]:
        """The finished conversation over the first `len(rationales)` steps."""
        conversation: list[dict[str, str]] = []
        for index, rationale in enumerate(rationales):
            conversation += self.opening_messages(problem, steps, index)
            conversation.append({"role": "assistant", "content": rationale})
        return conversation

    def chain(self, problem: str, steps: Sequence[str]) -> ChainScript:
        """One chain over the whole solution (see `base.VerificationProtocol.chain`)."""
        return self.resumed_chain(problem, steps, ())

    def resumed_chain(self, problem: str, steps: Sequence[str], judged: Sequence[StepJudgement]) -> ChainScript:
        """A chain that has judged the first steps before (see `base.ResumableProtocol.resumed_chain`)."""
        if self._mode.execute and steps:
            yield ExpectCode()
        # The model's context: the history only grows, so nothing that follows a truncated step can fit either.
        is_full = False
        for index, judgement in enumerate(judged):
            is_full = is_full or judgement.status == "truncated"
            if is_full:
                yield Judge(index, judgement.reward, judgement.status, judgement.rationale)
                continue
            yield OpenTurn(self.opening_messages(problem, steps, index))
            for segment in self.segments(judgement.rationale, [each.output for each in judgement.code_rounds]):
                yield Append(segment.text, segment.kind)
            for code_round in judgement.code_rounds:  # later code may need its names; its output is in the text
                yield Execute(code_round.code)
            yield Judge(index, judgement.reward, judgement.status)
        for index in range(len(judged), len(steps)):
            if is_full:
                yield Judge(index, 0.5, "truncated", "")
                continue
            yield OpenTurn(self.opening_messages(problem, steps, index))
            reward, status = yield from self._judge_step(index + 1)
            yield Judge(index, reward, status)
            is_full = status == "truncated"

    def _judge_step(self, number: int) -> Generator[Action, Any, tuple[float, StepStatus]]:
        mode = self._mode
        written: Written
        used: int  # tokens in the turn
        kept_segments = 0  # what a fallback keeps: the analysis
        if mode.analyze:
            prefix = ANALYZE_PREFIX.format(n=number)
            yield Append(prefix)
            written = yield Generate((ANALYZE_END,), self.max_step_tokens, logprobs=False)
            if written.finish_reason in ("error", "context"):
                return 0.5, failure(written)
            kept_segments = written.turn_segments
            if not written.text.endswith(ANALYZE_END):
                # Out of tokens, or the model ended its text: close the analysis for it.
                closing = "\n" if written.text.endswith(ANALYZE_END.rstrip("\n")) else ANALYZE_END
                yield Append(closing)
                kept_segments += 1
                if written.turn_tokens >= self.max_step_tokens:
                    return (yield from self._force_verdict())
        opening = VERIFY_PREFIX if mode.verify else OUTPUT_PREFIX
        used = yield Append(opening)

        if not mode.verify:
            # The rest of the turn is the verdict; it follows the same prefix that a fallback would force.
            written = yield Generate((OUTPUT_END,), self.verdict_tokens, words=VERDICT_WORDS)
            return _read_forced_verdict(opening, written)
        stops = (CODE_END, OUTPUT_END) if mode.execute else (OUTPUT_END,)
        before = opening  # what was put before the text that the model writes next
        output: str | None = NO_CODE_FOUND
        for _ in range(self.max_code_rounds):
            if used >= self.max_step_tokens:
                break
            # Once an output has been shown, the verdict is near: log-probabilities cost less than a request of their
            # own. Before that comes a long text of code, of which none are needed.
            written = yield Generate(stops, self.max_step_tokens - used, logprobs=not before, words=VERDICT_WORDS)
            if written.finish_reason in ("error", "context"):
                return 0.5, failure(written)
            stopped_at_code = mode.execute and written.text.endswith(CODE_END)
            if not stopped_at_code:
                judged = yield from self._score_verdict(before, written)
                if judged is not None:
                    return judged
                # Closed without a verdict, whether or not a line break follows: nothing more comes.
                if _OUTPUT_CLOSED in written.text.rpartition("<output>")[2]:
                    return 0.5, "no_verdict"
                if not mode.execute or written.finish_reason == "length":
                    break
            # Only what this round wrote: a block that has run already must not run again.
            code = last_code_block(before + written.text)
            if code is not None:
                output = yield Execute(code)
            elif stopped_at_code:
                output = NO_CODE_FOUND
            # Otherwise the model ended its text too early. It sees again what its code showed, and goes on.
            if output is None:
                return 0.5, "error"
            before = ""
            used = yield Append(CODE_OUTPUT.format(output=output), "interpreter")
        if mode.analyze:
            yield Rewind(kept_segments)
        else:
            yield Append(VERIFY_END)
        return (yield from self._force_verdict())

    def _score_verdict(self, before: str, written: Written) -> Generator[Action, Any, tuple[float, StepStatus] | None]:
        """Reads P(Yes) at the verdict in a text, however it was generated; None without verdict."""
        position = find_verdict(before, written)
        return None if position is None else (yield from score_word(written, position, *VERDICT_WORDS))

    def _force_verdict(self) -> Generator[Action, Any, tuple[float, StepStatus]]:
        """Opens the verdict for the model and reads P(Yes) from what follows."""
        yield Append(OUTPUT_PREFIX)
        written = yield Generate((OUTPUT_END,), self.verdict_tokens, words=VERDICT_WORDS)
        return _read_forced_verdict(OUTPUT_PREFIX, written, status="fallback")

    def segments(self, rationale: str, outputs: Sequence[str] = ()) -> list[Segment]:
        """Splits an assistant turn into what is forced, written by the model, and printed by the interpreter.

        The texts join to `rationale` for any string; what the format does not know counts as written.

        Args:
            rationale: The assistant's turn.
            outputs: What its code printed, in order, where that is known. An output may hold what looks like its own
                end; these say where it does end.
        """
        parts: list[Segment] = []
        known = list(outputs)

        def add(kind: SegmentKind, text: str) -> None:
            if text:
                parts.append(Segment(kind, text))

        def add_forced_opening(text: str) -> str:
            """Adds a prefix that the verifier forces at this place, and returns what follows it."""
            for prefix in (VERIFY_PREFIX, OUTPUT_PREFIX):
                if text.startswith(prefix):
                    add("forced", prefix)
                    return text[len(prefix) :]
            return text

        rest = rationale
        opening = _ANALYZE_PREFIX_PATTERN.match(rest)
        if opening:
            add("forced", opening.group())
            analysis, closed, rest = rest[opening.end() :].partition(ANALYZE_END)
            add("written", analysis + closed)
        rest = add_forced_opening(rest)
        marker = CODE_END + CODE_OUTPUT_START
        # Without execution the model imagines the output, so it is its own text.
        while self._mode.execute and marker in rest:
            written, _, rest = rest.partition(marker)
            add("written", written + CODE_END)
            number = next((i for i, output in enumerate(known) if rest.startswith(output + CODE_END)), None)
            if number is None:
                output, closed, rest = rest.partition(CODE_END)
            else:
                output, closed, rest = known[number], CODE_END, rest[len(known[number] + CODE_END) :]
                del known[: number + 1]
            add("interpreter", CODE_OUTPUT_START + output + closed)
        add("written", rest)
        return parts


def _read_forced_verdict(before: str, written: Written, status: StepStatus = "ok") -> tuple[float, StepStatus]:
    """The verdict that the model was made to write after `before`, with `status`; 0.5 if it wrote none."""
    if written.finish_reason in ("error", "context"):
        return 0.5, failure(written)
    reward = read_verdict(before, written)
    return (0.5, "no_verdict") if reward is None else (reward, status)


def read_verdict(before: str, written: Written) -> float | None:
    """P(Yes) at the verdict that ends `before + written.text`, None if `written` holds none."""
    position = find_verdict(before, written)
    return None if position is None else binary_probability(written, position, *VERDICT_WORDS)


def find_verdict(before: str, written: Written) -> int | None:
    """Where the word of the verdict that ends `before + written.text` begins in `written.text`; None if not there.

    The last verdict counts, within the `<output>` part if there is one. It must be in the text that the model just
    wrote, so that neither a step nor a program's output can forge it.
    """
    verdict = _last_verdict(before + written.text)
    if verdict is None or verdict.start(1) < len(before):
        return None
    return verdict.start(1) - len(before)


def _last_verdict(text: str) -> re.Match[str] | None:
    """The last verdict of the `<output>` part that is opened last, or of the whole text if it has no such part."""
    start, end = text.rfind("<output>"), len(text)
    pattern = _VERDICT_PATTERN
    if start >= 0:
        closed = text.find(_OUTPUT_CLOSED, start)
        end = closed if closed >= 0 else end
        if _BOX.search(text, start, end) is None:
            pattern = _BRACED_VERDICT
    verdict = None
    for found in pattern.finditer(text, max(start, 0), end):
        if pattern is _BRACED_VERDICT or not _is_choice(text, found, end):
            verdict = found
    return verdict


def _is_choice(text: str, verdict: re.Match[str], end: int) -> bool:
    r"""Whether the box of a verdict repeats the question, as `\boxed{Yes/No}` does."""
    depth, start = 0, verdict.start()
    end = min(end, start + _LONGEST_CHOICE)
    for brace in re.finditer(r"[{}]", text[start:end]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            end = start + brace.start()
            break
    words = [found[1].casefold() for found in _COMMAND_OR_WORD.finditer(text, start, end) if found[1]]
    # More words than `Yes or No` are what a model writes that cannot stop.
    return len(words) <= 3 and {"yes", "no"} <= set(words) <= {"yes", "no", "or", "and"}
