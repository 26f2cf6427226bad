"""The script of a reasoner's critique of a whole solution: one turn, with its code run as it is written.

A reasoner may think before it answers, in a block that ends in `</think>`. Some models open the block themselves with
`<think>`, for others the chat template's generation prompt has opened it. Code in a thinking block is a draft and is
not run.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genprm_trl.errors import ConfigError
from genprm_trl.protocol.base import Action, Append, Execute, ExpectCode, Generate, OpenTurn, Written
from genprm_trl.protocol.genprm import CODE_OUTPUT, NO_CODE_FOUND, last_code_block
from genprm_trl.protocol.synthesis import SYNTHESIS_STOP, synthesis_prompt
from genprm_trl.protocol.thinking import THINK_END, THINK_START

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
            # A model may close a block that nobody has opened; what stands before it was thinking, too.
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
