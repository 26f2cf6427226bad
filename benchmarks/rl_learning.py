"""Measures what credit rules and step rewards teach a policy that has bad habits, in the miniature world.

    python benchmarks/rl_learning.py --verifier outputs/quickstart/genprm
    python benchmarks/rl_learning.py --hacking

The policy can compute, but half of the solutions that it saw last have a structural error: a wrong operation, a wrong
number, a lost result. Reinforcement learning can therefore teach it something in minutes: to drop these habits. (A
policy that has never learned its sums does not learn them from rewards.) The same policy is trained in five variants,
on the same problems in the same order:

- outcome: final answers alone, which is stock GRPO;
- process: the sum of the step rewards;
- min_form: the worst step reward;
- discounted: the discounted sum;
- both: min_form and final answers.

Step rewards come from a verifier that knows the truth, which bounds what any could do, and from the GenPRM of
--verifier. While training, solutions of held-out problems are sampled: how many answers are right, and in how many
solutions every step is right, too.

With --hacking, the verifier likes steps that say nothing, or what was said before. The policy writes such a step now
and then. Do sum, minimum, and minimum with final answers (process, min_form, both) make it write more, and when would
`HackingStop` have ended the training?

A run is one variant, rewards and seed, in a process with one thread; --processes of them stand side by side. Each run
that is finished is a JSON file in the output directory. To resume, run the same command again, with more seeds or
variants if you like.
"""

from __future__ import annotations

import os

os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import itertools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from _known_truth import FooledVerifier, TrueVerifier
from _setup import MINIATURE_STEP_TOKENS
from datasets import Dataset
from transformers import PrinterCallback, TrainerControl, TrainerState, TrainingArguments

from genprm_trl import GenPRMReward, StepGRPOConfig, StepGRPOTrainer
from genprm_trl.cards.plots import Curve, can_plot, plot_over_training
from genprm_trl.cards.tables import markdown_table
from genprm_trl.errors import GenPRMError
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.metrics.estimates import interval_over_seeds
from genprm_trl.miniature.examination import Examination
from genprm_trl.miniature.planted_errors import STRUCTURAL
from genprm_trl.miniature.policy import policy_row, train_policy
from genprm_trl.miniature.recipe_inputs import make_inputs
from genprm_trl.miniature.stage_directories import StageDirectories, machine
from genprm_trl.miniature.world import make_problems, make_solutions, seeded
from genprm_trl.rewards import answer_reward
from genprm_trl.rows.jsonl import write_json, write_text
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.settings import changes, read_settings, refuse_changes
from genprm_trl.training import HackingStop
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.opening import find_kind

