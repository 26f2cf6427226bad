"""The interface of every sandbox: a `Sandbox` hands out `Session`s, a session runs code blocks and keeps names."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

ExecutionStatus = Literal["ok", "error", "timeout", "memory", "killed", "sandbox_error"]


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """What one code block did.

    Attributes:
        output: What the block printed, in the wire format that GenPRM checkpoints were trained on: the printed
            text stripped of surrounding white space, or one of `Code execute Error: {Type}: {message}` and
            `Code execute time out: {message}`.
        status: `ok`; `error` (the code raised); `timeout` (soft: names are kept, or hard: the session is new);
            `memory` (the memory limit was hit); `killed` (the process died); `sandbox_error` (the sandbox itself
            failed; never the program's fault).
        seconds: Wall time of the block.
        message: For people, where there is something to add: how the process ended, or what failed in the sandbox.
    """

    output: str
    status: ExecutionStatus
    seconds: float
    message: str = ""


@runtime_checkable
class Session(Protocol):
    """One Python namespace. Blocks run one after the other; names defined by one are seen by the next."""

    async def run(self, code: str) -> ExecutionResult:
        """Runs a block. Never raises for anything the code does."""
        ...

    async def close(self) -> None:
        """Frees the session's process. Safe to call twice."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Sandbox(Protocol):
    """Gives out sessions and owns what they share."""

    def session(self) -> Session:
        """A new session. Its process may start at once, and need not before its first block."""
        ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
