"""The main job in the miniature world, end to end: build data, train, verify held-out solutions, and compare.

Three models of equal size learn from the same solutions: a GenPRM (rationales with analysis and code), the same
architecture trained to answer directly, and a discriminative process reward model. All are judged on problems that
none has seen, in ProcessBench's schema and by its scores (arXiv 2412.06559). The GenPRM is asked in each of its modes,
which is the ablation of arXiv 2504.00891, section 5.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from genprm_trl.cards.model_card import CardContent, MeasuredScore, write_model_card
from genprm_trl.cards.plots import Curve, can_plot, plot_score_by_n
from genprm_trl.cards.tables import markdown_table
from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.metrics.estimates import ScoreEstimate, processbench_by_votes
from genprm_trl.metrics.processbench import best_threshold
from genprm_trl.miniature.models import tiny_causal_lm, tiny_token_classifier
from genprm_trl.miniature.policy import natural_solutions, train_policy
from genprm_trl.miniature.reasoner import rationale_records
from genprm_trl.miniature.side_process import SideProcess
from genprm_trl.miniature.stage_directories import StageDirectories, machine, timed
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import RationaleRecord, Solution, Verdict
from genprm_trl.rows.jsonl import write_json, write_jsonl, write_text
from genprm_trl.rows.outputs import is_foreign
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.settings import changes, read_settings
from genprm_trl.training.prm.scorer import PRMScorer
from genprm_trl.training.prm.trainer import PRMConfig, PRMTrainer
from genprm_trl.training.sft.trainer import GenPRMConfig, GenPRMTrainer
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.genprm import GenPRM

logger = logging.getLogger(__name__)

# What one rationale can see, said beside the numbers: the modes differ by this, not by luck.
MODE_NOTES = {
    "discriminative": "a classifier at each step's end; must compute in its head",
    "direct": "a verdict without a rationale; must compute in its head",
    "analysis": "words only: a wrong operation, a wrong quantity or a lost result, hardly ever wrong arithmetic",
    "code_execution": "code recomputes the step's own equation: wrong arithmetic and nothing else",
    "full": "words say what the step should compute, and code compares: all of them",
}
# More than the longest rationale of the reasoner takes; what rambles on is not worth waiting for.
STEP_TOKENS = 320
STAGES = ("genprm", "direct", "discriminative", "policy")
# The three slips of arithmetic are one kind to a reader.
KIND_NAMES = {
    None: "no error", "digit": "arithmetic", "carry": "arithmetic", "magnitude": "arithmetic",
    "operation": "wrong operation", "quantity": "wrong quantity", "lost_result": "lost result", "natural": "natural",
}  # fmt: skip
_MODE_NAMES = {"analysis": "analysis only", "code_execution": "code with execution", "full": "full"}


@dataclass(frozen=True, slots=True)
class QuickstartPlan:
    """How much of everything.

    Attributes:
        train_solutions: Labelled solutions with planted errors that the training data is made from.
        error_share: Share of them that have an error. More than half, since steps before the error are right.
        heldout_solutions: Solutions with planted errors judged in the comparison, half of them with an error.
        natural_heldout: Solutions judged that a tiny policy wrote, with natural errors; none is trained on.
        policy_steps: Optimiser steps of that policy's training: few, so that it is right only sometimes.
        mode_weights: Share of the training solutions that get a rationale of each form.
        epochs: Passes over the training data, the same for all three models.
        learning_rate: Peak learning rate; such tiny models want a large one.
        batch_size: Solutions in an optimiser step of the GenPRM: few, since learning to copy takes a number of steps
            rather than of solutions. The baselines, whose sequences are a fraction as long, take twice as many.
        chains: Rationales sampled for each solution.
    """

    train_solutions: int = 3000
    error_share: float = 0.8
    heldout_solutions: int = 64
    natural_heldout: int = 24
    policy_steps: int = 400
    mode_weights: dict[str, float] = field(
        default_factory=lambda: {"full": 0.6, "analysis": 0.2, "code_execution": 0.2}
    )
    epochs: float = 3.0
    learning_rate: float = 3e-3
    batch_size: int = 4
    chains: int = 8


FULL_PLAN = QuickstartPlan()
FAST_PLAN = QuickstartPlan(
    train_solutions=1200, heldout_solutions=24, natural_heldout=6, policy_steps=40, epochs=1.0, chains=4
)


@dataclass(slots=True)
class Row:
    """A line of the comparison.

    Attributes:
        name: What was measured.
        key: The line's key in `MODE_NOTES`.
        by_n: Scores by the number of averaged rationales; only N = 1 where sampling changes nothing.
        best_f1: F1 at the threshold that suits these very solutions best: a bound on what another threshold could do.
        found: How many solutions were judged exactly right and how many there are, by kind of error.
    """

    name: str
    key: str
    by_n: dict[int, dict[str, ScoreEstimate]]
    best_f1: float = 0.0
    found: dict[str, tuple[int, int]] = field(default_factory=dict)


def run_quickstart(
    output_dir: str | Path,
    plan: QuickstartPlan = FULL_PLAN,
    *,
    seed: int = 0,
    announce: Callable[[str], None] = logger.info,
    progress: bool = True,
    overwrite: bool = False,
    sandbox: SandboxOptions | None = None,
) -> list[Row]:
    """Runs every stage and writes data, models, verdicts, `results.md`, `results.json` and `f1_by_n.png`.

    A stage whose output is there from an earlier run with the same plan and seed is not repeated.

    Args:
        output_dir: Directory for everything; `genprm/` in it is the trained verifier.
        plan: How much of everything.
        seed: Fixes data, weights and sampling.
        announce: Told what happens next, a sentence at a time.
        progress: Show progress bars.
        overwrite: Replace what a finished stage of another plan or seed has made.
        sandbox: Where the code of the trained verifier runs, and what is required of it.

    Raises:
        ConfigError: The directory cannot be made, one that a stage would write to holds something else, a stage of
            another plan or seed is finished there, or the sandbox cannot run code.
        GenPRMError: Every judgement of a verifier failed.
    """
    output = Path(output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {output}: {error.strerror}") from error
    stages = _Stages(output, STAGES, {"plan": asdict(plan), "seed": seed}, announce, overwrite=overwrite)
    if (before := stages.results()) is not None:
        return before
    sandbox = sandbox if sandbox is not None else SandboxOptions()
    sandbox.check_sandbox()  # not only after the trainings
    tokenizer = build_tokenizer()

    training = _Training(plan, seed, tokenizer, progress)

    announce(f"Making {plan.train_solutions} labelled solutions and the reasoner's rationales for them.")
    train = make_solutions(plan.train_solutions, seed=seed, split="train", error_share=plan.error_share)
    records, disagreeing = rationale_records(train, plan.mode_weights, seed=seed)
    write_jsonl(output / "data" / "train_rationales.jsonl", records, result=True)
    announce(
        f"{len(records)} solutions kept, {disagreeing.total()} dropped because a verdict of the reasoner disagreed "
        "with the label."
    )
    with SideProcess() as side:
        silent = replace(training, progress=False)
        baselines = [
            stages.begin(name, f"{what} baseline on the same solutions, in a process beside", side, work, train)
            for name, what, work in (
                ("direct", "Training the direct", silent.direct),
                ("discriminative", "Training the discriminative", silent.discriminative),
            )
        ]
        genprm = stages.run("genprm", "Training the GenPRM on rationales", lambda d: training.genprm(d, records))
        for finish in baselines:
            finish()
    # Alone for a while, with all of the cores.
    policy = stages.run("policy", "Training a policy that is right at times", lambda d: training.policy(d, genprm))
    heldout = make_solutions(plan.heldout_solutions, seed=seed, split="heldout")
    heldout += natural_solutions(policy, plan.natural_heldout, "heldout", seed)
    write_jsonl(output / "data" / "heldout.jsonl", heldout, result=True)
    with SideProcess() as side:
        rows = _judge(output, stages, plan, heldout, seed, progress, side, sandbox)
    _write_results(output, plan, rows, records, stages)
    return rows


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What the comparison shows, also where that is not what was hoped for."""
    best = {row.key: row.by_n[max(row.by_n)]["f1"].value for row in rows}
    full = next(row for row in rows if row.key == "full").by_n
    if not best["full"]:
        return ["full has F1 0: the GenPRM was not trained long enough to judge anything, and nothing can be compared"]
    lines = []
    for baseline in ("direct", "discriminative"):
        gap = best["full"] - best[baseline]
        shown = "shown" if gap >= 20 else "NOT shown in this run"
        lines.append(f"full is at least 20 points of F1 above {baseline}: {shown} ({gap:+.1f})")
    most = max(full)
    gain = full[most]["f1"].value - full[1]["f1"].value
    shown = "shown" if gain >= 0 else "NOT shown in this run"
    lines.append(f"Maj@{most} of full is not below its Pass@1: {shown} ({gain:+.1f})")
    return lines


