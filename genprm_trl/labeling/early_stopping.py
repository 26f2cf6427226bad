"""When the rollouts so far decide a label.

A label compares two estimates, each from a fixed number K of rollouts. After n of them with s successes the final
number of successes is still one of s, ..., s + K - n. A label is decided when every pair of final numbers that is
left gives the same one. So early stopping never changes a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from genprm_trl.labeling.progress import LabelRule, judge_step


@dataclass(frozen=True, slots=True)
class Count:
    """Rollouts of one state so far.

    Attributes:
        successes: How many reached the answer.
        trials: How many there are.
        planned: How many the recipe asks for; `trials` at least. 0 for a state whose estimate is known without any:
            then `successes` is the estimate, 0 or 1.
    """

    successes: int
    trials: int
    planned: int

    @property
    def complete(self) -> bool:
        """Whether all planned rollouts are there."""
        return self.trials >= self.planned

    @property
    def least(self) -> int:
        """The smallest final number of successes."""
        return self.successes

    @property
    def most(self) -> int:
        """The largest final number of successes."""
        return self.successes + self.planned - self.trials if self.planned else self.successes

    @property
    def whole(self) -> int:
        """What final numbers are shares of."""
        return self.planned or 1


def possible_labels(rule: LabelRule, before: Count, after: Count, *, first: bool) -> frozenset[bool]:
    """The labels that a step may still get, whatever the remaining rollouts do.

    Args:
        rule: The label rule.
        before: Rollouts of the state before the step.
        after: Rollouts of the state after the step.
        first: Whether it is the solution's first step, whose state before it is the problem. For any other one the
            estimate before it is taken to be above 0: after a 0 there is nothing to decide.

    Returns:
        One label if it is decided. None at all if the estimate before a later step can only be 0.
    """
    labels = set()
    least, most = Fraction(after.least, after.whole), Fraction(after.most, after.whole)
    if before.most > 0:
        # A rule is monotone for estimates above 0 before the step, so two corners say it all.
        labels.add(rule.judge(Fraction(before.most, before.whole), least))
        labels.add(rule.judge(Fraction(max(before.least, 1), before.whole), most))
    if first and before.least == 0:
        labels.add(judge_step(rule, Fraction(0), least))
        labels.add(judge_step(rule, Fraction(0), most))
    return frozenset(labels)
