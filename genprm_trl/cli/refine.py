"""Let a policy refine its answers with a verifier's critique: up to --turns times, until no step is judged wrong.

FILE holds problems, with their answers where they are known: GSM8K, MATH, ProcessBench rows and the other known
formats, or rows with `problem` and `answer`. The policy answers. If the verifier judges a step wrong, the policy gets
that step and its analysis as the next user turn. A row of the output is a problem with all its answers, verdicts and
critiques. To resume, run the same command again.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, policy_and_verifier, refuse_empty
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.parser import Prefix
from genprm_trl.options.sources import ProblemOptions
from genprm_trl.options.verifier import VerifierOptions
from genprm_trl.rows.outputs import CommandFiles
from genprm_trl.solving.refinement import RefinementConfig, RefinementSummary, refine
from genprm_trl.solving.solver import SolverSettings
from genprm_trl.stages.settings import decisive


@dataclass
class CriticOptions(VerifierOptions):
    """A verifier whose first wrong step is all that matters."""

    stop: Literal["never", "first_error"] = field(
        default="first_error", metadata={"help": "never: judge the steps after the first wrong one, too."}
    )


def files(*options: Any) -> CommandFiles:
    """What the command reads and writes."""
    *_, stage = options
    return stage.files(*options, results=[".md", ".json"])


def run(
    problems: ProblemOptions,
    config: RefinementConfig,
    verifier: CriticOptions,
    policy: Annotated[GeneratorOptions, Prefix("policy")],
    solver: Annotated[SolverSettings, Prefix("policy")],
    stage: StageOptions,
) -> int:
    """Lets a policy refine its answers, and writes the trajectories with a table of the scores after each turn.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Every problem failed and was left out.
    """
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.rows.jsonl import iter_written_rows, write_json, write_text
    from genprm_trl.stages.run import Worker

    settings, open_both = policy_and_verifier(policy, solver, verifier, stage)
    settings |= decisive(config)
    source = {"policy": policy.model, "verifier": verifier.model, "settings": content_digest(settings)}
    stream = problems.read(need_answers=False)
    worker = Worker(open_both, functools.partial(refine, config=config, source=source))
    done = stage.run(
        worker,
        stream,
        settings,
        desc="Refining",
        unit="problem",
    )
    summary = RefinementSummary()
    for _, row in iter_written_rows(stage.output):
        summary.add(row)
    counts = done.whole_counts()
    ends = ", ".join(
        f"{counts[f'end_{end}']} {what}"
        for end, what in (
            ("accepted", "accepted"),
            ("no_verdict", "not objected to, with steps that have no verdict"),
            ("turns", "with all turns used up"),
            ("no_steps", "without anything to judge"),
            ("context", "too long for the policy's context"),
        )
        if counts[f"end_{end}"]
    )
    tokens = f"{counts['policy_tokens']:,} by the policy, {counts['verifier_tokens']:,} by the verifier"
    console.print_facts(
        {"problems": f"{done.items} ({ends})", "tokens generated": tokens, **end_of_stage(done, "problem")}
    )
    if summary.problems:
        text = refinement_report(summary)
        print(f"\n{text}")
        write_text(f"{stage.output}.md", text, result=True)
        write_json(f"{stage.output}.json", _numbers(summary), result=True)
        console.print_facts({"table, numbers": f"{stage.output}.md, {stage.output}.json"})
    console.print_facts({"trajectories": stage.output})
    if verifier.temperature > 0:
        summary.rationales.warn("rationales of each answer")
    refuse_empty(done, "no problem could be worked on", stage.output)
    return 0


def refinement_report(summary: Any) -> str:
    """Accuracy by turn for a person to read, in Markdown."""
    from genprm_trl.cards.tables import markdown_table

    rows = [
        [
            str(turn) if turn else "0 (no critique)",
            f"{scores.accuracy.value:.1f}",
            f"{scores.accuracy.low:.1f} to {scores.accuracy.high:.1f}",
            f"{scores.gain.value:+.1f} ({scores.gain.low:+.1f} to {scores.gain.high:+.1f})" if turn else "",
            str(scores.fixed) if turn else "",
            str(scores.broken) if turn else "",
            str(scores.revised) if turn else "",
        ]
        for turn, scores in enumerate(summary.by_turn())
    ]
    header = ["turn", "right, %", "95 % interval", "gain (95 % interval)", "fixed", "broken", "answers revised"]
    (right, all_right), (wrong, all_wrong) = summary.objected_right, summary.objected_wrong
    return (
        f"{markdown_table(header, rows)}\n{summary.problems} problems; gain, fixed and broken against the first "
        f"answers. The verifier objected to {wrong} of {all_wrong} wrong first answers and to {right} of {all_right} "
        "right ones.\n"
    )


def _numbers(summary: Any) -> dict[str, Any]:
    return {
        "problems": summary.problems,
        "objected_to_wrong_answers": list(summary.objected_wrong),
        "objected_to_right_answers": list(summary.objected_right),
        "by_turn": [asdict(scores) for scores in summary.by_turn()],
    }