def results_table(rows: Sequence[Row]) -> str:
    """The comparison in Markdown: scores in per cent, F1 with its 95 % bootstrap interval over solutions."""
    cells = []
    for row in rows:
        for n, scores in row.by_n.items():
            if n not in (1, max(row.by_n)):
                continue
            f1 = scores["f1"]
            cells.append(
                [
                    row.name,
                    "1" if n == 1 else f"Maj@{n}",
                    f"{scores['error_acc'].value:.1f}",
                    f"{scores['correct_acc'].value:.1f}",
                    f"{f1.value:.1f}",
                    f"{f1.low:.1f} to {f1.high:.1f}",
                    f"{row.best_f1:.1f}" if n == max(row.by_n) else "",
                ]
            )
    return markdown_table(
        ["verifier", "N", "error_acc", "correct_acc", "F1", "95 % interval", "F1 at its best threshold"], cells
    )


def kinds_table(rows: Sequence[Row]) -> str:
    """Solutions judged exactly right by kind of error, with all rationales averaged, in Markdown."""
    kinds = [kind for kind in dict.fromkeys(KIND_NAMES.values()) if kind in rows[0].found]
    return markdown_table(
        ["judged right", *kinds],
        [[row.name, *(f"{row.found[kind][0]} of {row.found[kind][1]}" for kind in kinds)] for row in rows],
    )


