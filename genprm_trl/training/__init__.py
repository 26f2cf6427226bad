"""Trainers, loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl.lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.implicit_prm import ImplicitPRM
    from genprm_trl.training.prm import PRMConfig, PRMTrainer
    from genprm_trl.training.sft import GenPRMConfig, GenPRMTrainer
    from genprm_trl.training.step_grpo import StepGRPOConfig, StepGRPOTrainer
    from genprm_trl.training.verifier_rl import VerifierRollout, verifier_dataset

_HOME_OF = {
    "GenPRMConfig": "genprm_trl.training.sft",
    "GenPRMTrainer": "genprm_trl.training.sft",
    "ImplicitPRM": "genprm_trl.training.implicit_prm",
    "PRMConfig": "genprm_trl.training.prm",
    "PRMTrainer": "genprm_trl.training.prm",
    "StepGRPOConfig": "genprm_trl.training.step_grpo",
    "StepGRPOTrainer": "genprm_trl.training.step_grpo",
    "VerifierRollout": "genprm_trl.training.verifier_rl",
    "verifier_dataset": "genprm_trl.training.verifier_rl",
}

__all__ = [
    "GenPRMConfig",
    "GenPRMTrainer",
    "ImplicitPRM",
    "PRMConfig",
    "PRMTrainer",
    "StepGRPOConfig",
    "StepGRPOTrainer",
    "VerifierRollout",
    "verifier_dataset",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
