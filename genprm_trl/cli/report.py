"""Make a page of verdicts to read: one HTML file that needs no network.

VERDICTS is a file that `genprm verify` wrote, or samples that `lm_eval --log_samples` wrote of the model `genprm`. The
page lists the solutions with the rewards of their steps. Each unfolds into its rationales with code and output. Charts
show the rewards and, if there are labels, how good they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli import console
from genprm_trl.cli.files import OverwriteOptions
from genprm_trl.options.sources import FormatOptions
from genprm_trl.rows.outputs import CommandFiles, inputs_of

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ReportOptions(OverwriteOptions, FormatOptions):
    """Options of `genprm report`."""

    verdicts: str = field(metadata={"help": "The file of verdicts (JSONL).", "positional": True, "reads": "rows"})
    output: str | None = field(
        default=None, metadata={"help": "Where the page goes. Default: VERDICTS with the ending .html"}
    )
    solutions: str | None = field(
        default=None,
        metadata={"help": "The solutions that were judged, with --split and --format as for `genprm verify`: "
                  "shows the text of problems and steps, and whether final answers are right.", "reads": "rows"},
    )  # fmt: skip


def files(options: ReportOptions) -> CommandFiles:
    """What the command reads and writes."""
    return CommandFiles(inputs_of(options), [_output_path(options)], overwrite=options.overwrite)


def _output_path(options: ReportOptions) -> Path:
    return Path(options.output) if options.output is not None else Path(options.verdicts).with_suffix(".html")


def run(options: ReportOptions) -> int:
    """Runs the command."""
    from genprm_trl.verdict_report import write_report

    output = _output_path(options)
    summary = write_report(
        options.verdicts,
        output,
        solutions=options.read_judged(options.solutions, console.print_format),
        follow=lambda verdicts: console.progress(verdicts, desc="Reading", unit="verdict", delay=0.5),
    )
    if summary.without_solution:
        logger.warning(
            "%d of %d verdicts have no solution in %s; the page shows them without problem and steps",
            summary.without_solution,
            summary.verdicts.solutions,
            options.solutions,
        )
    summary.verdicts.sameness.warn("rationales of each solution")
    print("\n".join(summary.verdicts.lines()))
    print(f"report             {output}")
    return 0
