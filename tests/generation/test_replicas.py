"""Handing out replicas: by load, by affinity, never more than fits, and who waits for what."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.generation.replicas import ReplicaPool, retry_after, server_addresses


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_one_with_the_least_to_do_is_next() -> None:
    pool = ReplicaPool(["a", "b"], capacity=10)
    given = [await pool.acquire() for _ in range(4)]
    assert [replica.name for replica in given] == ["a", "b", "a", "b"]
    pool.release(given[3])
    assert (await pool.acquire()).name == "b"


async def test_affinity_returns_home_until_home_has_too_much_to_do() -> None:
    pool = ReplicaPool(["a", "b"], capacity=100)
    first = await pool.acquire("x")
    assert first.name == "a"
    for _ in range(2):
        assert await pool.acquire("x") is first  # although b is idle
    # So few are within half as much again as the average, and a little; a dozen are not.
    names = [(await pool.acquire("x")).name for _ in range(12)]
    assert names[0] == "a"
    assert names[-1] == "b"
    assert (await pool.acquire("y")).name == "b"
    [other] = [replica for replica in pool.replicas if replica is not first]
    pool.mark_down(other)
    assert (await pool.acquire("y")).name == "a"
    for _ in range(20):
        pool.release(first)
    pool.mark_up(other)
    assert (await pool.acquire("y")).name == "a"  # which has the prefix now


async def test_more_than_fits_waits_in_order() -> None:
    pool = ReplicaPool(["a"], capacity=1)
    replica = await pool.acquire()
    order: list[int] = []

    async def request(number: int) -> None:
        await pool.acquire()
        order.append(number)

    waiting = [asyncio.create_task(request(i)) for i in range(3)]
    await settle()
    assert order == []
    for done in ([0], [0, 1], [0, 1, 2]):
        pool.release(replica)
        await settle()
        assert order == done
        assert replica.in_flight == 1
    await asyncio.gather(*waiting)


async def test_a_place_is_not_lost_with_whoever_was_cancelled() -> None:
    pool = ReplicaPool(["a"], capacity=1)
    replica = await pool.acquire()
    cancelled, patient = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await settle()
    pool.release(replica)  # wakes the first one,
    cancelled.cancel()  # which is gone before it takes the place
    assert await asyncio.wait_for(patient, 60) is replica
    assert cancelled.cancelled() or (await asyncio.wait([cancelled]))


async def test_the_one_that_failed_is_avoided_if_there_is_another() -> None:
    pool = ReplicaPool(["a", "b"], capacity=10)
    a = await pool.acquire("x")
    pool.release(a)
    assert (await pool.acquire("x", avoid=a)).name == "b"
    [alone] = (single := ReplicaPool(["a"], capacity=10)).replicas
    assert await single.acquire(avoid=alone) is alone


async def test_one_that_asked_for_time_gets_it() -> None:
    clock = Clock()
    pool = ReplicaPool(["a", "b"], capacity=10, clock=clock)
    a, b = pool.replicas
    pool.hold_off(a, 5)
    assert {(await pool.acquire()).name for _ in range(4)} == {"b"}
    pool.hold_off(b, 0.05)
    waiting = asyncio.create_task(pool.acquire())
    await settle()
    assert not waiting.done()
    clock.now = 0.06
    assert (await asyncio.wait_for(waiting, 60)) is b
    clock.now = 6
    assert (await pool.acquire()) is a


async def test_patience_ends_when_all_stay_down() -> None:
    pool = ReplicaPool(["a", "b"], capacity=10, patience=0.05)
    a, b = pool.replicas
    pool.mark_down(a)
    assert (await pool.acquire()) is b
    pool.mark_down(b)
    assert a.gone.is_set()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.01)
    pool.mark_up(a)
    assert await waiting is a
    assert not a.gone.is_set()
    pool.mark_down(a)
    with pytest.raises(GenPRMError, match=r"no server has answered for 0\.05 s: a, b"):
        await pool.acquire()


async def test_one_that_failed_is_set_aside_while_another_can_be_used() -> None:
    clock = Clock()
    pool = ReplicaPool(["a", "b"], clock=clock)
    first, second = pool.replicas
    assert pool.set_aside(first, 10)
    assert not pool.set_aside(second, 10)  # the last one is asked again
    assert [(await pool.acquire()).name for _ in range(3)] == ["b"] * 3
    clock.now = 10
    assert (await pool.acquire()).name == "a"
    lone = ReplicaPool(["a"])
    assert not lone.set_aside(lone.replicas[0], 10)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://h:port", "http://[::1", 7])
def test_what_is_no_address_of_a_server_is_refused(url) -> None:
    with pytest.raises(ConfigError, match="is not the URL of a server"):
        server_addresses(["http://a:1", url])


def test_addresses_of_servers() -> None:
    assert server_addresses(["http://a:1/", "https://b/verifier"]) == ["http://a:1", "https://b/verifier"]
    with pytest.raises(ConfigError, match="given twice"):
        server_addresses(["http://a:1/", "http://a:1"])
    with pytest.raises(ConfigError, match="at least one"):
        server_addresses([])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("soon", 0), ("-3", 0), ("nan", 0), ("7", 7), ("1.5", 1.5), ("6000", 120), ("inf", 120)],
)
def test_how_long_a_server_asks_to_wait(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_a_server_may_name_a_date() -> None:
    assert retry_after(email.utils.formatdate(time.time() + 6000, usegmt=True)) == 120
    assert retry_after(email.utils.formatdate(time.time() - 6000, usegmt=True)) == 0
    assert 0 < retry_after(email.utils.formatdate(time.time() + 100, usegmt=True)) <= 100
