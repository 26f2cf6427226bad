"""Compares the kinds of verifier: trained on the same solutions, and measured on the same held-out solutions.

    python benchmarks/kinds.py [--world miniature] [--quickstart outputs/quickstart] [--seeds 2]
    python benchmarks/kinds.py --world smollm2 --quickstart outputs/quickstart-real --limit 150

A quickstart comes first: its solutions, GenPRM, direct model, discriminative model, and in the world of SmolLM2 their
verdicts. What is finished in the directory of --quickstart is taken over. It must be of the same plan, seed and limit.
The commands of the package train and judge the other kinds, as many at once as --processes, with a core each. All
start from one base model, see the same solutions equally often, and have the same learning rate.

- discriminative, soft labels: the targets are Monte Carlo estimates, which `genprm label` makes of the quickstart's
  policy. SmolLM2 solves none of its problems, so in that world this kind is left out.
- ThinkPRM: the GenPRM's rationales as one chain, without code.
- implicit: outcomes of whole solutions alone, by cross-entropy.
- PPM: pairs of steps need two solutions of a problem. Half of the solutions are therefore wrong ones, and the other
  half are the same with the step put right.

The implicit model's threshold and the PPM's are chosen on held-out solutions of other problems than those that are
judged. All others have 0.5. AUROC depends on no threshold. In the miniature world the last columns count solutions
that are judged exactly right, by kind of error.

The output directory keeps every stage, of each seed in a directory of its own. To resume, run the same command again.
"""

from __future__ import annotations

import os

os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import io
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _setup import MINIATURE_STEP_TOKENS, describe_machine

from genprm_trl.cards.tables import markdown_table
from genprm_trl.cli.main import main as genprm
from genprm_trl.data.solutions import iter_rationales, iter_records, load_solutions
from genprm_trl.miniature import quickstart as miniature
from genprm_trl.miniature.models import tiny_causal_lm
from genprm_trl.miniature.policy import MAX_NEW_TOKENS
from genprm_trl.miniature.stage_directories import StageDirectories, timed
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.word_problems import Problem, gold_steps
from genprm_trl.miniature.world import make_solutions, seeded
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import iter_written_rows, write_jsonl
from genprm_trl.smollm2 import quickstart as smollm2
from genprm_trl.smollm2.benchmarks import TITLES, TRAINING_FILE, data_directory, read_benchmarks
from genprm_trl.smollm2.equations import TOLERANCE, evaluate
from genprm_trl.smollm2.expressions import make_expressions
from genprm_trl.smollm2.gsm8k import make_gsm8k_solutions
from genprm_trl.smollm2.worked import WorkedStep
from genprm_trl.stages.settings import read_settings

KINDS = {
    "genprm": "GenPRM",
    "thinkprm": "ThinkPRM",
    "direct": "direct",
    "discriminative": "discriminative, hard labels",
    "soft": "discriminative, soft labels",
    "implicit": "implicit, cross-entropy",
    "ppm": "PPM",
}
OF_QUICKSTART = ("genprm", "direct", "discriminative")
ROLLOUTS = 8  # of each prefix
_RESULT = re.compile(r"(=\s*\\?\$?)(\d[\d,]*(?:\.\d+)?)")


@dataclass
class World:
    """What the kinds of verifier are trained and measured on.

    Attributes:
        base: The directory of the model that training starts from.
        quickstart: The directory of the quickstart.
        rationales: The GenPRM's training data.
        data: The directory of the other data: `train.jsonl`, `pairs.jsonl`, `threshold.jsonl`.
        judged: The held-out solutions, a file for each title of a table.
        training: Options of all trainings.
        rationales_at_once: Solutions with rationales in a batch; `training` says how many of those without.
        chains: Rationales a held-out solution.
        max_tokens: Bound on a chain of the ThinkPRM.
        given: The quickstart's verdicts by title and kind.
    """

    base: Path
    quickstart: Path
    rationales: Path
    data: Path
    judged: dict[str, Path]
    training: dict[str, Any]
    rationales_at_once: int
    chains: int
    max_tokens: int
    given: dict[tuple[str, str], Path]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if kind != "soft" or (self.quickstart / "policy").is_dir()]


