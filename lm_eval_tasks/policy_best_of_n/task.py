"""The policy samples, the verifier picks: the class of the tasks and their data."""

from genprm_trl.harness.policy import PolicyBestOfN, doc_to_text, problems_dataset

__all__ = ["PolicyBestOfN", "doc_to_text", "problems_dataset"]
