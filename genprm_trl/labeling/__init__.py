"""Training data for a GenPRM: solutions, Monte Carlo estimates, labels, rationales (arXiv 2504.00891, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl.lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.labeling.progress import difference_labels, hard_labels, relative_progress

_HOME_OF = {
    "difference_labels": ".progress",
    "hard_labels": ".progress",
    "relative_progress": ".progress",
}

__all__ = ["difference_labels", "hard_labels", "relative_progress"]

__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