class _Stages(StageDirectories):
    """The stages of this quickstart, which may be finished as a whole, or run beside one another."""

    def results(self) -> list[Row] | None:
        """The results of a run of the same plan and seed that is finished; None if there are none."""
        path = self.output / "results.json"
        marks = [self.mark(self.output / name) for name in self.names]
        if is_foreign(path, "quickstart", unknown=False) or any(
            mark is None or mark["seconds"] is None for mark in marks
        ):
            return None
        with contextlib.suppress(KeyError, TypeError, ValueError):
            results = read_settings(path) or {}
            if any(
                changes(made, self.settings) for made in (results["settings"], *(m["settings"] for m in marks if m))
            ):
                return None
            rows = [_read_row(row) for row in results["rows"]]
            for name in self.names:
                self.announce(f"{name}: done before, in {self.output / name}.")
            self.announce(f"This quickstart is finished; its results are in {self.output}.")
            return rows
        return None

    def begin(
        self,
        name: str,
        what: str,
        side: SideProcess,
        work: Callable[[Path, list[Solution]], None],
        rows: list[Solution],
    ) -> Callable[[], None]:
        """Starts a stage beside this process. The function that is returned waits for its end."""
        if not self.is_to_do(name, what):
            return lambda: None
        seconds = side.submit(timed, work, self.output / name, rows)
        return lambda: self.finish(name, seconds.result())


def _read_row(row: Mapping[str, Any]) -> Row:
    """A row of `results.json`."""
    by_n = {
        int(n): {name: ScoreEstimate(**values) for name, values in scores.items()} for n, scores in row["by_n"].items()
    }
    found = {kind: (right, total) for kind, (right, total) in row["found"].items()}
    return Row(row["name"], row["key"], by_n, row["best_f1"], found)


