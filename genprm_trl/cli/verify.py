"""Judge a file of solutions step by step with a trained GenPRM.

FILE is JSONL, JSON, parquet, or a data set: ProcessBench, GSM8K (model solutions too), PRM800K, Math-Shepherd or
stepwise-supervision rows, recognised by their fields. Verdicts are written as they finish, a line each; a run that was
stopped goes on where it was when started again with the same words.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from genprm_trl.verifier import GenPRM

logger = logging.getLogger(__name__)


@dataclass
class VerifyOptions:
    """Options of `genprm verify`."""

    file: str = field(
        metadata={"help": "Solutions to judge: a file, or a directory saved by datasets.", "positional": True}
    )
    model: str = field(metadata={"help": "Model directory or Hub id of a GenPRM."})
    output: str | None = field(
        default=None, metadata={"help": "Where verdicts go (JSONL). Default: outputs/verify/FILE-MODEL.jsonl"}
    )
    overwrite: bool = field(default=False, metadata={"help": "Start anew if the output exists, instead of going on."})
    n: int = field(default=1, metadata={"help": "Rationales sampled a solution and averaged (Maj@N)."})
    mode: str | None = field(
        default=None,
        metadata={
            "help": "Parts of a rationale: full, analysis_code, analysis, code_execution, code or direct. Default: "
            "what the model was trained for."
        },
    )
    stop: Literal["never", "first_error"] = field(
        default="never", metadata={"help": "first_error: do not judge what follows the first step judged wrong."}
    )
    threshold: float = field(default=0.5, metadata={"help": "A step whose reward is below this is judged wrong."})
    limit: int | None = field(default=None, metadata={"help": "Judge the first LIMIT solutions alone."})
    format: str = field(
        default="auto",
        metadata={
            "help": "Row format of FILE: auto (recognised by its fields), processbench, prm800k, math_shepherd, "
            "stepwise, gsm8k_solutions, gsm8k or math."
        },
    )
    split: str | None = field(default=None, metadata={"help": "Split of a data set from the Hub."})
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report and skip unusable rows instead of stopping before work starts."}
    )
    seed: int = field(default=0, metadata={"help": "Verdicts repeat with the same seed."})
    temperature: float = field(default=0.6, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus filter."})
    top_k: int = field(default=20, metadata={"help": "Top-k filter; 0 is none."})
    max_step_tokens: int = field(default=2048, metadata={"help": "Bound on the tokens of one step's rationale."})
    max_chains: int = field(default=256, metadata={"help": "Rationales in flight at once."})
    batch_size: int | None = field(default=None, metadata={"help": "Sequences a batch of the generator."})
    device: str | None = field(default=None, metadata={"help": "Device of the model, e.g. cuda:1."})
    dtype: str = field(default="auto", metadata={"help": "Precision of the weights, e.g. bfloat16."})
    turn_opening: str | None = field(
        default=None,
        metadata={
            "help": "How an assistant's turn opens: generation_prompt, or as_published for the checkpoints of the "
            "paper's authors. Default: what the model's directory says."
        },
    )
    first_turn: str | None = field(
        default=None, metadata={"help": "Form of the first turn: evaluation or demonstration."}
    )
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )

    def output_path(self) -> Path:
        if self.output is not None:
            return Path(self.output)
        return Path("outputs", "verify", f"{_stem(self.file)}-{_stem(self.model)}.jsonl")

    def what_decides_verdicts(self) -> dict[str, object]:
        """The settings that a resumed run must share with the one before."""
        names = (
            "model n mode stop threshold seed temperature top_p top_k max_step_tokens turn_opening first_turn "
            "chat_template_path"
        )
        values = asdict(self)
        return {name: values[name] for name in names.split()}


def _stem(path: str) -> str:
    return Path(path.rstrip("/")).name.split(".")[0] or "solutions"


def run(options: VerifyOptions) -> int:
    from genprm_trl.loading import load_solutions
    from genprm_trl.summary import VerdictSummary
    from genprm_trl.verdict_file import VerdictFile

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
    output = options.output_path()
    seconds = 0.0
    with VerdictFile(output, options.what_decides_verdicts(), solutions, overwrite=options.overwrite) as file:
        remaining = file.remaining
        if len(remaining) < len(solutions):
            done = len(solutions) - len(remaining)
            logger.info("%s holds %d verdicts; going on with the other %d", output, done, len(remaining))
        if remaining:
            with _load_verifier(options) as prm:
                console.set_kept(f"finished verdicts are in {output}; the same command goes on from there")
                started = time.monotonic()
                for verdict in prm.verify_all(remaining, progress=not console.is_quiet()):
                    file.write(verdict)
                seconds = time.monotonic() - started
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
            "remove their lines from the file, or use --overwrite.",
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


def _load_verifier(options: VerifyOptions) -> GenPRM:
    from genprm_trl.generation.base import SamplingParams
    from genprm_trl.verifier import GenPRM

    chat_template = None
    if options.chat_template_path is not None:
        try:
            chat_template = Path(options.chat_template_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat_template_path {options.chat_template_path}: {error}") from error
    generator_kwargs = {"device": options.device, "dtype": options.dtype}
    if options.batch_size is not None:
        generator_kwargs["max_batch_size"] = options.batch_size  # type: ignore[assignment]
    return GenPRM.from_pretrained(
        options.model,
        mode=options.mode,
        turn_opening=options.turn_opening,  # type: ignore[arg-type]
        first_turn=options.first_turn,  # type: ignore[arg-type]
        chat_template=chat_template,
        generator_kwargs=generator_kwargs,
        max_step_tokens=options.max_step_tokens,
        n=options.n,
        sampling=SamplingParams(temperature=options.temperature, top_p=options.top_p, top_k=options.top_k),
        threshold=options.threshold,
        stop=options.stop,
        seed=options.seed,
        max_chains=options.max_chains,
    )
