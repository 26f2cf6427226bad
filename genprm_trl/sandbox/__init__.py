"""Running model-written Python: a sandbox opens sessions, and a session runs code blocks and keeps their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.sandbox.base import ExecutionResult as ExecutionResult
    from genprm_trl.sandbox.base import ExecutionStatus as ExecutionStatus
    from genprm_trl.sandbox.base import Sandbox as Sandbox
    from genprm_trl.sandbox.base import Session as Session
    from genprm_trl.sandbox.fusion import FusionSandbox as FusionSandbox
    from genprm_trl.sandbox.fusion import FusionSession as FusionSession
    from genprm_trl.sandbox.limits import Limits as Limits
    from genprm_trl.sandbox.local import LocalSandbox as LocalSandbox
    from genprm_trl.sandbox.local import LocalSession as LocalSession
    from genprm_trl.sandbox.local import Protection as Protection
    from genprm_trl.sandbox.options import SandboxOptions as SandboxOptions
    from genprm_trl.sandbox.process import SandboxError as SandboxError

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".base": ["ExecutionResult", "ExecutionStatus", "Sandbox", "Session"],
        ".fusion": ["FusionSandbox", "FusionSession"],
        ".limits": ["Limits"],
        ".local": ["LocalSandbox", "LocalSession", "Protection"],
        ".options": ["SandboxOptions"],
        ".process": ["SandboxError"],
    },
)
