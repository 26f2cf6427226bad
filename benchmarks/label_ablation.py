"""Measures what labels and the consensus filter are worth: the paper's ablation, repeated in the miniature world.

    python benchmarks/label_ablation.py [--output_dir outputs/label_ablation] [--seeds 2]

1. A tiny policy writes solutions, as many right as wrong ones of each problem that it can solve.
2. They are labelled by the truth, which the miniature world knows. They are also labelled by Monte Carlo estimates of
   the policy under the rules that arXiv 2504.00891 compares: relative progress, difference, hard.
3. The same critiques of a scripted reasoner are filtered by each kind of label.
4. A GenPRM is trained on what each filter keeps, with the same size, start and number of steps. One more is trained
   without the filter, on every readable critique with the reasoner's own verdict.
5. All are measured on held-out solutions with true labels.

The output directory keeps every stage. To resume, run the same command again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genprm_trl import GenPRM, GenPRMConfig, GenPRMTrainer
from genprm_trl.cards.tables import markdown_table
from genprm_trl.data.problems import read_groups, read_problems
from genprm_trl.data.solutions import iter_records, load_solutions
from genprm_trl.generation.backends import open_generator
from genprm_trl.labeling.consensus import decide
from genprm_trl.labeling.critiques import SampledSolution
from genprm_trl.labeling.monte_carlo import LabelingConfig, label
from genprm_trl.labeling.progress import Difference, Hard, LabelRule, RelativeProgress, first_error, step_labels
from genprm_trl.labeling.rationales import RationaleSettings, open_reasoner, rationalize
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.metrics.estimates import processbench_by_votes
from genprm_trl.miniature.policy import natural_solutions
from genprm_trl.miniature.reasoner_generator import ScriptedReasoner
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.word_problems import Problem, check_solution
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.solving.solver import Solver, SolverSettings, open_solver
from genprm_trl.stages.run import Worker, run_stage

RULES: dict[str, LabelRule | None] = {
    "truth": None,
    "hard": Hard(),
    "difference, 0.1": Difference(0.1),
    "difference, 0.5": Difference(0.5),
    "relative progress, 0.8": RelativeProgress(0.8),
}
UNFILTERED = "no consensus filter"
# GenPRM-7B, average F1 on ProcessBench, Maj@8 (arXiv 2504.00891, section 5).
PAPER = {"hard": 78.5, "difference, 0.1": 79.4, "relative progress, 0.8": 80.5}
STEP_TOKENS = 320
SOLVER = SolverSettings(temperature=0.7, max_tokens=200, system_prompt="")


def open_policy(policy: Path) -> Callable[[], AbstractAsyncContextManager[Solver]]:
    return functools.partial(open_solver, functools.partial(open_generator, str(policy), max_batch_size=128), SOLVER)


def stage_solutions(output: Path, policy: Path, max_samples: int) -> list[Solution]:
    """Training solutions with true labels: as many right as wrong ones of each problem that the policy can solve."""
    path = output / "rollouts.jsonl"
    config = RolloutConfig(max_samples=max_samples, first_round=8, give_up=16, keep=4)
    worker = Worker(open_policy(policy), functools.partial(roll_out, config=config, source={}))
    problems = read_problems(str(output / "problems.jsonl"))
    run_stage(worker, problems, path, {"max_samples": max_samples}, desc="Rollouts", unit="problem")
    solutions = []
    for solution in iter_records(path, Solution):
        problem = Problem.from_text(solution.problem)
        assert problem is not None
        solutions.append(replace(solution, label=check_solution(problem, solution.steps)))
    return solutions


def stage_heldout(output: Path, policy: Path, n: int) -> None:
    """Solutions to measure on: half finished by the policy, half with a planted error or none."""
    path = output / "heldout.jsonl"
    if not path.exists():
        solutions = natural_solutions(policy, n // 2, "heldout", seed=1)
        solutions += make_solutions(n - n // 2, seed=2, split="heldout", error_share=0.4, small_share=1.0)
        write_jsonl(path, solutions)


def stage_estimates(output: Path, policy: Path, k: int) -> dict[str, Solution]:
    """Every training solution with the Monte Carlo estimates of its steps, from K rollouts each."""
    path = output / "estimates.jsonl"
    config = LabelingConfig(stopping="none", scope="all", k_hard=k, k=k, k_easy=k)
    worker = Worker(open_policy(policy), functools.partial(label, config=config, source={}))
    run_stage(worker, read_groups(str(output / "rollouts.jsonl")), path, {"k": k}, desc="Monte Carlo", unit="problem")
    return {solution.id: solution for solution in iter_records(path, Solution)}


def stage_critiques(output: Path, solutions: list[Solution], samples: int) -> list[SampledSolution]:
    path = output / "critiques.jsonl"
    settings = RationaleSettings(samples=samples)
    reasoner = functools.partial(
        open_reasoner, functools.partial(ScriptedReasoner, mistake_rate=0.1), LocalSandbox, settings
    )
    worker = Worker(reasoner, functools.partial(rationalize, source={}))
    run_stage(worker, solutions, path, {"samples": samples}, desc="Critiques", unit="solution")
    return list(iter_records(path, SampledSolution))


def labels_by(rule: LabelRule | None, truth: list[Solution], estimates: dict[str, Solution]) -> dict[str, int]:
    if rule is None:
        return {solution.id: int(solution.label or 0) for solution in truth}
    found = {}
    for solution in truth:
        extra = estimates[solution.id].extra
        labels = step_labels(extra["mc"], extra["initial_mc"], rule)
        found[solution.id] = first_error(labels)
    return found


def select(critiques: list[SampledSolution], labels: dict[str, int] | None) -> list[RationaleRecord]:
    """The training data under one kind of label; without labels every readable critique is kept."""
    records = []
    for sampled in critiques:
        label = None if labels is None else labels[sampled.id]
        labelled = replace(sampled, solution=replace(sampled.solution, label=label))
        decision = decide(labelled, require_agreement=labels is not None)
        if decision.record is not None:
            records.append(decision.record)
    return records


def train_and_judge(name: str, seed: int, output: Path, policy: Path, steps: int, chains: int) -> dict[str, Any]:
    """Trains a GenPRM on one kind of label and measures it. Runs in a separate process."""
    torch.set_num_threads(1)
    directory = output / "models" / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    result = directory / "result.json"
    if result.exists():
        return json.loads(result.read_text())
    started = time.monotonic()
    records = list(iter_records(output / "data" / f"{name}.jsonl", RationaleRecord))
    trainer = GenPRMTrainer(
        str(policy),
        GenPRMConfig(
            output_dir=str(directory),
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            train_sampling_strategy="group_by_length",
            seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=100,
            report_to="none",
            disable_tqdm=True,
            max_length=2048,
            mode="full",
        ),
        train_dataset=records,
    )
    trainer.train()
    trainer.save_model()
    heldout = load_solutions(str(output / "heldout.jsonl"))
    with GenPRM.from_pretrained(str(directory), n=chains, max_step_tokens=STEP_TOKENS, seed=seed) as prm:
        verdicts = {verdict.id: verdict for verdict in prm.verify_all(heldout, progress=False)}
    rewards = [[[step.reward for step in chain] for chain in verdicts[s.id].chains] for s in heldout]
    scores = processbench_by_votes([int(s.label or 0) for s in heldout], rewards, chains)
    found = {score: value.value for score, value in scores.items()}
    found |= {"low": scores["f1"].low, "high": scores["f1"].high, "seconds": time.monotonic() - started}
    result.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/label_ablation"))
    parser.add_argument("--policy_steps", type=int, default=3000)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--max_samples", type=int, default=32, help="solutions sampled of a problem")
    parser.add_argument("--heldout", type=int, default=80)
    parser.add_argument("--k", type=int, default=16, help="rollouts a prefix")
    parser.add_argument("--samples", type=int, default=2, help="critiques a solution")
    parser.add_argument("--steps", type=int, default=500, help="steps of each GenPRM, 8 solutions each")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    output: Path = arguments.output_dir
    kept = "" if not output.exists() else ", what an earlier run had finished not counted"
    policy = make_inputs(output, problems=arguments.problems, steps=arguments.policy_steps, disable_tqdm=True)
    train = stage_solutions(output, policy, arguments.max_samples)
    stage_heldout(output, policy, arguments.heldout)
    estimates = stage_estimates(output, policy, arguments.k)
    critiques = stage_critiques(output, train, arguments.samples)
    truth = labels_by(None, train, estimates)
    rows: dict[str, list[str]] = {}
    for name, rule in [*RULES.items(), (UNFILTERED, None)]:
        labels = labels_by(rule, train, estimates)
        records = select(critiques, None if name == UNFILTERED else labels)
        write_jsonl(output / "data" / f"{name}.jsonl", records)
        kept_wrong = sum(
            (record.labels.index(False) if False in record.labels else -1) != truth[record.solution.id]
            for record in records
        )
        right = sum(labels[id] == truth[id] for id in truth)
        rows[name] = [
            "" if name == UNFILTERED else f"{100 * right / len(truth):.1f}",
            f"{len(records)}",
            f"{100 * (1 - len(records) / len(critiques)):.1f}",
            f"{100 * kept_wrong / max(1, len(records)):.1f}",
        ]
    work: Callable[..., Any] = functools.partial(
        train_and_judge, output=output, policy=policy, steps=arguments.steps, chains=arguments.chains
    )
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
        runs = {(name, seed): pool.submit(work, name, seed) for seed in range(arguments.seeds) for name in rows}
        results = {key: run.result() for key, run in runs.items()}
    for name, cells in rows.items():
        of_name = [results[name, seed] for seed in range(arguments.seeds)]
        for score in ("error_acc", "correct_acc", "f1"):
            cells.append(f"{statistics.mean(result[score] for result in of_name):.1f}")
        cells.append(" / ".join(f"{result['low']:.0f} to {result['high']:.0f}" for result in of_name))
        cells.append(f"{PAPER[name]:.1f}" if name in PAPER else "")
    header = [
        "labels", "right labels, %", "kept", "discarded, %", "kept with a wrong label, %",
        "error_acc", "correct_acc", f"F1, Maj@{arguments.chains}", "95 % interval", "paper, GenPRM-7B",
    ]  # fmt: skip
    print(markdown_table(header, [[name, *cells] for name, cells in rows.items()]))
    print(
        f"{len(train)} solutions ({sum(label >= 0 for label in truth.values())} wrong), K = {arguments.k}, "
        f"{arguments.samples} critiques a solution; {arguments.steps} steps of 8 solutions, {arguments.seeds} seeds; "
        f"{arguments.heldout} held-out solutions. {os.cpu_count()} CPU cores, {platform.machine()}, torch "
        f"{torch.__version__}; {time.monotonic() - started:.0f} s{kept}."
    )


if __name__ == "__main__":
    main()
