"""What a caller may ask of the service."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genprm_trl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds on requests. A request beyond one is refused before any of it starts; the message names the bound.

    Attributes:
        max_body_bytes: Size of a request's body (413).
        max_solutions: Solutions of a request (422).
        max_steps: Steps of a solution (422).
        max_characters: Characters of a solution, its problem included (422).
        max_n: Rationales per solution that a request may ask for (422).
        max_requests: Requests to `/verify` in progress, those included whose body is still being read (429).
        max_queue: Rationales that may wait for their turn before further requests are refused (429). The request that
            fills the queue is still taken whole, so that a large one does not starve beside many small ones.
        body_seconds: A request's body must arrive within this time (408).
        send_seconds: If a client takes nothing for this time while there is something to send, its request is dropped.
        heartbeat_seconds: After this time without a verdict, a stream gets an empty line. It tells both ends, and
            proxies between them, that the connection lives.
    """

    max_body_bytes: int = 8 * 2**20
    max_solutions: int = 256
    max_steps: int = 512
    max_characters: int = 200_000
    max_n: int = 32
    max_requests: int = 128
    max_queue: int = 4096
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    heartbeat_seconds: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ConfigError(f"{item.name} must be positive, got {value}")
