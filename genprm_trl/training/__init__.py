"""Trainers, one folder each, loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.hacking import HackingStop as HackingStop
    from genprm_trl.training.implicit_prm import ImplicitPairTrainer as ImplicitPairTrainer
    from genprm_trl.training.implicit_prm import ImplicitPRM as ImplicitPRM
    from genprm_trl.training.implicit_prm import ImplicitPRMConfig as ImplicitPRMConfig
    from genprm_trl.training.implicit_prm import ImplicitPRMTrainer as ImplicitPRMTrainer
    from genprm_trl.training.ppm import PPMConfig as PPMConfig
    from genprm_trl.training.ppm import PPMTrainer as PPMTrainer
    from genprm_trl.training.prm import PRMConfig as PRMConfig
    from genprm_trl.training.prm import PRMTrainer as PRMTrainer
    from genprm_trl.training.sft import GenPRMConfig as GenPRMConfig
    from genprm_trl.training.sft import GenPRMTrainer as GenPRMTrainer
    from genprm_trl.training.step_dpo import StepDPOConfig as StepDPOConfig
    from genprm_trl.training.step_dpo import StepDPOTrainer as StepDPOTrainer
    from genprm_trl.training.step_grpo import StepGRPOConfig as StepGRPOConfig
    from genprm_trl.training.step_grpo import StepGRPOTrainer as StepGRPOTrainer
    from genprm_trl.training.verifier_rl import VerifierRollout as VerifierRollout
    from genprm_trl.training.verifier_rl import verifier_dataset as verifier_dataset

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".sft": ["GenPRMConfig", "GenPRMTrainer"],
        ".prm": ["PRMConfig", "PRMTrainer"],
        ".ppm": ["PPMConfig", "PPMTrainer"],
        ".step_dpo": ["StepDPOConfig", "StepDPOTrainer"],
        ".step_grpo": ["StepGRPOConfig", "StepGRPOTrainer"],
        ".implicit_prm": ["ImplicitPRM", "ImplicitPRMConfig", "ImplicitPRMTrainer", "ImplicitPairTrainer"],
        ".hacking": ["HackingStop"],
        ".verifier_rl": ["VerifierRollout", "verifier_dataset"],
    },
)
