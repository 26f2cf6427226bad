"""What a set of verdicts is worth: ProcessBench's scores, calibration, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.metrics.estimates import ScoreEstimate as ScoreEstimate
    from genprm_trl.metrics.estimates import mean_estimate as mean_estimate
    from genprm_trl.metrics.estimates import processbench_by_votes as processbench_by_votes
    from genprm_trl.metrics.estimates import processbench_estimates as processbench_estimates
    from genprm_trl.metrics.processbench import best_step_accuracy as best_step_accuracy
    from genprm_trl.metrics.processbench import best_threshold as best_threshold
    from genprm_trl.metrics.processbench import calibration_error as calibration_error
    from genprm_trl.metrics.processbench import processbench_scores as processbench_scores
    from genprm_trl.metrics.processbench import step_auroc as step_auroc
    from genprm_trl.records import prediction_from_rewards as prediction_from_rewards

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".estimates": ["ScoreEstimate", "mean_estimate", "processbench_by_votes", "processbench_estimates"],
        ".processbench": [
            "best_step_accuracy",
            "best_threshold",
            "calibration_error",
            "processbench_scores",
            "step_auroc",
        ],
        "genprm_trl.records": ["prediction_from_rewards"],
    },
)
