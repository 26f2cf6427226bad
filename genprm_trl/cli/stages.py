"""The options of every stage of the data recipe: where rows come from and go, and what works on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError

if TYPE_CHECKING:
    from genprm_trl.stages.file import StageSummary


@dataclass
class StageOptions:
    """How a stage runs. A command's `run` takes it beside its own options."""

    output: str = field(metadata={"help": "Where the rows go (JSONL). A run that was stopped goes on from there."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew if the output exists, instead of going on."})
    drop_failed: bool = field(
        default=False,
        metadata={"help": "Leave out what the generator or the sandbox failed on, instead of ending with an error."},
    )
    max_items: int = field(default=64, metadata={"help": "Rows worked on at once, in each worker."})
    workers: int = field(
        default=0,
        metadata={"help": "Worker processes of Ray Data, each with a model of its own (extra: ray). 0: this process."},
    )
    gpus_per_worker: float = field(default=0.0, metadata={"help": "GPUs that Ray reserves for each worker."})

    def run(
        self,
        worker: Any,
        items: Iterable[Any],
        settings: Mapping[str, Any],
        *,
        reads: Iterable[str | None],
        desc: str,
        unit: str,
        **further: Any,
    ) -> StageSummary:
        """Runs a stage with these options; other arguments as for `labeling.stage.run_stage`.

        Args:
            reads: Files and data sets that the rows are made from.

        Raises:
            ConfigError: The output is one of them. What `run_stage` raises comes through.
        """
        from genprm_trl.stages.run import in_this_process, run_stage

        output = Path(self.output)
        for source in reads:
            if source is not None and output.is_file() and Path(source).is_file() and output.samefile(source):
                raise ConfigError(f"{output} is read by this command; name another --output")
        if self.workers:
            from genprm_trl.stages.ray import with_ray

            execute = with_ray(self.workers, self.max_items, gpus_per_worker=self.gpus_per_worker)
        else:
            execute = in_this_process(self.max_items)
        return run_stage(
            worker,
            items,
            self.output,
            settings,
            execute=execute,
            overwrite=self.overwrite,
            drop_failed=self.drop_failed,
            progress=not console.is_quiet(),
            desc=desc,
            unit=unit,
            on_start=lambda file: console.set_kept(
                f"what is finished is in {Path(file.journal_path)}; the same command goes on from there"
            ),
            **further,
        )
