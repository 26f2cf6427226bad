"""Measures what preference training of a policy is worth in the miniature world: on pairs of steps, or of solutions.

    python benchmarks/step_dpo.py [--output_dir outputs/step_dpo] [--policy DIRECTORY] [--seeds 2] [--fast]

1. A tiny policy writes solutions, as many right as wrong ones of each problem that it can solve (`genprm rollout`).
2. They are labelled by the truth, which the miniature world knows.
3. Step-DPO: `genprm pairs` makes pairs of a right and a wrong step. Plain DPO: each wrong solution that made a pair is
   paired with a solution of its problem whose answer is right. So both learn from the same wrong solutions.
4. Both are trained from the policy, with the same loss, beta, learning rate, batch and number of steps: Step-DPO by
   `StepDPOTrainer`, plain DPO by TRL's `DPOTrainer`.
5. On held-out problems: the probability of the right and of the wrong step of pairs that are made in the same way from
   the untrained policy's solutions, and the share of sampled solutions that are right.

Intervals are over problems. The output directory keeps solutions and pairs. To resume, run the same command again.
"""

from __future__ import annotations

import os

os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _setup import describe_machine
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from genprm_trl.cards.tables import markdown_table
from genprm_trl.cli.main import main as genprm
from genprm_trl.data.solutions import iter_records
from genprm_trl.data.step_pairs import StepPair, load_step_pairs
from genprm_trl.data.steps import join_steps
from genprm_trl.generation.backends import open_generator
from genprm_trl.generation.loading import load_model, load_tokenizer
from genprm_trl.labeling.monte_carlo import separator_of
from genprm_trl.metrics.estimates import mean_estimate
from genprm_trl.miniature.policy import sample_solutions
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.word_problems import Problem, check_solution
from genprm_trl.miniature.world import make_problems
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.solving.solver import SolutionPrompts
from genprm_trl.training import StepDPOConfig, StepDPOTrainer

VARIANTS = {"step": "Step-DPO", "plain": "DPO on whole solutions"}
BEFORE = "the policy before"


@dataclass
class Measured:
    """What a policy is worth on held-out problems.

    Attributes:
        right, wrong: Probability of the right and of the wrong step of each pair.
        accuracy: Share of right final answers, of each problem.
        flawless: Share of solutions without a wrong step, of each problem.
    """

    right: list[float]
    wrong: list[float]
    accuracy: list[float]
    flawless: list[float]

    @property
    def told(self) -> float:
        """The share of pairs whose right step is the more probable one."""
        return statistics.mean(float(a > b) for a, b in zip(self.right, self.wrong, strict=True))


def run(*words: object) -> None:
    """Runs a command of the package quietly."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = genprm(["--quiet", *map(str, words)])
    if code:
        sys.exit(f"genprm {words[0]} ended with {code}: {shown.getvalue()}")


def make_pairs(output: Path, name: str, policy: Path, problems: Sequence[Problem]) -> tuple[Path, Path]:
    """Solutions of the policy with true labels, and pairs of steps from them; returns both files."""
    asked, rollouts, labels, pairs = (
        output / f"{name}_{each}.jsonl" for each in ("problems", "rollouts", "labels", "pairs")
    )
    asking = ["--model", policy, "--system_prompt", "", "--temperature", 0.7, "--max_tokens", 200]
    if not pairs.exists():
        rows = [{"id": f"{name}-{n}", "problem": p.text, "answer": str(p.answer)} for n, p in enumerate(problems)]
        write_jsonl(asked, rows)
        kept = ["--max_samples", 8, "--first_round", 8, "--give_up", 8, "--keep", 4]
        run("rollout", asked, *asking, *kept, "--output", rollouts)
        write_jsonl(labels, [labelled(solution).to_dict() for solution in iter_records(rollouts, Solution)])
        run("pairs", labels, *asking, "--output", pairs)
    return labels, pairs


def labelled(solution: Solution) -> Solution:
    problem = Problem.from_text(solution.problem)
    assert problem is not None
    return replace(solution, label=check_solution(problem, solution.steps))


def whole_pairs(labels: Path, pairs: Sequence[StepPair]) -> Dataset:
    """The wrong solution of each pair beside one with the right answer, in TRL's conversational form."""
    solutions = list(iter_records(labels, Solution))
    by_id = {solution.id: solution for solution in solutions}
    right: dict[str, list[Solution]] = {}
    for solution in solutions:
        if solution.final_answer_correct:
            right.setdefault(solution.problem, []).append(solution)

    def said(solution: Solution) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": join_steps(solution.steps, separator_of(solution))}]

    rows = []
    for number, pair in enumerate(pairs):
        if choice := right.get(pair.problem):
            rows.append(
                {
                    "prompt": [{"role": "user", "content": pair.problem}],
                    "chosen": said(choice[number % len(choice)]),
                    "rejected": said(by_id[pair.id]),
                }
            )
    return Dataset.from_list(rows)


