"""Measures how the time, memory and files of `genprm verify` and `genprm label` grow with their input.

    python benchmarks/growth.py [--verify 1000 10000 100000] [--label 10000 100000 1000000] \\
        [--output benchmarks/results/growth.txt]

The sizes of `verify` are solutions, those of `label` rollouts. The models answer at once and cost nothing, so what is
left is what the commands do themselves. Seconds are those of the processor. Each size runs in a process of its own,
and once more to resume with nothing left to do. Memory is the peak above what the process had before the command
began. The last two columns say how many times as much a row costs as with the size before; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genprm_trl.cli.main import main as genprm
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verifier.base import Verifier

STEPS, SOLUTIONS, K = 5, 4, 32  # of a solution, of a problem, and rollouts of a prefix


class InstantVerifier(Verifier):
    """Says of each step that it is right with a probability that the step's text decides."""

    threshold = 0.5

    @classmethod
    def from_pretrained(cls, model: str, **options: Any) -> InstantVerifier:
        return cls()

    @property
    def concurrency(self) -> int:
        return 64

    async def verify(self, solution: Solution) -> Verdict:
        rewards = [random.Random(step).random() for step in solution.steps]
        wrong = next((t for t, reward in enumerate(rewards) if reward < self.threshold), -1)
        chain = [StepJudgement("It is so. " * 20, reward, "ok", [], 60) for reward in rewards]
        return Verdict(solution.id, rewards, wrong, [chain], solution.label, solution_digest=solution.digest)


class InstantGenerator(Generator):
    """Reaches the answer in half of its texts, as the seed decides."""

    max_context, max_concurrent = 10**6, 256

    def __init__(self, model: Any = None, tokenizer: Any = None):
        self.tokenizer = build_tokenizer()

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        right = random.Random(params.seed).random() < 0.5
        return GenerationResult(
            f"So it is {42 if right else 13}.\n\nThe answer is \\boxed{{{42 if right else 13}}}.",
            [0],
            num_generated=20,
        )

    async def close(self) -> None: ...


def solutions(count: int) -> Any:
    """Solutions, four of a problem, with a word of its own in each step."""
    for number in range(count):
        problem = f"Problem {number // SOLUTIONS}: what is it? {'Some words of a problem. ' * 8}"
        steps = [f"Step {step}: {'some words of a step ' * 6}{number}" for step in range(1, STEPS + 1)]
        yield Solution(f"s{number}", problem, steps, "42", number % 2 == 0, label=-1)


def words_of(command: str, size: int, directory: Path) -> list[str]:
    """The command line, whose input is made where it is missing."""
    # Of the problem and of all prefixes but the whole solutions, K rollouts each.
    count = size if command == "verify" else size * SOLUTIONS // (K * (1 + SOLUTIONS * (STEPS - 1)))
    file = directory / "solutions.jsonl"
    if not file.exists():
        write_jsonl(file, solutions(count))
    output = ["--output", str(directory / "output.jsonl"), "-q"]
    if command == "verify":
        return ["verify", str(file), "--model", str(directory), "--kind", "benchmarks.growth:InstantVerifier", *output]
    generator = ["--model", "instant", "--backend", "benchmarks.growth:InstantGenerator"]
    options = ["--stopping", "none", "--scope", "all", "--k_hard", str(K), "--k", str(K), "--k_easy", str(K)]
    return ["label", str(file), *generator, *options, *output]


def measure(command: str, size: int, directory: Path) -> None:
    """Runs a command in this process and prints what it took."""
    words = words_of(command, size, directory)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    out, sys.stdout = sys.stdout, sys.stderr
    code = genprm(words)
    sys.stdout = out
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"code": code, "seconds": seconds, "grown": grown / 1024}))


def in_process(command: str, size: int, directory: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.growth", "--one", command, str(size), str(directory)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert not found["code"], f"{command} with {size} ended with {found['code']}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--label", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        command, size, directory = arguments.one
        measure(command, int(size), Path(directory))
        return
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load average at "
        f"the start {os.getloadavg()[0]:.1f}"
    )
    for command, unit in (("verify", "solutions"), ("label", "rollouts")):
        columns = f"{'seconds':>9}{'resumed':>9}{'peak MiB':>10}{'files MB':>10}{'s each':>8}{'B each':>8}"
        say(f"\n{command:<7}{unit:>11}{columns}")
        before = None
        for size in getattr(arguments, command):
            with tempfile.TemporaryDirectory() as name:
                found = in_process(command, size, Path(name))
                resumed = in_process(command, size, Path(name))
                made = [path for path in Path(name).rglob("*") if path.is_file() and path.name != "solutions.jsonl"]
                bytes_ = sum(path.stat().st_size for path in made)
            each = (found["seconds"] / size, bytes_ / size)
            ratios = (
                ["", ""] if before is None else [f"{now / then:.2f}" for now, then in zip(each, before, strict=True)]
            )
            before = each
            say(
                f"{'':<7}{size:>11,}{found['seconds']:>9.1f}{resumed['seconds']:>9.1f}{found['grown']:>10.0f}"
                f"{bytes_ / 1e6:>10.1f}{ratios[0]:>8}{ratios[1]:>8}"
            )
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
