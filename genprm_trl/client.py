"""The client of a verifier that runs elsewhere (`genprm serve`)."""

from genprm_trl.verifier.client import VerifierClient

__all__ = ["VerifierClient"]
