"""Make pairs of steps from labelled solutions, to train a policy on (Step-DPO).

FILE holds solutions with labels, those of one problem one after the other: what `genprm label` wrote, ProcessBench's
rows, and the other formats. A pair is the right prefix of a solution, its first wrong step, and a right step in its
place. The right step is taken from another solution in FILE that begins alike and is right. Where there is none, the
policy (--model) samples continuations of the prefix until one reaches the right answer. A verifier (--verifier) may
judge the right steps. `genprm dpo` trains on the pairs. To resume, run the same command again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, refuse_empty
from genprm_trl.errors import ConfigError
from genprm_trl.labeling.pairs import LabelledGroup, PairConfig, check_label, make_pairs, open_pair_makers
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.parser import Prefix
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.solving.solver import SolverSettings, open_solver
from genprm_trl.stages.settings import decisive


@dataclass(kw_only=True)
class PairOptions(SolutionOptions):
    """The input of `genprm pairs`."""

    file: str = field(
        metadata={"help": "Solutions with labels: a file or a dataset.", "positional": True, "reads": "rows"}
    )


@dataclass
class PolicyOptions(GeneratorOptions):
    """A policy, if there is one."""

    model: str = field(
        default="",
        metadata={
            "help": "Model directory or Hub id of the policy, which samples right steps where FILE has none. It "
            "should be the model that is to be trained.",
            "reads": "model",
        },
    )


@dataclass
class JudgeOptions(VerifierOptions):
    """A verifier, if there is one."""

    model: str = field(
        default="",
        metadata={
            "help": "Model directory or Hub id of a verifier. A right step that it finds wrong is not taken.",
            "reads": "model",
        },
    )


def run(
    options: PairOptions,
    config: PairConfig,
    policy: PolicyOptions,
    solver: SolverSettings,
    verifier: Annotated[JudgeOptions, Prefix("verifier")],
    stage: StageOptions,
) -> int:
    """Makes pairs of steps, and prints where they are from and what was left out.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options of a policy or verifier are given without it, or nothing is kept.
    """
    from genprm_trl.data.problems import read_groups
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.stages.run import Worker

    if not policy.model:
        _refuse_unused("--model", "", policy, solver)
    if not verifier.model:
        _refuse_unused("--verifier", "verifier_", verifier)
    settings: dict[str, Any] = decisive(config)
    open_policy = open_verifier = None
    if policy.model:
        policy.freeze_date(stage.settings_path, stage.output)
        settings |= {**policy.what_decides_text(), **decisive(solver)}
        open_policy = functools.partial(
            open_solver, policy.opener(), solver, policy.chat_template(), policy.template_date
        )
    if verifier.model:
        verifier.generator_options()  # unusable options are found before a template is looked for
        verifier.freeze_date(stage.settings_path, stage.output, "verifier_template_date")
        settings |= {f"verifier_{name}": value for name, value in verifier.what_decides_verdicts().items()}
        open_verifier = functools.partial(_load_after_check, policy, verifier)
    source = {
        "policy": policy.model or None,
        "verifier": verifier.model or None,
        "seed": config.seed,
        "settings": content_digest(settings),
    }
    groups = read_groups(
        options.file,
        **options.arguments(),
        on_format=console.print_format,
        check_row=check_label,
        group=LabelledGroup,
    )
    worker = Worker(
        functools.partial(
            open_pair_makers,
            open_policy,
            open_verifier,
            # A verifier asks its sandbox before its model is loaded. It comes second only if the policy costs nothing.
            policy_first=policy.backend == "server" != verifier.backend,
        ),
        functools.partial(make_pairs, config=config, source=source),
    )
    summary = stage.run(worker, groups, settings, desc="Pairing", unit="problem")
    counts = summary.whole_counts()
    left_out = ", ".join(
        f"{summary.dropped[name]} {what}"
        for name, what in (
            ("same_pair", "like another"),
            ("no_right_step", "without a right step"),
            ("no_answer", "without an answer to grade samples by"),
        )
        if summary.dropped[name]
    )
    steps = ", ".join(
        f"{summary.dropped[name]} {what}"
        for name, what in (("same_step", "the same"), ("step_judged_wrong", "judged wrong"))
        if summary.dropped[name]
    )
    facts = {
        "solutions": f"{counts['solutions']}, of which {counts['solutions_with_an_error']} have a wrong step",
        "pairs": f"{summary.rows}: {counts['pairs_input']} right steps of the input, "
        f"{counts['pairs_sampled']} sampled",
        "wrong steps left out": left_out or "none",
        "right steps left out": steps or "none",
    }
    if counts["samples"]:
        facts["continuations"] = f"{counts['samples']:,}, of which {counts['samples_right']:,} are right"
    console.print_facts({**facts, **end_of_stage(summary, "problem"), "pairs of steps": stage.output})
    Sameness(counts["prefixes_sampled"], counts["prefixes_with_equal_samples"]).warn("continuations of each prefix")
    hint = "" if policy.model else "; to sample right steps, name the policy with --model"
    refuse_empty(summary, f"no wrong step has a right one beside it{hint}", stage.output)
    return 0


def _refuse_unused(missing: str, prefix: str, *options: Any) -> None:
    """Refuses options of a model that is not named: nobody gives them to have no effect."""
    for each in options:
        defaults = type(each)()
        for option in fields(each):
            if getattr(each, option.name) != getattr(defaults, option.name):
                raise ConfigError(f"--{prefix}{option.name} needs {missing}")


def _load_after_check(policy: PolicyOptions, verifier: JudgeOptions) -> Any:
    """Loads the verifier of a policy that can be loaded, too, as far as that can be known."""
    if policy.model:
        policy.check_model()
    return load_verifier(verifier)
