"""Best-of-N: the class of the tasks and their data."""

from genprm_trl.harness.best_of_n import BestOfN
from genprm_trl.harness.candidates import candidates_dataset

__all__ = ["BestOfN", "candidates_dataset"]
