"""Measures what step rewards add to a GRPO step, beside the verifier's own work.

    python benchmarks/grpo_overhead.py [--steps 8] [--completions 32]

Both sides of each comparison train the same policy on the same completions in one run.

1. Stock GRPO with a trivial reward, stock GRPO with `GenPRMReward`, and `StepGRPOTrainer`. The verifier's model costs
   nothing, because it returns canned text. What remains is our code: splitting, conversations, verdicts, credit. The
   target is at most 2 ms per completion. The three train in turns, forwards and backwards, and are compared round by
   round, because a shared machine drifts by more than the difference.
2. A real verifier behind `genprm serve`, and a second reward that waits elsewhere, such as a judge behind an API. Each
   runs alone, then both run. The result is the share of the shorter one's time that runs beside the other.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import argparse
import asyncio
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from genprm_trl import GenPRM, GenPRMReward, StepGRPOConfig, StepGRPOTrainer
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.miniature.models import tiny_causal_lm
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.word_problems import gold_steps
from genprm_trl.miniature.world import make_problems, seeded
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.verifier.client import VerifierClient

TOKENIZER = build_tokenizer()
GROUP = 8


class CannedGenerator(Generator):
    """Answers at once: an analysis, then Yes."""

    def __init__(self) -> None:
        self.tokenizer, self.max_context, self.max_concurrent = TOKENIZER, 2048, 256
        self._results = {
            stop: GenerationResult(text, ids := TOKENIZER.encode(text, add_special_tokens=False), [], "stop", len(ids))
            for stop, text in {"</analyze>\n": "2 + 2 = 4</analyze>\n", "</output>\n": "{Yes}$\n</output>\n"}.items()
        }

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        await asyncio.sleep(0)
        return next(
            (self._results[stop] for stop in params.stop if stop in self._results), self._results["</output>\n"]
        )

    async def close(self) -> None: ...


class Clock(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def trivial(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(len(completion) % 7) for completion in completions]


class Waiting:
    """A reward that takes its time elsewhere."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    async def __call__(self, completions: list[Any], **kwargs: Any) -> list[float]:
        await asyncio.sleep(self.seconds)
        return trivial(completions)


def rollouts(texts: list[str]) -> Any:
    """The same completions in every run, all different, so that none is judged for another or known from before."""
    encoded = [[*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id] for text in texts]
    taken = 0

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        nonlocal taken
        chosen = [encoded[(taken + place) % len(encoded)] for place in range(len(prompts))]
        taken += len(prompts)
        return {
            "prompt_ids": [TOKENIZER.encode(prompt, add_special_tokens=False) for prompt in prompts],
            "completion_ids": chosen,
            "logprobs": [[-1.0] * len(ids) for ids in chosen],
        }

    return rollout


def measure(
    options: argparse.Namespace, directory: str, texts: list[str], rewards: list[Any], step: Any = None
) -> float:
    """Median seconds of a step, the first left out."""
    config: type = GRPOConfig if step is None else StepGRPOConfig
    args = config(
        output_dir=directory, max_steps=options.steps + 1, per_device_train_batch_size=options.completions,
        num_generations=GROUP, max_completion_length=512, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=0.0,
    )  # fmt: skip
    clock = Clock()
    problems = make_problems(64, seed=3)
    trainer_class: type = GRPOTrainer if step is None else StepGRPOTrainer
    more = {} if step is None else {"step_reward_func": step}
    trainer = trainer_class(
        tiny_causal_lm(TOKENIZER), reward_funcs=rewards, args=args, processing_class=TOKENIZER, callbacks=[clock],
        train_dataset=Dataset.from_dict({"prompt": [problem.text for problem in problems]}),
        rollout_func=rollouts(texts), **more,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return statistics.median(clock.seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="steps measured of each run")
    parser.add_argument("--completions", type=int, default=32, help="completions a step")
    parser.add_argument("--repeats", type=int, default=9, help="rounds; medians are printed")
    options = parser.parse_args()
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, transformers {transformers.__version__}, "
        f"trl {trl.__version__}"
    )
    rng = seeded("overhead")
    count = options.completions * (options.steps + 1)
    texts = ["\n".join(gold_steps(problem, rng)) for problem in make_problems(count, seed=5)]
    steps = statistics.mean(text.count("\n") + 1 for text in texts)
    print(f"{options.completions} completions of {steps:.1f} steps each a GRPO step, groups of {GROUP}\n")

    def verifier() -> GenPRM:
        return GenPRM(CannedGenerator(), protocol=GenPRMProtocol(mode="analysis"))

    with tempfile.TemporaryDirectory() as directory:
        stock = "stock GRPO, trivial reward"
        sides: dict[str, list[float]] = {}
        for number in range(options.repeats):
            round_of_sides = [
                (stock, [trivial], None),
                ("and GenPRMReward, model at no cost", [trivial, GenPRMReward(verifier())], None),
                ("StepGRPOTrainer with it", [trivial], GenPRMReward(verifier())),
            ]
            for name, rewards, step in reversed(round_of_sides) if number % 2 else round_of_sides:
                sides.setdefault(name, []).append(measure(options, directory, texts, rewards, step))
        base = statistics.median(sides[stock])
        for name, seconds in sides.items():
            line = f"{name:<36}{statistics.median(seconds) * 1000:8.1f} ms a step"
            if name != stock:
                pairs = zip(seconds, sides[stock], strict=True)
                more = sorted((ours - theirs) / options.completions * 1000 for ours, theirs in pairs)
                middle = more[len(more) // 4 : len(more) - len(more) // 4]
                line += f", {statistics.median(more):.2f} ms a completion more"
                line += f" (half of {len(more)} rounds: {middle[0]:.2f} to {middle[-1]:.2f})"
            print(line, flush=True)

        print()
        model = Path(directory, "verifier")
        tiny_causal_lm(TOKENIZER).save_pretrained(model)
        TOKENIZER.save_pretrained(model)
        ModelSettings(modes=("analysis",)).save(model)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "genprm_trl", "-q", "serve", "--model", str(model), "--port", str(port)]
        server = subprocess.Popen([*command, "--max_step_tokens", "32"], stderr=subprocess.DEVNULL)
        try:
            client = VerifierClient(f"http://127.0.0.1:{port}")
            asyncio.run(client.wait_until_ready(120))
            alone = measure(options, directory, texts, [GenPRMReward(client)])
            wait = max(alone - base, 0.1)  # as long as the verifier takes
            waiting = measure(options, directory, texts, [Waiting(wait)])
            both = measure(options, directory, texts, [GenPRMReward(client), Waiting(wait)])
        finally:
            server.terminate()
            server.wait()
        shorter = min(alone, waiting) - base
        print(f"a verifier on a server                {alone * 1000:8.1f} ms a step")
        print(f"a reward that waits elsewhere         {waiting * 1000:8.1f} ms a step")
        print(f"both                                  {both * 1000:8.1f} ms a step")
        print(f"hidden of the shorter one's time      {100 * (alone + waiting - base - both) / shorter:8.0f} %")


if __name__ == "__main__":
    main()
