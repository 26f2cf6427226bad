"""What a verification protocol is: a script of plain-text actions, free of models, tokens and processes.

A protocol describes how a verifier talks to a model about one solution. It is a generator of actions. The driver
(`verifier.chain`) carries out each action and sends back the result. A protocol therefore reads like the paper that it
implements, and its tests need no model. A new format is a new file instead of a branch in the verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from genprm_trl.records import StepJudgement, StepStatus

SegmentKind = Literal["forced", "written", "interpreter", "mark"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an assistant turn and who put it there: the protocol, the model, or the interpreter.

    A `mark` is the format's own text, such as `</think>`. The model learns to write it. It may be a control token.
    """

    kind: SegmentKind
    text: str


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """Add these messages (a user turn, led by the system prompt at first) and open an assistant turn."""

    messages: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Append:
    """Put text into the open assistant turn: a forced prefix, or what the interpreter printed.

    The driver sends back how many tokens the turn holds then.
    """

    text: str
    kind: SegmentKind = "forced"


@dataclass(frozen=True, slots=True)
class Rewind:
    """Drop everything in the open assistant turn after its first `keep` segments."""

    keep: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Let the model write until a stop string (kept) or `max_new_tokens`. The driver sends back a `Written`.

    With `logprobs` it reports log-probabilities for every token. That slows engines down a lot, so use it for a few
    tokens that will hold a verdict. For a verdict in a long text, `Score` asks for its token afterwards.

    Attributes:
        stop: Stop strings.
        max_new_tokens: Bound on generated tokens.
        logprobs: Whether to report log-probabilities.
        words: The words of the verdict. Where the generator can, those of all their tokens are reported. Otherwise,
            and without words, those of the most likely tokens are.
    """

    stop: tuple[str, ...]
    max_new_tokens: int
    logprobs: bool = True
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Report the log-probabilities of a token of the last generated text, as they were when it was sampled.

    The driver sends back a `Written` whose first place holds the alternatives to that token. Its text is empty if the
    end-of-text token is the likeliest one there.

    Attributes:
        token: The token's index in `Written.tokens`.
        words: As in `Generate`.
    """

    token: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpectCode:
    """Code will probably run: the sandbox may make a namespace ready while the model writes."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run code in the solution's own namespace. The driver sends back the output, or None if the sandbox failed."""

    code: str


@dataclass(frozen=True, slots=True)
class Judge:
    """The reward of step `index` (from 0) is settled.

    Attributes:
        index: The step.
        reward: P(correct) in [0, 1].
        status: How it was reached.
        rationale: The text that judges it. Default: the open turn's text so far.
        solution_reward: P(correct) of the whole solution, if the chain has said it; see `records.StepJudgement`.
    """

    index: int
    reward: float
    status: StepStatus
    rationale: str | None = None
    solution_reward: float | None = None


Action = OpenTurn | Append | Rewind | Generate | Score | ExpectCode | Execute | Judge


@dataclass(slots=True)
class Written:
    """What the model wrote for a `Generate`, as far as text can tell.

    Attributes:
        text: The text, ended by the stop string where one was hit.
        finish_reason: `stop`, `length`, `context` or `error`, as in `generation.base.GenerationResult`.
        turn_tokens: Tokens in the open assistant turn after this text, forced and interpreter text included.
        turn_segments: Segments in the open assistant turn after this text (for `Rewind`).
        tokens: The text of each generated token, in order.
        top_logprobs: One list of (token text, log-probability) per entry of `tokens`, the sampled token included, and
            one more for an end-of-text token that has ended the text; empty where the engine reported none.
        message: Why the generator failed, if it did.
        is_token: Says whether a text is one token of the model's vocabulary, where that is known.
    """

    text: str
    finish_reason: str = "stop"
    turn_tokens: int = 0
    turn_segments: int = 0
    tokens: Sequence[str] = ()
    top_logprobs: Sequence[Sequence[tuple[str, float]]] = field(default_factory=list)
    message: str = ""
    is_token: Callable[[str], bool] | None = None


ChainScript = Generator[Action, Any, None]  # a script of another kind may return something at its end


class VerificationProtocol(Protocol):
    """A format in which a model judges the steps of a solution."""

    def chain(self, problem: str, steps: Sequence[str]) -> ChainScript:
        """The script of one chain. It judges steps in order and may be closed after any `Judge`."""
        ...

    def messages(self, problem: str, steps: Sequence[str], rationales: Sequence[str]) -> list[dict[str, str]]:
        """The finished conversation for `len(rationales)` judged steps, as training sees it."""
        ...

    def segments(self, rationale: str) -> list[Segment]:
        """Splits an assistant turn by author; the texts join to `rationale` for any string at all."""
        ...


@runtime_checkable
class ResumableProtocol(VerificationProtocol, Protocol):
    """A protocol that can resume a chain after the steps that it has judged."""

    def resumed_chain(self, problem: str, steps: Sequence[str], judged: Sequence[StepJudgement]) -> ChainScript:
        """The script of a chain that has already judged the first steps.

        It repeats those judgements without generating a token. It runs their code again for the names that it
        defines, and then judges the other steps.
        """
        ...
