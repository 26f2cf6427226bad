"""Asyncio across threads.

The package is asynchronous inside; scripts, notebooks and trainers call it from ordinary code, in any thread. This
module joins the two: `run` and `iterate_in_thread` run coroutines and streams from ordinary code, `LoopThread` is an
event loop that serves any thread, and `FairGate` bounds what runs over all loops. `as_finished` works on many items,
several at a time, `gathered` on a few at once, and `SharedCall` makes one call for all who ask. `Closable` is the base
class of whatever is closed at the end of an `async with`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end in a separate event loop, and returns its result.

    Unlike `asyncio.run` it works where an event loop runs already, as in a notebook. Ctrl-C cancels the coroutine.

    Raises:
        Whatever the coroutine raises.
    """
    thread = LoopThread("genprm-run")
    try:
        return thread.run(coroutine)
    finally:
        thread.close()


def iterate_in_thread(stream: Callable[[], AsyncGenerator[T, None]], prefetch: int = 256) -> Iterator[T]:
    """Runs an asynchronous generator in a separate event loop and yields what it yields.

    Works where an event loop runs already. When the iterator is closed or an exception passes through it (Ctrl-C
    included), the stream is cancelled and has finished before this returns.

    Args:
        stream: Makes the asynchronous generator.
        prefetch: Items that may wait to be taken before the stream is held back.

    Raises:
        Whatever the stream raises.
    """
    items: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    free = asyncio.Semaphore(prefetch)

    async def produce() -> None:
        try:
            async with contextlib.aclosing(stream()) as produced:
                async for item in produced:
                    await free.acquire()
                    items.put((item,))
            items.put(None)
        except BaseException as error:
            items.put(error)

    thread = LoopThread("genprm-stream")
    try:
        asyncio.run_coroutine_threadsafe(produce(), thread.loop)
        while (entry := items.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            thread.loop.call_soon_threadsafe(free.release)
            yield entry[0]
    finally:
        thread.close()


async def as_finished(
    work: Callable[[Item], Coroutine[Any, Any, T]], items: Iterable[Item], at_once: int
) -> AsyncGenerator[T, None]:
    """Works on many items, several at a time, and yields each result as it is ready.

    Items are taken as others finish, so there may be more of them than fit into memory. After a failure no more items
    are taken, but what was finished beside it is still handed out. When the stream is closed, what runs is cancelled.

    Args:
        work: Works on one item.
        items: What to work on.
        at_once: Items worked on at the same time.

    Raises:
        Whatever the work or the iterable raises.
    """
    remaining = iter(items)
    tasks: set[asyncio.Task[T]] = set()
    finished: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    failure: BaseException | None = None

    def fill() -> None:
        for item in itertools.islice(remaining, at_once - len(tasks)):
            task = asyncio.create_task(work(item))
            tasks.add(task)
            task.add_done_callback(finished.put_nowait)

    try:
        fill()
        while tasks if failure is None else not finished.empty():
            task = await finished.get()
            tasks.discard(task)
            if (error := task.exception()) is not None:
                failure = failure or error
                continue
            if failure is None:
                try:
                    fill()
                except Exception as refusal:  # of the iterable
                    failure = refusal
            yield task.result()
        if failure is not None:
            raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gathered(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """The results of several awaitables at once, in order. If one fails, or the caller is cancelled, all others end.

    They have ended when this raises, so that nothing of them is still at work.
    """
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoopThread:
    """Runs coroutines in the event loop of a background thread, on behalf of any thread and loop.

    HTTP connections and vLLM's engine belong to the loop that they were made in, while generators serve callers in
    several loops one after the other, and at the same time.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits a coroutine that runs in the thread. Cancelling the caller cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Blocks until a coroutine that runs in the thread is done. Not to be called from the thread itself."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C; of no effect if it was the coroutine that failed
            raise

    def close(self) -> None:
        """Cancels what still runs, waits for it, and ends the thread. May be called again."""
        if self.loop.is_closed():
            return
        if threading.current_thread() is self._thread:  # the garbage collector ends an iterator where it pleases
            self.loop.create_task(self._cancel_all()).add_done_callback(lambda _: self.loop.stop())
            return
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class SharedCall(Generic[T]):
    """A call that is made once at a time, whoever asks. It goes on if the one who asked first goes away.

    Args:
        call: Makes the coroutine. All who ask while it runs get its result.
    """

    def __init__(self, call: Callable[[], Coroutine[Any, Any, T]]):
        self._call = call
        self._running: asyncio.Task[T] | None = None

    @property
    def is_running(self) -> bool:
        """Whether somebody has asked and has no answer yet."""
        return self._running is not None

    async def __call__(self) -> T:
        """The result, of a call that runs already if there is one."""
        if self._running is None:
            self._running = asyncio.create_task(self._call())
            self._running.add_done_callback(self._done)
        return await asyncio.shield(self._running)

    def _done(self, _: asyncio.Task[T]) -> None:
        self._running = None


class FairGate:
    """Lets `limit` holders in at once, first come first served, from any number of event loops and threads.

    `asyncio.Semaphore` binds itself to the first loop that waits on it; a sandbox is shared by loops of several
    threads.
    """

    def __init__(self, limit: int):
        self._free = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        with self._lock:
            if self._free > 0 and not self._waiting:
                self._free -= 1
                return
            loop = asyncio.get_running_loop()
            turn = loop.create_future()
            entry = (loop, turn)
            self._waiting.append(entry)
        try:
            await turn
        except BaseException:  # cancelled, or thrown away with its loop
            with self._lock:
                waiting = entry in self._waiting
                if waiting:
                    self._waiting.remove(entry)
            if not waiting:
                self._leave()  # the turn was already ours
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            while self._waiting:
                loop, turn = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(_wake, turn)
                    return
                except RuntimeError:
                    continue  # its loop was closed while it waited
            self._free += 1


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class Closable(ABC):
    """Base of everything that holds resources: `async with` closes it at the end of the block."""

    @abstractmethod
    async def close(self) -> None:
        """Frees what it holds. May be called again."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
