"""Training a policy on pairs of steps: Step-DPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.step_dpo.trainer import StepDPOConfig as StepDPOConfig
    from genprm_trl.training.step_dpo.trainer import StepDPOTrainer as StepDPOTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".trainer": ["StepDPOConfig", "StepDPOTrainer"],
    },
)
