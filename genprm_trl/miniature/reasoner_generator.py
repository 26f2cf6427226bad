"""The scripted reasoner as a generator: it stands where the large model stands in the synthesis of rationales.

It reads the prompt as a model does, token ids of a chat, and writes the critique that `protocol.synthesis` asks for,
stopping where it is told to. What it concludes depends on what its code really printed. It thinks before it answers
if asked to, and makes the mistakes that a consensus filter is for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.generation.base import FinishReason, GenerationResult, Generator, SamplingParams
from genprm_trl.grading.thinking import THINK_END, THINK_START
from genprm_trl.miniature.reasoner import draft_rationale
from genprm_trl.miniature.word_problems import Problem
from genprm_trl.protocol.genprm import CODE_END, CODE_OUTPUT_START

_PROMPT = re.compile(
    r"\[Math Problem\]\n\n(?P<problem>.*?)\n\n\[Solution\]\n\n(?P<steps><paragraph_1>\n.*?)\n\nCheck the solution",
    re.S,
)
_STEP = re.compile(r"<paragraph_(\d+)>\n(.*?)\n</paragraph_\1>", re.S)
_MISTAKES = 3  # kinds of mistake that `draft_rationale` knows; the last, a slip in the verdict, happens after the code


class ScriptedReasoner(Generator):
    """Critiques solutions of the miniature world.

    Args:
        model: A name for it; it has no weights.
        tokenizer: Default: the miniature world's.
        mistake_rate: Probability in [0, 1] of a mistake at each paragraph: a number misread or miscopied, or the
            wrong conclusion from what the code printed.
        slip_rate: Probability in [0, 1] of leaving the format at each paragraph (no code) and at the end (no verdict).
        thinking: Whether it thinks in a `<think>` block before it answers.
        max_context: Tokens that prompt and critique may fill together.

    Raises:
        ConfigError: A rate is outside of [0, 1].
    """

    max_concurrent = 64

    def __init__(
        self,
        model: str = "scripted-reasoner",
        tokenizer: Any = None,
        *,
        mistake_rate: float = 0.07,
        slip_rate: float = 0.0,
        thinking: bool = True,
        max_context: int = 16384,
    ):
        for name, rate in (("mistake_rate", mistake_rate), ("slip_rate", slip_rate)):
            if not 0 <= rate <= 1:
                raise ConfigError(f"{name} must be within [0, 1], got {rate}")
        if tokenizer is None:
            from genprm_trl.miniature.tokenizer import build_tokenizer

            tokenizer = build_tokenizer()
        self.model, self.tokenizer, self.max_context = model, tokenizer, max_context
        self._mistake_rate, self._slip_rate, self._thinking = mistake_rate, slip_rate, thinking
        self._assistant = _assistant_marker(tokenizer)
        self._closed = False

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Goes on with a critique; see `generation.base.Generator.generate`."""
        if self._closed:
            raise GenPRMError("the generator is closed")
        room = min(params.max_new_tokens, self.max_context - len(token_ids))
        if room <= 0:
            full = len(token_ids) >= self.max_context
            return GenerationResult("", [], finish_reason="context" if full else "length")
        prompt = self.tokenizer.decode(token_ids, skip_special_tokens=False)
        rng = random.Random(f"scripted reasoner {params.seed}")
        text = self._continue(prompt, rng)
        ends = [at + len(stop) for stop in params.stop if (at := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        reason: FinishReason = "stop"
        if len(ids) > room:
            ids = ids[:room]
            reason = "length" if room == params.max_new_tokens else "context"
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return GenerationResult(text, ids, [{} for _ in ids] if params.logprobs else [], reason, len(ids))

    def _continue(self, prompt: str, rng: random.Random) -> str:
        """What follows a prompt; a stop string cuts it."""
        asked, _, turn = prompt.rpartition(self._assistant)
        found = _PROMPT.search(asked)
        problem = Problem.from_text(found["problem"]) if found is not None else None
        if found is None or problem is None:
            return "I can judge problems of the miniature world alone."
        steps = [text for _, text in _STEP.findall(found["steps"])]
        if self._thinking and THINK_END not in turn:
            if THINK_START not in turn:
                return f"{THINK_START}\n"
            return f"\nThere are {len(steps)} paragraphs. I go through them in order.\n{THINK_END}\n\n"
        answer = turn.rpartition(THINK_END)[2]
        number = answer.count("### Paragraph ")
        if number == 0:
            return self._paragraph(problem, steps, 0, rng)
        # The turn ends with what the last block printed.
        output = answer.rpartition(CODE_OUTPUT_START)[2].removesuffix(CODE_END)
        slip = rng.random() < self._mistake_rate / _MISTAKES
        return "</verify>\n\n" + self._go_on(problem, steps, number, (output == "True") != slip, rng)

    def _paragraph(self, problem: Problem, steps: Sequence[str], index: int, rng: random.Random) -> str:
        mistaken = rng.random() < self._mistake_rate * (_MISTAKES - 1) / _MISTAKES
        draft = draft_rationale(problem, steps, index, "full", rng, float(mistaken))
        while draft.flipped:  # that mistake is made after the code
            draft = draft_rationale(problem, steps, index, "full", rng, float(mistaken))
        text = f"### Paragraph {index + 1}\n<analyze>\n{draft.analysis}</analyze>\n<verify>\n"
        if rng.random() < self._slip_rate:
            return f"{text}This needs no code.\n</verify>\n\n" + self._go_on(
                problem, steps, index + 1, draft.judgement, rng
            )
        return f"{text}```python\n{draft.code}{CODE_END}"

    def _go_on(self, problem: Problem, steps: Sequence[str], done: int, right: bool, rng: random.Random) -> str:
        """What follows the critique of `done` paragraphs, of which the last is right or not."""
        if right and done < len(steps):
            return self._paragraph(problem, steps, done, rng)
        if rng.random() < self._slip_rate:
            return "That is all.\n"
        return f"The first wrong paragraph: $\\boxed{{{-1 if right else done}}}$"

    async def close(self) -> None:
        """Refuses requests from now on."""
        self._closed = True


def _assistant_marker(tokenizer: Any) -> str:
    """What the chat template writes where the assistant's turn begins."""
    user = [{"role": "user", "content": "x"}]
    without, opened = (
        tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=prompt) for prompt in (False, True)
    )
    return str(opened).removeprefix(str(without))
