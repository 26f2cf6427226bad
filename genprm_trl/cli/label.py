"""Label the steps of solutions by Monte Carlo estimates.

FILE holds solutions with their reference answers, as `genprm rollout` writes them. A completion model continues
every prefix of a solution. The share of rollouts that reach the answer is the estimate of the prefix, and a label
compares the estimates before and after a step. What the labels do not need is not sampled. To resume, run the same
command again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from genprm_trl.cli.stages import StageOptions
from genprm_trl.labeling.monte_carlo import LabelingConfig, label
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.solving.solver import SolverSettings, open_solver
from genprm_trl.stages.settings import decisive, settings_digest


@dataclass
class LabelOptions(SolutionOptions):
    """The input of `genprm label`."""

    file: str = field(
        metadata={"help": "Solutions with their reference answers: a file or a dataset.", "positional": True}
    )
    limit: int | None = field(default=None, metadata={"help": "Use only the solutions of the first LIMIT problems."})
    estimates: str | None = field(
        default=None,
        metadata={
            "help": "Output of an earlier labelling with the same model and seed, whose rollouts are used again: for "
            "a larger K, or another rule."
        },
    )


def run(
    options: LabelOptions,
    config: LabelingConfig,
    generator: GeneratorOptions,
    solver: SolverSettings,
    stage: StageOptions,
) -> int:
    from genprm_trl.data.problems import read_groups
    from genprm_trl.labeling.earlier_rollouts import EarlierRollouts
    from genprm_trl.stages.run import Worker

    rollout_settings = {**generator.what_decides_text(), **decisive(solver), "seed": config.seed}
    settings = {**rollout_settings, **decisive(config), "estimates": options.estimates}
    source = {
        "completion_model": generator.model,
        "rule": config.rule,
        "threshold": {"rpe": config.epsilon, "hard": 0.0, "difference": config.delta}[config.rule],
        "stopping": config.stopping,
        "seed": config.seed,
        "settings": settings_digest(settings),
    }
    groups = read_groups(**options.arguments())
    earlier = EarlierRollouts(options.estimates, rollout_settings) if options.estimates is not None else None
    worker = Worker(
        functools.partial(open_solver, generator.opener(), solver, generator.chat_template()),
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
