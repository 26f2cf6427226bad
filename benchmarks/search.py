"""Measures what search over steps is worth in the miniature world, against Best-of-N at equal tokens.

    python benchmarks/search.py [--quickstart outputs/quickstart] [--results benchmarks/results] [--images docs/images]

A tiny policy solves held-out word problems, and the quickstart's GenPRM judges its steps. The policy is trained here
for longer than the quickstart's, which is right too seldom for any choice to matter. Beam search and particle
filtering run at several sizes. Best-of-N runs once at its largest size; smaller sizes are expectations over all
subsets of its samples.

All tokens count, those of the policy and of the verifier, so a method that judges more pays for it. Each search is
compared with Best-of-N at the same tokens, interpolated between its sizes on a logarithmic scale, problem by problem.

The output directory keeps every run. To resume, run the same command again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import functools
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _setup import MINIATURE_STEP_TOKENS, describe_machine

from genprm_trl import GenPRM
from genprm_trl.cards.plots import require_plots
from genprm_trl.cards.tables import markdown_table
from genprm_trl.data.problems import read_problems
from genprm_trl.generation.backends import open_generator
from genprm_trl.metrics.estimates import ScoreEstimate, mean_estimate
from genprm_trl.miniature.policy import MAX_NEW_TOKENS
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.world import make_problems
from genprm_trl.rows.jsonl import iter_written_rows, write_jsonl
from genprm_trl.selection.accuracies import best_of_n_accuracy, pass_at_k
from genprm_trl.solving.search import SearchConfig, search
from genprm_trl.solving.solver import SolverSettings, open_solver, open_solver_and_verifier
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.run import Worker, in_this_process, run_stage

NAMES = {"best_of_n": "Best-of-N", "beam": "beam search", "particles": "particle filter"}


@dataclass(frozen=True)
class Run:
    """A method at a size, over all problems.

    Attributes:
        method, n: What was run.
        right: Whether the chosen solution of each problem is right, or how probable that is. Shape (B,).
        any_right: The share of problems of which one of the last paths is right, in per cent.
        policy_tokens, verifier_tokens: Generated a problem, on the average.
    """

    method: str
    n: int
    right: list[float]
    any_right: float
    policy_tokens: float
    verifier_tokens: float

    @property
    def tokens(self) -> float:
        return self.policy_tokens + self.verifier_tokens


def rows_of(options: argparse.Namespace, config: SearchConfig) -> list[dict[str, Any]]:
    path = options.output_dir / f"{config.method}-{config.paths}.jsonl"
    policy, verifier = options.policy, options.quickstart / "genprm"
    open_verifier = functools.partial(
        GenPRM.from_pretrained,
        verifier,
        mode=options.mode,
        n=options.rationales,
        seed=options.seed,
        max_step_tokens=MINIATURE_STEP_TOKENS,
        generator_kwargs={"max_batch_size": 64},
    )
    worker = Worker(
        functools.partial(
            open_solver_and_verifier,
            functools.partial(
                open_solver,
                functools.partial(open_generator, policy, max_batch_size=64),
                SolverSettings(temperature=options.temperature, max_tokens=MAX_NEW_TOKENS, system_prompt=""),
            ),
            open_verifier,
        ),
        functools.partial(search, config=config, source={}),
    )
    settings = {
        **asdict(config),
        "mode": options.mode,
        "rationales": options.rationales,
        "temperature": options.temperature,
        "policy": model_fingerprint(str(policy)),
        "verifier": model_fingerprint(str(verifier)),
    }
    run_stage(
        worker,
        read_problems(str(options.output_dir / "problems.jsonl")),
        path,
        settings,
        execute=in_this_process(16),
        desc=f"{NAMES[config.method]}, {config.paths}",
        unit="problem",
    )
    return [row for _, row in iter_written_rows(path)]


def measured(config: SearchConfig, rows: list[dict[str, Any]]) -> Run:
    """A run as it was chosen from."""
    return Run(
        config.method,
        config.paths,
        [float(row["correct"]) for row in rows],
        100 * sum(any(path["correct"] for path in row["paths"]) for row in rows) / len(rows),
        sum(row["policy_tokens"] for row in rows) / len(rows),
        sum(row["verifier_tokens"] for row in rows) / len(rows),
    )


def best_of(n: int, rows: list[dict[str, Any]]) -> Run:
    """What Best-of-n is worth, from more samples of each problem."""
    right, any_right = [], []
    for row in rows:
        # A solution that was cut off is taken only if all are.
        scores = [path["score"] if path["end"] == "stop" else path["score"] - 2 for path in row["paths"]]
        correct = [path["correct"] for path in row["paths"]]
        right.append(best_of_n_accuracy(scores, correct, n))
        any_right.append(pass_at_k(len(correct), sum(correct), n))
    share = n / sum(len(row["paths"]) for row in rows)
    return Run(
        "best_of_n",
        n,
        right,
        100 * sum(any_right) / len(any_right),
        share * sum(row["policy_tokens"] for row in rows),
        share * sum(row["verifier_tokens"] for row in rows),
    )


def at_equal_tokens(baseline: list[Run], tokens: float) -> list[float] | None:
    """What Best-of-N reaches on each problem for so many tokens; None beyond what was measured. Shape (B,)."""
    for below, above in itertools.pairwise(baseline):
        if below.tokens <= tokens <= above.tokens:
            share = math.log(tokens / below.tokens) / math.log(above.tokens / below.tokens)
            return [(1 - share) * a + share * b for a, b in zip(below.right, above.right, strict=True)]
    return None


def shown(estimate: ScoreEstimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.1f} ({estimate.low:{sign}.1f} to {estimate.high:{sign}.1f})"


def table(runs: list[Run], width: int) -> str:
    baseline = [run for run in runs if run.method == "best_of_n"]
    rows = []
    for run in runs:
        equal = at_equal_tokens(baseline, run.tokens) if run.method != "best_of_n" else None
        gain = (
            "" if equal is None else shown(mean_estimate([a - b for a, b in zip(run.right, equal, strict=True)]), "+")
        )
        if run.method != "best_of_n" and equal is None:
            gain = "beyond the sizes measured"
        rows.append(
            [
                NAMES[run.method] + (f", width {min(width, run.n)}" if run.method == "beam" else ""),
                str(run.n),
                f"{run.policy_tokens:,.0f}",
                f"{run.verifier_tokens:,.0f}",
                shown(mean_estimate(run.right)),
                f"{run.any_right:.1f}",
                gain,
            ]
        )
    header = [
        "method", "paths", "policy tokens a problem", "verifier tokens a problem", "right, % (95 % interval)",
        "a right one among the last paths, %", "above Best-of-N at equal tokens",
    ]  # fmt: skip
    return markdown_table(header, rows)


def plot(path: Path, runs: list[Run], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, color, marker in (
        ("best_of_n", "#0072B2", "o"),
        ("beam", "#D55E00", "s"),
        ("particles", "#009E73", "^"),
    ):
        of_method = sorted((run for run in runs if run.method == method), key=lambda run: run.tokens)
        estimates = [mean_estimate(run.right) for run in of_method]
        tokens = [run.tokens for run in of_method]
        axes.plot(tokens, [e.value for e in estimates], marker=marker, color=color, label=NAMES[method])
        axes.fill_between(
            tokens, [e.low for e in estimates], [e.high for e in estimates], color=color, alpha=0.12, linewidth=0
        )
        for run, estimate in zip(of_method, estimates, strict=True):
            axes.annotate(
                str(run.n), (run.tokens, estimate.value), xytext=(0, 6), textcoords="offset points", fontsize=8,
                color=color, ha="center",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(-2, 102)
    axes.set_xlabel("tokens a problem, policy and verifier (numbers at the marks: paths)")
    axes.set_ylabel("right answers (%)")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    # No date and no version in the file, so that equal numbers make equal pictures.
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quickstart", type=Path, default=Path("outputs/quickstart"), help="has genprm/, the verifier"
    )
    parser.add_argument("--policy", type=Path, help="directory of the policy; default: one that is trained here")
    parser.add_argument("--policy_steps", type=int, default=3000, help="of the policy's training")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/search"))
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--best_of", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--paths", type=int, nargs="+", default=[4, 8], help="of beam search and particle filtering")
    parser.add_argument("--width", type=int, default=4, help="of beam search")
    parser.add_argument("--mode", help="of the verifier; default: what it was trained for")
    parser.add_argument("--rationales", type=int, default=1, help="of the verifier for each step")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the policy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="directory for search.md and search.json")
    parser.add_argument("--images", type=Path, help="directory for search_by_tokens.png")
    options = parser.parse_args()
    require_plots()
    if not (options.quickstart / "genprm" / "model.safetensors").is_file():
        parser.error(f"there is no model in {options.quickstart / 'genprm'}: run `make quickstart` first")
    for directory in (options.output_dir, options.results, options.images):
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    machine, started = describe_machine(), time.monotonic()
    if options.policy is None:
        options.policy = make_inputs(
            options.output_dir / "inputs", problems=1, steps=options.policy_steps, seed=options.seed, disable_tqdm=True
        )
    write_jsonl(
        options.output_dir / "problems.jsonl",
        [
            {"id": f"heldout-{number}", "problem": problem.text, "answer": str(problem.answer)}
            for number, problem in enumerate(make_problems(options.problems, options.seed, "heldout", small_share=1.0))
        ],
    )
    sizes = sorted(set(options.best_of))
    samples = rows_of(options, SearchConfig("best_of_n", paths=sizes[-1], seed=options.seed))
    runs = [best_of(n, samples) for n in sizes]
    for method in ("beam", "particles"):
        for n in sorted(options.paths):
            config = SearchConfig(method, paths=n, width=min(options.width, n), seed=options.seed)
            runs.append(measured(config, rows_of(options, config)))
    title = f"{options.problems} held-out problems of the miniature world"
    text = (
        f"{table(runs, options.width)}\n{title}; {options.rationales} rationale a step, mode "
        f"{options.mode or 'as trained'}, the policy at temperature {options.temperature}; solutions and beams by "
        f"their worst step. Intervals by the bootstrap over problems. {machine}; {time.monotonic() - started:.0f} s, "
        "what an earlier run had finished not counted.\n"
    )
    print(text)
    plot((options.images or options.output_dir) / "search_by_tokens.png", runs, title)
    numbers: list[dict[str, Any]] = [{**asdict(run), "right": sum(run.right)} for run in runs]
    results = options.results or options.output_dir
    (results / "search.md").write_text(text, encoding="utf-8")
    (results / "search.json").write_text(
        json.dumps({"problems": options.problems, "runs": numbers}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
