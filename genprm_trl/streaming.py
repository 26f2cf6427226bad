"""An asynchronous stream as an ordinary iterator, for scripts and notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def iterate_in_thread(stream: Callable[[], AsyncGenerator[Item, None]], prefetch: int = 256) -> Iterator[Item]:
    """Runs an asynchronous generator in a thread with an event loop of its own and yields what it yields.

    Works whether or not an event loop runs in the calling thread. When the iterator is closed or an exception passes
    through it (Ctrl-C included), the stream is cancelled and has finished before this returns.

    Args:
        stream: Makes the asynchronous generator.
        prefetch: Items that may wait to be taken before the stream is held back.

    Raises:
        Whatever the stream raises.
    """
    loop = asyncio.new_event_loop()
    items: queue.SimpleQueue[tuple[Item] | BaseException | None] = queue.SimpleQueue()
    free = asyncio.Semaphore(prefetch)

    async def produce() -> None:
        async with contextlib.aclosing(stream()) as produced:
            async for item in produced:
                await free.acquire()
                items.put((item,))

    task = loop.create_task(produce())

    def run() -> None:
        try:
            loop.run_until_complete(task)
            items.put(None)
        except BaseException as error:
            items.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, name="genprm-stream", daemon=True)
    thread.start()
    try:
        while (entry := items.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            _in_loop(loop, free.release)
            yield entry[0]
    finally:
        _in_loop(loop, task.cancel)
        thread.join()


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    # The loop may have finished and closed in the meantime; then there is nothing left to tell it.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
