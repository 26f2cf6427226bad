"""When the roll-outs so far decide a label: exactly, or by a sequential test with a stated error.

A label compares two estimates, each from a fixed number K of roll-outs. After n of them with s successes the final
number of successes is still one of s, ..., s + K - n. A label is decided when every pair of final numbers that is
left gives the same one.

*Exact* stopping leaves every possible number in: the label is the one that all K roll-outs would give, always.

The *sequential test* leaves out what the roll-outs so far contradict. Roll-outs are exchangeable, so the n first ones
are a sample without replacement from the K, and their number of successes given the final number S is hypergeometric.
For a prior over S, the prior-posterior ratio R_n(S) = prior(S) / posterior_n(S) is a nonnegative martingale with mean
1 at the true S (Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement", section 2,
arXiv 2006.04347). The streams of the two estimates are independent, so the product R(before) R(after) of their ratios
is one, too, however the next stream to sample from is chosen, and so is the mean of that product and of R(after)
alone, which is the sharper one where the estimate before is known. By Ville's inequality this mean ever reaches
1 / alpha at the true pair with probability alpha at most; pairs at which it does are left out. So the test's label
differs from the one of all K roll-outs with probability at most alpha, for each label, whenever it stops.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar, Literal, Protocol, cast, get_args

import numpy as np

from genprm_trl.errors import ConfigError
from genprm_trl.labeling.progress import LabelRule, judge_step

StoppingName = Literal["none", "exact", "sequential"]


@dataclass(frozen=True, slots=True)
class Count:
    """Roll-outs of one state so far.

    Attributes:
        successes, trials: How many reached the answer, of how many.
        planned: How many the recipe asks for; `trials` at least. 0 for a state whose estimate is known without any:
            then `successes` is the estimate, 0 or 1.
    """

    successes: int
    trials: int
    planned: int

    @property
    def complete(self) -> bool:
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


class StoppingRule(Protocol):
    """Which labels are left.

    Attributes:
        looks: Whether it can decide before all roll-outs are there, so that asking it in between makes sense.
    """

    looks: ClassVar[bool]

    def possible_labels(self, rule: LabelRule, before: Count, after: Count, *, first: bool) -> frozenset[bool]:
        """The labels that a step may still get.

        Args:
            rule: The label rule.
            before, after: Roll-outs of the states before and after the step.
            first: Whether it is the solution's first step, whose state before it is the problem. For any other one
                the estimate before it is taken to be above 0: after a 0 there is nothing to decide.

        Returns:
            One label if it is decided. None at all if the estimate before a later step can only be 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoStopping:
    """The plain recipe: a label is decided when all roll-outs are there."""

    looks: ClassVar[bool] = False

    def possible_labels(self, rule: LabelRule, before: Count, after: Count, *, first: bool) -> frozenset[bool]:
        if before.complete and after.complete:
            return ExactStopping().possible_labels(rule, before, after, first=first)
        return frozenset((True, False))


@dataclass(frozen=True, slots=True)
class ExactStopping:
    """A label is decided when no outcome of the remaining roll-outs changes it."""

    looks: ClassVar[bool] = True

    def possible_labels(self, rule: LabelRule, before: Count, after: Count, *, first: bool) -> frozenset[bool]:
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


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """A label is decided when the confidence sequence of the two final numbers agrees on it.

    Attributes:
        alpha: Bound on the probability, for each label, that all roll-outs would give another one.
    """

    looks: ClassVar[bool] = True
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha must be within (0, 1), got {self.alpha}")

    def possible_labels(self, rule: LabelRule, before: Count, after: Count, *, first: bool) -> frozenset[bool]:
        before_ratios, after_ratios = _log_ratios(before)[:, None], _log_ratios(after)[None, :]
        ratios = np.logaddexp(before_ratios, 0.0) + after_ratios - math.log(2)
        left = ratios < -math.log(self.alpha)
        if not first:
            left[0, :] = False
        labels = _all_labels(cast(Hashable, rule), before.whole, after.whole)[left]
        return frozenset(label for label, seen in ((True, labels.any()), (False, not labels.all())) if seen)


def make_stopping(name: StoppingName, *, alpha: float = 0.05) -> StoppingRule:
    """The stopping rule of a name.

    Raises:
        ConfigError: The name is unknown, or alpha is out of range.
    """
    match name:
        case "none":
            return NoStopping()
        case "exact":
            return ExactStopping()
        case "sequential":
            return SequentialTest(alpha)
    raise ConfigError(f"unknown stopping rule {name!r}; choose one of {', '.join(get_args(StoppingName))}")


@lru_cache(maxsize=256)
def _all_labels(rule: Hashable, before: int, after: int) -> np.ndarray:
    """The label for each pair of final numbers, (before + 1, after + 1) booleans."""
    return np.array(
        [
            [judge_step(cast(LabelRule, rule), Fraction(b, before), Fraction(a, after)) for a in range(after + 1)]
            for b in range(before + 1)
        ]
    )


@lru_cache(maxsize=65_536)
def _log_ratios(count: Count) -> np.ndarray:
    """log R_n(S) for S = 0, ..., K: the prior's log-probability less the posterior's, infinite where S is excluded.

    The prior is beta-binomial with both parameters 1/2 (Jeffreys'): it favours estimates near 0 and 1, where a strong
    completion model's are. The guarantee holds for any prior.
    """
    ratios = np.full(count.whole + 1, np.inf)
    if not count.planned:  # known without roll-outs: the prior is all on the one number
        ratios[count.successes] = 0.0
        return ratios
    whole, left = count.planned, count.planned - count.trials
    a, b = 0.5 + count.successes, 0.5 + count.trials - count.successes
    for more in range(left + 1):
        final = count.successes + more
        ratios[final] = _log_beta_binomial(final, whole, 0.5, 0.5) - _log_beta_binomial(more, left, a, b)
    return ratios


def _log_beta_binomial(k: int, n: int, a: float, b: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + _log_beta(k + a, n - k + b) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
