"""Whether a function takes time in proportion to its text, on fast and slow machines alike."""

from __future__ import annotations

import time
from collections.abc import Callable


def growth(read: Callable[[str], object], text: str) -> float:
    """How many times as much processor time a text takes as its first eighth.

    About 8 where time is linear, about 64 where it is quadratic. What is too short to measure counts as 5 ms. What
    seems slow is measured again, since something else may have taken the time.
    """

    def cost(part: str, enough: float) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            read(part)
            best = min(best, time.process_time() - start)
            if best <= enough:
                break
        return max(best, 0.005)

    eighth = cost(text[: len(text) // 8], 0.005)
    return cost(text, 12 * eighth) / eighth
