"""Process preference models, trained on pairs of steps (rStar-Math)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.ppm.trainer import PPMConfig as PPMConfig
    from genprm_trl.training.ppm.trainer import PPMTrainer as PPMTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".trainer": ["PPMConfig", "PPMTrainer"],
    },
)
