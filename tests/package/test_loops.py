"""An asynchronous stream read by ordinary code."""

from __future__ import annotations

import asyncio
import threading

import pytest

from genprm_trl._loops import iterate_in_thread, run


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
