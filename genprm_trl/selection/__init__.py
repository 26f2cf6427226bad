"""Choosing among a problem's sampled solutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.selection.accuracies import best_of_n_accuracy as best_of_n_accuracy
    from genprm_trl.selection.accuracies import pass_at_k as pass_at_k
    from genprm_trl.selection.accuracies import pool_accuracies as pool_accuracies
    from genprm_trl.selection.accuracies import subset_sizes as subset_sizes
    from genprm_trl.selection.accuracies import vote_accuracy as vote_accuracy
    from genprm_trl.selection.aggregates import RULES as RULES
    from genprm_trl.selection.aggregates import Aggregate as Aggregate
    from genprm_trl.selection.aggregates import aggregate as aggregate

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".accuracies": ["best_of_n_accuracy", "pass_at_k", "pool_accuracies", "subset_sizes", "vote_accuracy"],
        ".aggregates": ["Aggregate", "RULES", "aggregate"],
    },
)
