"""ProcessBench for critics: the class of the tasks."""

from genprm_trl.harness.critique import Critique

__all__ = ["Critique"]
