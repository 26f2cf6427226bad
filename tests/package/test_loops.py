"""Asynchronous work for ordinary code, and the gate that bounds and orders what runs over event loops and threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from genprm_trl._loops import FairGate, gathered, iterate_in_thread, run


async def numbers(count: int, seen: list[int] | None = None):
    for number in range(count):
        await asyncio.sleep(0)
        if seen is not None:
            seen.append(number)
        yield number


def test_yields_what_the_stream_yields_in_order():
    assert list(iterate_in_thread(lambda: numbers(1000), prefetch=3)) == list(range(1000))


async def test_works_while_an_event_loop_runs_in_this_thread():
    assert list(iterate_in_thread(lambda: numbers(5))) == [0, 1, 2, 3, 4]


def test_holds_the_stream_back():
    seen: list[int] = []
    stream = iterate_in_thread(lambda: numbers(10_000, seen), prefetch=4)
    next(stream)
    stream.close()
    assert len(seen) < 20


def test_closing_runs_the_streams_own_clean_up_and_ends_the_thread():
    cleaned = threading.Event()

    async def endless():
        try:
            while True:
                await asyncio.sleep(0)
                yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    stream = iterate_in_thread(endless)
    next(stream)
    stream.close()
    assert cleaned.is_set()
    assert not any(thread.name == "genprm-stream" for thread in threading.enumerate())


def test_errors_reach_the_caller_after_what_came_before():
    async def failing():
        yield 1
        raise ValueError("the stream broke")

    stream = iterate_in_thread(failing)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="the stream broke"):
        next(stream)


async def test_a_coroutine_runs_to_its_end_where_an_event_loop_runs():
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    assert run(add(1, 2)) == 3
    assert not any(thread.name == "genprm-run" for thread in threading.enumerate())


def test_what_a_coroutine_raises_reaches_the_caller():
    async def fail() -> None:
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        run(fail())


# --- The gate --------------------------------------------------------------------------------------------------------


async def test_bounds_and_order():
    gate, inside, most, order = FairGate(2), 0, 0, []

    async def enter(number: int) -> None:
        nonlocal inside, most
        async with gate:
            order.append(number)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.002)
            inside -= 1

    await asyncio.gather(*(enter(i) for i in range(20)))
    assert most == 2
    assert order == list(range(20))


async def test_a_cancelled_waiter_does_not_keep_its_place():
    gate = FairGate(1)
    async with gate:
        waiting = [asyncio.create_task(_hold(gate)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
    done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)
    assert isinstance(done[1], asyncio.CancelledError)
    await asyncio.wait_for(_hold(gate), 1)


async def test_a_waiter_cancelled_as_its_turn_comes_passes_it_on():
    gate = FairGate(1)
    async with gate:
        first, second = asyncio.create_task(_hold(gate)), asyncio.create_task(_hold(gate))
        await asyncio.sleep(0)
    first.cancel()  # the turn has been given to it, but it has not run since
    await asyncio.wait_for(second, 60)
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(_hold(gate), 1)


def test_over_threads_and_a_loop_that_closes():
    gate, total = FairGate(2), []

    async def work() -> None:
        async with gate:
            await asyncio.sleep(0.001)
            total.append(1)

    async def many() -> None:
        await asyncio.gather(*(work() for _ in range(25)))

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_hold(gate, 10), 0.01)

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    threads += [threading.Thread(target=lambda: asyncio.run(give_up()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(total) == 100


async def _hold(gate: FairGate, seconds: float = 0) -> None:
    async with gate:
        await asyncio.sleep(seconds)


def test_what_is_gathered_comes_in_order_and_ends_with_the_first_failure() -> None:
    ended = []

    async def after(seconds: float, value: int) -> int:
        try:
            await asyncio.sleep(seconds)
            if value < 0:
                raise ValueError(f"no {value}")
            return value
        finally:
            ended.append(value)

    assert asyncio.run(gathered(after(wait, value) for value, wait in enumerate((0.02, 0.0, 0.01)))) == [0, 1, 2]
    ended.clear()
    with pytest.raises(ValueError, match="no -1"):
        asyncio.run(gathered([after(3600, 5), after(0, -1)]))
    assert ended == [-1, 5]
