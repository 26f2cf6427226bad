"""The chains of one solution: started, held back and ended as its tally says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from genprm_trl.verifier.chain import Chain
from genprm_trl.verifier.tally import Tally


async def run_chains(
    tally: Tally, open_chain: Callable[[int], Chain[None]], slots: AbstractAsyncContextManager[None, None]
) -> None:
    """Runs chains until the tally needs none of them.

    Args:
        tally: Takes the judgements.
        open_chain: Makes the chain of an index.
        slots: Entered by a chain while it judges, and left while it is held back.

    Raises:
        Whatever a chain raises, once all chains are closed.
    """
    if tally.n == 1:
        await _run_alone(tally, open_chain(0), slots)
    else:
        await _run_beside_each_other(tally, open_chain, slots)


async def _run_alone(tally: Tally, chain: Chain[None], slots: AbstractAsyncContextManager[None, None]) -> None:
    """The only chain of a solution, which nothing can hold back or end, so it needs no task."""
    try:
        async with slots:
            while not tally.is_done(0):
                tally.add(0, await chain.judge_step())
    finally:
        await chain.close()


async def _run_beside_each_other(
    tally: Tally, open_chain: Callable[[int], Chain[None]], slots: AbstractAsyncContextManager[None, None]
) -> None:
    tasks: list[asyncio.Task[None]] = []
    ending: set[int] = set()  # chains that are ending already, by themselves or by `react`
    nothing_contested = asyncio.Event()
    needed = tally.needed

    async def run(index: int) -> None:
        chain = open_chain(index)
        try:
            while not tally.is_done(index):
                if tally.must_wait(index):
                    await nothing_contested.wait()
                    continue
                async with slots:
                    while not (tally.is_done(index) or tally.must_wait(index)):
                        tally.add(index, await chain.judge_step())
                        react()
        finally:
            ending.add(index)
            await chain.close()

    def react() -> None:
        nonlocal needed
        for index in range(len(tasks), tally.started):
            tasks.append(group.create_task(run(index)))
        if tally.is_contested:
            nothing_contested.clear()
        else:
            nothing_contested.set()
        if tally.needed == needed:
            return
        needed = tally.needed
        running = asyncio.current_task()
        for index, task in enumerate(tasks):
            if index not in ending and task is not running and tally.is_done(index):
                ending.add(index)
                task.cancel()

    try:
        async with asyncio.TaskGroup() as group:
            react()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
