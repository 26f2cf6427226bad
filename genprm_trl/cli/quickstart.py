"""Train a small GenPRM on this machine, measure it, and show the results.

In the miniature world (arithmetic word problems made by a program, models of 0.2M parameters) everything runs on a
CPU: data, training with TRL, verification with code execution, and the comparison with a direct and a discriminative
baseline.
The trained verifier is left in OUTPUT_DIR/genprm; `genprm verify` judges with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli import console
from genprm_trl.rows.outputs import CommandFiles
from genprm_trl.sandbox.options import SandboxOptions


@dataclass
class QuickstartOptions:
    """Options of `genprm quickstart`."""

    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where data, models and results go. Default: outputs/quickstart, or outputs/quickstart-fast."
        },
    )
    fast: bool = field(
        default=False,
        metadata={"help": "A run of about two minutes: shows the path. It is too short for the models to learn much."},
    )
    seed: int = field(default=0, metadata={"help": "Fixes data, weights and sampling."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what a run with another seed left there."})


def files(options: QuickstartOptions, sandbox: SandboxOptions) -> CommandFiles:
    """What the command reads and writes."""
    output = _output_dir(options)
    names = ("results.md", "results.json", "f1_by_n.png", "data/train_rationales.jsonl", "data/heldout.jsonl")
    return CommandFiles(results=[output / name for name in names], overwrite=options.overwrite, name="--output_dir")


def _output_dir(options: QuickstartOptions) -> Path:
    return Path(options.output_dir or f"outputs/quickstart{'-fast' if options.fast else ''}")


def run(options: QuickstartOptions, sandbox: SandboxOptions) -> int:
    """Runs every stage of the quickstart that is not finished, and prints its tables."""
    from genprm_trl.miniature.quickstart import (
        FAST_PLAN,
        FULL_PLAN,
        conclusions,
        kinds_table,
        results_table,
        run_quickstart,
    )
    from genprm_trl.rows.jsonl import locked_directory

    output_dir = str(_output_dir(options))
    console.set_kept(f"finished stages are in {output_dir}; to resume, run the same command again")

    def announce(sentence: str) -> None:
        if not console.is_quiet():
            print(f"\n{sentence}", flush=True)

    with locked_directory(output_dir):
        rows = run_quickstart(
            output_dir,
            FAST_PLAN if options.fast else FULL_PLAN,
            seed=options.seed,
            announce=announce,
            progress=not console.is_quiet(),
            overwrite=options.overwrite,
            sandbox=sandbox,
        )
    print(f"\n{results_table(rows)}\n{kinds_table(rows)}")
    print("\n".join(conclusions(rows)))
    if options.fast:
        print("\n--fast shows that every part works; its models have seen too little to judge. Leave it out for that.")
    print(f"\nthe trained verifier  {output_dir}/genprm")
    plot = f"{output_dir}/f1_by_n.png"
    print(f"table and plot        {output_dir}/results.md, {plot if Path(plot).exists() else 'no plot'}")
    return 0
