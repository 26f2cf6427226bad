"""Supervised fine-tuning of a GenPRM on rationales, with TRL's `SFTTrainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.sft.trainer import GenPRMConfig as GenPRMConfig
    from genprm_trl.training.sft.trainer import GenPRMTrainer as GenPRMTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".trainer": ["GenPRMConfig", "GenPRMTrainer"],
    },
)
