"""Solve problems by search over steps: a policy writes steps, and a verifier says which paths to continue.

FILE holds problems, with their answers where they are known: GSM8K, MATH, ProcessBench rows and the other known
formats, or rows with `problem` and `answer`. --method best_of_n is the baseline that a search must beat with as many
tokens. To resume, run the same command again.
"""

from __future__ import annotations

import functools
from typing import Annotated

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, policy_and_verifier, refuse_empty
from genprm_trl.errors import ConfigError
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.parser import Prefix
from genprm_trl.options.sources import ProblemOptions
from genprm_trl.options.verifier import VerifierOptions
from genprm_trl.solving.search import SearchConfig, search
from genprm_trl.solving.solver import SolverSettings
from genprm_trl.stages.settings import decisive


def run(
    problems: ProblemOptions,
    config: SearchConfig,
    verifier: VerifierOptions,
    policy: Annotated[GeneratorOptions, Prefix("policy")],
    solver: Annotated[SolverSettings, Prefix("policy")],
    stage: StageOptions,
) -> int:
    """Searches for solutions of problems, and prints the accuracy and the tokens that the search took.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: The verifier would leave out chains or steps, whose rewards the search needs; or nothing is kept.
    """
    from genprm_trl.metrics.estimates import mean_estimate
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.rows.jsonl import iter_written_rows
    from genprm_trl.stages.run import Worker

    for name, only in (("stop", "never"), ("adaptive", "off")):
        if getattr(verifier, name) != only:
            raise ConfigError(f"a search needs every chain's reward of each step: leave out --{name}")
    settings, open_both = policy_and_verifier(policy, solver, verifier, stage)
    settings |= decisive(config)
    source = {
        "policy": policy.model,
        "verifier": verifier.model,
        "method": config.method,
        "settings": content_digest(settings),
    }
    stream = problems.read(need_answers=False)
    worker = Worker(open_both, functools.partial(search, config=config, source=source))
    summary = stage.run(
        worker,
        stream,
        settings,
        desc="Searching",
        unit="problem",
    )
    right, any_right = [], []
    for _, row in iter_written_rows(stage.output):
        if row["correct"] is not None:
            right.append(float(row["correct"]))
            any_right.append(float(any(path["correct"] for path in row["paths"])))
    counts = summary.whole_counts()
    written, judged = counts["policy_tokens"], counts["verifier_tokens"]
    each = max(summary.rows, 1)
    facts = {"problems": f"{summary.items}, by {config.method} with {config.paths} paths"}
    if right:
        accuracy, oracle = mean_estimate(right), mean_estimate(any_right)
        facts["right"] = (
            f"{accuracy.value:.1f} % ({accuracy.low:.1f} to {accuracy.high:.1f}); {oracle.value:.1f} % have a right "
            "one among the last paths"
        )
    facts["tokens a problem"] = (
        f"{written / each:,.0f} by the policy, {judged / each:,.0f} by the verifier, {(written + judged) / each:,.0f} "
        "together"
    )
    if counts["paths_cut_off"]:
        facts["paths cut off"] = f"{counts['paths_cut_off']} of {counts['paths']}, by a bound on tokens or steps"
    console.print_facts({**facts, **end_of_stage(summary, "problem"), "solutions": stage.output})
    samples = "solutions of each problem" if config.method == "best_of_n" else "next steps of each path"
    Sameness(counts["paths_continued"], counts["paths_continued_equally"]).warn(samples)
    if verifier.temperature > 0:
        Sameness(counts["paths_judged"], counts["paths_judged_equally"]).warn("rationales of each path")
    refuse_empty(summary, "no problem could be worked on", stage.output)
    return 0
