"""Working on a stage with Ray Data: several workers, each with its own model, on one machine or a cluster.

Ray places the workers, moves the items, and starts a worker again that died; nothing of that is done here. Since what
comes of an item depends on the item and the settings alone, and the stage's file puts rows into the order of the
input, the rows are those of one worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from genprm_trl._loops import LoopThread
from genprm_trl.errors import GenPRMError, MissingExtraError, check_at_least
from genprm_trl.stages.partial import Partial, no_partial
from genprm_trl.stages.run import MAX_ITEMS, Executor, Finished, Worker, finish_item

# A worker takes the next block while the last items of the one before are still being worked on.
_BLOCKS_AT_ONCE = 2
_COLUMN = "item"


def with_ray(num_workers: int, max_items: int | None = None, *, gpus_per_worker: float = 0.0) -> Executor:
    """An executor that works on items in `num_workers` actors of Ray Data.

    Ray is started on this machine unless it runs already or the environment variable RAY_ADDRESS names a cluster. The
    worker and the items are sent to other processes. Parts of items are not kept: a file has one writer.

    Args:
        num_workers: Actors; each opens the stage's worker once.
        max_items: Items that an actor works on at once. Default: 64.
        gpus_per_worker: GPUs that Ray reserves for each actor; a fraction lets several share one.

    Raises:
        ConfigError: A number is out of range.
        MissingExtraError: Ray is not installed.
    """
    check_at_least(1, workers=num_workers, max_items=max_items)
    check_at_least(0, gpus_per_worker=gpus_per_worker)
    try:
        import ray.data
        from ray import cloudpickle
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "working with several workers (--workers)") from error
    block_size = max(1, (max_items or MAX_ITEMS) // _BLOCKS_AT_ONCE)

    def execute(
        worker: Worker[Any, Any, Any], items: Iterable[Any], partial: Callable[[Any], Partial] = no_partial
    ) -> Generator[Finished[Any], None, None]:
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(log_to_driver=False, include_dashboard=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the stage has its own
        blocks = list(_blocks(items, block_size))
        if not blocks:
            return
        results = ray.data.from_arrow_refs(blocks).map_batches(
            _Actor,
            fn_constructor_args=(cloudpickle.dumps(worker),),  # type: ignore[no-untyped-call]
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                size=num_workers,
                max_tasks_in_flight_per_actor=2 * _BLOCKS_AT_ONCE,
                max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_gpus=gpus_per_worker or None,
        )
        try:
            batch: Any
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for pickled in batch[_COLUMN].to_pylist():
                    yield _unpack(pickled)
        except ray.exceptions.RayError as error:
            # Ray itself failed; what opening the worker or an item raises comes as a value.
            raise GenPRMError(str(error)) from error

    return execute


def _blocks(items: Iterable[Any], size: int) -> Iterator[Any]:
    """The items in Ray's object store, which spills to disk; only references stay in this process."""
    import pyarrow
    import ray

    iterator = iter(items)
    while block := list(itertools.islice(iterator, size)):
        yield ray.put(pyarrow.table({_COLUMN: pyarrow.array(map(pickle.dumps, block), pyarrow.large_binary())}))


@dataclass(frozen=True, slots=True)
class _Broken:
    """The stage's end, as an actor reports it: what `in_this_process` would raise."""

    error: BaseException


def _unpack(pickled: bytes) -> Finished[Any]:
    result = pickle.loads(pickled)
    if isinstance(result, _Broken):
        raise result.error
    assert isinstance(result, Finished)
    return result


class _Actor:
    """Opens the stage's worker in a separate event loop, and works on whole blocks, several at once."""

    def __init__(self, worker: bytes):
        self._loop = LoopThread("genprm-stage")
        self._stack = contextlib.AsyncExitStack()
        self._worker: Worker[Any, Any, Any] = pickle.loads(worker)
        self._broken: _Broken | None = None
        try:
            self._opened = self._loop.run(self._stack.enter_async_context(self._worker.open()))
        except Exception as error:  # Ray would log its traceback, and start the actor again
            self._broken = _Broken(error)

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        if self._broken is not None:
            finished: list[Finished[Any] | _Broken] = [self._broken]
        else:
            finished = self._loop.run(self._work([pickle.loads(pickled) for pickled in batch[_COLUMN].to_pylist()]))
        results = [pickle.dumps(result) for result in finished]
        return pyarrow.table({_COLUMN: pyarrow.array(results, pyarrow.large_binary())})

    async def _work(self, items: list[Any]) -> list[Finished[Any] | _Broken]:
        async def work(item: Any) -> Finished[Any] | _Broken:
            try:
                return await finish_item(self._worker, self._opened, item, Partial())
            except Exception as error:
                return _Broken(error)

        results = await asyncio.gather(*map(work, items))
        # What is finished is written before the stage ends.
        return sorted(results, key=lambda result: isinstance(result, _Broken))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._loop.run(self._stack.aclose())
            self._loop.close()
