"""Generative process reward models for the Hugging Face training stack.

The names below are loaded when they are first used, so that importing the package costs no torch or transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports
from genprm_trl.version import __version__ as __version__

if TYPE_CHECKING:
    from genprm_trl.rewards import GenPRMReward as GenPRMReward
    from genprm_trl.rewards import VerifierReward as VerifierReward
    from genprm_trl.training import GenPRMConfig as GenPRMConfig
    from genprm_trl.training import GenPRMTrainer as GenPRMTrainer
    from genprm_trl.training import PRMConfig as PRMConfig
    from genprm_trl.training import PRMTrainer as PRMTrainer
    from genprm_trl.training import StepGRPOConfig as StepGRPOConfig
    from genprm_trl.training import StepGRPOTrainer as StepGRPOTrainer
    from genprm_trl.verifier import GenPRM as GenPRM
    from genprm_trl.verifier import open_verifier as open_verifier

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".verifier": ["GenPRM", "open_verifier"],
        ".rewards": ["GenPRMReward", "VerifierReward"],
        ".training": ["GenPRMConfig", "GenPRMTrainer", "PRMConfig", "PRMTrainer", "StepGRPOConfig", "StepGRPOTrainer"],
    },
)
