"""Label the steps of solutions by Monte Carlo estimates.

FILE holds solutions with their reference answers, as `genprm rollout` writes them. A completion model continues
every prefix of a solution. The share of rollouts that reach the answer is the estimate of the prefix, and a label
compares the estimates before and after a step. What the labels do not need is not sampled. To resume, run the same
command again.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, refuse_empty
from genprm_trl.errors import ConfigError
from genprm_trl.labeling.earlier_rollouts import earlier_directory
from genprm_trl.labeling.monte_carlo import LabelingConfig, label, misfit, no_guess, solved_share
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.rows.outputs import CommandFiles, inputs
from genprm_trl.solving.solver import SolverSettings, open_solver
from genprm_trl.stages.settings import OtherSettings, decisive

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LabelOptions(SolutionOptions):
    """The input of `genprm label`."""

    file: str = field(
        metadata={
            "help": "Solutions with their reference answers: a file or a dataset.",
            "positional": True,
            "reads": "rows",
        }
    )
    estimates: str | None = field(
        default=None,
        metadata={
            "help": "Output of an earlier labelling with the same model and seed, whose rollouts are used again: for "
            "a larger K, or another rule. It may be --output itself."
        },
    )
    guide: str | None = field(
        default=None,
        metadata={
            "help": "With --search guided: verdicts of `genprm verify` on the same solutions. They say where the "
            "search begins.",
            "reads": "rows",
        },
    )


def files(*all_options: Any) -> CommandFiles:
    """What the command reads and writes."""
    options, *_, stage = all_options
    files = stage.files(*all_options)
    if options.estimates is None:
        return files
    if _is_output(options, stage):
        return replace(files, others=[*files.others, earlier_directory(Path(stage.output))])
    return replace(files, reads=[*files.reads, *inputs("rows", options.estimates)])


def _is_output(options: LabelOptions, stage: StageOptions) -> bool:
    return options.estimates is not None and Path(options.estimates).resolve() == Path(stage.output).resolve()


def run(
    options: LabelOptions,
    config: LabelingConfig,
    generator: GeneratorOptions,
    solver: SolverSettings,
    stage: StageOptions,
) -> int:
    """Labels the steps of solutions by sampling rollouts, and prints what was sampled.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: The output was made with other settings, nothing is kept, or the search has no guide or none is
            asked for. If the output's rollouts still fit, the error says so.
        DataError: A row cannot be used, or the guide has no verdict on it.
    """
    from genprm_trl.data.problems import read_groups
    from genprm_trl.labeling.earlier_rollouts import EarlierRollouts, forget_earlier, set_aside
    from genprm_trl.labeling.guide import Guide
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.stages.run import Worker

    if (options.guide is None) == (config.search == "guided"):
        raise ConfigError("--search guided and --guide go together: name verdicts of `genprm verify` with --guide")
    guide = None if options.guide is None else Guide(options.guide)
    generator.freeze_date(stage.settings_path, stage.output)
    rollout_settings = {**generator.what_decides_text(), **decisive(solver), "seed": config.seed}
    settings = {**rollout_settings, **decisive(config), "estimates": options.estimates}
    if guide is not None:
        settings["guide"] = guide.digest
    source = {
        "completion_model": generator.model,
        "rule": config.rule,
        "threshold": {"rpe": config.epsilon, "hard": 0.0, "difference": config.delta}[config.rule],
        "stopping": config.stopping,
        "seed": config.seed,
        "settings": content_digest(settings),
    }
    groups = read_groups(
        options.file,
        **options.arguments(),
        on_format=console.print_format,
        check=None if guide is None else guide.check,
    )
    earlier = None
    if options.estimates is not None:
        if _is_output(options, stage):
            directory = set_aside(Path(stage.output), settings, rollout_settings)
            if directory is not None:
                earlier = EarlierRollouts(options.estimates, rollout_settings, directory)
        else:
            earlier = EarlierRollouts(options.estimates, rollout_settings)
    worker = Worker(
        functools.partial(open_solver, generator.opener(), solver, generator.chat_template(), generator.template_date),
        functools.partial(label, config=config, source=source, earlier=earlier, guide=guide or no_guess),
    )
    try:
        summary = stage.run(worker, groups, settings, desc="Labelling", unit="problem")
    except OtherSettings as error:
        if options.estimates is None and not error.changed.keys() & rollout_settings.keys():
            raise ConfigError(f"{error}, or keep its rollouts with --estimates {stage.output}") from error
        raise
    if options.estimates is not None and _is_output(options, stage):
        forget_earlier(Path(stage.output))
    counts = summary.whole_counts()
    ks = ", ".join(
        f"{counts[name]} with K = {name.removeprefix('problems_with_k_')}"
        for name in sorted(counts, key=lambda name: (len(name), name))
        if name.startswith("problems_with_k_")
    )
    reused, share = counts["rollouts_reused"], solved_share(summary)
    from_before = f", beside {reused:,} of {options.estimates}" if reused else ""
    console.print_facts(
        {
            "problems": f"{summary.items}{f' ({ks})' if ks else ''}",
            **({} if share is None else {"solved at a try": f"{100 * share:.1f} % of the problems"}),
            "solutions": f"{counts['solutions']}, of which {counts['solutions_with_an_error']} have a wrong step",
            "steps labelled": f"{counts['steps_labelled']}, of which {counts['steps_labelled_wrong']} are wrong",
            "rollouts": f"{counts['rollouts']:,} from {counts['states_sampled']:,} prefixes{from_before}",
            **end_of_stage(summary, "problem"),
            "labelled solutions": stage.output,
        }
    )
    Sameness(counts["states_sampled"], counts["states_with_equal_rollouts"]).warn("rollouts from each prefix")
    if (against := misfit(config.rule, summary)) is not None:
        logger.warning(
            "%s %sUse more rollouts (--k, --k_hard) or a completion model that solves more.",
            against,
            "" if config.rule == "hard" else f"Use --rule hard (--estimates {stage.output} keeps the rollouts). ",
        )
    refuse_empty(summary, "no solution could be labelled", stage.output)
    return 0
