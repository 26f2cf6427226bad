"""Leave out of training data what a benchmark holds, so that its scores mean something.

TRAIN and the files of --against hold problems in any format: those of `genprm verify`, problems with answers,
rationales, conversations. A row of TRAIN is left out if its problem equals one of a benchmark when digits and
punctuation are dropped, or if the two share 32 words in a row (--ngram).

The other rows go to OUTPUT as they are. Beside it, OUTPUT.removed.jsonl holds each row that was left out with what it
shares, and OUTPUT.decontamination.json the counts. `genprm recipe` puts the counts of its problems into the card.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genprm_trl.cli import console
from genprm_trl.cli.files import OverwriteOptions
from genprm_trl.errors import ConfigError
from genprm_trl.options.sources import SplitOptions
from genprm_trl.rows.outputs import CommandFiles, inputs_of


@dataclass(kw_only=True)
class DecontaminateOptions(OverwriteOptions, SplitOptions):
    """Options of `genprm decontaminate`."""

    train: str = field(
        metadata={"help": "Training data: a file or a dataset.", "positional": True, "reads": "rows"},
    )
    against: list[str] = field(
        metadata={"help": "Benchmarks whose problems must not be in it: files or datasets.", "reads": "rows"}
    )
    output: str = field(metadata={"help": "Where the rows go that share nothing with a benchmark (JSONL)."})
    ngram: int = field(default=32, metadata={"help": "How many words in a row two problems must share."})
    against_split: str | None = field(
        default=None, metadata={"help": "Split of the benchmarks, if they have several."}
    )


def files(options: DecontaminateOptions) -> CommandFiles:
    """What the command reads and writes."""
    results = [Path(options.output), *_beside(options)]
    return CommandFiles(inputs_of(options), results, overwrite=options.overwrite)


def _beside(options: DecontaminateOptions) -> tuple[Path, Path]:
    from genprm_trl.labeling.data_card import decontamination_path

    return Path(f"{options.output}.removed.jsonl"), decontamination_path(options.output)


def run(options: DecontaminateOptions) -> int:
    """Writes the rows that no benchmark holds, and prints how many there are.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: A benchmark holds every row, or `ngram` is below 1.
        DataError: A file cannot be read, or a row has no problem.
    """
    from genprm_trl.data.contamination import Decontamination, Match, read_benchmarks
    from genprm_trl.rows.jsonl import write_json, write_jsonl

    removed: list[dict[str, Any]] = []

    def note(row: int, problem: str, match: Match) -> None:
        found = {"file": match.file, "row": match.row, "problem": match.problem}
        removed.append({"row": row, "test": match.test, "problem": problem, "shared": match.shared, "against": found})

    data = Decontamination(read_benchmarks(options.against, ngram=options.ngram, split=options.against_split))
    rows = data.clean(options.train, split=options.split, on_match=note)
    write_jsonl(options.output, console.progress(rows, desc="Comparing", unit="row", delay=0.5), result=True)
    of_removed, of_counts = _beside(options)
    write_jsonl(of_removed, removed, result=True)
    against = [str(each) for each in options.against]
    write_json(of_counts, {"against": against, "ngram": options.ngram, **data.counts()}, result=True)
    console.print_facts(
        {
            "benchmarks": f"{len(data.benchmarks):,} problems",
            "left out": f"{data.removed['same']:,} equal but for digits and punctuation, {data.removed['ngram']:,} "
            f"that share {options.ngram} words in a row",
            "kept": f"{data.kept:,} of {data.rows:,} rows",
            **({"what they share": of_removed} if removed else {}),
            "training data": options.output,
        }
    )
    if not data.kept:
        raise ConfigError(f"the benchmarks hold every problem; {options.output} is empty")
    return 0
