"""When the rewards of some chains decide on which side of the threshold the average of all N chains is.

A step is judged wrong if the average of its N rewards is below the threshold. Averages are sums that are rounded once
(`math.fsum`), which keeps them monotonic: a bound that puts 0 or 1 in the place of the missing rewards is exact to the
last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Side = Literal["below", "above"]


def average(rewards: Sequence[float]) -> float:
    """The mean, the same in whatever order the rewards come."""
    return math.fsum(rewards) / len(rewards)


def is_surely_below(rewards: Sequence[float], n: int, threshold: float) -> bool:
    """Whether the average of `n` rewards in [0, 1] is below the threshold whatever the missing ones are."""
    return math.fsum((*rewards, n - len(rewards))) / n < threshold


def is_surely_not_below(rewards: Sequence[float], n: int, threshold: float) -> bool:
    """Whether the average of `n` rewards in [0, 1] is at or above the threshold whatever the missing ones are."""
    return math.fsum(rewards) / n >= threshold


class DecisionRule(Protocol):
    """Tells the side of the threshold that the average of N chains is on from the rewards of the first few."""

    def side(self, rewards: Sequence[float]) -> Side | None:
        """The side, None if more chains are needed. `rewards` are those of the first chains, in their order."""
        ...

    def fewest_more(self, rewards: Sequence[float]) -> int:
        """How many more chains it takes at least until `side` can tell; at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class ExactRule:
    """Decides once the missing chains can no longer change the side (a curtailed vote)."""

    n: int
    threshold: float

    def side(self, rewards: Sequence[float]) -> Side | None:
        if is_surely_below(rewards, self.n, self.threshold):
            return "below"
        return "above" if is_surely_not_below(rewards, self.n, self.threshold) else None

    def fewest_more(self, rewards: Sequence[float]) -> int:
        return _fewest_more(self, rewards, self.n)


@dataclass(frozen=True, slots=True)
class SequentialRule:
    """Decides once the missing chains can no longer change the side, or a sequential test is sure of it.

    The chains of a solution are independent samples of the same process, so the first few are a random sample without
    replacement of all N. Two tests (`betting.BettingTest`) look for evidence that the average of all N is above the
    threshold, or below. Only one of them can be wrong, so a side is wrong with probability `error` at most.

    Attributes:
        n: Chains in all.
        threshold: Averages below it are wrong steps.
        error: Bound on the probability of a wrong side.
    """

    n: int
    threshold: float
    error: float

    def side(self, rewards: Sequence[float]) -> Side | None:
        sure = ExactRule(self.n, self.threshold).side(rewards)
        if sure is not None:
            return sure
        above, below = self._tests(rewards)
        # Evidence for a side stays, but more chains may have brought the average back to the other one: the test was
        # wrong then, or will be, and the chains decide.
        if above.rejects(self.error) and average(rewards) >= self.threshold:
            return "above"
        return "below" if below.rejects(self.error) and average(rewards) < self.threshold else None

    def _tests(self, rewards: Sequence[float]) -> tuple[BettingTest, BettingTest]:
        above, below = BettingTest(self.n, self.threshold), BettingTest(self.n, 1 - self.threshold)
        above.add(rewards)
        below.add(1 - reward for reward in rewards)
        return above, below

    def fewest_more(self, rewards: Sequence[float]) -> int:
        return _fewest_more(self, rewards, self.n)


def _fewest_more(rule: DecisionRule, rewards: Sequence[float], n: int) -> int:
    """The fewest further rewards, all 1 or all 0, that let the rule decide: nothing decides faster than these."""
    missing = n - len(rewards)
    # Bisection: where `count` rewards that agree decide, more of them do.
    few, enough = 0, missing
    while enough - few > 1:
        count = (few + enough) // 2
        if rule.side([*rewards, *[1.0] * count]) or rule.side([*rewards, *[0.0] * count]):
            enough = count
        else:
            few = count
    return max(enough, 1)


# Shares of its wealth that each gambler stakes. The last one stakes all of it: the most to win from numbers that are
# all 1, as those of a verifier that is sure are.
STAKES = tuple(share / 10 for share in range(1, 11))


@dataclass(slots=True)
class BettingTest:
    """Evidence that the mean of `n` numbers in [0, 1], shown one by one in random order, is above a bound.

    Attributes:
        n: How many numbers there are in all.
        bound: The bound, in [0, 1].
        peak: The largest wealth so far; `1 / peak` is an anytime-valid p-value of "the mean is not above the bound".

    Example:
        >>> test = BettingTest(n=32, bound=0.5)
        >>> test.add([1.0] * 8)
        >>> test.rejects(0.01)
        True
    """

    n: int
    bound: float
    peak: float = 1.0
    _count: int = 0
    _total: float = 0.0
    _fortunes: list[float] = field(default_factory=lambda: [1 / len(STAKES)] * len(STAKES))

    def add(self, values: Iterable[float]) -> None:
        """Shows the next numbers."""
        for value in values:
            # The mean of the numbers not yet shown, if that of all is at the bound.
            expected = (self.n * self.bound - self._total) / (self.n - self._count)
            # Otherwise the bound is reached already and there is nothing to bet on.
            if expected > 0:
                gain = value / expected - 1
                fortunes = zip(self._fortunes, STAKES, strict=True)
                self._fortunes = [fortune * (1 + stake * gain) for fortune, stake in fortunes]
                self.peak = max(self.peak, math.fsum(self._fortunes))
            self._total += value
            self._count += 1

    def rejects(self, error: float) -> bool:
        """Whether "the mean is not above the bound" is rejected; wrongly with probability `error` at most."""
        return self.peak * error >= 1

    def copy(self) -> BettingTest:
        return BettingTest(self.n, self.bound, self.peak, self._count, self._total, list(self._fortunes))
