"""A verifier from a real pretrained model, on real solutions with labels that people made.

SmolLM2-135M-Instruct learns from GSM8K's annotated solutions and from generated expressions, in three ways: as a
GenPRM that checks steps with code, as the same model that answers directly, and as a discriminative process reward
model. All see the same solutions, and are judged on solutions that none has seen. The model cannot tell whether a step
makes sense; the tables say which errors are found.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from genprm_trl._loops import run
from genprm_trl.data.contamination import NGRAM, Decontamination
from genprm_trl.data.contamination import read_benchmarks as read_problems
from genprm_trl.data.sources import open_source
from genprm_trl.errors import DataError
from genprm_trl.generation.base import SamplingParams
from genprm_trl.labeling.data_card import Statistics, decontamination_path, write_data_card
from genprm_trl.loading import iter_rationales
from genprm_trl.miniature.stage_directories import StageDirectories, machine
from genprm_trl.records import RationaleRecord, Verdict
from genprm_trl.rows.jsonl import write_json, write_jsonl, write_text
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.smollm2.base_model import find_base_model, make_base_model
from genprm_trl.smollm2.benchmarks import CANDIDATES, TRAINING_FILE, Benchmark, data_directory, read_benchmarks
from genprm_trl.smollm2.expressions import make_expressions
from genprm_trl.smollm2.gsm8k import make_gsm8k_solutions
from genprm_trl.smollm2.rationales import rationale_records
from genprm_trl.smollm2.report import NAMES, Measured, as_json, measure, measure_rule, table
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.settings import changes, read_settings
from genprm_trl.stages.verdict_file import VerdictFile
from genprm_trl.training.prm.scorer import PRMScorer
from genprm_trl.training.prm.trainer import PRMConfig, PRMTrainer
from genprm_trl.training.sft.trainer import GenPRMConfig, GenPRMTrainer
from genprm_trl.verifier.base import Verifier, longest_first
from genprm_trl.verifier.genprm import GenPRM

logger = logging.getLogger(__name__)

STAGES = ("base", "data", "genprm", "direct", "discriminative")
MODE = "code_execution"
VERIFIERS = ("genprm", "direct", "discriminative")
MAX_LENGTH = 2048
_TEXT_NAMES = {
    "genprm": "the GenPRM",
    "direct": "the direct baseline",
    "discriminative": "the discriminative baseline",
}


@dataclass(frozen=True, slots=True)
class RealPlan:
    """How much of everything.

    Attributes:
        expressions: Generated expressions with solutions.
        gsm8k: Solutions made of GSM8K's training set.
        epochs: Passes over the data, the same for all three models.
        learning_rate: Peak learning rate.
        batch_size: Solutions in an optimizer step.
        max_step_tokens: Bound on a rationale; what rambles on is not worth waiting for.
        limit: Solutions judged of each labelled benchmark, at most; None is all.
        pools: Problems of GSM8K whose four real solutions are judged.
    """

    expressions: int = 160
    gsm8k: int = 90
    epochs: float = 1.0
    learning_rate: float = 3e-4
    batch_size: int = 2
    max_step_tokens: int = 400
    limit: int | None = None
    pools: int = 50

    def judging_at_most(self, limit: int | None) -> RealPlan:
        """The plan with no more than `limit` solutions of each benchmark; itself for None."""
        if limit is None:
            return self
        return replace(self, limit=min(limit, self.limit or limit), pools=min(limit // CANDIDATES, self.pools))


PLAN = RealPlan()
# Shows that all parts work; teaches nothing.
FAST_PLAN = RealPlan(expressions=10, gsm8k=10, limit=4, pools=2, max_step_tokens=200)


def run_real_quickstart(
    output_dir: str | Path,
    plan: RealPlan = PLAN,
    *,
    base_model: str | None = None,
    data_dir: str | None = None,
    n: int = 1,
    seed: int = 0,
    announce: Callable[[str], None] = logger.info,
    progress: bool = True,
    overwrite: bool = False,
    sandbox: SandboxOptions | None = None,
) -> list[str]:
    """Runs every stage that is not finished, and writes `results.md` and `results.json`.

    A finished stage is not repeated. Verdicts are kept one by one. With another `n` only the GenPRM judges again.

    Args:
        output_dir: Directory for everything; `genprm/` in it is the trained verifier.
        plan: How much of everything.
        base_model: What to start from; see `find_base_model`.
        data_dir: Directory with GSM8K and the benchmarks; see `data_directory`.
        n: Rationales that the GenPRM writes for each solution.
        seed: Fixes data, training and sampling.
        announce: Told what happens next, and about how long it takes.
        progress: Show progress bars.
        overwrite: Replace what a finished stage of another plan or seed has made.
        sandbox: Where code runs, and what is required of it.

    Returns:
        A table in Markdown for each benchmark.

    Raises:
        ConfigError: Data or model cannot be had, a finished stage was made with other settings, or the sandbox cannot
            run code.
        DataError: A row of the data cannot be used.
    """
    output = Path(output_dir)
    sandbox = sandbox if sandbox is not None else SandboxOptions()
    directory = data_directory(data_dir)
    benchmarks = read_benchmarks(directory, limit=plan.limit, pools=plan.pools)
    source = find_base_model(base_model)
    sandbox.check_sandbox()  # not only after minutes
    of_training = ("expressions", "gsm8k", "epochs", "learning_rate", "batch_size")
    settings = {name: value for name, value in asdict(plan).items() if name in of_training}
    settings |= {"seed": seed, "base_model": Path(source).name if Path(source).exists() else source}
    stages = StageDirectories(output, STAGES, settings, announce, overwrite=overwrite)

    base = stages.run("base", f"Making the model directory from {source}", lambda d: make_base_model(d, source))
    data = stages.run(
        "data",
        f"Making {plan.expressions} worked expressions and {plan.gsm8k} solutions of GSM8K, and running their code",
        lambda d: _make_data(d, plan, directory / TRAINING_FILE, benchmarks, seed, sandbox),
    )
    rows = list(iter_rationales(data / "rationales.jsonl"))
    training = _Training(plan, seed, base, rows, progress, announce)
    for name in VERIFIERS:
        stages.run(name, f"Training {_TEXT_NAMES[name]} on {len(rows)} solutions", getattr(training, name))
    tables, results = [], {}
    for benchmark in benchmarks:
        measured = measure_rule(benchmark, seed)
        for name in reversed(VERIFIERS):
            judging = _Judging(output, plan, settings, name, n if name == "genprm" else 1, seed, progress, sandbox)
            verdicts, seconds = judging.judge(benchmark, announce)
            measured += measure(benchmark, name, verdicts, seconds=seconds, seed=seed)
        results[benchmark.name] = measured
        tables.append(table(benchmark, measured, seed))
        announce(tables[-1])
    _write_results(output, tables, results, stages, plan, n)
    return tables


def _make_data(
    directory: Path,
    plan: RealPlan,
    training_file: Path,
    benchmarks: Sequence[Benchmark],
    seed: int,
    sandbox: SandboxOptions,
) -> None:
    """Writes `rationales.jsonl`, the counts of its decontamination, and the data's card."""
    _, _, rows = open_source(training_file)
    problems = []
    for number, row in rows:
        if isinstance(row, DataError):
            raise row.at(file=str(training_file), row=number)
        problems.append(row)
    solutions = make_gsm8k_solutions(problems, plan.gsm8k, seed=seed)
    solutions += make_expressions(plan.expressions, seed=seed)

    async def with_rationales() -> Any:
        async with sandbox.open_sandbox() as opened:
            return await rationale_records(solutions, opened)

    records, disagreeing = run(with_rationales())
    if disagreeing:
        logger.warning("%d solutions are left out: their code contradicts their label", disagreeing.total())
    files = [file for benchmark in benchmarks for file in benchmark.files]
    data = Decontamination(read_problems(files))
    rationales = directory / "rationales.jsonl"
    clean = list(data.clean([record.to_dict() for record in records]))
    write_jsonl(rationales, clean)
    counts = {"against": [str(file) for file in files], "ngram": NGRAM, **data.counts()}
    write_json(decontamination_path(rationales), counts)
    statistics = Statistics.of(map(RationaleRecord.from_dict, clean), ())
    write_data_card(directory, "SmolLM2 quickstart", statistics, [], decontamination=counts)


