"""ProcessBench (arXiv 2412.06559) for critics: its data, its prompt, the class of the tasks."""

from genprm_trl.harness.critique import Critique
from genprm_trl.harness.data import processbench_dataset
from genprm_trl.protocol.critique import critique_prompt

__all__ = ["Critique", "doc_to_text", "load"]

load = processbench_dataset


def doc_to_text(doc):
    """Returns the benchmark's prompt for a critique of a solution."""
    return critique_prompt(doc["problem"], doc["steps"])
