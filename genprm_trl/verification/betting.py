"""A sequential test by betting: whether the mean of N numbers is above a bound, from the first few of them.

A gambler who starts with 1 bets, before each number is shown, that it will be larger than the mean of those not yet
seen would be if the mean of all were at the bound. If the mean of all is at or below the bound and the numbers come in
random order, his wealth is a non-negative supermartingale, and by Ville's inequality it ever reaches 1 / error with
probability `error` at most, however often one looks. Waudby-Smith & Ramdas, "Estimating means of bounded random
variables by betting" (JRSS B 2024, arXiv 2010.09686), section 5: sampling without replacement.

How much to bet is not known beforehand, so the wealth is split among gamblers with different habits, and their sum is
a supermartingale, too (a universal portfolio: Cover 1991).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

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