@dataclass(frozen=True, slots=True)
class _Training:
    """The three models' training, alike in all but what is learned."""

    plan: RealPlan
    seed: int
    base: Path
    rows: list[RationaleRecord]
    progress: bool
    announce: Callable[[str], None]

    def _arguments(self, directory: Path) -> dict[str, Any]:
        on_gpu = torch.cuda.is_available()
        return {
            "output_dir": str(directory / "checkpoints"),
            "num_train_epochs": self.plan.epochs,
            "learning_rate": self.plan.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,  # of all steps
            "per_device_train_batch_size": self.plan.batch_size,
            "train_sampling_strategy": "group_by_length",
            "max_length": MAX_LENGTH,
            "model_init_kwargs": {"dtype": "float32"},
            "weight_decay": 0.0,
            "seed": self.seed,
            "use_cpu": not on_gpu,
            "bf16": computes_in_bfloat16(),
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_strategy": "steps" if self.progress else "no",
            "logging_steps": 5,
            "report_to": "none",
            "disable_tqdm": not self.progress,
        }

    def _sft(self, directory: Path, mode: str) -> None:
        args = GenPRMConfig(**self._arguments(directory), mode=mode)
        self._finish(GenPRMTrainer(str(self.base), args, train_dataset=self.rows), directory)

    def genprm(self, directory: Path) -> None:
        self._sft(directory, MODE)

    def direct(self, directory: Path) -> None:
        self._sft(directory, "direct")

    def discriminative(self, directory: Path) -> None:
        rows = [record.solution.to_dict() for record in self.rows]
        self._finish(
            PRMTrainer(str(self.base), PRMConfig(**self._arguments(directory)), train_dataset=rows), directory
        )

    def _finish(self, trainer: Any, directory: Path) -> None:
        tokens = int(sum(map(len, trainer.train_dataset["input_ids"])) * self.plan.epochs)
        rate = _tokens_per_second(trainer.model)
        self.announce(f"It has {tokens:,} tokens: about {_duration(tokens / rate)} at {rate:.0f} tokens a second.")
        trainer.train()
        trainer.save_model(str(directory))
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def computes_in_bfloat16() -> bool:
    """Whether autocast makes training faster here; a CPU without the instructions would be slower."""
    cpu: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch do not tell
    return torch.cuda.is_available() or any(cpu.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _tokens_per_second(model: torch.nn.Module) -> float:
    """How fast a model learns, from one pass forward and back."""
    device = next(model.parameters()).device
    seconds = 0.0
    for length in (8, 128):  # the first pass also makes an accelerator ready
        started = time.monotonic()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_bfloat16()):
            loss = model(input_ids=torch.full((1, length), 7, device=device)).logits.float().mean()
        loss.backward()
        loss.item()  # waits for an accelerator
        model.zero_grad()
        seconds = time.monotonic() - started
    return length / max(seconds, 1e-9)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


