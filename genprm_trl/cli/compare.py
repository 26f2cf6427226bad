"""Compare verifiers by their verdicts on the same solutions.

VERDICTS are two or more files that `genprm verify` wrote, one for each verifier, or samples that `lm_eval
--log_samples` wrote of the model `genprm`. Solutions are matched by id and text. Files that differ in their solutions
are refused, unless --common is given; so are files that differ in labels, unless --solutions is given.

The table has F1, AUROC, calibration error and tokens of each verifier and of their ensemble, the mean of their
rewards. Differences have paired 95 % bootstrap intervals. The page lists the solutions with all verdicts side by side
and finds those on which verifiers disagree.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli import console
from genprm_trl.cli.files import OverwriteOptions
from genprm_trl.cli.stages import short_name
from genprm_trl.errors import ConfigError
from genprm_trl.options.sources import FormatOptions
from genprm_trl.rows.outputs import CommandFiles, inputs_of

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CompareOptions(OverwriteOptions, FormatOptions):
    """Options of `genprm compare`."""

    verdicts: list[str] = field(
        metadata={"help": "Files of verdicts (JSONL), one for each verifier.", "positional": True, "reads": "rows"}
    )
    output: str | None = field(
        default=None,
        metadata={
            "help": "Where the page goes (HTML); a table and numbers go beside it. Default: "
            "outputs/compare/VERDICTS-VERDICTS.html"
        },
    )
    solutions: str | None = field(
        default=None,
        metadata={"help": "The solutions that were judged, with --split and --format as for `genprm verify`: shows "
                  "the text of problems and steps. Their labels count.", "reads": "rows"},
    )  # fmt: skip
    common: bool = field(
        default=False, metadata={"help": "Compare the solutions that all files judge, and say how many are left out."}
    )


def files(options: CompareOptions) -> CommandFiles:
    """What the command reads and writes."""
    output = _output_path(options)
    results = [output, *(output.with_suffix(ending) for ending in (".md", ".json"))]
    return CommandFiles(inputs_of(options), results, overwrite=options.overwrite)


def _output_path(options: CompareOptions) -> Path:
    if options.output is None:
        return Path("outputs", "compare", f"{'-'.join(map(short_name, options.verdicts))}.html")
    output = Path(options.output)
    if output.suffix in (".md", ".json"):
        raise ConfigError(f"--output {output} must be the page, such as .html; a table and numbers go beside it")
    return output


def run(options: CompareOptions) -> int:
    """Runs the command."""
    from genprm_trl.rows.jsonl import write_json, write_text
    from genprm_trl.verdict_report import write_comparison

    output = _output_path(options)
    report = write_comparison(
        options.verdicts,
        output,
        common=options.common,
        solutions=options.read_judged(options.solutions, console.print_format),
        follow=lambda verdicts: console.progress(verdicts, desc="Reading", unit="verdict", delay=0.5),
    )
    text = report.markdown()
    table, numbers = output.with_suffix(".md"), output.with_suffix(".json")
    write_text(table, text, result=True)
    write_json(numbers, report.numbers, result=True)
    print(text)
    console.print_facts({"page": output, "table": table, "numbers": numbers})
    return 0
