"""Which step of a completion each of its tokens belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from genprm_trl.data.steps import StepStyle, Thinking, written_steps
from genprm_trl.generation.tokens import Detokenizer

_PARTIAL = "\ufffd"
# A run of this many tokens that never completes a character is not text that is still coming, it is not text.
_LONGEST_CHARACTER = 16


@dataclass(frozen=True, slots=True)
class CompletionSteps:
    """A completion's steps, and where they are in its tokens.

    Attributes:
        token_ids: The completion, without padding.
        text: The text that the policy wrote, special tokens and what tools wrote left out.
        steps: The steps of the text; none where it is blank, or ends in thoughts.
        token_steps: The index of the step that each token belongs to. It is -1 for tokens of tools, and for all tokens
            where there are no steps.
    """

    token_ids: list[int]
    text: str
    steps: list[str]
    token_steps: list[int]

    @property
    def credited_steps(self) -> list[int]:
        """The step of each token for credit: a completion without steps is one step of all its tokens."""
        return self.token_steps if self.steps else [0] * len(self.token_steps)


def find_steps(
    token_ids: list[int],
    detokenizer: Detokenizer,
    style: StepStyle = "auto",
    written: Sequence[int] | None = None,
    thinking: Thinking = "skip",
) -> CompletionSteps:
    """Splits a completion into steps and finds each step's tokens.

    A step ends at the token that holds its last character, and a token belongs to the first step that ends at or after
    it (DeepSeekMath, arXiv 2402.03300, section 4.1.3). So a token across two steps belongs to the earlier one, and
    space between two steps to the later one. So do the tokens of thoughts, which are no steps: they belong to the step
    that they led to. What follows the last step, the end-of-text token above all, belongs to the last step: to stop
    there was its decision.

    Args:
        token_ids: The completion, without padding.
        detokenizer: Decodes with the policy's tokenizer.
        style: How text is split; see `data.steps.split_steps`.
        written: Who wrote each token: the policy (1) or a tool (0). Default: the policy wrote all of them.
        thinking: What to do with thinking blocks; see `data.steps.written_steps`.
    """
    places = [at for at, ours in enumerate(written) if ours] if written is not None else list(range(len(token_ids)))
    pieces = _pieces([token_ids[at] for at in places], detokenizer)
    text = "".join(pieces)
    steps = written_steps(text, style, thinking)
    token_steps = [-1] * len(token_ids)
    if not steps:
        return CompletionSteps(token_ids, text, [], token_steps)
    ends = list(accumulate(map(len, pieces)))  # of each token in the text
    # The token with a step's last character: the first one whose text ends at or after it.
    last_token = [bisect_right(ends, step.end - 1) for step in steps]
    current = 0
    for index, at in enumerate(places):
        while current < len(last_token) - 1 and last_token[current] < index:
            current += 1
        token_steps[at] = current
    return CompletionSteps(token_ids, text, [step.text for step in steps], token_steps)


def _pieces(token_ids: list[int], detokenizer: Detokenizer) -> list[str]:
    """The text that each token adds. The text of characters over several tokens is that of the last one."""
    pieces: list[str] = []
    waiting: list[int] = []
    for token in token_ids:
        waiting.append(token)
        piece = detokenizer.decode(waiting) if len(waiting) > 1 else detokenizer.token_text(token)
        if piece.endswith(_PARTIAL) and len(waiting) < _LONGEST_CHARACTER:
            pieces.append("")
            continue
        pieces.append(piece)
        waiting = []
    if waiting:  # the completion was cut within a character
        pieces[-1] = detokenizer.decode(waiting)
    return pieces
