"""The gate that bounds and orders what runs, over event loops and threads."""

import asyncio
import threading

import pytest

from genprm_trl._loops import FairGate


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
