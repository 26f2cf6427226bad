"""Training of a discriminative PRM: a token classifier at the end of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.prm.trainer import PRMConfig as PRMConfig
    from genprm_trl.training.prm.trainer import PRMTrainer as PRMTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".trainer": ["PRMConfig", "PRMTrainer"],
    },
)
