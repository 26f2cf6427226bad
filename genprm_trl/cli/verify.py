"""Judge a file of solutions step by step with a trained GenPRM.

FILE is JSONL, JSON, parquet, or a data set: ProcessBench, GSM8K (model solutions too), PRM800K, Math-Shepherd or
stepwise-supervision rows, recognised by their fields. Verdicts are written as they finish, a line each; a run that was
stopped goes on where it was when started again with the same words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli.judging import judge_remaining
from genprm_trl.errors import DataError
from genprm_trl.options.verifier import VerifierOptions

logger = logging.getLogger(__name__)


@dataclass
class VerifyOptions:
    """Options of `genprm verify`."""

    file: str = field(
        metadata={"help": "Solutions to judge: a file, or a directory saved by datasets.", "positional": True}
    )
    output: str | None = field(
        default=None, metadata={"help": "Where verdicts go (JSONL). Default: outputs/verify/FILE-MODEL.jsonl"}
    )
    overwrite: bool = field(default=False, metadata={"help": "Start anew if the output exists, instead of going on."})
    retry_errors: bool = field(
        default=False,
        metadata={"help": "Judge again what an earlier run could not, because the generator or the sandbox failed."},
    )
    limit: int | None = field(default=None, metadata={"help": "Judge the first LIMIT solutions alone."})
    format: str = field(
        default="auto",
        metadata={
            "help": "Row format of FILE: auto (recognised by its fields), candidates, processbench, prm800k, "
            "math_shepherd, stepwise, gsm8k_solutions, gsm8k or math."
        },
    )
    split: str | None = field(default=None, metadata={"help": "Split of a data set from the Hub."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report and skip unusable rows instead of stopping before work starts."}
    )


def _stem(path: str) -> str:
    return Path(path.rstrip("/")).name.split(".")[0] or "solutions"


def _output_path(options: VerifyOptions, verifier: VerifierOptions) -> Path:
    if options.output is not None:
        return Path(options.output)
    return Path("outputs", "verify", f"{_stem(options.file)}-{_stem(verifier.model)}.jsonl")


def run(options: VerifyOptions, verifier: VerifierOptions) -> int:
    from genprm_trl.data.solutions import load_solutions
    from genprm_trl.stages.verdict_file import VerdictFile
    from genprm_trl.verifier.summary import VerdictSummary

    # Every row is read before the first one is judged: a bad row must not surface after hours of work.
    skipped: list[DataError] = []
    solutions = load_solutions(
        options.file,
        split=options.split,
        format=options.format,
        limit=options.limit,
        skip_bad_rows=options.skip_bad_rows,
        on_bad_row=skipped.append,
    )
    output = _output_path(options, verifier)
    with VerdictFile(
        output,
        verifier.what_decides_verdicts(),
        solutions,
        overwrite=options.overwrite,
        retry_errors=options.retry_errors,
    ) as file:
        remaining = file.remaining
        seconds = judge_remaining(file, output, len(solutions), verifier)
        # The summary is of the whole file, including what an earlier run judged.
        summary = VerdictSummary()
        by_id = {solution.id: solution for solution in solutions}
        for verdict in file.verdicts():
            summary.add(verdict, by_id[verdict.id])

    print("\n".join(summary.lines()))
    if skipped:
        print(f"rows skipped       {len(skipped)} that could not be used (named above)")
    if seconds:
        print(f"time               {seconds:.1f} s, {len(remaining) / seconds:.2f} solutions a second")
    print(f"verdicts           {output}")
    if summary.steps["error"]:
        logger.warning(
            "%d judgements failed (see the messages above) and have the reward 0.5. To judge those solutions again, "
            "give the same command with --retry_errors.",
            summary.steps["error"],
        )
    without = summary.steps["no_verdict"] / max(summary.steps.total(), 1)
    if without > 0.5:
        logger.warning(
            "The model wrote no verdict for %.0f %% of the steps, which then have the reward 0.5. Is it a GenPRM, and "
            "asked in a mode that it was trained for?",
            100 * without,
        )
    return 0
