"""Sample solutions of problems, and keep as many right as wrong ones of each.

FILE holds problems with their answers: GSM8K, MATH, ProcessBench rows and the other known formats, or rows with
`problem` and `answer`. Solutions are sampled in rounds until there are enough right and wrong ones. A problem without
a right or without a wrong solution is left out and counted. To resume, run the same command again.
"""

from __future__ import annotations

import functools

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, refuse_empty
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.sources import AnsweredProblemOptions
from genprm_trl.solving.solver import SolverSettings, open_solver
from genprm_trl.stages.settings import decisive


def run(
    problems: AnsweredProblemOptions,
    config: RolloutConfig,
    generator: GeneratorOptions,
    solver: SolverSettings,
    stage: StageOptions,
) -> int:
    """Samples solutions of problems, and prints how many of them are right and how many it keeps.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Nothing is kept.
    """
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.stages.run import Worker

    generator.freeze_date(stage.settings_path, stage.output)
    settings = {**generator.what_decides_text(), **decisive(solver), **decisive(config)}
    source = {"policy": generator.model, "seed": config.seed, "settings": content_digest(settings)}
    stream = problems.read()
    worker = Worker(
        functools.partial(open_solver, generator.opener(), solver, generator.chat_template(), generator.template_date),
        functools.partial(roll_out, config=config, source=source),
    )
    summary = stage.run(
        worker,
        stream,
        settings,
        desc="Rolling out",
        unit="problem",
    )
    counts = summary.whole_counts()
    without = ", ".join(
        f"{summary.dropped[f'problems_without_a_{kind}_solution']} without a {kind} solution"
        for kind in ("right", "wrong")
    )
    left_out = ", ".join(
        f"{count} {name.removeprefix('solutions_').replace('_', ' ')}"
        for name, count in sorted(summary.dropped.items())
        if name.startswith("solutions_")
    )
    console.print_facts(
        {
            "problems": f"{summary.items}, of which {counts['problems_kept']} are kept ({without})",
            "solutions sampled": f"{counts['samples']}, of which {counts['samples_right']} are right",
            "solutions kept": f"{summary.rows}, half of them right ({left_out or 'none left out'})",
            **end_of_stage(summary, "problem"),
            "solutions": stage.output,
        }
    )
    Sameness(counts["problems"], counts["problems_with_equal_samples"]).warn("solutions of each problem")
    refuse_empty(summary, "no problem has a right and a wrong solution to keep", stage.output)
    return 0
