"""Reinforcement learning of the verifier itself, with TRL's `GRPOTrainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.verifier_rl.rollout import VerifierRollout as VerifierRollout
    from genprm_trl.training.verifier_rl.rollout import verifier_dataset as verifier_dataset

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".rollout": ["VerifierRollout", "verifier_dataset"],
    },
)
