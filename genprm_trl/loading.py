"""Reading files and datasets of solutions, verdicts and rationales."""

from genprm_trl.data.solutions import iter_rationales, iter_solutions, iter_verdicts, load_solutions

__all__ = ["iter_rationales", "iter_solutions", "iter_verdicts", "load_solutions"]
