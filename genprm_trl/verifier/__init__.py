"""The product: a verifier judges solutions step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.verifier.base import Verifier as Verifier
    from genprm_trl.verifier.client import VerifierClient as VerifierClient
    from genprm_trl.verifier.ensemble import Ensemble as Ensemble
    from genprm_trl.verifier.genprm import GenPRM as GenPRM
    from genprm_trl.verifier.opening import open_verifier as open_verifier

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".base": ["Verifier"],
        ".ensemble": ["Ensemble"],
        ".genprm": ["GenPRM"],
        ".client": ["VerifierClient"],
        ".opening": ["open_verifier"],
    },
)
