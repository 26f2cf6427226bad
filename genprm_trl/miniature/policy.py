"""A tiny policy, trained from scratch on right solutions, for so short a time that it is right only sometimes.

Its errors are natural, not planted: wrong sums, wrong products, wrongly copied numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genprm_trl.data.steps import join_steps, split_steps
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.miniature.word_problems import Problem, Split, gold_steps
from genprm_trl.miniature.world import as_solution, make_problems, seeded
from genprm_trl.records import Solution

GENERATOR_NAME = "miniature-policy"
MAX_NEW_TOKENS = 300
# A new line apart: the policy's text is split again at its "Step k:" headings.
STEP_SEPARATOR = "\n"


def policy_rows(n: int, seed: int = 0, split: Split = "train") -> list[dict[str, Any]]:
    """Prompt-completion conversations (TRL's format) of right solutions to problems with small numbers."""
    rng = seeded("policy rows", split, seed)
    return [
        policy_row(problem.text, gold_steps(problem, rng))
        for problem in make_problems(n, seed, split, small_share=1.0)
    ]


def policy_row(problem: str, steps: Sequence[str]) -> dict[str, Any]:
    """A problem and a solution as a prompt-completion conversation (TRL's format)."""
    return {
        "prompt": [{"role": "user", "content": problem}],
        "completion": [{"role": "assistant", "content": join_steps(steps, separators=STEP_SEPARATOR)}],
    }


def train_policy(
    output_dir: str,
    tokenizer: Any,
    *,
    base_model: str | Path | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    n: int = 4000,
    max_steps: int = 600,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Trains a tiny model on right solutions, or on others, with TRL's `SFTTrainer`.

    Args:
        output_dir: Directory for the model and the tokenizer.
        tokenizer: The tokenizer of `tokenizer.build_tokenizer`.
        base_model: Directory of the model to start from; random weights if None. Another model of this world can
            already read and copy numbers, which saves most of the training.
        rows: What to train on in place of right solutions; see `policy_row`.
        n: Right solutions to train on.
        max_steps: Optimizer steps of 16 solutions.
        seed: Fixes data, weights and order.
        options: Further fields of `SFTConfig`.

    Returns:
        The trained model (`Qwen2ForCausalLM`).
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from genprm_trl.generation.loading import load_model
    from genprm_trl.miniature.models import tiny_causal_lm

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 16,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "weight_decay": 0.0,
        "adam_beta2": 0.98,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 25,
        "report_to": "none",
    }
    trainer = SFTTrainer(
        tiny_causal_lm(tokenizer, seed) if base_model is None else load_model(base_model, device="cpu"),
        args=SFTConfig(output_dir=output_dir, max_steps=max_steps, seed=seed, **(settings | options)),
        train_dataset=Dataset.from_list(policy_rows(n, seed) if rows is None else list(rows)),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return trainer.model.eval()


def sample_solutions(
    generator: Generator, problems: Sequence[Problem], samples: int = 1, temperature: float = 1.0, seed: int = 0
) -> list[Solution]:
    """Solutions that a policy writes, labelled against the problems' plans.

    Args:
        generator: The policy.
        problems: The problems.
        samples: Solutions a problem.
        temperature: 0 is greedy.
        seed: Equal arguments give equal solutions.

    Returns:
        `samples` solutions for each problem, in order. A policy that writes nothing leaves an ellipsis as
        its only step.
    """
    return asyncio.run(_sample(generator, problems, samples, temperature, seed))


def natural_solutions(policy: str | Path, n: int, split: Split, seed: int = 0) -> list[Solution]:
    """`n` solutions that a trained policy finished, each from some first steps of the right solution (possibly none).

    Where the policy takes over differs, so its errors are found at every step and not only at the first.

    Args:
        policy: Directory of a policy (see `train_policy`).
        n: How many.
        split: `train` or `heldout` problems.
        seed: Equal arguments give equal solutions.
    """
    from genprm_trl.generation import TransformersGenerator

    if n < 1:
        return []
    rng = seeded("natural", split, seed)
    problems = make_problems(n, seed, split, small_share=1.0)
    prefixes = [(steps := gold_steps(problem, rng))[: rng.randrange(len(steps))] for problem in problems]

    async def sample() -> list[Solution]:
        async with TransformersGenerator(policy) as generator:
            return await _sample(generator, problems, 1, 0.7, seed, prefixes)

    return [
        replace(solution, id=f"{GENERATOR_NAME}-{split}-{seed}-{number}")
        for number, solution in enumerate(asyncio.run(sample()))
    ]


async def _sample(
    generator: Generator,
    problems: Sequence[Problem],
    samples: int,
    temperature: float,
    seed: int,
    prefixes: Sequence[Sequence[str]] | None = None,
) -> list[Solution]:
    rng = seeded("policy samples", seed)

    async def solve(number: int, problem: Problem, sample: int, request_seed: int) -> Solution:
        prompt = generator.tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.text}], add_generation_prompt=True, return_dict=False
        )
        params = SamplingParams(
            max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, top_p=1.0, top_k=0, logprobs=0, seed=request_seed
        )
        prefix = list(prefixes[number]) if prefixes is not None else []
        begun = "".join(step + STEP_SEPARATOR for step in prefix)
        result = await generator.generate(
            [*prompt, *generator.tokenizer.encode(begun, add_special_tokens=False)], params
        )
        # A step must not be empty; a policy that writes nothing at all gets an ellipsis, which is wrong.
        steps = [*prefix, *split_steps(result.text, style="step").steps] or ["…"]
        return as_solution(problem, steps, id=f"policy-{seed}-{number}-{sample}", generator=GENERATOR_NAME)

    return await asyncio.gather(
        *(
            solve(number, problem, sample, rng.getrandbits(32))
            for number, problem in enumerate(problems)
            for sample in range(samples)
        )
    )
