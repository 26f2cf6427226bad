"""Reward functions for TRL's trainers, loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.rewards.agreement import answer_agreement_reward as answer_agreement_reward
    from genprm_trl.rewards.answer import answer_reward as answer_reward
    from genprm_trl.rewards.blocking import BlockingReward as BlockingReward
    from genprm_trl.rewards.configured import genprm_reward as genprm_reward
    from genprm_trl.rewards.degenerate import degenerate_text_penalty as degenerate_text_penalty
    from genprm_trl.rewards.step_format import step_format_reward as step_format_reward
    from genprm_trl.rewards.tool_use import ToolEfficiencyReward as ToolEfficiencyReward
    from genprm_trl.rewards.verdict import rationale_format_reward as rationale_format_reward
    from genprm_trl.rewards.verdict import step_agreement_reward as step_agreement_reward
    from genprm_trl.rewards.verdict import verdict_agreement_reward as verdict_agreement_reward
    from genprm_trl.rewards.verdict import verdict_majority_reward as verdict_majority_reward
    from genprm_trl.rewards.verification import GenPRMReward as GenPRMReward
    from genprm_trl.rewards.verification import VerifierReward as VerifierReward

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".agreement": ["answer_agreement_reward"],
        ".answer": ["answer_reward"],
        ".blocking": ["BlockingReward"],
        ".configured": ["genprm_reward"],
        ".degenerate": ["degenerate_text_penalty"],
        ".step_format": ["step_format_reward"],
        ".tool_use": ["ToolEfficiencyReward"],
        ".verdict": [
            "rationale_format_reward",
            "step_agreement_reward",
            "verdict_agreement_reward",
            "verdict_majority_reward",
        ],
        ".verification": ["GenPRMReward", "VerifierReward"],
    },
)
