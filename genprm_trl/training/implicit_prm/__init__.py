"""Implicit process rewards: learned while a policy trains (PRIME), or offline from outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.implicit_prm.model import ImplicitPRM as ImplicitPRM
    from genprm_trl.training.implicit_prm.offline import ImplicitPairTrainer as ImplicitPairTrainer
    from genprm_trl.training.implicit_prm.offline import ImplicitPRMConfig as ImplicitPRMConfig
    from genprm_trl.training.implicit_prm.offline import ImplicitPRMTrainer as ImplicitPRMTrainer

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".model": ["ImplicitPRM"],
        ".offline": ["ImplicitPRMConfig", "ImplicitPRMTrainer", "ImplicitPairTrainer"],
    },
)
