"""Policies as generators without weights: one solves word problems and slips now and then, one adds two numbers."""

from __future__ import annotations

import random
import re
from typing import Any

from genprm_trl.data.steps import split_steps
from genprm_trl.generation.base import FinishReason, GenerationResult, Generator, SamplingParams
from genprm_trl.miniature.word_problems import Equation, Problem, evaluate, read_equation
from tests.helpers.scripted_generator import ScriptedGenerator
from tests.helpers.tiny_models import tiny_tokenizer


class ScriptedPolicy(Generator):
    """Writes the steps that are missing, each wrong with probability `error_rate`, and carries errors on."""

    max_concurrent = 64
    max_context = 4096

    def __init__(self, model: str = "scripted-policy", tokenizer: Any = None, *, error_rate: float = 0.15):
        self.model, self.error_rate = model, error_rate
        self.tokenizer = tokenizer or tiny_tokenizer()

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        prompt = self.tokenizer.decode(token_ids, skip_special_tokens=False)
        asked, _, begun = prompt.rpartition("<|im_start|>assistant\n")
        text = self._write(asked.rpartition("<|im_start|>user\n")[2].removesuffix("<|im_end|>\n"), begun, params.seed)
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        reason: FinishReason = "stop" if len(ids) <= params.max_new_tokens else "length"
        ids = ids[: params.max_new_tokens]
        return GenerationResult(self.tokenizer.decode(ids), ids, [], reason, len(ids))

    def _write(self, asked: str, begun: str, seed: int | None) -> str:
        problem = Problem.from_text(asked.strip())
        if problem is None:
            return "I cannot tell."
        rng = random.Random(f"{seed} {asked} {begun}")
        # A forced heading (`Step 1:`) at the end is the next step's beginning.
        done = [step for step in split_steps(begun, style="step").steps if read_equation(step) is not None]
        stated = [equation.result for step in done if (equation := read_equation(step)) is not None]
        forced = begun.rstrip().endswith(":")
        parts = []
        for index in range(len(stated), len(problem.plan)):
            left, operator, right = problem.family.plan[index].expression.split()
            a, b = problem.operand(left, stated), problem.operand(right, stated)
            value = evaluate(a, operator, b)
            result = max(1, round(value)) if value is not None else 1
            if rng.random() < self.error_rate:
                result += rng.choice((1, 2, 10))
            stated.append(result)
            parts.append(problem.step_text(index, Equation(a, operator, b, result), rng))
        text = "\n\n".join(parts)
        return text.removeprefix(f"Step {len(done) + 1}:") if forced else text

    async def close(self) -> None: ...


class Adding(ScriptedGenerator):
    """Goes on with the right step, and the answer, if it is asked for a sum of two numbers."""

    def __init__(self, model: Any, tokenizer: Any = None):
        super().__init__(_add, None)


def _add(prompt: str) -> str:
    asked = re.search(r"What is (\d+) \+ (\d+)\?", prompt)
    if asked is None:
        return "I cannot tell."
    a, b = int(asked[1]), int(asked[2])
    return f" {a}+{b}={a + b}\nStep 2: $\\boxed{{{a + b}}}$"
