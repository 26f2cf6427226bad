"""Measures what step rewards are worth in the miniature world, on a policy that is only sometimes right.

    genprm quickstart
    python -m genprm_trl.miniature.recipe_inputs
    python examples/step_grpo_miniature.py --policy outputs/miniature/policy --seeds 3

The GenPRM is that of `genprm quickstart`. The default policy is the quickstart's, too. It is almost never right, so
final answers teach it nothing. The policy of `python -m genprm_trl.miniature.recipe_inputs` is right every fifth time.

The same policy is trained in four ways, on the same problems in the same order:

- outcome: final answers alone;
- process: the sum of the GenPRM's step rewards;
- min-form: the worst step reward;
- min-form and outcome: both.

During training, solutions of held-out problems are sampled. The results are the share with the right answer, and the
share in which every step is right.

To resume, run the same command again; it continues with the first variant and seed without a result.
"""

from __future__ import annotations

import os

# Threads that wait by spinning take the cores from the generator and the sandbox.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from genprm_trl import GenPRM, GenPRMReward, StepGRPOConfig, StepGRPOTrainer
from genprm_trl.cards.plots import Curve, can_plot, plot_over_training
from genprm_trl.cards.tables import markdown_table
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.metrics.estimates import interval_over_seeds
from genprm_trl.miniature.examination import Examination
from genprm_trl.miniature.world import make_problems
from genprm_trl.rewards import answer_reward
from genprm_trl.rows.jsonl import JsonlWriter, iter_written_rows
from genprm_trl.stages.fingerprint import model_fingerprint

# credit rule, and whether final answers are rewarded, too
VARIANTS = {
    "outcome": ("outcome", True),
    "process": ("process", False),
    "min-form": ("min_form", False),
    "min-form and outcome": ("min_form", True),
}


def train(options: argparse.Namespace, prm: GenPRM, variant: str, seed: int) -> list[dict[str, float]]:
    """Trains the policy with one variant and seed, and returns the marks of its examinations."""
    credit, with_answers = VARIANTS[variant]
    problems = make_problems(options.problems, seed=100 + seed, small_share=1.0)
    trainer = StepGRPOTrainer(
        str(options.policy),
        reward_funcs=[answer_reward] if with_answers else None,
        step_reward_func=GenPRMReward(prm) if credit != "outcome" else None,
        args=StepGRPOConfig(
            str(options.output / "run"),
            credit=credit,
            step_style="step",
            max_steps=options.steps,
            num_generations=8,
            per_device_train_batch_size=options.completions,
            max_completion_length=200,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            loss_type="dapo",
            seed=seed,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=False,
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": problem.text}], "answer": str(problem.answer)}
                for problem in problems
            ]
        ),
        processing_class=load_tokenizer(options.policy),
    )
    trainer.remove_callback(PrinterCallback)
    heldout = make_problems(options.heldout, seed=7, split="heldout", small_share=1.0)
    examination = Examination(trainer, heldout, options.every)
    trainer.add_callback(examination)
    trainer.train()
    return examination.marks


def summarise(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Prints a table, and plots both shares over training with 95 % intervals over seeds."""
    rows = []
    for share, title in (("answers", "right answers (%)"), ("steps_right", "every step right (%)")):
        curves = {}
        for variant in VARIANTS:
            runs = [result["marks"] for result in results if result["variant"] == variant]
            if not runs:
                continue
            points = {int(marks[0]["step"]): [mark[share] for mark in marks] for marks in zip(*runs, strict=True)}
            curves[variant] = Curve(
                {step: statistics.fmean(values) for step, values in points.items()},
                {step: interval_over_seeds(values) for step, values in points.items()},
            )
            first, last = min(points), max(points)
            low, high = interval_over_seeds(points[last])
            rows.append(
                [variant, title.removesuffix(" (%)"), str(len(runs)), f"{statistics.fmean(points[first]):.1f}",
                 f"{statistics.fmean(points[last]):.1f}", f"{low:.1f} to {high:.1f}"]
            )  # fmt: skip
        if can_plot():
            plot_over_training(
                options.images / f"step_grpo_{share}.png", {title: curves},
                title=f"Miniature world, {options.heldout} held-out problems",
            )  # fmt: skip
    print(markdown_table(["variant", "share of", "seeds", "before", "after", "95 % interval"], rows))
    seconds = statistics.fmean(result["seconds"] for result in results)
    print(
        f"{options.steps} steps of {options.completions} completions, learning rate {options.learning_rate:g}; "
        f"{os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}; {seconds:.0f} s a run"
    )


def main() -> None:
    """Trains what no earlier run with the same settings has trained, and summarises all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("outputs/quickstart"), help="what the quickstart made")
    parser.add_argument("--policy", type=Path, help="the policy that learns on; default: the quickstart's")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which to train")
    parser.add_argument("--output", type=Path, default=Path("outputs/step_grpo"), help="where results go")
    parser.add_argument("--images", type=Path, default=None, help="where plots go; default: the output")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps a run")
    parser.add_argument("--every", type=int, default=15, help="steps between examinations")
    parser.add_argument("--completions", type=int, default=64, help="completions a step, in groups of 8")
    parser.add_argument("--problems", type=int, default=512, help="problems to learn on")
    parser.add_argument("--heldout", type=int, default=64, help="problems to be examined on")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--mode", default="full", help="parts of the verifier's rationales")
    options = parser.parse_args()
    options.policy = options.policy or options.quickstart / "policy"
    options.images = options.images or options.output
    options.output.mkdir(parents=True, exist_ok=True)
    options.images.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.jsonl"
    settings = {
        name: getattr(options, name)
        for name in ("steps", "every", "completions", "problems", "heldout", "learning_rate", "mode")
    } | {"policy": model_fingerprint(str(options.policy))}
    results = [row for _, row in iter_written_rows(path)] if path.exists() else []
    results = [row for row in results if row["settings"] == settings]
    done = {(result["variant"], result["seed"]) for result in results}
    with (
        JsonlWriter(path) as file,
        GenPRM.from_pretrained(options.quickstart / "genprm", mode=options.mode, max_step_tokens=320) as prm,
    ):
        for seed in range(options.seeds):
            for variant in options.variants:
                if (variant, seed) in done:
                    continue
                print(f"{variant}, seed {seed}", flush=True)
                started = time.monotonic()
                marks = train(options, prm, variant, seed)
                row = {
                    "variant": variant, "seed": seed, "settings": settings, "marks": marks,
                    "seconds": time.monotonic() - started,
                }  # fmt: skip
                file.write(row)
                results.append(row)
                print(json.dumps(marks[-1]), flush=True)
    summarise(options, results)


if __name__ == "__main__":
    main()
