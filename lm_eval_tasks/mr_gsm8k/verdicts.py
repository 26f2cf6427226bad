"""MR-GSM8K for verifiers: the class of the task, and how verdicts are read."""

from genprm_trl.harness import register
from genprm_trl.harness.mr_gsm8k import MetaVerdicts
from genprm_trl.harness.verdicts import averaged, doc_to_text, each_chain

register()  # soon enough for the harness's own command if it is given the file of the task

__all__ = ["MetaVerdicts", "averaged", "doc_to_text", "each_chain"]
