"""Generative process reward models for the Hugging Face training stack.

The names below are loaded when they are first used, so that importing the package costs no torch or transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl.lazy import lazy_exports
from genprm_trl.version import __version__

if TYPE_CHECKING:
    from genprm_trl.rewards.verification import GenPRMReward
    from genprm_trl.training.prm import PRMConfig, PRMTrainer
    from genprm_trl.training.sft import GenPRMConfig, GenPRMTrainer
    from genprm_trl.training.step_grpo import StepGRPOConfig, StepGRPOTrainer
    from genprm_trl.verifier import GenPRM

_HOME_OF = {
    "GenPRM": "genprm_trl.verifier",
    "GenPRMConfig": "genprm_trl.training.sft",
    "GenPRMReward": "genprm_trl.rewards.verification",
    "GenPRMTrainer": "genprm_trl.training.sft",
    "PRMConfig": "genprm_trl.training.prm",
    "PRMTrainer": "genprm_trl.training.prm",
    "StepGRPOConfig": "genprm_trl.training.step_grpo",
    "StepGRPOTrainer": "genprm_trl.training.step_grpo",
}

__all__ = [
    "GenPRM",
    "GenPRMConfig",
    "GenPRMReward",
    "GenPRMTrainer",
    "PRMConfig",
    "PRMTrainer",
    "StepGRPOConfig",
    "StepGRPOTrainer",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
