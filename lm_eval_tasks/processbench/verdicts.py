"""ProcessBench for verifiers: the class of the tasks, and how verdicts are read."""

from genprm_trl.harness import register
from genprm_trl.harness.verdicts import StepVerdicts, averaged, doc_to_text, each_chain

register()  # soon enough for the harness's own command if it is given the file of the task

__all__ = ["StepVerdicts", "averaged", "doc_to_text", "each_chain"]
