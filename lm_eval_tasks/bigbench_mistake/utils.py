"""BIG-Bench Mistake (arXiv 2311.08516) for critics: its data, the prompt, the class of the tasks."""

from genprm_trl.harness.bigbench_mistake import MistakeCritique, mistake_dataset
from genprm_trl.protocol.critique import critique_prompt

__all__ = ["MistakeCritique", "doc_to_text", "load"]

load = mistake_dataset


def doc_to_text(doc):
    """Returns the prompt for a critique of a trace."""
    return critique_prompt(doc["problem"], doc["steps"], "bigbench_mistake")
