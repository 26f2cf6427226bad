"""Reward functions for TRL's trainers, loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl.lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.rewards.answer import answer_reward
    from genprm_trl.rewards.blocking import BlockingReward
    from genprm_trl.rewards.configured import genprm_reward
    from genprm_trl.rewards.step_format import step_format_reward
    from genprm_trl.rewards.verdict import (
        rationale_format_reward,
        step_agreement_reward,
        verdict_agreement_reward,
    )
    from genprm_trl.rewards.verification import GenPRMReward

_HOME_OF = {
    "BlockingReward": "genprm_trl.rewards.blocking",
    "GenPRMReward": "genprm_trl.rewards.verification",
    "answer_reward": "genprm_trl.rewards.answer",
    "genprm_reward": "genprm_trl.rewards.configured",
    "rationale_format_reward": "genprm_trl.rewards.verdict",
    "step_agreement_reward": "genprm_trl.rewards.verdict",
    "step_format_reward": "genprm_trl.rewards.step_format",
    "verdict_agreement_reward": "genprm_trl.rewards.verdict",
}

__all__ = [
    "BlockingReward",
    "GenPRMReward",
    "answer_reward",
    "genprm_reward",
    "rationale_format_reward",
    "step_agreement_reward",
    "step_format_reward",
    "verdict_agreement_reward",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