def train(variant: str, policy: Path, labels: Path, pairs: Sequence[StepPair], options: Any, seed: int) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(options.output_dir / f"{variant}-{seed}"),
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch,
        "learning_rate": options.learning_rate,
        "beta": options.beta,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": 1024,
    }
    model, reference = load_model(policy, device="cpu"), load_model(policy, device="cpu")
    tokenizer = load_tokenizer(policy)
    trainer: Any
    if variant == "step":
        args = StepDPOConfig(**settings, system_prompt="")
        trainer = StepDPOTrainer(model, reference, args, list(pairs), processing_class=tokenizer)
    else:
        trainer = DPOTrainer(
            model, reference, DPOConfig(**settings), train_dataset=whole_pairs(labels, pairs),
            processing_class=tokenizer,
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # TRL prints what it logs
        trainer.train()
    return trainer.model.eval()


@torch.no_grad()
def probability(model: Any, prompt: list[int], step: list[int]) -> float:
    """Of a step behind a prompt: the product over its tokens."""
    logps = model(torch.tensor([prompt + step])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logps.gather(1, torch.tensor(step)[:, None]).sum().exp())


def measure(
    model: Any, tokenizer: Any, pairs: Sequence[StepPair], problems: Sequence[Problem], samples: int
) -> Measured:
    prompts = SolutionPrompts(tokenizer, "")
    right, wrong = [], []
    for pair in pairs:
        prompt = prompts.prompt(pair.problem, pair.prefix)
        right.append(probability(model, prompt, prompts.following(pair.chosen)))
        wrong.append(probability(model, prompt, prompts.following(pair.rejected)))
    generator = open_generator(model, tokenizer, max_batch_size=128)
    solutions = sample_solutions(generator, problems, samples, temperature=0.7, seed=7)
    groups = [solutions[start : start + samples] for start in range(0, len(solutions), samples)]
    return Measured(
        right,
        wrong,
        [statistics.mean(float(bool(each.final_answer_correct)) for each in group) for group in groups],
        [statistics.mean(float(each.label == -1) for each in group) for group in groups],
    )


def mean_of(runs: Sequence[Measured]) -> Measured:
    """Of each pair and problem, the mean over seeds."""
    columns = [
        [statistics.mean(values) for values in zip(*(getattr(each, name) for each in runs), strict=True)]
        for name in ("right", "wrong", "accuracy", "flawless")
    ]
    return Measured(*columns)


def row(name: str, runs: Sequence[Measured]) -> list[str]:
    whole = mean_of(runs)
    shares = [f"{each.value:.1f} ({each.low:.1f} to {each.high:.1f})" for each in
              (mean_estimate(whole.accuracy), mean_estimate(whole.flawless))]  # fmt: skip
    told = statistics.mean(each.told for each in runs)
    return [
        name, str(len(runs)), f"{statistics.mean(whole.right):.3f}", f"{statistics.mean(whole.wrong):.3f}",
        f"{100 * told:.1f}", *shares,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/step_dpo"))
    parser.add_argument("--policy", type=Path, help="a policy of `recipe_inputs`; default: one is trained")
    parser.add_argument("--policy_steps", type=int, default=3000, help="optimizer steps of the policy's training")
    parser.add_argument("--problems", type=int, default=300, help="problems whose solutions are trained on")
    parser.add_argument("--heldout", type=int, default=200, help="problems to measure on")
    parser.add_argument("--samples", type=int, default=4, help="solutions of each held-out problem")
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of DPO")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--results", type=Path, help="directory for step_dpo.md")
    options = parser.parse_args()
    if options.fast:
        sizes = {"policy_steps": 600, "problems": 60, "heldout": 60, "samples": 2, "steps": 20, "seeds": 1}
        for name, value in sizes.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    machine, started = describe_machine(), time.monotonic()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    policy = options.policy
    if policy is None:
        policy = make_inputs(options.output_dir, problems=1, steps=options.policy_steps, disable_tqdm=True)
    heldout = make_problems(options.heldout, seed=23, split="heldout", small_share=1.0)
    training = make_problems(options.problems, seed=17, small_share=1.0)
    labels, pairs_file = make_pairs(options.output_dir, "train", policy, training)
    _, heldout_file = make_pairs(options.output_dir, "heldout", policy, heldout)
    pairs, heldout_pairs = load_step_pairs(pairs_file), load_step_pairs(heldout_file)
    print(
        f"{len(pairs)} pairs, {len(heldout_pairs)} held-out pairs after {time.monotonic() - started:.0f} s", flush=True
    )

    tokenizer = load_tokenizer(policy)
    measured = (heldout_pairs, heldout, options.samples)
    rows = [row(BEFORE, [measure(load_model(policy, device="cpu").eval(), tokenizer, *measured)])]
    for variant, name in VARIANTS.items():
        runs = []
        for seed in range(options.seeds):
            runs.append(measure(train(variant, policy, labels, pairs, options, seed), tokenizer, *measured))
            print(f"{name}, seed {seed}, after {time.monotonic() - started:.0f} s", flush=True)
        rows.append(row(name, runs))
    head = ["variant", "seeds", "P(right step)", "P(wrong step)", "right step more probable, %",
            "right answers, %", "every step right, %"]  # fmt: skip
    words = " ".join(["python", "benchmarks/step_dpo.py", *sys.argv[1:]])
    text = (
        f"`{words}`\n\n{markdown_table(head, rows)}\n"
        f"{len(pairs)} pairs of {len({pair.problem for pair in pairs})} problems to train on; {len(heldout_pairs)} "
        f"held-out pairs, and {options.heldout} held-out problems with {options.samples} solutions each. "
        f"{options.steps} steps of {options.batch} pairs, learning rate {options.learning_rate:g}, beta "
        f"{options.beta:g}. In brackets: 95 % intervals over problems.\n\n"
        f"{machine}; {time.monotonic() - started:.0f} s\n"
    )
    print(text)
    if options.results is not None:
        (options.results / "step_dpo.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
