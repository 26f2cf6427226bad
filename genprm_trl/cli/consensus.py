"""Keep the solutions on which a reasoner's verdicts agree with the labels, as training data for `genprm sft`.

FILE is what `genprm rationalize` wrote. A solution is kept, with the rationales of its best critique, where the
verdict on every step up to the first error agrees with the label. Nothing is generated: another threshold or other
labels take seconds.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, refuse_empty


@dataclass
class ConsensusOptions:
    """Options of `genprm consensus`."""

    file: str = field(
        metadata={"help": "Critiques that `genprm rationalize` wrote.", "positional": True, "reads": "rows"}
    )
    labels: str | None = field(
        default=None,
        metadata={"help": "Labelled solutions whose labels count in place of those in FILE. Solutions that are not "
                  "among them are left out.", "reads": "rows"},
    )  # fmt: skip
    min_agreement: float = field(
        default=0.0,
        metadata={"help": "Share of a solution's readable critiques that must agree with its label, from 0 to 1."},
    )
    require_agreement: bool = field(
        default=True,
        metadata={"help": "Off takes each critique's own verdict for the label: to measure what the filter is worth."},
    )


def run(options: ConsensusOptions, stage: StageOptions) -> int:
    """Filters critiques by their agreement with the labels, and prints how many solutions pass.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: No solution passed the filter.
    """
    from genprm_trl.data.solutions import Records, iter_solutions, record_reader
    from genprm_trl.labeling.consensus import consensus_lines, filter_solution, relabelled
    from genprm_trl.labeling.critiques import SampledSolution
    from genprm_trl.stages.run import Worker

    def with_labels(critiques: Iterator[SampledSolution]) -> Iterator[SampledSolution]:
        return (
            critiques
            if options.labels is None
            else relabelled(critiques, iter_solutions(options.labels, on_format=console.print_format))
        )

    work = functools.partial(
        filter_solution, min_agreement=options.min_agreement, require_agreement=options.require_agreement
    )
    summary = stage.run(
        Worker(contextlib.nullcontext, work),
        Records(options.file, record_reader(SampledSolution), then=with_labels),
        {"min_agreement": options.min_agreement, "require_agreement": options.require_agreement},
        desc="Comparing",
        unit="solution",
    )
    print("\n".join(consensus_lines(summary)))
    console.print_facts({"training data": stage.output})
    refuse_empty(summary, "no solution passed the filter", stage.output)
    return 0
