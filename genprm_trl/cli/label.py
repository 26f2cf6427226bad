"""Label the steps of solutions by Monte Carlo estimates.

FILE holds solutions with their reference answers, as `genprm rollout` writes them. A completion model goes on from
every prefix of a solution; the share of roll-outs that reach the answer is the estimate of the prefix, and a label
compares the estimates before and after a step. What is not needed for the labels is not sampled. A run that was
stopped goes on where it was when started again with the same words.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Literal

from genprm_trl.cli.stages import StageOptions
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.solver import SolverOptions


@dataclass
class LabelOptions:
    """Options of `genprm label`."""

    file: str = field(
        metadata={"help": "Solutions with their reference answers: a file, or a data set.", "positional": True}
    )
    split: str | None = field(default=None, metadata={"help": "Split of FILE, where it has several."})
    format: str = field(default="auto", metadata={"help": "Row format of FILE; see `genprm verify --help`."})
    limit: int | None = field(default=None, metadata={"help": "Take the solutions of the first LIMIT problems alone."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report and skip unusable rows instead of stopping before work starts."}
    )
    rule: Literal["rpe", "hard", "difference"] = field(
        default="rpe",
        metadata={
            "help": "What makes a step correct. rpe: the estimate after it is at least EPSILON times the one before; "
            "hard: it is above 0; difference: it is at most DELTA lower."
        },
    )
    epsilon: float = field(default=0.8, metadata={"help": "Threshold of the rule rpe."})
    delta: float = field(default=0.1, metadata={"help": "Threshold of the rule difference."})
    k_hard: int = field(default=128, metadata={"help": "Roll-outs a prefix where MC(s_1) is below HARD_BELOW."})
    k: int = field(default=64, metadata={"help": "Roll-outs a prefix where MC(s_1) is between."})
    k_easy: int = field(default=32, metadata={"help": "Roll-outs a prefix where MC(s_1) is above EASY_ABOVE."})
    hard_below: float = field(default=0.1, metadata={"help": "A problem with a lower MC(s_1) is hard."})
    easy_above: float = field(default=0.9, metadata={"help": "A problem with a higher MC(s_1) is easy."})
    stopping: Literal["none", "exact", "sequential"] = field(
        default="exact",
        metadata={
            "help": "When sampling of a prefix ends. none: after all K roll-outs; exact: when the remaining ones "
            "cannot change a label; sequential: when they change it with probability ALPHA at most."
        },
    )
    alpha: float = field(default=0.05, metadata={"help": "Bound on the error of a label with --stopping sequential."})
    scope: Literal["first_error", "all"] = field(
        default="first_error", metadata={"help": "first_error: do not label what follows the first wrong step."}
    )
    search: Literal["linear", "binary"] = field(
        default="linear",
        metadata={"help": "binary: find the first error of the rule hard by binary search, as OmegaPRM does."},
    )
    rollout_batch: int = field(
        default=8, metadata={"help": "Roll-outs of a prefix sampled at once, before asking whether they are enough."}
    )
    separator: str | None = field(
        default=None,
        metadata={"help": "What stands between two steps. Default: what the row says, else a blank line."},
    )
    estimates: str | None = field(
        default=None,
        metadata={
            "help": "Output of an earlier labelling with the same model and seed, whose roll-outs are not paid for "
            "again: for a larger K, or another rule."
        },
    )


def run(options: LabelOptions, generator: GeneratorOptions, solver: SolverOptions, stage: StageOptions) -> int:
    from genprm_trl.data.problems import read_groups
    from genprm_trl.labeling.earlier_rollouts import EarlierRollouts
    from genprm_trl.labeling.early_stopping import make_stopping
    from genprm_trl.labeling.monte_carlo import LabelingConfig, RolloutSchedule, label
    from genprm_trl.labeling.progress import make_rule
    from genprm_trl.solving.solver import open_solver
    from genprm_trl.stages.run import Worker
    from genprm_trl.stages.settings import settings_digest

    config = LabelingConfig(
        rule=make_rule(options.rule, epsilon=options.epsilon, delta=options.delta),
        stopping=make_stopping(options.stopping, alpha=options.alpha),
        scope=options.scope,
        search=options.search,
        schedule=RolloutSchedule(options.k_hard, options.k, options.k_easy, options.hard_below, options.easy_above),
        batch=options.rollout_batch,
        seed=solver.seed,
        separator=options.separator,
    )
    rollout_settings = {**generator.what_decides_text(), **solver.what_decides_text()}
    not_settings = ("file", "split", "format", "limit", "skip_bad_rows")
    settings = {
        **rollout_settings,
        **{name: value for name, value in asdict(options).items() if name not in not_settings},
    }
    source = {
        "completion_model": generator.model,
        "rule": options.rule,
        "threshold": {"rpe": options.epsilon, "hard": 0.0, "difference": options.delta}[options.rule],
        "stopping": options.stopping,
        "seed": solver.seed,
        "settings": settings_digest(settings),
    }
    groups = read_groups(
        options.file,
        split=options.split,
        format=options.format,
        limit=options.limit,
        skip_bad_rows=options.skip_bad_rows,
    )
    earlier = EarlierRollouts(options.estimates, rollout_settings) if options.estimates is not None else None
    worker = Worker(
        functools.partial(open_solver, generator.opener(), solver.settings(generator.chat_template())),
        functools.partial(label, config=config, source=source, earlier=earlier),
    )
    summary = stage.run(
        worker,
        groups,
        settings,
        bad_rows=lambda: groups.bad_rows,
        reads=[options.file, options.estimates],
        desc="Labelling",
        unit="problem",
    )
    counts = {name: int(count) for name, count in summary.counts.items()}
    ks = ", ".join(
        f"{counts[name]} with K = {name.removeprefix('problems_with_k_')}"
        for name in sorted(counts, key=lambda name: (len(name), name))
        if name.startswith("problems_with_k_")
    )
    solutions, wrong = counts.get("solutions", 0), counts.get("solutions_with_an_error", 0)
    steps, wrong_steps = counts.get("steps_labelled", 0), counts.get("steps_labelled_wrong", 0)
    reused = counts.get("rollouts_reused", 0)
    print(f"problems           {summary.items}{f' ({ks})' if ks else ''}")
    print(f"solutions          {solutions}, of which {wrong} have a wrong step")
    print(f"steps labelled     {steps}, of which {wrong_steps} are wrong")
    print(
        f"roll-outs          {counts.get('rollouts', 0):,} from {counts.get('states_sampled', 0):,} prefixes"
        f"{f', beside {reused:,} of {options.estimates}' if reused else ''}"
    )
    print(f"tokens generated   {counts.get('tokens', 0):,}")
    if summary.bad_rows:
        print(f"rows skipped       {summary.bad_rows} that could not be used (named above)")
    if summary.dropped["failed"]:
        print(f"problems failed    {summary.dropped['failed']}, left out (named above)")
    print(f"labelled solutions {stage.output}")
    return 0
