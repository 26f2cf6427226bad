"""PRIME: a PRM that is trained on outcomes while the policy learns (arXiv 2502.01456)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.training.implicit_prm.model import ImplicitPRM as ImplicitPRM

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".model": ["ImplicitPRM"],
    },
)
