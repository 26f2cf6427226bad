"""Best-of-N: the class of the tasks and their data."""

from genprm_trl.harness import register
from genprm_trl.harness.best_of_n import BestOfN
from genprm_trl.harness.candidates import candidates_dataset

register()  # soon enough for the harness's own command if it is given the file of the task

__all__ = ["BestOfN", "candidates_dataset"]