TRAINING = {
    "lr_scheduler_type": "cosine", "weight_decay": 0, "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
    "save_strategy": "no", "logging_steps": 20, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip


def open_stages(output: Path, plan: Any, options: argparse.Namespace, seed: int) -> StageDirectories:
    names = ("data", "estimates", *(kind for kind in KINDS if kind not in OF_QUICKSTART))
    settings = {"world": options.world, "plan": asdict(plan), "seed": seed, "rollouts": ROLLOUTS}
    return StageDirectories(output, names, settings, print)


def miniature_world(options: argparse.Namespace, output: Path, seed: int) -> tuple[World, StageDirectories]:
    plan = miniature.FAST_PLAN if options.fast else miniature.FULL_PLAN
    stages = open_stages(output, plan, options, seed)
    quickstart = quickstart_of(options, output, seed)
    miniature.run_quickstart(quickstart, plan, seed=seed, announce=print, progress=False)
    heldout = quickstart / "data" / "heldout.jsonl"

    def make_data(directory: Path) -> None:
        tokenizer = build_tokenizer()
        tiny_causal_lm(tokenizer, seed=seed).save_pretrained(directory / "base")
        tokenizer.save_pretrained(directory / "base")
        train = make_solutions(plan.train_solutions, seed=seed, split="train", error_share=plan.error_share)
        rng = seeded("right continuations", seed)

        def put_right(solution: Solution, label: int) -> list[str]:
            return [*solution.steps[:label], *gold_steps(Problem.from_extra(solution.extra), rng)[label:]]

        others = make_solutions(plan.heldout_solutions, seed=seed + 1, split="heldout")
        write_data(directory, train, put_right, others, load_solutions(str(heldout)))

    data = stages.run("data", "Writing the data of the other kinds", make_data)
    training = TRAINING | {
        "num_train_epochs": plan.epochs, "learning_rate": plan.learning_rate, "seed": seed, "warmup_steps": 30,
        "adam_beta2": 0.98, "per_device_train_batch_size": 2 * plan.batch_size, "max_length": 2048,
    }  # fmt: skip
    rationales = quickstart / "data" / "train_rationales.jsonl"
    world = World(
        data / "base", quickstart, rationales, data, {"miniature world": heldout}, training, plan.batch_size,
        plan.chains, 2 * MINIATURE_STEP_TOKENS, {},
    )  # fmt: skip
    return world, stages


def smollm2_world(options: argparse.Namespace, output: Path, seed: int) -> tuple[World, StageDirectories]:
    plan = (smollm2.FAST_PLAN if options.fast else smollm2.PLAN).judging_at_most(options.limit)
    stages = open_stages(output, plan, options, seed)
    quickstart = quickstart_of(options, output, seed)
    smollm2.run_real_quickstart(
        quickstart, plan, base_model=options.base_model, data_dir=options.data_dir, seed=seed, announce=print,
        progress=False,
    )  # fmt: skip
    rationales = quickstart / "data" / "rationales.jsonl"
    directory_of_data = data_directory(options.data_dir)
    # Those without labels are solutions to choose from.
    benchmarks = [
        each for each in read_benchmarks(directory_of_data, limit=plan.limit, pools=plan.pools) if not each.pools
    ]

    def make_data(directory: Path) -> None:
        rows = [row for _, row in iter_written_rows(directory_of_data / TRAINING_FILE)]
        worked = [*make_gsm8k_solutions(rows, plan.gsm8k, seed=seed), *make_expressions(plan.expressions, seed=seed)]
        steps = {step.text: step for solution in worked for step in solution.steps}

        def put_right(solution: Solution, label: int) -> list[str] | None:
            known = steps.get(solution.steps[label])  # not of a quickstart of another version
            step = None if known is None else right_step(known)
            return None if step is None else [*solution.steps[:label], step]

        others = make_gsm8k_solutions(rows, plan.gsm8k, seed=seed + 1)
        others += make_expressions(plan.expressions, seed=seed + 1)
        train = [record.solution for record in iter_rationales(rationales)]
        judged = [solution for each in benchmarks for solution in each.solutions]
        write_data(directory, train, put_right, [each.to_solution() for each in others], judged)
        for each in benchmarks:
            write_jsonl(directory / f"{each.name}.jsonl", each.solutions)

    data = stages.run("data", "Writing the data of the other kinds", make_data)
    on_gpu = torch.cuda.is_available()
    training = TRAINING | {
        "num_train_epochs": plan.epochs, "learning_rate": plan.learning_rate, "seed": seed, "warmup_steps": 0.1,
        "per_device_train_batch_size": plan.batch_size, "max_length": smollm2.MAX_LENGTH, "dtype": "float32",
        "use_cpu": not on_gpu, "bf16": smollm2.computes_in_bfloat16(),
    }  # fmt: skip
    world = World(
        quickstart / "base", quickstart, rationales, data,
        {TITLES[each.name]: data / f"{each.name}.jsonl" for each in benchmarks}, training, plan.batch_size, 1,
        2 * plan.max_step_tokens,
        {(TITLES[each.name], kind): quickstart / "verdicts" / f"{each.name}-{kind}.jsonl"
         for each in benchmarks for kind in OF_QUICKSTART},
    )  # fmt: skip
    return world, stages


WORLDS: dict[str, Callable[[argparse.Namespace, Path, int], tuple[World, StageDirectories]]] = {
    "miniature": miniature_world,
    "smollm2": smollm2_world,
}


def quickstart_of(options: argparse.Namespace, output: Path, seed: int) -> Path:
    return output / "quickstart" if seed or options.quickstart is None else options.quickstart


def write_data(
    directory: Path,
    train: list[Solution],
    put_right: Callable[[Solution, int], list[str] | None],
    others: list[Solution],
    judged: list[Solution],
) -> None:
    """The solutions, as many in pairs, and held-out ones for thresholds, of problems that are in neither file."""
    pairs: list[Solution] = []
    for solution in train:
        label = -1 if solution.label is None else solution.label
        if label >= 0 and len(pairs) + 2 <= len(train) and (steps := put_right(solution, label)) is not None:
            pairs += [
                solution,
                replace(solution, id=f"{solution.id}-right", steps=steps, label=-1, final_answer_correct=None),
            ]
    known = {solution.problem for solution in [*train, *judged]}
    write_jsonl(directory / "train.jsonl", train)
    write_jsonl(directory / "pairs.jsonl", pairs)
    write_jsonl(directory / "threshold.jsonl", [each for each in others if each.problem not in known])


def right_step(step: WorkedStep) -> str | None:
    """A wrong step with the number that its last equation should have; None if something else is wrong."""
    *_, sides = step.equations
    values = [evaluate(side) for side in sides]
    if None in values or not isinstance(values[0], int | float):
        return None
    turned = (place for place, value in enumerate(values) if abs(value - values[0]) >= TOLERANCE)  # type: ignore[operator]
    if (wrong := next(turned, None)) is None:
        return None
    number, chain = f"{values[0]:.10g}", " = ".join(sides)
    if chain in step.text:
        text = step.text.replace(chain, " = ".join([*sides[:wrong], number]))
        text = text.replace(f"answer is {sides[-1]}", f"answer is {number}")
    else:  # written in LaTeX, or with commas
        text = _RESULT.sub(
            lambda found: found[1] + number if found[2].replace(",", "") == sides[-1] else found[0], step.text
        )
    return text if text != step.text else None


def run_command(words: Sequence[Any]) -> None:
    """Runs a command of the package. What it prints is in its files, too; what goes wrong is on stderr."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = genprm(["-q", *map(str, words)])
    if code:
        raise RuntimeError(f"genprm {words[0]} ended with the exit code {code}")


def words_of(**options: Any) -> list[Any]:
    """Options of a command as words."""
    shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in options.items()}
    return [word for name, value in shown.items() for word in (f"--{name}", value)]


def train(world: World, stages: StageDirectories, pool: Executor) -> None:
    """Trains the kinds that the quickstart has not trained."""
    solutions, threshold = world.data / "train.jsonl", world.data / "threshold.jsonl"
    estimates = stages.output / "estimates" / "solutions.jsonl"

    def begin(name: str, what: str, *words: Any) -> Callable[[], None]:
        if not stages.is_to_do(name, what):
            return lambda: None
        seconds = pool.submit(timed, run_command, words)
        return lambda: stages.finish(name, seconds.result())

    def begin_training(name: str, command: str, data: Path, **options: Any) -> Callable[[], None]:
        options = {"model": world.base, "output_dir": stages.output / name, **world.training, **options}
        return begin(name, f"Training {KINDS[name]}", command, data, *words_of(**options))

    by_length = {"train_sampling_strategy": "group_by_length"}
    finish: list[Callable[[], None]] = []
    estimated: Callable[[], None] | None = None
    if "soft" in world.kinds:
        estimated = begin(
            "estimates", "Making Monte Carlo estimates", "label", solutions,
            *words_of(
                model=world.quickstart / "policy", output=estimates, rule="hard", stopping="none", k=ROLLOUTS,
                k_hard=ROLLOUTS, k_easy=ROLLOUTS, separator="\n", system_prompt="", max_tokens=MAX_NEW_TOKENS,
                seed=world.training["seed"], backend_options='{"max_batch_size": 128}',
            ),
        )  # fmt: skip
    finish.append(
        begin_training(
            "thinkprm", "sft", world.rationales, protocol="thinkprm", **by_length,
            per_device_train_batch_size=world.rationales_at_once,
        )
    )  # fmt: skip
    finish.append(begin_training("implicit", "implicit", solutions, threshold_data=threshold))
    finish.append(begin_training("ppm", "ppm", world.data / "pairs.jsonl", threshold_data=threshold))
    if estimated is not None:
        estimated()
        finish.append(begin_training("soft", "prm", estimates, soft_labels=True, **by_length))
    for each in finish:
        each()


def place_of(kind: str, world: World, stages: StageDirectories) -> Path:
    return (world.quickstart if kind in OF_QUICKSTART else stages.output) / kind


def seconds_of(directory: Path) -> float:
    """What a stage took."""
    return float((read_settings(directory / StageDirectories.MARK) or {})["seconds"])


def judge(world: World, stages: StageDirectories, pool: Executor) -> dict[str, list[Path]]:
    """The files of verdicts by title, in the order of the kinds."""
    files: dict[str, list[Path]] = {}
    running = []
    for number, (title, solutions) in enumerate(world.judged.items()):
        for kind in world.kinds:
            output = world.given.get((title, kind), stages.output / "verdicts" / str(number) / f"{kind}.jsonl")
            files.setdefault(title, []).append(output)
            if (title, kind) in world.given:
                continue
            options: dict[str, Any] = {"model": place_of(kind, world, stages), "output": output}
            if kind in ("genprm", "thinkprm"):
                options |= {"n": world.chains, "temperature": 0.6 if world.chains > 1 else 0}
            if kind == "genprm":
                options["max_step_tokens"] = MINIATURE_STEP_TOKENS
            if kind == "thinkprm":
                options["kind_options"] = json.dumps({"max_tokens": world.max_tokens})
            words = ["verify", solutions, *words_of(**options, seed=world.training["seed"])]
            running.append((output, solutions, pool.submit(run_command, words)))
    for output, solutions, task in running:
        try:
            task.result()
        except RuntimeError:  # a model that never comes to a judgement has its line, too
            if len(list(iter_written_rows(output))) < len(load_solutions(str(solutions))):
                raise
    return files


@dataclass
class Measured:
    """A kind of verifier with a seed, on one set of held-out solutions.

    Attributes:
        numbers: Its part of what `genprm compare` writes.
        solutions: How many were judged.
        seconds: What training took.
        found: Solutions judged exactly right, and all, by kind of error. Empty where it is not known.
    """

    numbers: dict[str, Any]
    solutions: int
    seconds: float
    found: dict[str, tuple[int, int]]


def compare(
    title: str, files: Sequence[Path], world: World, stages: StageDirectories
) -> tuple[list[Measured], list[str]]:
    """The kinds by the package's own comparison, and its notes."""
    page = stages.output / f"compare-{list(world.judged).index(title)}.html"
    run_command(["compare", *files, *words_of(output=page, solutions=world.judged[title])])
    report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    solutions = {solution.id: solution for solution in load_solutions(str(world.judged[title]))}
    measured = []
    for kind, file, numbers in zip(world.kinds, files, report["verifiers"], strict=False):  # the mean is the last one
        found: dict[str, tuple[int, int]] = {}
        for verdict in iter_records(file, Verdict):
            solution = solutions[verdict.id]
            if "error_kind" not in solution.extra:
                continue
            name = miniature.KIND_NAMES[solution.extra["error_kind"]]
            right, total = found.get(name, (0, 0))
            found[name] = (right + (verdict.scored_prediction == solution.label), total + 1)
        measured.append(Measured(numbers, len(solutions), seconds_of(place_of(kind, world, stages)), found))
    return measured, report["notes"]


def table(kinds: Sequence[str], chains: int, of_seeds: Sequence[Sequence[Measured]]) -> str:
    """A line for each kind: means over the seeds, and the interval of F1 of each seed. Shapes (K,) and (S, K)."""
    kinds_of_errors = dict.fromkeys(miniature.KIND_NAMES.values())
    columns = [name for name in kinds_of_errors if any(name in each.found for each in of_seeds[0])]
    rows = []
    for kind, measured in zip(kinds, zip(*of_seeds, strict=True), strict=True):
        scores = [each.numbers["scores"] for each in measured]
        intervals = [(each["f1"]["low"], each["f1"]["high"]) for each in scores]
        row = [KINDS[kind], str(chains if kind in ("genprm", "thinkprm") else 1)]
        row += [mean([each[name]["value"] for each in scores]) for name in ("error_acc", "correct_acc", "f1")]
        row.append(" / ".join("" if low is None else f"{low:.1f} to {high:.1f}" for low, high in intervals))
        row.append(mean([each["step_auroc"]["value"] for each in scores]))
        row.append(mean([each.numbers["tokens"] / each.solutions for each in measured], ",.0f"))
        row.append(mean([each.seconds for each in measured], ".0f"))
        row.append(mean([each.numbers["seconds_per_solution"] for each in measured], ".3g"))
        for name in columns:
            found = [each.found.get(name, (0, 0)) for each in measured]
            row.append(f"{sum(right for right, _ in found)} of {sum(total for _, total in found)}")
        rows.append(row)
    header = [
        "verifier", "N", "error_acc", "correct_acc", "F1", "95 % interval", "AUROC", "tokens a solution",
        "training, s", "judging, s a solution", *columns,
    ]  # fmt: skip
    return markdown_table(header, rows)


def mean(values: Sequence[float | None], form: str = ".1f") -> str:
    """The mean as a cell; empty where a value is not known."""
    known = [value for value in values if value is not None]
    return format(statistics.mean(known), form) if len(known) == len(values) else ""


def describe_data(world: World, stages: StageDirectories) -> str:
    counts = {name: sum(1 for _ in iter_written_rows(world.data / f"{name}.jsonl")) for name in
              ("train", "pairs", "threshold")}  # fmt: skip
    rationales = sum(1 for _ in iter_written_rows(world.rationales))
    text = (
        f"{counts['train']} solutions to train on, {rationales} of them with rationales; {counts['pairs']} solutions "
        f"in pairs; thresholds chosen on {counts['threshold']}"
    )
    if "soft" not in world.kinds:
        return f"{text}; no soft labels, since there is no policy that solves these problems."
    estimates = stages.output / "estimates"
    rows = list(iter_records(estimates / "solutions.jsonl", Solution))
    solved = statistics.mean(row.extra["initial_mc"] for row in rows)
    above = statistics.mean(estimate > 0 for row in rows for estimate in row.extra["mc"] if estimate is not None)
    return (
        f"{text}; {ROLLOUTS} rollouts a prefix, in {seconds_of(estimates):.0f} s. The policy solves "
        f"{100 * solved:.1f} % of the problems, and {100 * above:.1f} % of the estimates are above 0."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="miniature")
    parser.add_argument("--output_dir", type=Path, help="default: outputs/kinds-WORLD")
    parser.add_argument(
        "--quickstart", type=Path, help="directory of a quickstart with seed 0; default: one in the output directory"
    )
    parser.add_argument(
        "--fast", action="store_true", help="the quickstart's smallest plan: shows that all parts work"
    )
    parser.add_argument("--seeds", type=int, default=1, help="each has data, weights and samples of its own")
    parser.add_argument(
        "--processes", type=int, default=2, help="what trains and judges at once, after the quickstart"
    )
    group = parser.add_argument_group("the world of SmolLM2")
    group.add_argument("--limit", type=int, default=150, help="solutions judged of each benchmark")
    group.add_argument("--base_model", help="as of `genprm quickstart --real`")
    group.add_argument("--data_dir", help="as of `genprm quickstart --real`")
    options = parser.parse_args()
    started = time.monotonic()
    root: Path = options.output_dir or Path(f"outputs/kinds-{options.world}")
    kept = "" if not root.exists() else ", what an earlier run had finished not counted"
    lines = [describe_machine()]
    found: dict[str, list[list[Measured]]] = {}
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // options.processes)
    with ProcessPoolExecutor(options.processes, spawn, torch.set_num_threads, (threads,)) as pool:
        for seed in range(options.seeds):
            world, stages = WORLDS[options.world](options, root / f"seed-{seed}", seed)
            train(world, stages, pool)
            for title, files in judge(world, stages, pool).items():
                measured, notes = compare(title, files, world, stages)
                found.setdefault(title, []).append(measured)
                lines += [f"- {title}, seed {seed}: {note}" for note in notes]
            lines.append(f"- Seed {seed}: {describe_data(world, stages)}")
    for title, of_seeds in found.items():
        print(f"\n{title}\n\n{table(world.kinds, world.chains, of_seeds)}")
    print("\n".join([*lines[1:], f"{lines[0]}; {time.monotonic() - started:.0f} s{kept}."]))


if __name__ == "__main__":
    main()
