"""Running a stage of the data recipe: what is to be done with one item, done with all of them, many at a time.

A stage is a worker and a file. The worker is a function that works on one item, and a context that opens what the
function needs (a model, a sandbox). `run_stage` hands it the items that are not done, writes each outcome as it comes,
and ends with the output in the order of the input. An executor decides where the work runs; `in_this_process` is the
default.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from genprm_trl._loops import as_finished, iterate_in_thread
from genprm_trl.errors import GenPRMError, check_at_least
from genprm_trl.rows.outputs import refuse_foreign
from genprm_trl.stages.file import FAILED, Outcome, StageFile, StageSummary
from genprm_trl.stages.partial import Partial, PartialFile, no_partial
from genprm_trl.stages.resumable import Item, ItemT

logger = logging.getLogger(__name__)

# So many failures without a success between them are not a matter of the items.
MAX_FAILURES_IN_A_ROW = 10
# Items worked on at once, unless the caller or the worker says how many.
MAX_ITEMS = 64

OpenedT = TypeVar("OpenedT")
ResultT = TypeVar("ResultT")


def _many(_: Any) -> int:
    return MAX_ITEMS


@dataclass(frozen=True, slots=True)
class Worker(Generic[OpenedT, ItemT, ResultT]):
    """The work on one item, and what must be open for it.

    For work in other processes both must be picklable: functions of a module, or `functools.partial` of them.

    Attributes:
        open: Opens what the work needs. Not called if there is nothing to do. `contextlib.nullcontext` opens nothing.
        work: Works on one item. It is called with what is open, the item, and what is known of it already.
        at_once: How many items what is open works on at once.
    """

    open: Callable[[], AbstractAsyncContextManager[OpenedT]]
    work: Callable[[OpenedT, ItemT, Partial], Awaitable[ResultT]]
    at_once: Callable[[OpenedT], int] = _many


class ItemFailed(GenPRMError):
    """An item could not be worked on this time, and may be another time: the server was away, memory ran out."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[ResultT]):
    """An item's end, as an executor reports it.

    Attributes:
        id: The item's id.
        digest: The item's digest.
        result: What came of it; None if it failed.
        error: Why it failed.
    """

    id: str
    digest: str
    result: ResultT | None
    error: str = ""


class Executor(Protocol):
    """Runs a worker over items, somewhere."""

    def __call__(
        self,
        worker: Worker[Any, ItemT, ResultT],
        items: Iterable[ItemT],
        partial: Callable[[Item], Partial] = no_partial,
    ) -> Generator[Finished[ResultT], None, None]:
        """Works on all items and reports each as it ends, in any order.

        It is a generator, so that the work ends where its results are not asked for any more.

        Args:
            worker: The work.
            items: Taken as others finish.
            partial: What is known of an item. Executors in other processes pass over it.
        """
        ...


def run_stage(
    worker: Worker[Any, ItemT, Outcome],
    items: Iterable[ItemT],
    output: str | Path,
    settings: Mapping[str, Any],
    *,
    execute: Executor | None = None,
    overwrite: bool = False,
    drop_failed: bool = False,
    bad_rows: Callable[[], int] = lambda: 0,
    renew: Callable[[ItemT, dict[str, Any]], dict[str, Any]] | None = None,
    progress: bool = True,
    desc: str = "",
    unit: str = "item",
    on_start: Callable[[StageFile[ItemT]], None] | None = None,
) -> StageSummary:
    """Does what is not done yet, and writes the output.

    Killed at any point and run again with equal arguments, it gives the same output as a run that was not: what comes
    of an item must depend on nothing but the item and the settings (seeds: `seeding.derive_seed`).

    Args:
        worker: The work on one item.
        items: The input, with unique ids. It is iterated over twice, and must give the same items each time.
        output: The output file; see `StageFile`.
        settings: What decides the rows, as JSON values. An output made with others is refused.
        execute: Runs the work; `in_this_process` by default.
        overwrite: Start again.
        drop_failed: Leave out items that failed, counted as dropped for the reason `failed`, instead of raising.
            Without it, those that an earlier run has dropped are taken up again.
        bad_rows: How many rows of the input could not be used; asked for when the input has been read.
        renew: Makes output rows of an item and a row of the journal; see `StageFile.finish`.
        progress: Show a progress bar on stderr.
        desc: The bar's label.
        unit: What the bar calls an item.
        on_start: Called when the file is open and before any work.

    Returns:
        Counts over all items, those of earlier runs included.

    Raises:
        ConfigError: The output was made with other settings.
        DataError: The input is bad, or the output cannot be written.
        GenPRMError: Items failed. Finished items are kept; the same call resumes.
    """
    run = execute if execute is not None else in_this_process()
    from tqdm.auto import tqdm

    with StageFile(output, settings, items, overwrite=overwrite) as file:
        skipped = bad_rows()
        if not drop_failed:
            file.retry_failed()
        if on_start is not None:
            on_start(file)
        if file.done == file.total:
            logger.info("%s is finished: all %d items are done", file.output, file.total)
        elif file.done:
            logger.info("%s: %d of %d are done; resuming with the others", file.output, file.done, file.total)
        if file.done < file.total:
            refuse_foreign(file.output)
            bar = tqdm(
                total=file.total, initial=file.done, desc=desc, unit=unit, disable=not progress, dynamic_ncols=True
            )
            with (
                contextlib.closing(PartialFile(file.partial_path, file.is_unfinished)) as partial,
                bar,
                contextlib.closing(run(worker, file.remaining(), partial.of)) as finished_items,
            ):
                _write_all(finished_items, file, drop_failed, bar)
        return file.finish(bad_rows=skipped, renew=renew)


