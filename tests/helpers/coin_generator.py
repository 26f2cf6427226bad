"""A solver that tosses a coin: the words of the steps so far say how often it still reaches the answer."""

from __future__ import annotations

import random
import re
from typing import Any

from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.records import Solution
from tests.helpers.tiny_models import tiny_tokenizer

# What a step's adverb leaves of the chance to succeed.
EFFECTS = {"well": 1.0, "worse": 0.5, "badly": 0.15, "hopelessly": 0.0}


class CoinGenerator(Generator):
    """Answers `42` (right) or `13` at the odds that the prompt's words give, decided by the request's seed alone.

    A problem says its own chance of success: `Chance 70: what is it?`. A finished solution has three steps.

    Args:
        model, tokenizer: Left aside: what `open_generator` makes a generator with.
        fail_after: Requests after which it fails on every one.

    Attributes:
        calls: Requests so far.
        tokens: Tokens so far.
    """

    max_context = 4096
    max_concurrent = 64

    def __init__(self, model: Any = None, tokenizer: Any = None, *, fail_after: int | None = None):
        self.tokenizer = tiny_tokenizer()
        self.calls = self.tokens = 0
        self.fail_after = fail_after

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            return GenerationResult("", [], finish_reason="error", message="the server is gone")
        text = write(self.tokenizer.decode(token_ids), params.seed)
        self.tokens += 7
        return GenerationResult(text, [0], num_generated=7)

    async def close(self) -> None: ...


def chance(prompt: str) -> float:
    """The chance to go on to the right answer."""
    found = re.search(r"Chance (\d+):", prompt)
    value = int(found[1]) / 100 if found else 1.0
    for effect in re.findall(r"went (\w+)", prompt):
        value *= EFFECTS[effect]
    return value


def write(prompt: str, seed: int | None) -> str:
    """The rest of a solution."""
    rng = random.Random(seed)
    right = rng.random() < chance(prompt)
    number = len(re.findall(r"Step \d+:", prompt.rpartition("assistant")[2]))
    words = [f" it went well {rng.randrange(10)}."] if prompt.endswith("Step 1:") else []
    for step in range(max(number, 1) + len(words), 4):
        words.append(f"Step {step}: it went {'well' if right else 'badly'} {rng.randrange(10)}.")
    return "\n\n".join([*words, f"The answer is \\boxed{{{42 if right else 13}}}."])


def solution(id: str, effects: str, right: bool, percent: int = 70, problem: str = "") -> Solution:
    """A solution whose steps went as the words say."""
    words = effects.split()
    steps = [f"Step {number}: it went {word}." for number, word in enumerate(words, start=1)]
    return Solution(id, f"Chance {percent}: what is it? {problem}", steps, answer="42", final_answer_correct=right)


def rows(*solutions: Solution) -> list[dict[str, Any]]:
    return [item.to_dict() for item in solutions]
