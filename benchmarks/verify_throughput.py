"""Measures what concurrency is worth: the verifier with 1 and with 64 solutions in flight.

    python benchmarks/verify_throughput.py [--model outputs/quickstart/genprm] [--solutions 64]

Both sides judge the same solutions with the same model, seeds and token budget in one run. The result is the ratio of
their rates. With one solution in flight every generation is a batch of one, and the model waits while code runs, as in
a plain loop over solutions.

If there is no model, the benchmark trains one first (`genprm quickstart --fast`).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers

from genprm_trl import GenPRM
from genprm_trl.generation.base import SamplingParams
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Solution, Verdict
from genprm_trl.verifier.summary import VerdictSummary


def judge(prm: GenPRM, solutions: list[Solution]) -> tuple[float, list[Verdict]]:
    started = time.perf_counter()
    verdicts = list(prm.verify_all(solutions, progress=False))
    return time.perf_counter() - started, sorted(verdicts, key=lambda verdict: verdict.id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart/genprm", help="directory of a trained GenPRM")
    parser.add_argument("--solutions", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs; the median ratio is printed")
    parser.add_argument("--temperature", type=float, default=0.6)
    options = parser.parse_args()

    model = Path(options.model)
    if not model.is_dir():
        from genprm_trl.miniature.quickstart import FAST_PLAN, run_quickstart

        run_quickstart("outputs/benchmark", FAST_PLAN, announce=print)
        model = Path("outputs/benchmark/genprm")

    solutions = make_solutions(options.solutions, seed=1, split="heldout")
    sampling = SamplingParams(temperature=options.temperature)
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), transformers {transformers.__version__}"
    )
    print(f"model: {model}; {len(solutions)} solutions, one chain each, temperature {options.temperature}")

    with GenPRM.from_pretrained(model, sampling=sampling) as prm:
        one, many = prm.with_options(max_chains=1), prm.with_options(max_chains=options.in_flight)
        judge(many, solutions[:8])  # start the sandbox, warm caches
        seconds: dict[str, list[float]] = {"one": [], "many": []}
        for _ in range(options.repeats):
            spent, verdicts_one = judge(one, solutions)
            seconds["one"].append(spent)
            spent, verdicts_many = judge(many, solutions)
            seconds["many"].append(spent)

    for name, in_flight, verdicts in (("one", 1, verdicts_one), ("many", options.in_flight, verdicts_many)):
        summary = VerdictSummary()
        for verdict in verdicts:
            summary.add(verdict)
        median = statistics.median(seconds[name])
        print(
            f"{in_flight:3} in flight: {median:7.2f} s (of {', '.join(f'{s:.2f}' for s in seconds[name])}), "
            f"{len(solutions) / median:6.2f} solutions/s, {summary.tokens / median:7.0f} tokens/s, "
            f"{summary.code_blocks.total()} code blocks"
        )
    ratios = [one / many for one, many in zip(seconds["one"], seconds["many"], strict=True)]
    print(f"ratio: {statistics.median(ratios):.1f}x (of {', '.join(f'{ratio:.1f}' for ratio in ratios)})")
    pairs = list(zip(verdicts_one, verdicts_many, strict=True))
    same = sum(a.prediction == b.prediction for a, b in pairs)
    drift = max(abs(x - y) for a, b in pairs for x, y in zip(a.rewards, b.rewards, strict=True))
    print(f"predictions that agree: {same} of {len(pairs)}; largest difference of a reward: {drift:.2g}")


if __name__ == "__main__":
    main()
