"""Running model-written Python: every sandbox hands out sessions, a session runs code blocks and keeps their names."""

from .base import ExecutionResult, ExecutionStatus, Sandbox, Session
from .limits import Limits
from .local import LocalSandbox, LocalSession, Protection
from .process import SandboxError

__all__ = [
    "ExecutionResult",
    "ExecutionStatus",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "Protection",
    "Sandbox",
    "SandboxError",
    "Session",
]
