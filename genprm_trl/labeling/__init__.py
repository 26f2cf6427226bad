"""Training data for a GenPRM: rollouts, Monte Carlo estimates, labels, rationales (arXiv 2504.00891, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.labeling.progress import difference_labels as difference_labels
    from genprm_trl.labeling.progress import hard_labels as hard_labels
    from genprm_trl.labeling.progress import relative_progress as relative_progress

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".progress": ["difference_labels", "hard_labels", "relative_progress"],
    },
)
