"""Running model-written Python: every sandbox hands out sessions, a session runs code blocks and keeps their names."""

from typing import TYPE_CHECKING, Any

from .base import ExecutionResult, ExecutionStatus, Sandbox, Session
from .limits import Limits
from .local import LocalSandbox, LocalSession, Protection
from .process import SandboxError

if TYPE_CHECKING:
    from .fusion import FusionSandbox, FusionSession

__all__ = [
    "ExecutionResult",
    "ExecutionStatus",
    "FusionSandbox",
    "FusionSession",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "Protection",
    "Sandbox",
    "SandboxError",
    "Session",
]


def __getattr__(name: str) -> Any:
    if name in ("FusionSandbox", "FusionSession"):
        from . import fusion

        return getattr(fusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
