"""The lm-evaluation-harness: our tasks and our model in it, and its results in ours.

Without lm-eval installed this package can be imported, and `tasks_path` works; everything else says which extra to
install.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.harness.command import register as register
    from genprm_trl.harness.tasks import tasks_path as tasks_path

__all__, __getattr__, __dir__ = lazy_exports(__name__, {".command": ["register"], ".tasks": ["tasks_path"]})
