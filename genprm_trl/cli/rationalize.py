"""Let a strong reasoner critique whole solutions, with code that is run as it writes.

FILE holds solutions, as `genprm label` writes them (ProcessBench rows and the other formats will do, too). Each
critique is written with what its code printed and how it ended; `genprm consensus` then keeps those that agree with
the labels. A run that was stopped goes on where it was when started again with the same words.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field

from genprm_trl.cli.stages import StageOptions
from genprm_trl.options.generator import GeneratorOptions


@dataclass
class RationalizeOptions:
    """Options of `genprm rationalize`."""

    file: str = field(metadata={"help": "Solutions: a file, or a data set.", "positional": True})
    split: str | None = field(default=None, metadata={"help": "Split of FILE, where it has several."})
    format: str = field(default="auto", metadata={"help": "Row format of FILE; see `genprm verify --help`."})
    limit: int | None = field(default=None, metadata={"help": "Take the first LIMIT solutions alone."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report and skip unusable rows instead of stopping before work starts."}
    )
    samples: int = field(default=1, metadata={"help": "Critiques sampled a solution."})
    max_tokens: int = field(
        default=16384,
        metadata={"help": "Bound on the tokens of a critique: thinking, answer, and what its code prints."},
    )
    max_code_rounds: int = field(default=32, metadata={"help": "Code blocks that may run for a critique."})
    temperature: float = field(default=0.6, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus filter."})
    top_k: int = field(default=40, metadata={"help": "Top-k filter; 0 is none."})
    keep_thinking: bool = field(
        default=False, metadata={"help": "Keep what the reasoner thinks before its answer, apart from the answer."}
    )
    seed: int = field(default=0, metadata={"help": "Critiques repeat with the same seed."})
    max_chains: int = field(default=256, metadata={"help": "Critiques in flight at once, in each worker."})

    _SETTINGS = ("samples", "max_tokens", "max_code_rounds", "temperature", "top_p", "top_k", "keep_thinking", "seed")


def run(options: RationalizeOptions, generator: GeneratorOptions, stage: StageOptions) -> int:
    from genprm_trl.data.solutions import Records, solution_reader
    from genprm_trl.labeling.critiques import SAMPLE_STATUSES
    from genprm_trl.labeling.rationales import RationaleSettings, open_reasoner, rationalize
    from genprm_trl.records import Solution
    from genprm_trl.sandbox import LocalSandbox
    from genprm_trl.stages.run import Worker
    from genprm_trl.stages.settings import settings_digest

    values = asdict(options)
    settings = RationaleSettings(**{name: values[name] for name in RationalizeOptions._SETTINGS})
    solutions = Records[Solution](
        options.file,
        solution_reader(options.format),
        split=options.split,
        limit=options.limit,
        skip_bad_rows=options.skip_bad_rows,
    )
    made_with = {**generator.what_decides_text(), **asdict(settings)}
    source = {"reasoner": generator.model, "seed": settings.seed, "settings": settings_digest(made_with)}
    worker = Worker(
        functools.partial(
            open_reasoner,
            generator.opener(),
            LocalSandbox,
            settings,
            chat_template=generator.chat_template(),
            max_chains=options.max_chains,
        ),
        functools.partial(rationalize, source=source),
    )
    summary = stage.run(
        worker,
        solutions,
        made_with,
        bad_rows=lambda: solutions.bad_rows,
        reads=[options.file],
        desc="Critiquing",
        unit="solution",
    )
    counts = {name: int(count) for name, count in summary.counts.items()}
    ends = ", ".join(
        f"{status} {counts[f'status/{status}']}" for status in SAMPLE_STATUSES if f"status/{status}" in counts
    )
    code = ", ".join(
        f"{name.removeprefix('code/')} {n}" for name, n in sorted(counts.items()) if name.startswith("code/")
    )
    print(f"solutions          {summary.items}")
    print(f"critiques          {summary.rows * settings.samples} ({ends})")
    print(f"code blocks run    {counts.get('code_blocks', 0)}{f' ({code})' if code else ''}")
    print(f"tokens generated   {counts.get('tokens', 0):,}")
    if summary.bad_rows:
        print(f"rows skipped       {summary.bad_rows} that could not be used (named above)")
    if summary.dropped["failed"]:
        print(f"solutions failed   {summary.dropped['failed']}, left out (named above)")
    print(f"critiques          {stage.output}")
    return 0
