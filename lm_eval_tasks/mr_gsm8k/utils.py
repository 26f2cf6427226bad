"""MR-GSM8K (arXiv 2312.17080): its data, its prompts, the classes of the tasks."""

from genprm_trl.harness.explanations import Explanations, explanations_dataset
from genprm_trl.harness.explanations import doc_to_text as explanation_to_text
from genprm_trl.harness.mr_gsm8k import MetaCritique, mr_gsm8k_dataset
from genprm_trl.protocol.mr_gsm8k import solution_critique_prompt

__all__ = ["Explanations", "MetaCritique", "doc_to_text", "explanation_to_text", "load", "load_explanations"]

load = mr_gsm8k_dataset
load_explanations = explanations_dataset


def doc_to_text(doc):
    """Returns the benchmark's prompt for a critique of a solution."""
    return solution_critique_prompt(doc["problem"], doc["steps"])
