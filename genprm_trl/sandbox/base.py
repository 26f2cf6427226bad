"""The interface of every sandbox: a `Sandbox` opens `Session`s, and a session runs code blocks and keeps names."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from genprm_trl._loops import Closable

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
        message: Details for the log: how the process ended, or what failed in the sandbox. May be empty.
    """

    output: str
    status: ExecutionStatus
    seconds: float
    message: str = ""


class Session(Closable):
    """One Python namespace. Blocks run one after the other, and each sees the names that earlier ones defined.

    `close`, or the end of an `async with`, frees the session's process.
    """

    @abstractmethod
    async def run(self, code: str) -> ExecutionResult:
        """Runs a block. Never raises for anything the code does."""


class Sandbox(Closable):
    """Opens sessions and owns what they share.

    `close`, or the end of an `async with`, ends every session.
    """

    @abstractmethod
    def session(self, *, as_published: bool = False) -> Session:
        """Opens a session. Its process may start now or with the first block.

        Args:
            as_published: Whether code sees what the executor of the released checkpoints showed it: `__name__` is
                `builtins`, standard output has no encoding (so sympy prints ASCII), and a program's own
                `TimeoutError` reads as a time-out.
        """

    async def check(self) -> None:
        """Asks whether it can run code, before anything is paid for. One that wraps another passes the question on.

        Raises:
            ConfigError: No block can run: the machine refuses, or a server does not answer.
        """