@dataclass(frozen=True, slots=True)
class _Judging:
    """One verifier's verdicts."""

    output: Path
    plan: RealPlan
    settings: dict[str, Any]
    name: str
    n: int
    seed: int
    progress: bool
    sandbox: SandboxOptions

    def judge(self, benchmark: Benchmark, announce: Callable[[str], None]) -> tuple[list[Verdict], float]:
        """The verdicts in the solutions' order, and the seconds that they took in all runs; 0 if that is not known."""
        path = self.output / "verdicts" / f"{benchmark.name}-{self.name}{f'-{self.n}' if self.n > 1 else ''}.jsonl"
        settings = {**self.settings, "n": self.n, "max_step_tokens": self.plan.max_step_tokens}
        settings["temperature"] = self._sampling().temperature
        settings["model_files"] = model_fingerprint(self.output / self.name)
        before = read_settings(Path(f"{path}.settings.json"))
        # The models' own directories refuse other settings; what was judged by an earlier model is judged again.
        anew = before is not None and bool(changes(before, settings))
        with VerdictFile(path, settings, benchmark.solutions, overwrite=anew) as file:
            remaining = list(longest_first(file.remaining()))
            if not remaining:
                return list(file.verdicts()), file.seconds or 0.0
            many = f"{len(remaining)} solutions of {benchmark.name}" + (f", {self.n} times" if self.n > 1 else "")
            announce(f"Judging {many} with {_TEXT_NAMES[self.name]}.")
            started = time.monotonic()
            try:
                with self._open() as verifier:
                    for verdict in verifier.verify_all(remaining, progress=self.progress, desc=NAMES[self.name]):
                        file.write(verdict)
            finally:
                file.add_seconds(time.monotonic() - started)
            return list(file.verdicts()), file.seconds or 0.0

    def _sampling(self) -> SamplingParams:
        """One rationale is the likeliest one; several are to differ."""
        return SamplingParams(temperature=0.0) if self.n == 1 else SamplingParams()

    def _open(self) -> Verifier:
        directory = self.output / self.name
        if self.name == "discriminative":
            return PRMScorer(directory)
        # A few cores write no faster in larger batches, and keep the texts of fewer in memory.
        engine = {"dtype": "bfloat16"} if torch.cuda.is_available() else {"max_batch_size": 16}
        return GenPRM.from_pretrained(
            directory,
            n=self.n,
            seed=self.seed,
            sampling=self._sampling(),
            max_step_tokens=self.plan.max_step_tokens,
            # What follows the first wrong step is in no score.
            stop="first_error",
            sandbox=self.sandbox.open_sandbox() if self.name == "genprm" else None,
            generator_kwargs=engine,
        )


def _write_results(
    output: Path,
    tables: Sequence[str],
    results: dict[str, list[Measured]],
    stages: StageDirectories,
    plan: RealPlan,
    n: int,
) -> None:
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in stages.seconds.items())
    write_text(output / "results.md", "\n".join([*tables, f"{machine()}; {seconds}.\n"]), result=True)
    write_json(
        output / "results.json",
        {
            "plan": asdict(plan),
            "settings": stages.settings,
            "n": n,
            "machine": machine(),
            "seconds": stages.seconds,
            "results": {name: as_json(measured) for name, measured in results.items()},
        },
        result=True,
    )
