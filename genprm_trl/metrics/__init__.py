"""What a set of verdicts is worth: ProcessBench's scores, calibration, intervals."""

from genprm_trl.metrics.estimates import ScoreEstimate, mean_estimate, processbench_by_votes, processbench_estimates
from genprm_trl.metrics.processbench import (
    best_step_accuracy,
    best_threshold,
    calibration_error,
    processbench_scores,
    step_auroc,
)
from genprm_trl.records import prediction_from_rewards

__all__ = [
    "ScoreEstimate",
    "best_step_accuracy",
    "best_threshold",
    "calibration_error",
    "mean_estimate",
    "prediction_from_rewards",
    "processbench_by_votes",
    "processbench_estimates",
    "processbench_scores",
    "step_auroc",
]