# The credit rule, and whether final answers are rewarded, too.
VARIANTS = {
    "outcome": ("outcome", True),
    "process": ("process", False),
    "min_form": ("min_form", False),
    "discounted": ("discounted", False),
    "both": ("min_form", True),
}
HACKED = ("process", "min_form", "both")  # what --hacking compares
NO_STEPS, TRUTH, TRAINED, FOOLED = "none", "truth", "genprm", "fooled"  # who rewards steps
FLAWED_SHARE, IDLE_SHARE = 0.5, 0.2  # of the solutions that give the policy its habits; the latter with --hacking
HABIT_BATCH, HABIT_RATE = 16, 1.5e-4
HELDOUT_SEED, GROUP, DISCOUNT = 7, 8, 0.8
MAX_TOKENS = 200
ANSWERS = f"rewards/{answer_reward.__name__}/mean"  # as the trainer logs it
FAST = {"policy_steps": 4, "habit_steps": 2, "steps": 2, "every": 2, "completions": 16, "problems": 4, "heldout": 2,
        "max_tokens": 24}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: a variant, who rewards its steps, and a seed."""

    variant: str
    rewards: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.rewards}-{self.seed}"


class SummedReward(GenPRMReward):
    """Logs the mean over completions of the sum of their step rewards, too: what the variant `process` raises."""

    async def step_rewards(self, *args: Any, **kwargs: Any) -> list[list[float | None]]:
        rewards = await super().step_rewards(*args, **kwargs)
        kwargs["log_metric"]("process_sum", statistics.fmean(math.fsum(r or 0 for r in row) for row in rewards))
        return rewards


def insert_idle_step(steps: Sequence[str], rng: Random) -> list[str]:
    """A solution with one more step, which is empty or repeats the one before it."""
    said = [step.partition(": ")[2] for step in steps]
    place = rng.randrange(len(said))
    said.insert(place + 1, rng.choice(("", said[place])))
    return [f"Step {number}: {text}".rstrip() for number, text in enumerate(said, start=1)]


def make_policy(options: argparse.Namespace) -> Path:
    """The directory of the policy: the recipe's, with habits. What is there from an earlier start is kept."""
    recipe = make_inputs(options.output_dir / "recipe", problems=60, steps=options.policy_steps, disable_tqdm=True)
    name = "idle_policy" if options.hacking else "policy"
    idle_share = IDLE_SHARE if options.hacking else 0.0
    settings = {"policy_steps": options.policy_steps, "habit_steps": options.habit_steps, "idle_share": idle_share}

    def teach_habits(directory: Path) -> None:
        rng = seeded("idle steps")
        solutions = make_solutions(
            HABIT_BATCH * options.habit_steps, error_share=FLAWED_SHARE, kinds=STRUCTURAL, small_share=1.0
        )
        rows = [
            policy_row(each.problem, insert_idle_step(each.steps, rng) if rng.random() < idle_share else each.steps)
            for each in solutions
        ]
        tokenizer = load_tokenizer(recipe)
        train_policy(
            str(directory), tokenizer, base_model=recipe, rows=rows, max_steps=options.habit_steps,
            learning_rate=HABIT_RATE, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        tokenizer.save_pretrained(directory)

    stages = StageDirectories(options.output_dir, [name], settings, print)
    return stages.run(name, "Teaching the policy its habits", teach_habits)


def settings_of(run: Run, options: argparse.Namespace, policy: Path) -> dict[str, Any]:
    """What decides the result of a run, besides its own fields."""
    names = ("steps", "every", "completions", "problems", "heldout", "learning_rate", "max_tokens")
    settings = {name: getattr(options, name) for name in names} | {"policy": model_fingerprint(policy)}
    if run.rewards == TRAINED:
        settings |= {"verifier": model_fingerprint(options.verifier), "mode": options.mode}
    return settings


def open_rewarding(run: Run, options: argparse.Namespace) -> Verifier:
    """The verifier that rewards the steps of a run."""
    if run.rewards != TRAINED:
        return FooledVerifier() if run.rewards == FOOLED else TrueVerifier()
    kind = find_kind(options.verifier)
    of_kind = {"mode": options.mode, "max_step_tokens": MINIATURE_STEP_TOKENS} if kind == "genprm" else {}
    # As the truth has it, what follows a wrong step has no reward, and need not be judged.
    return open_verifier(options.verifier, kind, stop="first_error", seed=run.seed, **of_kind)


def train(run: Run, options: argparse.Namespace, policy: Path) -> None:
    """Trains the policy, and writes the file of the run."""
    torch.set_num_threads(1)
    started, load = time.monotonic(), os.getloadavg()[0]
    processor = sum(os.times()[:4])
    credit, with_answers = VARIANTS[run.variant]
    problems = make_problems(options.problems, seed=100 + run.seed, small_share=1.0)
    with contextlib.ExitStack() as stack:
        rewards = None
        if run.rewards != NO_STEPS:
            rewards = SummedReward(stack.enter_context(open_rewarding(run, options)), name="process")
        args = StepGRPOConfig(
            stack.enter_context(tempfile.TemporaryDirectory()),
            credit=credit,
            step_style="step",
            step_discount=DISCOUNT,
            # Answers that are not rewarded are logged all the same.
            reward_weights=[float(with_answers)],
            max_steps=options.steps,
            num_generations=GROUP,
            per_device_train_batch_size=options.completions,
            max_completion_length=options.max_tokens,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            loss_type="dapo",
            seed=run.seed,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = StepGRPOTrainer(
            str(policy),
            reward_funcs=[answer_reward],
            step_reward_func=rewards,
            args=args,
            train_dataset=Dataset.from_list(
                [policy_row(problem.text, []) | {"answer": str(problem.answer)} for problem in problems]
            ).remove_columns("completion"),
            processing_class=load_tokenizer(policy),
        )
        trainer.remove_callback(PrinterCallback)
        heldout = make_problems(options.heldout, HELDOUT_SEED, "heldout", small_share=1.0)
        examination = Examination(trainer, heldout, options.every)
        trainer.add_callback(examination)
        trainer.train()
    write_json(
        file_of(run, options),
        {
            "variant": run.variant,
            "rewards": run.rewards,
            "seed": run.seed,
            "settings": settings_of(run, options, policy),
            "marks": examination.marks,
            "log": [log for log in trainer.state.log_history if ANSWERS in log],
            "seconds": time.monotonic() - started,
            "processor_seconds": sum(os.times()[:4]) - processor,
            "load": load,
            "machine": machine(),
        },
        result=True,
    )


def file_of(run: Run, options: argparse.Namespace) -> Path:
    return options.output_dir / "runs" / f"{run.name}.json"


def finished(run: Run, options: argparse.Namespace, policy: Path) -> dict[str, Any] | None:
    """What an earlier start wrote of a run; None if it is to do.

    Raises:
        ConfigError: It was made with other settings.
    """
    result = read_settings(file_of(run, options))
    if result is not None:
        refuse_changes(
            changes(result["settings"], settings_of(run, options, policy)),
            what=f"{file_of(run, options)} was made with other settings",
            instead="choose another --output_dir",
        )
    return result


def train_all(runs: Sequence[Run], options: argparse.Namespace, policy: Path) -> None:
    """Trains the runs, as many side by side as --processes."""
    if options.processes == 1:
        for number, run in enumerate(runs, start=1):
            train(run, options, policy)
            print(f"{run.name}: {number} of {len(runs)}", flush=True)
        return
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        tasks = {pool.submit(train, run, options, policy): run for run in runs}
        for number, task in enumerate(as_completed(tasks), start=1):
            task.result()
            print(f"{tasks[task].name}: {number} of {len(runs)}", flush=True)


# --- What is reported -----------------------------------------------------------------------------------------------


def held_out(result: dict[str, Any], figure: str) -> dict[int, float]:
    """A figure of the examinations, by step."""
    return {int(mark["step"]): mark[figure] for mark in result["marks"]}


def logged(result: dict[str, Any], figure: str, factor: float = 1.0) -> dict[int, float]:
    """A figure of the training's batches, by the steps of the examinations: the mean since the one before.

    At 0 it is that of the first batch, which the policy wrote before it learned anything.
    """
    steps = [int(mark["step"]) for mark in result["marks"]]
    of_step = {log["step"]: factor * log[figure] for log in result["log"]}
    means = {0: of_step[1]}
    for last, step in itertools.pairwise(steps):
        means[step] = statistics.fmean(of_step[at] for at in range(last + 1, step + 1))
    return means


LEARNING = {
    "right answers in training (%)": lambda result: logged(result, ANSWERS, 100),
    "right answers, held out (%)": lambda result: held_out(result, "answers"),
    "every step right, held out (%)": lambda result: held_out(result, "steps_right"),
}
HACKING = {
    "sum of step rewards": lambda result: logged(result, "process_sum"),
    "right answers in training (%)": lambda result: logged(result, ANSWERS, 100),
    "steps": lambda result: logged(result, "steps/count"),
    "idle steps (%)": lambda result: logged(result, "steps/idle", 100),
    "right answers, held out (%)": lambda result: held_out(result, "answers"),
}


def guard_stops_at(result: dict[str, Any]) -> int | None:
    """The step at which `HackingStop` would have ended the training; it says why in a warning. None: not at all."""
    guard, args, control = HackingStop(), TrainingArguments("unused", use_cpu=True), TrainerControl()
    for end, log in enumerate(result["log"], start=1):
        guard.on_log(args, TrainerState(log_history=result["log"][:end]), control)
        if guard.stopped:
            return int(log["step"])
    return None


def curve_of(figures: Sequence[dict[int, float]]) -> Curve:
    """The mean over seeds, with its 95 % interval where there are several."""
    by_step = {step: [each[step] for each in figures] for step in figures[0]}
    intervals = {step: interval_over_seeds(values) for step, values in by_step.items() if len(values) > 1}
    return Curve({step: statistics.fmean(values) for step, values in by_step.items()}, intervals)


def report(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Draws the curves, and returns the table with a line about how it was made."""
    name, figures = ("hacking", HACKING) if options.hacking else ("learning", LEARNING)
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        lines.setdefault((result["variant"], result["rewards"]), []).append(result)
    curves = {
        line: {title: curve_of([figure(result) for result in of_line]) for title, figure in figures.items()}
        for line, of_line in lines.items()
    }
    rows = []
    for (variant, rewards), of_line in lines.items():
        row = [variant, rewards, str(len(of_line))]
        for curve in curves[variant, rewards].values():
            last = max(curve.scores)
            row.append(f"{curve.scores[0]:.1f}, {curve.scores[last]:.1f}{shown(curve.interval.get(last))}")
        if options.hacking:
            row.append(", ".join(str(guard_stops_at(result) or "no") for result in of_line))
        row += [f"{statistics.fmean(result[clock] for result in of_line):.0f}" for clock in CLOCKS]
        rows.append(row)
    header = ["variant", "step rewards", "seeds", *(f"{title}: before, after" for title in figures)]
    header += [*(["HackingStop ends it at step"] if options.hacking else []), *CLOCKS.values()]
    if can_plot():
        for rewards in sorted({rewards for _, rewards in lines} - {NO_STEPS}) or [NO_STEPS]:
            shown_lines = {line: each for line, each in curves.items() if line[1] in (rewards, NO_STEPS)}
            panels = {title: {line[0]: each[title] for line, each in shown_lines.items()} for title in figures}
            plot_over_training(
                options.output_dir / f"{name}-{rewards}.png", panels, title=f"Miniature world, step rewards: {rewards}"
            )
    loads = [result["load"] for result in results]
    return (
        f"{markdown_table(header, rows)}\n"
        "Means over the seeds; after training with their 95 % interval. After training, figures of the training are "
        f"means over the last {options.every} steps.\n\n"
        f"{options.steps} steps of {options.completions} completions in groups of {GROUP}, {options.problems} "
        f"problems, learning rate {options.learning_rate:g}; {options.heldout} held-out problems, 4 samples each. "
        f"{' / '.join(sorted({result['machine'] for result in results}))}; one thread a run, load average at the "
        f"start of a run {min(loads):.1f} to {max(loads):.1f}.\n"
    )


CLOCKS = {"seconds": "s a run", "processor_seconds": "processor, s"}


def shown(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/rl_learning"))
    parser.add_argument("--verifier", type=Path, help="the GenPRM's directory; default: true labels alone")
    parser.add_argument("--mode", default="full", help="parts of the GenPRM's rationales")
    parser.add_argument("--hacking", action="store_true", help="reward steps by a verifier with a planted weakness")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="which to train; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=1024, help="problems to learn on")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps a run")
    parser.add_argument("--every", type=int, default=15, help="optimiser steps between two examinations")
    parser.add_argument("--completions", type=int, default=256, help=f"completions a step, in groups of {GROUP}")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--heldout", type=int, default=256, help="held-out problems, with 4 samples each")
    parser.add_argument("--max_tokens", type=int, default=MAX_TOKENS, help="bound on the tokens of a completion")
    parser.add_argument("--policy_steps", type=int, default=6000, help="of the policy's training")
    parser.add_argument("--habit_steps", type=int, default=200, help="of its training on flawed solutions")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side, with one thread each")
    parser.add_argument("--fast", action="store_true", help="the smallest amounts: shows that all parts work")
    if parser.parse_args(words).fast:
        parser.set_defaults(**FAST)
    options = parser.parse_args(words)
    options.variants = options.variants or (HACKED if options.hacking else list(VARIANTS))
    if options.hacking and "outcome" in options.variants:
        parser.error("--hacking is about step rewards, which --variants outcome has not")
    return options


def runs_of(options: argparse.Namespace) -> list[Run]:
    """All runs, one seed after another, so that an early end leaves whole comparisons."""
    rewards = [FOOLED] if options.hacking else [TRUTH, *([TRAINED] if options.verifier else [])]
    return [
        Run(variant, each, seed)
        for seed in range(options.seeds)
        for variant in options.variants
        for each in ([NO_STEPS] if variant == "outcome" else rewards)
    ]


def main() -> None:
    options = read_options()
    runs = runs_of(options)
    try:
        policy = make_policy(options)
        train_all([run for run in runs if finished(run, options, policy) is None], options, policy)
        results = [finished(run, options, policy) for run in runs]
    except GenPRMError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    text = report([result for result in results if result is not None], options)
    write_text(options.output_dir / f"{'hacking' if options.hacking else 'learning'}.md", text, result=True)
    print(text)


if __name__ == "__main__":
    main()
