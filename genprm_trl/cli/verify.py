"""Judge a file of solutions step by step, with a GenPRM or a verifier of another kind.

FILE is JSONL, JSON, parquet, or a dataset: ProcessBench, GSM8K (model solutions too), PRM800K, Math-Shepherd or
stepwise-supervision rows, recognised by their fields. Each verdict is a line, written when it is finished. To resume,
run the same command again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli import console
from genprm_trl.cli.stages import JudgingOptions, short_name
from genprm_trl.errors import GenPRMError
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.options.verifier import VerifierOptions
from genprm_trl.rows.outputs import CommandFiles, inputs_of

logger = logging.getLogger(__name__)


@dataclass
class VerifyOptions:
    """Options of `genprm verify`."""

    output: str | None = field(
        default=None, metadata={"help": "Where the verdicts go (JSONL). Default: outputs/verify/FILE-MODEL.jsonl"}
    )


def _output_path(file: str, options: VerifyOptions, verifier: VerifierOptions) -> Path:
    if options.output is not None:
        return Path(options.output)
    return Path("outputs", "verify", f"{short_name(file)}-{short_name(verifier.model)}.jsonl")


def files(
    source: SolutionOptions, options: VerifyOptions, verifier: VerifierOptions, judging: JudgingOptions
) -> CommandFiles:
    """What the command reads and writes."""
    output = _output_path(source.file, options, verifier)
    others = [output, Path(f"{output}.settings.json")]
    return CommandFiles(inputs_of(source, options, verifier), others=others, overwrite=judging.overwrite)


def run(source: SolutionOptions, options: VerifyOptions, verifier: VerifierOptions, judging: JudgingOptions) -> int:
    """Judges solutions that the output holds no verdict on yet, and prints a summary of all verdicts.

    Returns:
        The exit code, 0. Judgements that failed are logged, and left out of every score.

    Raises:
        GenPRMError: No judgement holds a verdict.
    """
    from genprm_trl.verifier.summary import VerdictSummary

    solutions = source.read(console.print_format)
    output = _output_path(source.file, options, verifier)
    # This reads every row before the first one is judged: a bad row must not surface after hours of work.
    with judging.open(output, solutions, verifier) as file:
        skipped = solutions.bad_rows
        if corrected := file.update_labels():
            logger.info("%d labels of %s are others than before; the verdicts have them now", corrected, source.file)
        seconds = judging.judge(file, verifier)
        # The summary is of the whole file, including what an earlier run judged.
        summary = VerdictSummary()
        for verdict, solution in zip(file.verdicts(), solutions, strict=False):  # all are there, in the input's order
            summary.add(verdict, solution)

    print("\n".join(summary.lines()))
    facts: dict[str, object] = {}
    if skipped:
        facts["rows skipped"] = f"{skipped} that could not be used (named above)"
    if seconds:
        facts["time"] = f"{seconds:.1f} s, with loading the model"
    console.print_facts({**facts, "verdicts": output})
    if summary.is_failure:
        if summary.steps["error"] == summary.steps.total():
            raise GenPRMError(
                f"all {summary.steps['error']} judgements failed (see the messages above), so there is no score; to "
                "judge again, give the same command with --retry_errors"
            )
        found = ", ".join(f"{status} {count:,}" for status, count in summary.steps.most_common())
        raise GenPRMError(
            f"none of the judgements holds a verdict ({found}). Is its kind right, was it trained for the mode in "
            "which it is asked, and do its prompts fit its context?"
        )
    if summary.steps["error"]:
        logger.warning(
            "%d judgements failed (see the messages above); their solutions are in no score. To judge those again, "
            "give the same command with --retry_errors.",
            summary.steps["error"],
        )
    if verifier.temperature > 0:
        summary.sameness.warn("rationales of each solution")
    without = summary.steps["no_verdict"] / max(summary.steps.total(), 1)
    if without > 0.5:
        logger.warning(
            "The model wrote no verdict for %.0f %% of the steps, which then have the reward 0.5. Is it a GenPRM, "
            "trained for the mode in which it is asked?",
            100 * without,
        )
    return 0
