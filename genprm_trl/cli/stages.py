"""What the commands share that work on many items: their options, and the report at the end."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cli import console
from genprm_trl.cli.files import OverwriteOptions
from genprm_trl.errors import ConfigError, GenPRMError, check_at_least
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.rows.outputs import CommandFiles, inputs_of
from genprm_trl.stages.file import stage_directory

if TYPE_CHECKING:
    from genprm_trl.options.generator import GeneratorOptions
    from genprm_trl.records import Solution, Verdict
    from genprm_trl.solving.solver import Solver, SolverSettings
    from genprm_trl.stages.file import StageSummary
    from genprm_trl.stages.partial import Partial
    from genprm_trl.stages.run import Executor
    from genprm_trl.stages.verdict_file import VerdictFile
    from genprm_trl.verifier.base import Verifier

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class WorkOptions(OverwriteOptions):
    """How the work on many items runs. A command's `run` takes it beside its own options."""

    max_items: int | None = field(
        default=None,
        metadata={
            "help": "Rows worked on at once, in each worker. Default: 64, or as many as keep a verifier busy in this "
            "process."
        },
    )
    workers: int = field(
        default=0,
        metadata={"help": "Worker processes of Ray Data, each with its own model (extra: ray). 0: this process."},
    )
    gpus_per_worker: float = field(default=0.0, metadata={"help": "GPUs that Ray reserves for each worker."})

    def executor(self) -> Executor:
        """What runs the work.

        Raises:
            ConfigError: A number is out of range.
            MissingExtraError: Ray is asked for and not installed.
        """
        check_at_least(0, gpus_per_worker=self.gpus_per_worker)
        if self.workers:
            from genprm_trl.stages.ray import with_ray

            return with_ray(self.workers, self.max_items, gpus_per_worker=self.gpus_per_worker)
        from genprm_trl.stages.run import in_this_process

        return in_this_process(self.max_items)


