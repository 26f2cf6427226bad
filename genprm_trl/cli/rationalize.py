"""Let a strong reasoner critique whole solutions, with code that is run as it writes.

FILE holds solutions, as `genprm label` writes them; ProcessBench rows and the other formats will do, too. Each
critique is written with the output of its code and how it ended. `genprm consensus` then keeps those that agree with
the labels. To resume, run the same command again.
"""

from __future__ import annotations

import functools

from genprm_trl.cli import console
from genprm_trl.cli.stages import StageOptions, end_of_stage, refuse_empty
from genprm_trl.labeling.rationales import RationaleSettings, open_reasoner, rationalize, with_solution
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.settings import decisive


def run(
    solutions: SolutionOptions,
    settings: RationaleSettings,
    generator: GeneratorOptions,
    sandbox: SandboxOptions,
    stage: StageOptions,
) -> int:
    """Samples critiques of solutions, and prints how they ended and what code they ran.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Nothing is kept.
    """
    from genprm_trl.labeling.critiques import SAMPLE_STATUSES
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.digests import content_digest
    from genprm_trl.stages.run import Worker

    stream = solutions.read(console.print_format)
    generator.freeze_date(stage.settings_path, stage.output)
    made_with = {**generator.what_decides_text(), **decisive(settings)}
    source = {"reasoner": generator.model, "seed": settings.seed, "settings": content_digest(made_with)}
    worker = Worker(
        functools.partial(
            open_reasoner,
            generator.opener(),
            sandbox.open_sandbox,
            settings,
            chat_template=generator.chat_template(),
            template_date=generator.template_date,
        ),
        functools.partial(rationalize, source=source),
    )
    summary = stage.run(
        worker,
        stream,
        made_with,
        desc="Critiquing",
        unit="solution",
        renew=with_solution,
    )
    counts = summary.whole_counts()
    ends = ", ".join(
        f"{status} {counts[f'status/{status}']}" for status in SAMPLE_STATUSES if f"status/{status}" in counts
    )
    code = ", ".join(
        f"{name.removeprefix('code/')} {n}" for name, n in sorted(counts.items()) if name.startswith("code/")
    )
    console.print_facts(
        {
            "solutions": summary.items,
            "critiques": f"{summary.rows * settings.samples} ({ends})",
            "code blocks run": f"{counts['code_blocks']}{f' ({code})' if code else ''}",
            **end_of_stage(summary, "solution"),
        }
    )
    console.print_facts({"critiques": stage.output})
    Sameness(summary.rows, counts["solutions_with_equal_critiques"]).warn("critiques of each solution")
    refuse_empty(summary, "no solution could be critiqued", stage.output)
    return 0
