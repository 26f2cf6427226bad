"""Measures the verifier against the published way and against its engine alone, and what its own code costs.

    python benchmarks/verifier.py                                      # every section
    python benchmarks/verifier.py --only serial engine --backend vllm
    python benchmarks/verifier.py --only serial engine --size 0.5b --device cuda

Each section measures both sides in one run, with the same model, machine and token budget:

- `serial`: solutions per second at Maj@N, against a loop that does what the published code does (`_serial.py`).
- `engine`: tokens per second, against one plain generate call for as many tokens. The call takes one prompt per chain;
  with vLLM a second call takes the verifier's own prompts, all known at once.
- `adaptive`: the savings of first-error stopping and adaptive N, and whether predictions equal those of a full run.
- `overhead`: microseconds per token of the verifier's own layer, with a model that costs nothing.
- `memory`: resident memory over 20,000 solutions, with a model that costs nothing.

Without `--model` the first three use the miniature GenPRM of `genprm quickstart`, and train it first if it is missing.
With `--size 0.5b` they use random weights in the shape of a Qwen2 of 0.5B parameters. Such a model writes random text,
some of which is code that runs and fails.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import gc
import itertools
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

# The script runs from anywhere, its helpers stand beside it.
sys.path.insert(0, str(Path(__file__).parent))
from _plain import forget_prefixes, is_vllm, plain_generate, replay
from _scripted import InstantSandbox, ScriptedModel
from _serial import SerialVerifier
from _setup import Setup, add_model_options, describe_machine, describe_setup, judge, make_setup

from genprm_trl import GenPRM
from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.world import make_solutions
from genprm_trl.protocol.genprm import ANALYZE_PREFIX, GenPRMProtocol
from genprm_trl.records import Solution, Verdict
from genprm_trl.sandbox import LocalSandbox


class Counting:
    """A generator that counts what passes through it."""

    def __init__(self, generator: Generator):
        self.generator = generator
        self.reset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        self.requests += 1
        try:
            result = await self.generator.generate(token_ids, params, affinity=affinity)
        except asyncio.CancelledError:
            self.ended += 1
            raise
        self.tokens += result.num_generated
        self.sent.append((list(token_ids), result.num_generated))
        return result

    def reset(self) -> None:
        self.tokens = self.requests = self.ended = 0
        self.sent: list[tuple[list[int], int]] = []


@asynccontextmanager
async def verifier(setup: Setup, **options: Any) -> AsyncIterator[tuple[GenPRM, Counting]]:
    generator = Counting(setup.open())
    protocol = GenPRMProtocol(max_step_tokens=setup.max_step_tokens)
    async with GenPRM(generator, LocalSandbox(), protocol, sampling=setup.sampling, **options) as prm:
        yield prm, generator


def steps(solutions: Sequence[Solution]) -> int:
    return sum(len(solution.steps) for solution in solutions)


def blocks_run(verdicts: dict[str, Verdict]) -> int:
    return sum(len(j.code_rounds) for verdict in verdicts.values() for chain in verdict.chains for j in chain)


async def throughput_sections(
    setup: Setup, solutions: list[Solution], options: argparse.Namespace, sections: Sequence[str]
) -> None:
    """`engine` and `serial`: one run of the verifier, or several, is held against both."""
    n = options.n
    rates: list[tuple[float, float]] = []  # solutions and tokens a second
    ratios: dict[str, list[float]] = {}
    async with verifier(setup, n=n) as (prm, counting):
        await judge(prm, [replace(solution, steps=solution.steps[:1]) for solution in solutions[:4]])
        for _ in range(options.repeats):
            counting.reset()
            await forget_prefixes(counting.generator)
            seconds, verdicts = await judge(prm, solutions)
            rates.append((len(solutions) / seconds, counting.tokens / seconds))
            print(
                f"  this library:  {len(solutions):3} solutions ({steps(solutions)} steps) at Maj@{n} in "
                f"{seconds:6.1f} s: {rates[-1][0]:6.3f} solutions/s, {rates[-1][1]:6.0f} tokens/s ({counting.tokens} "
                f"tokens, {counting.requests} requests, {blocks_run(verdicts)} code blocks, {prm.max_chains} chains "
                "in flight)",
                flush=True,
            )
            if "engine" in sections:
                for side, rate in (await plain_rates(setup, prm, counting, solutions, n)).items():
                    ratios.setdefault(side, []).append(rates[-1][1] / rate)
    for side, found in ratios.items():
        print(
            f"  ratio to {side}: {statistics.median(found):.2f} (of {', '.join(f'{ratio:.2f}' for ratio in found)})",
            flush=True,
        )
    if "serial" in sections:
        await serial_baseline(setup, solutions, options, statistics.median_low(rates))


async def plain_rates(
    setup: Setup, prm: GenPRM, counting: Counting, solutions: list[Solution], n: int
) -> dict[str, float]:
    """Tokens a second of plain generate calls for as many tokens as the verifier has just generated."""
    engine = counting.generator
    prompts = [first_prompt(prm.chat, solution) for solution in solutions for _ in range(n)]
    each = max(1, round(counting.tokens / len(prompts)))
    sides = {"a prompt a chain": (len(prompts), each * len(prompts))}
    times = {"a prompt a chain": await plain_generate(engine, prompts, each, setup.sampling)}
    if is_vllm(engine):
        sent = [request for request in counting.sent if request[1]]
        sides["the same prompts"] = len(sent), counting.tokens
        times["the same prompts"] = await replay(engine, sent, setup.sampling)
    rates = {side: tokens / times[side] for side, (_, tokens) in sides.items()}
    for side, (count, tokens) in sides.items():
        print(
            f"  plain generate, {side}: {count} prompts, {tokens / count:.0f} tokens each in {times[side]:.1f} s: "
            f"{rates[side]:.0f} tokens/s",
            flush=True,
        )
    return rates


async def serial_baseline(
    setup: Setup, solutions: list[Solution], options: argparse.Namespace, ours: tuple[float, float]
) -> None:
    n = options.n
    few = solutions[:: -(-len(solutions) // options.baseline_solutions)]
    generator = setup.open_plain()
    chains = judged = 0
    async with LocalSandbox() as sandbox:
        loop = SerialVerifier(generator, sandbox, setup.sampling, setup.max_step_tokens)
        # Start the sandbox, warm caches.
        await loop.judge_chain(replace(few[0], steps=few[0].steps[:1]), 0)
        loop.tokens = 0
        started = time.perf_counter()
        for solution, chain in itertools.product(few, range(n)):
            await loop.judge_chain(solution, chain)
            chains, judged = chains + 1, judged + len(solution.steps)
            seconds = time.perf_counter() - started
            if seconds > options.baseline_seconds:
                break
    await generator.close()
    rate, token_rate = chains / n / seconds, loop.tokens / seconds
    print(
        f"  published way: {chains / n:3g} solutions ({judged / n:g} steps) at Maj@{n} in {seconds:6.1f} s: "
        f"{rate:6.3f} solutions/s, {token_rate:6.0f} tokens/s ({loop.tokens} tokens)"
    )
    steps_a_solution = steps(solutions) / len(solutions)
    print(
        f"  ratio: {ours[0] / rate:.1f}x in solutions a second, "
        f"{ours[0] * steps_a_solution / (judged / n / seconds):.1f}x in steps a second, "
        f"{ours[1] / token_rate:.1f}x in tokens a second"
    )


def first_prompt(chat: ChatFormat, solution: Solution) -> list[int]:
    conversation = Conversation(chat)
    conversation.open_turn(GenPRMProtocol().opening_messages(solution.problem, solution.steps, 0))
    conversation.append(ANALYZE_PREFIX.format(n=1), "forced")
    return conversation.token_ids


async def adaptive_section(setup: Setup, solutions: list[Solution], n: int) -> None:
    settings: list[tuple[str, dict[str, Any]]] = [
        ("all steps, all chains", {}),
        ("stop at the first error", {"stop": "first_error"}),
        ("adaptive N, exact", {"adaptive": "exact"}),
        ("both, exact", {"stop": "first_error", "adaptive": "exact"}),
    ]
    full: dict[str, Verdict] = {}
    full_tokens = 0
    async with verifier(setup, n=n) as (prm, counting):
        await judge(prm, solutions[:4])
        for name, options in settings:
            counting.reset()
            _, verdicts = await judge(prm.with_options(**options), solutions)
            full, full_tokens = full or verdicts, full_tokens or counting.tokens
            chains = sum(len(verdict.chains) for verdict in verdicts.values())
            judgements = sum(len(chain) for verdict in verdicts.values() for chain in verdict.chains)
            same = sum(verdicts[id].prediction == full[id].prediction for id in full)
            print(
                f"  {name:30} chains {chains:5} of {n * len(solutions)}, step judgements {judgements:5}, "
                f"tokens {counting.tokens:7} ({100 * (1 - counting.tokens / full_tokens):3.0f} % saved; "
                f"{counting.ended} requests ended half-way, not counted); predictions as in "
                f"full: {same} of {len(full)}",
                flush=True,
            )


def overhead_section() -> None:
    tokenizer = build_tokenizer()
    shapes = (
        ("miniature", 15, 15, 8, 60),
        ("as long as a 7B model's", 300, 100, 8, 40),
        ("the same, N=1", 300, 100, 1, 200),
    )
    for name, analysis, code, n, count in shapes:
        model = ScriptedModel(tokenizer, analysis, code)
        prm = GenPRM(model, InstantSandbox(), n=n)
        solutions = make_solutions(count, seed=2)
        best = float("inf")
        for _ in range(3):
            model.tokens = model.requests = 0
            # Time of this process's only busy thread: what else the machine does is not in it.
            started = time.process_time()
            asyncio.run(judge(prm, solutions))
            seconds = time.process_time() - started
            # What the scripted model itself takes is measured apart and left out.
            best = min(best, seconds - asyncio.run(alone(model, model.requests)))
        judged = steps(solutions) * n
        print(
            f"  rationales {name:24} (Maj@{n}, {model.tokens / judged:4.0f} tokens and {model.requests / judged:.1f} "
            f"requests a step): {1e6 * best / model.tokens:5.2f} us a token, {1e6 * best / model.requests:4.0f} us a "
            "request"
        )


async def alone(model: ScriptedModel, requests: int) -> float:
    """Processor seconds that the model takes for as many requests without a verifier."""
    tokens, counted = model.tokens, model.requests
    params = SamplingParams(max_new_tokens=1)
    started = time.process_time()
    for _ in range(requests):
        await model.generate([1], params)
    seconds = time.process_time() - started
    model.tokens, model.requests = tokens, counted
    return seconds


async def memory_section(count: int) -> None:
    model = ScriptedModel(build_tokenizer(), 15, 15)
    prm = GenPRM(model, InstantSandbox(), n=2)
    process, sizes, done = psutil.Process(), [], 0
    base = make_solutions(500, seed=3)
    # Every text is another one, as in real data.
    solutions = (
        Solution(f"{i}", f"{base[i % 500].problem} ({i})", [f"{step} ({i})" for step in base[i % 500].steps])
        for i in range(count)
    )
    started = time.perf_counter()
    async for _ in prm.verify_stream(solutions):
        done += 1
        if done % (count // 10) == 0:
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)
    print(f"  resident MiB after each tenth of {count} solutions: {', '.join(f'{size:.0f}' for size in sizes)}")
    print(
        f"  growth from the second tenth to the last: {sizes[-1] - sizes[1]:+.1f} MiB "
        f"({count / (time.perf_counter() - started):.0f} solutions/s at Maj@2)"
    )


SECTIONS = ("serial", "engine", "adaptive", "overhead", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add_model_options(parser)
    parser.add_argument("--solutions", type=int, default=64)
    parser.add_argument("--baseline-solutions", type=int, default=8, help="of these, judged in the published way")
    parser.add_argument(
        "--baseline-seconds", type=float, default=float("inf"), help="after which it begins no further chain"
    )
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of the verifier for the first two; the median counts"
    )
    parser.add_argument("--memory-solutions", type=int, default=20_000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    print(describe_machine())
    solutions = make_solutions(options.solutions, seed=1, split="heldout")
    if {"serial", "engine", "adaptive"} & set(options.only):
        setup = make_setup(options)
        print(describe_setup(setup))
        print(f"{len(solutions)} solutions with {steps(solutions)} steps, Maj@{options.n}")
    throughput = [section for section in ("engine", "serial") if section in options.only]
    if throughput:
        print(f"{' and '.join(throughput)}:", flush=True)
        asyncio.run(throughput_sections(setup, solutions, options, throughput))
    for section in options.only:
        if section in throughput:
            continue
        print(f"{section}:", flush=True)
        match section:
            case "adaptive":
                asyncio.run(adaptive_section(setup, solutions, options.n))
            case "overhead":
                overhead_section()
            case "memory":
                asyncio.run(memory_section(options.memory_solutions))


if __name__ == "__main__":
    main()
