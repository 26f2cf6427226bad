"""Choosing among a problem's sampled solutions."""

from genprm_trl.selection.accuracies import best_of_n_accuracy, pass_at_k, pool_accuracies, subset_sizes, vote_accuracy
from genprm_trl.selection.aggregates import RULES, Aggregate, aggregate

__all__ = [
    "RULES",
    "Aggregate",
    "aggregate",
    "best_of_n_accuracy",
    "pass_at_k",
    "pool_accuracies",
    "subset_sizes",
    "vote_accuracy",
]
