"""Policies and a verifier without weights for the critic loop and for search: they see what they are asked.

The policy is asked `Sum KIND` and writes two steps. The kind names what it does: it is right at once (`easy`), wrong
until it is criticised twice (`slow`), wrong for ever (`stuck`), right and talked out of it (`meek`), thinks without
end (`mute`), or fails (`broken`). The verifier writes an analysis, and objects to any step that holds the word BAD.

`Walker` writes four steps, each BAD by the flip of a coin that its seed throws; the answer is right if none is.
`Parrot` makes one sample of all seeds.

    --policy x --policy_backend tests.helpers.critic_world:Policy --model x --backend tests.helpers.critic_world:Critic
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from genprm_trl.generation.base import GenerationResult, SamplingParams
from genprm_trl.solving.refinement import REFINEMENT_PROMPT
from tests.helpers.scripted_generator import Reply, ScriptedGenerator

OBJECTION = REFINEMENT_PROMPT.partition("\n")[0]


class Policy(ScriptedGenerator):
    def __init__(self, model: str = "", tokenizer: Any = None, *, max_context: int = 4096):
        super().__init__(self._answer, tokenizer, max_context=max_context)

    def _answer(self, prompt: str) -> str | Reply:
        kind = re.findall(r"Sum (\w+)", prompt)[0]
        objections = prompt.count(OBJECTION)
        if kind == "broken":
            return Reply("", error="out of memory")
        if kind == "mute":
            return "<think>"
        right = {"easy": True, "slow": objections >= 2, "stuck": False, "meek": objections == 0}[kind]
        first = "one and one is two" if right and kind != "meek" else "BAD sum"
        answer = 2 if right else 3
        return f" {first}, attempt {objections}\nStep 2: The answer is \\boxed{{{answer}}}."


class Walker(ScriptedGenerator):
    STEPS = 4

    def __init__(self, model: str = "", tokenizer: Any = None, *, max_context: int = 4096):
        super().__init__(self._walk, tokenizer, max_context=max_context)
        self._seed: ContextVar[int | None] = ContextVar("seed")

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        self._seed.set(params.seed)  # of this request's task
        return await super().generate(token_ids, params, affinity=affinity)

    def _walk(self, prompt: str) -> str:
        rng = random.Random(self._seed.get())
        begun = prompt.rpartition("<|im_start|>assistant\n")[2]
        first = begun.count("Step ")  # its heading stands there
        parts = []
        for number in range(first, self.STEPS + 1):
            heading = "" if number == first else f"Step {number}:"
            if number < self.STEPS:
                parts.append(f"{heading} {'BAD' if rng.random() < 0.5 else 'good'} {rng.randrange(10)}")
            else:
                bad = "BAD" in begun + "".join(parts)
                parts.append(f"{heading} The answer is \\boxed{{{3 if bad else 2}}}.")
        return "\n".join(parts)


class Parrot(Walker):
    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        return await super().generate(token_ids, replace(params, seed=0), affinity=affinity)


class Critic(ScriptedGenerator):
    """In the mode `analysis`."""

    def __init__(self, model: str = "", tokenizer: Any = None):
        super().__init__(self._judge, tokenizer, alternatives={"Yes": -3.0, "No": -3.0})

    def _judge(self, prompt: str) -> str:
        step = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0].rpartition("\n")[2]
        if prompt.endswith("step by step: "):
            return f"I doubt {step!r}</analyze>\n" if "BAD" in step else "fine</analyze>\n"
        return "{No}$\n</output>\n" if "BAD" in step else "{Yes}$\n</output>\n"
