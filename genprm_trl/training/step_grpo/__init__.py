"""GRPO with a reward for each step, on TRL's `GRPOTrainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.step_grpo.trainer import StepGRPOConfig as StepGRPOConfig
    from genprm_trl.training.step_grpo.trainer import StepGRPOTrainer as StepGRPOTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".trainer": ["StepGRPOConfig", "StepGRPOTrainer"],
    },
)
