"""The scorer of what `PRMTrainer` trains. It stands with the other verifiers, in `verifier.kinds`."""

from genprm_trl.verifier.kinds.token_classifier import PRMScorer as PRMScorer