def _write_all(finished_items: Iterable[Finished[Outcome]], file: StageFile[Any], drop_failed: bool, bar: Any) -> None:
    failures = _Failures(file, drop_failed)
    for finished in finished_items:
        if finished.result is None:
            failures.add(finished)
        else:
            failures.in_a_row = 0
            file.write(finished.id, finished.digest, finished.result)
        bar.update()
    failures.settle()


@dataclass(slots=True)
class _Failures:
    """Items that failed in this run. Unless they are to be dropped, the next run takes them up again."""

    file: StageFile[Any]
    drop: bool
    in_a_row: int = 0
    first: str = ""
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, failed: Finished[Outcome]) -> None:
        self.digests[failed.id] = failed.digest
        self.in_a_row += 1
        self.first = self.first or f"'{failed.id}': {failed.error}"
        logger.warning("'%s' failed: %s", failed.id, failed.error)
        if self.in_a_row == MAX_FAILURES_IN_A_ROW:
            raise GenPRMError(
                f"{self.in_a_row} items failed one after the other, the last one '{failed.id}': {failed.error}. "
                f"{self._kept()}"
            )

    def settle(self) -> None:
        if self.drop:
            for id, digest in self.digests.items():
                self.file.write(id, digest, Outcome(dropped={FAILED: 1}))
        elif self.digests:
            raise GenPRMError(
                f"{len(self.digests)} of {self.file.total} items failed, the first one {self.first}. {self._kept()} "
                "To go on without them give --drop_failed."
            )

    def _kept(self) -> str:
        return (
            f"The {self.file.done} finished ones are kept in {self.file.path}; to resume, run the same command again."
        )


def in_this_process(max_items: int | None = None) -> Executor:
    """An executor that works on many items at once in a separate event loop.

    Items are taken from the iterable as others finish, so there may be more of them than fit into memory.

    Args:
        max_items: Items worked on at once. Default: as many as keep what is open busy, if that is a verifier, else 64.
    """
    check_at_least(1, max_items=max_items)

    def execute(
        worker: Worker[Any, ItemT, ResultT],
        items: Iterable[ItemT],
        partial: Callable[[Item], Partial] = no_partial,
    ) -> Generator[Finished[ResultT], None, None]:
        # Little is held back for the writer: what is finished and not written would be lost in a kill.
        yield from iterate_in_thread(lambda: _work(worker, items, partial, max_items), prefetch=16)

    return execute


async def _work(
    worker: Worker[Any, ItemT, ResultT],
    items: Iterable[ItemT],
    partial: Callable[[Item], Partial],
    max_items: int | None,
) -> AsyncGenerator[Finished[ResultT], None]:
    async with worker.open() as opened:
        at_once = max_items or worker.at_once(opened)
        results = as_finished(lambda item: finish_item(worker, opened, item, partial(item)), items, at_once)
        async with contextlib.aclosing(results):
            async for finished in results:
                yield finished


async def finish_item(
    worker: Worker[OpenedT, ItemT, ResultT], opened: OpenedT, item: ItemT, partial: Partial
) -> Finished[ResultT]:
    """Works on one item. `ItemFailed` becomes the report of a failure; any other exception is the stage's end."""
    try:
        return Finished(item.id, item.digest, await worker.work(opened, item, partial))
    except ItemFailed as error:
        return Finished(item.id, item.digest, None, str(error))
