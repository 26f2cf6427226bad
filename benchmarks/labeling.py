"""Measures what labels cost and how good they are, in the miniature world with a real model.

    python benchmarks/labeling.py [--guide outputs/quickstart/genprm] [--output_dir outputs/labeling] \\
        [--results benchmarks/results] [--images docs/images]

A tiny policy, trained here from random weights, writes solutions (the stage of `genprm rollout`) and completes their
prefixes.

- Cost: the tokens of the plain recipe (arXiv 2504.00891, section 3.1: K rollouts for every prefix up to the first
  zero) and of each cheaper way, on the same solutions and rollouts, with the share of labels that agree. Guides of the
  search for the first error are: none, the verifier that --guide names, the truth, and the truth with errors.
- Quality: labels by relative progress, difference and the hard rule against the truth, which the miniature world
  knows, for each K.

A rollout that several ways need is generated once and counted for each of them. The output directory keeps the policy,
the solutions and the rollouts. To resume, run the same command again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import functools
import json
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genprm_trl.cards.plots import Curve, plot_score_by_n, require_plots
from genprm_trl.cards.tables import markdown_table
from genprm_trl.cli.main import main as genprm
from genprm_trl.data.problems import SolutionGroup, read_groups, read_problems
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.generation.backends import open_generator
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.labeling.guide import Guide
from genprm_trl.labeling.monte_carlo import Guess, LabelingConfig, label_group, no_guess
from genprm_trl.labeling.progress import Difference, Hard, LabelRule, RelativeProgress, first_error, step_labels
from genprm_trl.labeling.rollout_tree import RolloutTree, state_digest
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.word_problems import Problem, check_solution
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import JsonlWriter, iter_written_rows
from genprm_trl.solving.solver import Solver, SolverSettings, open_solver
from genprm_trl.stages.run import Worker, run_stage

SOLVER = SolverSettings(temperature=0.7, max_tokens=200, system_prompt="")
RULES: dict[str, LabelRule] = {
    "relative progress, 0.8": RelativeProgress(0.8),
    "difference, 0.1": Difference(0.1),
    "difference, 0.5": Difference(0.5),
    "hard": Hard(),
}
KS = (1, 2, 4, 8, 16, 32, 64)
IN_FLIGHT = 8  # problems


class Memory:
    """A generator that answers a request it has answered before from a file, and counts what is asked for."""

    def __init__(self, generator: Generator, path: Path):
        self._generator = generator
        self.tokenizer, self.max_context = generator.tokenizer, generator.max_context
        self.max_concurrent = generator.max_concurrent
        earlier = iter_written_rows(path) if path.exists() else ()
        self._known = {row["id"]: (row["text"], row["tokens"]) for _, row in earlier}
        self._writer = JsonlWriter(path)
        self.requests = self.tokens = 0

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        # The affinity is the state's digest, and a rollout's seed tells it from others of the state.
        key = f"{affinity}/{params.seed}"
        if key not in self._known:
            result = await self._generator.generate(token_ids, params, affinity=affinity)
            if result.finish_reason == "error":
                return result
            self._known[key] = (result.text, result.num_generated)
            self._writer.write({"id": key, "text": result.text, "tokens": result.num_generated})
        text, tokens = self._known[key]
        self.requests += 1
        self.tokens += tokens
        return GenerationResult(text, [], num_generated=tokens)

    def close(self) -> None:
        self._writer.close()


async def label_all(
    memory: Memory,
    groups: Sequence[SolutionGroup],
    config: LabelingConfig,
    *,
    shared: bool = True,
    guide: Guess = no_guess,
) -> tuple[dict[str, list[bool]], list[dict[str, Any]], int, int]:
    """Labels all solutions; labels by solution, rows, rollouts and tokens.

    Args:
        shared: Sample a prefix that several solutions share once. Otherwise each solution is labelled by itself, as
            the plain recipe does; the problem's own rollouts are made once for all of them then, too.
        guide: Where a guided search begins.
    """
    requests, tokens = memory.requests, memory.tokens
    solver = Solver(memory, SOLVER)  # type: ignore[arg-type]
    free = asyncio.Semaphore(IN_FLIGHT)

    async def label(group: SolutionGroup) -> list[dict[str, Any]]:
        async with free:
            tree = RolloutTree(solver, group.problem, group.answer, seed=config.seed)
            if shared:
                return (await label_group(tree, group, config, {}, guide)).rows
            rows: list[dict[str, Any]] = []
            reused: dict[str, str] = {}
            for solution in group.solutions:
                tree = RolloutTree(solver, group.problem, group.answer, seed=config.seed, reused=reused)
                rows += (await label_group(tree, SolutionGroup((solution,)), config, {})).rows
                reused[state_digest(group.problem, "")] = rows[-1]["extra"]["monte_carlo"]["initial"]
            return rows

    found = await asyncio.gather(*map(label, groups))
    rows = [row for group in found for row in group]
    labels = {row["id"]: row["extra"]["labels"] for row in rows}
    return labels, rows, memory.requests - requests, memory.tokens - tokens


def noisy(truth: dict[str, int], share: float) -> Guess:
    """The truth as a guide that names another step in a share of the solutions."""

    def guess(solution: Solution) -> int | None:
        rng, right = random.Random(f"noise {solution.id}"), truth[solution.id]
        others = [step for step in range(len(solution.steps)) if step != right]
        if others and rng.random() < share:
            return rng.choice(others)
        return right if right >= 0 else None

    return guess


def verdicts_of(model: Path, solutions: Path, output: Path) -> Path:
    """Verdicts of a verifier, as `genprm verify` makes them."""
    words = ["verify", str(solutions), "--model", str(model), "--stop", "first_error", "--output", str(output)]
    if genprm(words):
        raise SystemExit(f"{model} gave no verdicts")
    return output


def part_a(memory: Memory, groups: Sequence[SolutionGroup], guides: dict[str, Guess]) -> tuple[str, dict[str, Any]]:
    """Tokens of each way, and agreement with the plain recipe."""
    plain = LabelingConfig(rule="rpe", stopping="none", scope="all")
    short = replace(plain, scope="first_error")
    hard = replace(plain, rule="hard")
    binary = replace(hard, scope="first_error", stopping="exact", search="binary")
    guided = replace(binary, search="guided")
    reference: dict[str, list[bool]] = {}
    # The label itself: what the best of guides would cost.
    all_guides = {**guides, "the plain recipe's label": lambda solution: first_error(reference[solution.id])}
    ways: list[tuple[str, LabelingConfig, bool, Guess]] = [
        ("plain recipe, RPE 0.8", plain, False, no_guess),
        ("shared prefixes once", plain, True, no_guess),
        ("+ up to the first error", short, True, no_guess),
        ("+ exact early stopping", replace(short, stopping="exact"), True, no_guess),
        ("plain recipe, hard", hard, False, no_guess),
        ("shared, first error, exact", replace(hard, scope="first_error", stopping="exact"), True, no_guess),
        ("+ binary search", binary, True, no_guess),
        *((f"+ guided search, {name}", guided, True, guide) for name, guide in all_guides.items()),
    ]
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    reference_tokens = 0
    for name, config, shared, guide in ways:
        labels, _, rollouts, tokens = asyncio.run(label_all(memory, groups, config, shared=shared, guide=guide))
        if name.startswith("plain"):
            reference, reference_tokens = labels, tokens
        same = sum(first_error(labels[id]) == first_error(reference[id]) for id in reference)
        steps = [
            (ours, theirs)
            for id in reference
            for ours, theirs in zip(labels[id], reference[id][: first_error(reference[id]) + 1 or None], strict=False)
        ]
        agree = sum(ours == theirs for ours, theirs in steps)
        rows.append(
            [
                name, f"{rollouts:,}", f"{tokens:,}", f"{100 * tokens / reference_tokens:.1f}",
                f"{100 * same / len(reference):.2f}", f"{100 * agree / len(steps):.2f}",
            ]
        )  # fmt: skip
        numbers[name] = {"rollouts": rollouts, "tokens": tokens, "same": same, "solutions": len(reference)}
        print(rows[-1], flush=True)
    table = markdown_table(
        ["way", "rollouts", "tokens", "% of plain", "same first error, %", "same step labels, %"], rows
    )
    return table, numbers


def part_b(
    memory: Memory, groups: Sequence[SolutionGroup], truth: dict[str, int], image: Path
) -> tuple[str, dict[str, Any]]:
    """Accuracy and F1 of the rules against K, from disjoint parts of the same rollouts."""
    most = KS[-1]
    config = LabelingConfig(rule="hard", stopping="none", scope="all", k_hard=most, k=most, k_easy=most)
    _, rows, _, _ = asyncio.run(label_all(memory, groups, config))
    rows = [row for row in rows if row["id"] in truth]
    numbers: dict[str, Any] = {}
    cells: list[list[str]] = []
    curves: dict[str, Curve] = {}
    for name, rule in RULES.items():
        scores: dict[int, float] = {}
        interval: dict[int, tuple[float, float]] = {}
        for k in KS:
            accuracies, f1s, errors, corrects = [], [], [], []
            for part in range(most // k):
                predictions = [first_error(labels_from(row, rule, slice(part * k, (part + 1) * k))) for row in rows]
                score = processbench_scores([truth[row["id"]] for row in rows], predictions)
                right = sum(truth[row["id"]] == p for row, p in zip(rows, predictions, strict=True))
                accuracies.append(100 * right / len(rows))
                f1s.append(score["f1"] or 0.0)
                errors.append(score["error_acc"] or 0.0)
                corrects.append(score["correct_acc"] or 0.0)
            scores[k] = statistics.mean(f1s)
            interval[k] = (min(f1s), max(f1s))
            numbers.setdefault(name, {})[k] = {"f1": f1s, "accuracy": accuracies}
            cells.append(
                [
                    name, str(k), f"{statistics.mean(accuracies):.1f}", f"{statistics.mean(errors):.1f}",
                    f"{statistics.mean(corrects):.1f}", f"{scores[k]:.1f}", f"{min(f1s):.1f} to {max(f1s):.1f}",
                ]
            )  # fmt: skip
        curves[name] = Curve(scores, interval)
    plot_score_by_n(
        image,
        curves,
        title="Labels against the truth in the miniature world",
        ylabel="F1 of the first wrong step (%)",
        xlabel="rollouts a prefix, K",
    )
    return (
        markdown_table(["labels", "K", "accuracy", "error_acc", "correct_acc", "F1", "F1, least to most"], cells),
        numbers,
    )


def labels_from(row: dict[str, Any], rule: LabelRule, part: slice) -> list[bool]:
    """Labels from a part of each state's rollouts."""

    def estimate(bits: str) -> float | None:
        bits = bits[part]
        return bits.count("1") / len(bits) if bits else None

    steps = row["extra"]["monte_carlo"]["steps"]
    mc = [*(estimate(bits) for bits in steps[:-1]), float(row["final_answer_correct"])]
    initial = estimate(row["extra"]["monte_carlo"]["initial"])
    assert initial is not None
    # A state that nothing was sampled of stands behind one whose rollouts, all of them, failed.
    return step_labels(mc, initial, rule)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/labeling"))
    parser.add_argument("--policy_steps", type=int, default=3000)
    parser.add_argument("--problems", type=int, default=20, help="that solutions are sampled of")
    parser.add_argument("--keep", type=int, default=4, help="solutions kept of a problem")
    parser.add_argument("--guide", type=Path, help="directory of a verifier that guides the search, of any kind")
    parser.add_argument("--noise", type=float, default=0.3, help="share of wrong steps in the truth with errors")
    parser.add_argument("--results", type=Path, help="directory for labeling.md and labeling.json")
    parser.add_argument("--images", type=Path, help="directory for label_f1_by_k.png")
    arguments = parser.parse_args()
    require_plots()
    torch.set_num_threads(1)
    started = time.monotonic()
    output: Path = arguments.output_dir
    kept = ", what an earlier run had finished not counted" if output.exists() else ""
    policy = make_inputs(output, problems=arguments.problems, steps=arguments.policy_steps, disable_tqdm=True)
    opener = functools.partial(open_generator, str(policy), max_batch_size=128)
    config = RolloutConfig(max_samples=64, first_round=16, give_up=32, keep=arguments.keep)
    summary = run_stage(
        Worker(
            functools.partial(open_solver, opener, SOLVER),
            functools.partial(roll_out, config=config, source={"policy": "miniature-policy"}),
        ),
        read_problems(str(output / "problems.jsonl")),
        output / "rollouts.jsonl",
        {"keep": config.keep, "problems": arguments.problems},
        desc="Rollouts",
        unit="problem",
    )
    groups = list(read_groups(str(output / "rollouts.jsonl")))
    truth = {solution.id: true_label(solution) for group in groups for solution in group.solutions}
    print(f"{summary.items} problems, {len(groups)} of them with right and wrong solutions; {len(truth)} solutions")

    guides: dict[str, Guess] = {"no guide": no_guess}
    of_guide = ""
    if arguments.guide is not None:
        name = f"{arguments.guide.parent.name}/{arguments.guide.name}"
        verdicts = verdicts_of(
            arguments.guide, output / "rollouts.jsonl", output / f"{arguments.guide.name}.verdicts.jsonl"
        )
        guides[name] = guide = Guide(verdicts)
        wrong = [s for group in groups for s in group.solutions if not s.final_answer_correct]
        right = sum(guide(solution) == truth[solution.id] for solution in wrong)
        tokens = sum(verdict.num_tokens for verdict in iter_verdicts(verdicts))
        of_guide = (
            f" The verifier {name} wrote {tokens:,} tokens about the solutions, which are not counted; of "
            f"{len(wrong)} with a wrong answer it names the wrong step of {right}."
        )
    guides[f"truth with {100 * arguments.noise:g} % errors"] = noisy(truth, arguments.noise)
    guides["truth"] = noisy(truth, 0.0)
    generator = opener()
    memory = Memory(generator, output / "completions.jsonl")
    try:
        table_a, numbers_a = part_a(memory, groups, guides)
        image = (arguments.images or output) / "label_f1_by_k.png"
        table_b, numbers_b = part_b(memory, groups, truth, image)
    finally:
        memory.close()
        asyncio.run(generator.close())

    steps = Counter(len(solution.steps) for group in groups for solution in group.solutions)
    conditions = (
        f"{len(groups)} problems, {len(truth)} solutions ({sum(label >= 0 for label in truth.values())} with a wrong "
        f"step; {', '.join(f'{n} of {length} steps' for length, n in sorted(steps.items()))}). The policy has "
        f"{arguments.policy_steps} training steps and solves {summary.counts['samples_right']:.0f} of "
        f"{summary.counts['samples']:.0f}; temperature {SOLVER.temperature}. {os.cpu_count()} CPU cores, "
        f"{platform.machine()}, torch {torch.__version__}; {time.monotonic() - started:.0f} s{kept}."
    )
    text = f"""\
# Labels: what they cost, and what they are worth

Printed by `python benchmarks/labeling.py`.

{conditions}

## Tokens

K is 128, 64 or 32 by the problem's own estimate, as in the paper. The plain recipe samples K rollouts of every
prefix up to the first zero; the problem's own are made once for all of its solutions. Step labels are compared up to
the plain recipe's first error. A guide is where the search begins.{of_guide}

{table_a}
## Against the truth

Right is the label that names the very step that is wrong, or none. For K below {KS[-1]} the mean over disjoint parts
of the same {KS[-1]} rollouts of each prefix.

{table_b}"""
    print(text)
    if arguments.results:
        (arguments.results / "labeling.md").write_text(text, encoding="utf-8")
        numbers = {"tokens": numbers_a, "truth": numbers_b}
        (arguments.results / "labeling.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def true_label(solution: Solution) -> int:
    problem = Problem.from_text(solution.problem)
    assert problem is not None
    return check_solution(problem, solution.steps)


if __name__ == "__main__":
    main()
