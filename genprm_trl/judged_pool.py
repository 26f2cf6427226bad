"""Pools of solutions with their verdicts, and choosing from them."""

from genprm_trl.selection.judged_pool import Choice, JudgedPool, PoolAccuracies, choose, judged_pools, measure

__all__ = ["Choice", "JudgedPool", "PoolAccuracies", "choose", "judged_pools", "measure"]
