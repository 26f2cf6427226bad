"""PRMBench (arXiv 2501.03124) for critics: its data, its prompt, the class of the task."""

from genprm_trl.harness.prmbench import StepScoresCritique, prmbench_dataset
from genprm_trl.protocol.prmbench import step_scores_prompt

__all__ = ["StepScoresCritique", "doc_to_text", "load"]

load = prmbench_dataset


def doc_to_text(doc):
    """Returns the benchmark's prompt for the scores of all steps of a solution."""
    return step_scores_prompt(doc["problem"], doc["steps"])