@dataclass(frozen=True, slots=True)
class _Training:
    """The three models' training, alike in all but what is learned."""

    plan: QuickstartPlan
    seed: int
    tokenizer: PreTrainedTokenizerBase
    progress: bool

    def _arguments(self, directory: Path, batch_size: int) -> dict[str, Any]:
        return {
            "output_dir": str(directory / "checkpoints"),
            "num_train_epochs": self.plan.epochs,
            "learning_rate": self.plan.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 30,
            "per_device_train_batch_size": batch_size,
            # Conversations of similar length together. Packing pads less, but on a CPU attention over a packed row
            # computes every pair of its tokens, also of different conversations, and is slower for it.
            "train_sampling_strategy": "group_by_length",
            "weight_decay": 0.0,
            "adam_beta2": 0.98,
            "seed": self.seed,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_strategy": "steps" if self.progress else "no",
            "logging_steps": 20,
            "report_to": "none",
            "disable_tqdm": not self.progress,
        }

    def _sft(self, directory: Path, rows: Any, batch_size: int, mode: str | None) -> None:
        trainer = GenPRMTrainer(
            tiny_causal_lm(self.tokenizer, seed=self.seed),
            GenPRMConfig(
                **self._arguments(directory, batch_size), mode=mode, max_length=self.tokenizer.model_max_length
            ),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        trainer.train()
        self._save(trainer, directory)

    def policy(self, directory: Path, base_model: Path) -> None:
        train_policy(
            str(directory),
            self.tokenizer,
            base_model=base_model,
            max_steps=self.plan.policy_steps,
            learning_rate=self.plan.learning_rate,
            seed=self.seed,
            disable_tqdm=not self.progress,
            use_cpu=True,
        )

    def genprm(self, directory: Path, records: list[RationaleRecord]) -> None:
        self._sft(directory, records, self.plan.batch_size, None)

    def direct(self, directory: Path, solutions: list[Solution]) -> None:
        self._sft(directory, [s.to_dict() for s in solutions], 2 * self.plan.batch_size, "direct")

    def discriminative(self, directory: Path, solutions: list[Solution]) -> None:
        trainer = PRMTrainer(
            tiny_token_classifier(self.tokenizer, seed=self.seed),
            PRMConfig(**self._arguments(directory, 2 * self.plan.batch_size)),
            train_dataset=[s.to_dict() for s in solutions],
            processing_class=self.tokenizer,
        )
        trainer.train()
        self._save(trainer, directory)

    @staticmethod
    def _save(trainer: Any, directory: Path) -> None:
        trainer.save_model(str(directory))
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _judge(
    output: Path,
    stages: _Stages,
    plan: QuickstartPlan,
    heldout: list[Solution],
    seed: int,
    progress: bool,
    side: SideProcess,
    sandbox: SandboxOptions,
) -> list[Row]:
    rows = []
    labels = [solution.label if solution.label is not None else -1 for solution in heldout]
    order = {solution.id: place for place, solution in enumerate(heldout)}
    ns = [n for n in (1, 2, 4, 8, 16, 32) if n <= plan.chains]

    def add(key: str, name: str, verdicts: Sequence[Verdict]) -> None:
        ordered = sorted(verdicts, key=lambda verdict: order[verdict.id])
        path = output / "verdicts" / f"{key}.jsonl"
        write_jsonl(path, ordered, result=True)
        chains = [verdict.chain_rewards for verdict in ordered]
        numbers = ns if key in _MODE_NAMES else [1]
        by_n = {n: processbench_by_votes(labels, chains, n, seed=seed) for n in numbers}
        _, best_f1 = best_threshold(labels, [verdict.read_rewards for verdict in ordered])
        found: dict[str, tuple[int, int]] = {}
        for solution, verdict in zip(heldout, ordered, strict=True):
            kind = KIND_NAMES.get(solution.extra["error_kind"], solution.extra["error_kind"])
            right, total = found.get(kind, (0, 0))
            found[kind] = (right + (verdict.scored_prediction == solution.label), total + 1)
        rows.append(Row(name, key, by_n, best_f1, found))

    stages.announce(
        f"Judging {len(heldout)} held-out solutions: in full here, and in every other way in the process beside."
    )
    started = time.monotonic()
    # The full mode takes about as long as all the others.
    beside = {
        key: side.submit(_verdicts, output, key, plan.chains, heldout, seed, False, sandbox)
        for key in MODE_NOTES
        if key != "full"
    }
    full = _verdicts(output, "full", plan.chains, heldout, seed, progress, sandbox)
    for key, verdicts in beside.items():
        add(key, _MODE_NAMES.get(key, key), verdicts.result())
    add("full", _MODE_NAMES["full"], full)
    stages.seconds["judging"] = time.monotonic() - started
    return rows


def _verdicts(
    output: Path, key: str, chains: int, heldout: list[Solution], seed: int, progress: bool, sandbox: SandboxOptions
) -> list[Verdict]:
    """The judgements of the baseline, or of the GenPRM in the mode, that `MODE_NOTES` has under the key."""
    verifier: Verifier
    if key == "discriminative":
        verifier = PRMScorer(output / key)
    elif key == "direct":
        # Its verdict is read from the probabilities of a forced prefix: sampling it again gives the same number.
        verifier = GenPRM.from_pretrained(output / key, seed=seed)
    else:
        verifier = GenPRM.from_pretrained(
            output / "genprm",
            mode=key,
            n=chains,
            seed=seed,
            max_step_tokens=STEP_TOKENS,
            sandbox=sandbox.open_sandbox(),
        )
    with verifier as prm:
        verdicts = list(prm.verify_all(heldout, progress=progress, desc=_MODE_NAMES.get(key, key)))
    if all(judgement.status == "error" for v in verdicts for chain in v.chains for judgement in chain):
        raise GenPRMError(f"all judgements failed ({key}; see the messages above), so there is no score")
    return verdicts


def _write_results(
    output: Path,
    plan: QuickstartPlan,
    rows: Sequence[Row],
    records: Sequence[RationaleRecord],
    stages: _Stages,
) -> None:
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in stages.seconds.items())
    notes = "\n".join(f"- {row.name}: {MODE_NOTES[row.key]}" for row in rows)
    lines = "\n".join(f"- {line}" for line in conclusions(rows))
    write_text(
        output / "results.md",
        f"{results_table(rows)}\n{lines}\n\n{kinds_table(rows)}\nWhat each could see:\n\n{notes}\n\n"
        f"{plan.heldout_solutions + plan.natural_heldout} held-out solutions, {plan.natural_heldout} of them finished "
        f"by a tiny policy, the others with a planted error or none; {machine()}; {seconds}.\n",
        result=True,
    )
    results = {
        "settings": stages.settings,
        "machine": machine(),
        "seconds": stages.seconds,
        "rows": [
            {
                "name": row.name,
                "key": row.key,
                "best_f1": row.best_f1,
                "found": row.found,
                "by_n": {
                    n: {score: asdict(value) for score, value in scores.items()} for n, scores in row.by_n.items()
                },
            }
            for row in rows
        ],
    }
    write_json(output / "results.json", results, result=True)
    if can_plot():
        plot_score_by_n(
            output / "f1_by_n.png",
            {
                row.name: Curve(
                    {n: scores["f1"].value for n, scores in row.by_n.items()},
                    {n: (scores["f1"].low, scores["f1"].high) for n, scores in row.by_n.items()},
                )
                for row in rows
                if len(row.by_n) > 1
            },
            {row.name: row.by_n[1]["f1"].value for row in rows if len(row.by_n) == 1},
            title=f"{plan.heldout_solutions + plan.natural_heldout} held-out solutions of the miniature world",
        )
    model_rows = [row for row in rows if row.key in _MODE_NAMES]
    write_model_card(
        output / "genprm",
        CardContent(
            name="Miniature GenPRM",
            description=(
                "This one is tiny and trained from scratch on the project's miniature world, arithmetic word problems "
                "made by a program. It shows that the whole path works; it cannot judge other problems."
            ),
            scores=[
                MeasuredScore(
                    "miniature world, held-out problems",
                    "F1" if score == "f1" else score,
                    values[score].value,
                    f"{row.name}, {'Pass@1' if n == 1 else f'Maj@{n}'}",
                )
                for row in model_rows
                for n, values in row.by_n.items()
                if n in (1, max(row.by_n))
                for score in ("error_acc", "correct_acc", "f1")
            ],
            training={
                "solutions": f"{len(records)} of {plan.train_solutions} (consensus filter)",
                "epochs": plan.epochs,
                "learning rate": plan.learning_rate,
                "batch size": plan.batch_size,
                "seconds": f"{stages.seconds['genprm']:.0f}",
            },
        ),
    )
