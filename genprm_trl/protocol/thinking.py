"""The tags of thinking blocks, and texts without them: the rule of `grading.thinking`, which is one for all."""

from genprm_trl.grading.thinking import THINK_END, THINK_START, without_thinking

__all__ = ["THINK_END", "THINK_START", "without_thinking"]
