"""Whether a function takes time in proportion to its text, on fast and slow machines alike."""

from __future__ import annotations

import time
from collections.abc import Callable


def growth(read: Callable[[str], object], text: str) -> float:
    """How many times as much processor time a text takes as its first eighth.

    About 8 where time is linear, about 64 where it is quadratic. What is too short to measure counts as 5 ms.
    """

    def cost(part: str) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            read(part)
            best = min(best, time.process_time() - start)
        return max(best, 0.005)

    return cost(text) / cost(text[: len(text) // 8])