@dataclass(kw_only=True)
class StageOptions(WorkOptions):
    """How a stage of the data recipe runs."""

    output: str = field(metadata={"help": "Where the rows go (JSONL). To resume, run the same command again."})
    drop_failed: bool = field(
        default=False,
        metadata={"help": "Skip what the generator or the sandbox failed on, instead of ending with an error."},
    )

    def files(self, *options: Any, results: Sequence[str] = ()) -> CommandFiles:
        """What a stage's command reads and writes.

        Args:
            *options: All that its `run` takes.
            results: Endings of the files that it writes beside the output.
        """
        output = Path(self.output)
        return CommandFiles(
            inputs_of(*options),
            [Path(f"{output}{ending}") for ending in results],
            [output, stage_directory(output)],
            self.overwrite,
        )

    @property
    def settings_path(self) -> Path | None:
        """The settings of the run that this one resumes, if there is one; None if it starts again."""
        return None if self.overwrite else stage_directory(self.output) / "settings.json"

    def run(
        self,
        worker: Any,
        items: Iterable[Any],
        settings: Mapping[str, Any],
        *,
        desc: str,
        unit: str,
        renew: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> StageSummary:
        """Runs a stage with these options.

        Args:
            worker: The work on one item.
            items: The input. If it counts `bad_rows`, the summary does, too.
            settings: What decides the rows, as JSON values.
            desc: The progress bar's label.
            unit: What an item is called.
            renew: Makes output rows of an item and a row of the journal; see `StageFile.finish`.

        What `run_stage` raises comes through.
        """
        from genprm_trl.stages.run import run_stage

        return run_stage(
            worker,
            items,
            self.output,
            settings,
            execute=self.executor(),
            overwrite=self.overwrite,
            drop_failed=self.drop_failed,
            bad_rows=lambda: getattr(items, "bad_rows", 0),
            renew=renew,
            progress=not console.is_quiet(),
            desc=desc,
            unit=unit,
            on_start=lambda file: console.set_kept(
                f"what is finished is in {file.path}; to resume, run the same command again"
            ),
        )


@dataclass(kw_only=True)
class JudgingOptions(WorkOptions):
    """How a command judges a file of solutions."""

    retry_errors: bool = field(
        default=False,
        metadata={"help": "Judge again what failed in an earlier run, because of the generator or the sandbox."},
    )

    def open(self, path: Path, solutions: Iterable[Solution], verifier: VerifierOptions) -> VerdictFile:
        """The file of verdicts on the solutions; its caller closes it. What `VerdictFile` raises comes through.

        The day that the verifier's chat template shows is set, where it shows one.
        """
        from genprm_trl.stages.verdict_file import VerdictFile

        verifier.freeze_date(None if self.overwrite else Path(f"{path}.settings.json"), path)
        return VerdictFile(
            path,
            verifier.what_decides_verdicts(),
            solutions,
            overwrite=self.overwrite,
            retry_errors=self.retry_errors,
        )

    def judge(self, file: VerdictFile, verifier: VerifierOptions) -> float:
        """Makes the verdicts that a file does not hold yet, each written as it finishes.

        Nothing is loaded if all verdicts are there.

        Args:
            file: Opened for the solutions that are to be judged.
            verifier: What to judge with.

        Returns:
            The seconds that it took, with loading the verifier.

        Raises:
            GenPRMError: The verifier gave no verdict.
        """
        from genprm_trl.stages.run import Worker
        from genprm_trl.verifier.base import longest_first

        execute = self.executor()
        remaining = file.total - file.done
        if not remaining:
            logger.info("%s is finished: it holds all %d verdicts", file.path, file.done)
            return 0.0
        if file.done:
            logger.info("%s holds %d verdicts; resuming with the other %d", file.path, file.done, remaining)
        started = time.monotonic()
        console.set_kept(f"finished verdicts are in {file.path}; to resume, run the same command again")
        worker = Worker(functools.partial(load_verifier, verifier), judge, solutions_at_once)
        try:
            with contextlib.closing(execute(worker, longest_first(file.remaining()))) as finished:
                for each in console.progress(finished, total=remaining, desc="Verifying", unit="solution"):
                    if each.result is None:
                        raise GenPRMError(f"there is no verdict on '{each.id}': {each.error}")
                    file.write(each.result)
        finally:
            seconds = time.monotonic() - started
            file.add_seconds(seconds)
        return seconds


def policy_and_verifier(
    policy: GeneratorOptions, solver: SolverSettings, verifier: VerifierOptions, stage: StageOptions
) -> tuple[dict[str, Any], Callable[[], AbstractAsyncContextManager[tuple[Solver, Verifier]]]]:
    """What a command needs in which a verifier judges a policy's texts while they are made.

    Returns:
        The options that decide the texts and verdicts, as JSON values, and a function that opens both models.
    """
    from genprm_trl.solving.solver import open_solver, open_solver_and_verifier
    from genprm_trl.stages.settings import decisive

    policy_opener = policy.opener()
    verifier.generator_options()  # unusable options are found before a template is looked for
    verifier.freeze_date(stage.settings_path, stage.output)
    policy.freeze_date(stage.settings_path, stage.output, "policy_template_date")
    of_policy = {**policy.what_decides_text(), **decisive(solver)}
    settings = {
        **verifier.what_decides_verdicts(),
        **{f"policy_{name}": value for name, value in of_policy.items()},
    }
    opener = functools.partial(
        open_solver_and_verifier,
        functools.partial(open_solver, policy_opener, solver, policy.chat_template(), policy.template_date),
        functools.partial(_load_after_check, policy, verifier),
        # A verifier asks its sandbox before its model is loaded. So it comes second only if the policy costs nothing.
        policy_first=policy.backend == "server" != verifier.backend,
    )
    return settings, opener


def _load_after_check(policy: GeneratorOptions, verifier: VerifierOptions) -> Verifier:
    """Loads the verifier of a policy that can be loaded, too, as far as that can be known."""
    policy.check_model()
    return load_verifier(verifier)


async def judge(verifier: Verifier, solution: Solution, partial: Partial) -> Verdict:
    """Judges one solution, as the work of a stage."""
    return await verifier.verify(solution)


def short_name(path: str) -> str:
    """What a file or a model is called in the names of outputs: its name up to the first dot."""
    return Path(path.rstrip("/")).name.split(".")[0] or "solutions"


def refuse_empty(summary: StageSummary, what: str, output: str) -> None:
    """Ends a command with an error where its output has no row: the next one would have nothing to work on.

    Args:
        summary: The stage's counts.
        what: What was looked for and not found: "no solution passed the filter".
        output: The output.

    Raises:
        ConfigError: There is no row.
    """
    if not summary.rows:
        raise ConfigError(f"{what}; {output} is empty")


def end_of_stage(summary: StageSummary, unit: str) -> dict[str, str]:
    """What every stage says at its end, for `console.print_facts`.

    Args:
        summary: The stage's counts.
        unit: What an item is called.
    """
    facts = {}
    if "tokens" in summary.counts:
        facts["tokens generated"] = f"{int(summary.counts['tokens']):,}"
    if summary.bad_rows:
        facts["rows skipped"] = f"{summary.bad_rows} that could not be used (named above)"
    if summary.dropped["failed"]:
        facts[f"{unit}s failed"] = f"{summary.dropped['failed']}, left out (named above)"
    return facts


def solutions_at_once(verifier: Verifier) -> int:
    """How many solutions are begun: one more than it judges, so that it never waits for the next one."""
    return verifier.concurrency + 1
