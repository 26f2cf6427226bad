"""PRMBench for verifiers: the class of the task, and how verdicts are read."""

from genprm_trl.harness import register
from genprm_trl.harness.prmbench import AllStepsVerdicts, averaged_steps, each_chains_steps
from genprm_trl.harness.verdicts import doc_to_text

register()  # soon enough for the harness's own command if it is given the file of the task

__all__ = ["AllStepsVerdicts", "averaged_steps", "doc_to_text", "each_chains_steps"]
