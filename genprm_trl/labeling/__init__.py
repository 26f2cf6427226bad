"""Training data for a GenPRM: solutions, Monte Carlo estimates, labels, rationales (arXiv 2504.00891, section 3)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genprm_trl.labeling.progress import difference_labels, hard_labels, relative_progress

_HOME_OF = {
    "difference_labels": ".progress",
    "hard_labels": ".progress",
    "relative_progress": ".progress",
}

__all__ = ["difference_labels", "hard_labels", "relative_progress"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
