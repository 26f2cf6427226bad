"""What a caller may ask of the service."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from genprm_trl.errors import check_positive


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds on requests: options of `genprm serve`.

    What exceeds a bound is refused with a message that names it, and nothing of it is started. The request that fills
    the queue is still taken whole, so that a large one does not starve beside many small ones.

    Raises:
        ConfigError: A value is not positive.
    """

    max_n: int = field(default=32, metadata={"help": "Maximum rationales per solution; more get status 422."})
    max_solutions: int = field(default=256, metadata={"help": "Maximum solutions of a request; more get status 422."})
    max_steps: int = field(default=512, metadata={"help": "Maximum steps of a solution; more get status 422."})
    max_characters: int = field(
        default=200_000,
        metadata={"help": "Maximum characters of a solution and its problem; more get status 422."},
    )
    max_body_mb: float = field(
        default=8.0, metadata={"help": "Maximum size of a request's body in MiB; more gets status 413."}
    )
    max_requests: int = field(
        default=128, metadata={"help": "Maximum requests in progress at once; more get status 429."}
    )
    max_queue: int = field(
        default=4096, metadata={"help": "Requests get status 429 while this many rationales wait for their turn."}
    )
    max_connections: int = field(
        default=1024,
        metadata={"help": "Maximum connections at once. Beyond it idle ones are closed, or requests get status 503."},
    )
    head_seconds: float = field(
        default=10.0, metadata={"help": "A request's head must arrive within this time; the connection is closed."}
    )
    body_seconds: float = field(
        default=30.0, metadata={"help": "A request's body must arrive within this time; otherwise it gets status 408."}
    )
    send_seconds: float = field(
        default=60.0, metadata={"help": "Give up a client that takes nothing for this long while there is something."}
    )
    heartbeat_seconds: float = field(
        default=10.0,
        metadata={"help": "Send an empty line on a silent stream this often: client and proxies see that it lives."},
    )

    def __post_init__(self) -> None:
        check_positive(**asdict(self))

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of a request's body in bytes."""
        return int(self.max_body_mb * 2**20)
