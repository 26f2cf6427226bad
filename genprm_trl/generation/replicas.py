"""Balances requests over replicas of a model: a request goes to the replica with its prefix, unless that is busy."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import math
import time
import urllib.parse
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.rows.secrets import mask_text

# Solutions whose replica is remembered. Far more than are ever in progress at once.
_HOMES = 65_536
# A server may ask for time, but not for ever.
_LONGEST_RETRY_AFTER = 120.0


@dataclass(slots=True, eq=False)
class Replica:
    """One engine of several with the same model.

    Attributes:
        url: The replica's base URL, or its rank.
        name: The same without a password, for messages.
        up: Whether it can be given requests.
        in_flight: Requests that it has.
        not_before: Time (`time.monotonic()`) before which it has asked not to be given requests.
        gone: Set when it goes down, and then replaced; requests wait for it beside their answer.
    """

    url: str
    name: str = ""
    up: bool = True
    in_flight: int = 0
    not_before: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class ReplicaPool:
    """Hands out replicas, at most so many requests for each, and never one that is down.

    A request's affinity has a home: the replica that its first request went to, the one with the least to do at that
    time. Later requests go there, too, unless it is down, full, or half as busy again as the average. Computing a long
    prefix again costs less than waiting for an overloaded replica. Then another replica becomes home.

    Belongs to one event loop.

    Args:
        urls: A base URL or rank per replica.
        capacity: Requests that each is given at once.
        patience: Seconds to wait for a replica while all are down.
        clock: Gives the time; tests replace it.

    Attributes:
        replicas: All of them, in order.
        down_since: When the last one went down, while none is up.
    """

    def __init__(
        self,
        urls: Sequence[str],
        capacity: float = math.inf,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.replicas = [Replica(url, mask_text(url)) for url in urls]
        self.capacity = capacity
        self.patience = patience
        self._clock = clock
        self._homes: OrderedDict[str, Replica] = OrderedDict()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.down_since: float | None = None

    async def acquire(self, affinity: str | None = None, avoid: Replica | None = None) -> Replica:
        """Waits until a replica can be given a request, and counts it as given; `release` it afterwards.

        Args:
            affinity: The request's affinity, which decides its home.
            avoid: The replica that has just failed on this request; used only if there is no other one.

        Raises:
            GenPRMError: All have been down for longer than `patience`.
        """
        while (replica := self._choose(affinity, avoid)) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                async with asyncio.timeout(self._wait()):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif waiter.done() and not waiter.cancelled() and _is_cancelling():
                    self._wake()  # what this request was woken for is another's now
        replica.in_flight += 1
        return replica

    def release(self, replica: Replica) -> None:
        """Takes note that a request has ended."""
        replica.in_flight -= 1
        self._wake()

    def hold_off(self, replica: Replica, seconds: float) -> None:
        """Gives a replica no request for some time, because it asked for that."""
        replica.not_before = max(replica.not_before, self._clock() + seconds)

    def set_aside(self, replica: Replica, seconds: float) -> bool:
        """Gives a replica that has failed no request for some time, unless it is the last one that can be used.

        Returns:
            Whether another one can be used now.
        """
        now = self._clock()
        if not any(other.up and other.not_before <= now for other in self.replicas if other is not replica):
            return False
        self.hold_off(replica, seconds)
        return True

    def mark_down(self, replica: Replica) -> None:
        """Takes a replica out; whoever waits for its answer is told by `Replica.gone`."""
        if replica.up:
            replica.up = False
            replica.gone.set()
            if not any(other.up for other in self.replicas):
                self.down_since = self._clock()
                self._wake_all()  # from now on they wait for a limited time

    def mark_up(self, replica: Replica) -> None:
        """Takes a replica in again."""
        if not replica.up:
            replica.up = True
            replica.gone = asyncio.Event()
            replica.not_before = 0.0
            self.down_since = None
            self._wake_all()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        for _ in range(len(self._waiting)):
            self._wake()

    def _wait(self) -> float | None:
        """Seconds after which to look again whether a replica can be used; None to wait for another request's end."""
        now = self._clock()
        if self.down_since is not None:
            left = self.down_since + self.patience - now
            if left <= 0:
                names = ", ".join(replica.name for replica in self.replicas)
                raise GenPRMError(f"no server has answered for {self.patience:g} s: {names}")
            return left
        return min((r.not_before - now for r in self.replicas if r.up and r.not_before > now), default=None)

    def _choose(self, affinity: str | None, avoid: Replica | None) -> Replica | None:
        now = self._clock()
        usable = [r for r in self.replicas if r.up and r.in_flight < self.capacity and r.not_before <= now]
        if len(usable) > 1 and avoid in usable:
            usable.remove(avoid)
        if not usable:
            return None
        idlest = min(usable, key=lambda replica: replica.in_flight)
        if affinity is None:
            return idlest
        home = self._homes.get(affinity)
        if home is None or home not in usable or home.in_flight > self._tolerable():
            home = self._homes[affinity] = idlest
        self._homes.move_to_end(affinity)
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        return home

    def _tolerable(self) -> float:
        """Requests in flight up to which a replica keeps those who are at home there."""
        up = [replica.in_flight for replica in self.replicas if replica.up]
        return 1.5 * sum(up) / len(up) + 2


def server_addresses(urls: Sequence[str]) -> list[str]:
    """Addresses of servers, checked, without a slash at their ends.

    Raises:
        ConfigError: There is none, one is not the URL of a server, or one is given twice.
    """
    addresses: list[str] = []
    for url in urls:
        try:
            parsed = urllib.parse.urlsplit(url)
            usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
        except (ValueError, TypeError, AttributeError):
            usable = False
        if not usable:
            shown = mask_text(repr(url))
            raise ConfigError(f"{shown} is not the URL of a server; expected one such as http://127.0.0.1:8000")
        address = url.rstrip("/")
        if address in addresses:
            raise ConfigError(f"the server URL {mask_text(url)} is given twice")
        addresses.append(address)
    if not addresses:
        raise ConfigError("give the URL of at least one server")
    return addresses


def is_loopback(host: str) -> bool:
    """Whether an address or host name is this machine as seen from itself."""
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def authorization(url: str, key: str | None) -> dict[str, str]:
    """The header that gives a server a key as bearer token; none beside the user and password of a URL."""
    if not key or "@" in urllib.parse.urlsplit(url).netloc:
        return {}
    return {"Authorization": f"Bearer {key}"}


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for; 0 without one. It holds seconds or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return 0.0
    seconds = 0.0
    try:
        seconds = float(header)
    except ValueError:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    return min(seconds, _LONGEST_RETRY_AFTER) if seconds > 0 else 0.0  # so 0 for what is no number


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
