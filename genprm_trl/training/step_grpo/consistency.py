"""Which completions of a group to learn from: those whose steps and answer say the same (PROF, arXiv 2509.03403).

A right answer after steps that the verifier doubts may be luck, and a wrong one after steps that it likes may be the
verifier's mistake. PROF leaves both out, and so many of each that right and wrong ones balance. The verifier chooses
and rewards nothing: there is less to please it for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

# The first ones to go are those of fewer or more steps. The numbers are those of PROF's code.
FEWEST_STEPS, MOST_STEPS = 2, 30


def consistent_completions(
    process: Sequence[float], outcome: Sequence[float], num_steps: Sequence[int], *, group_size: int, keep: int
) -> list[bool]:
    """Chooses the completions that are kept of each group.

    Of the right ones those with the highest process reward are kept, of the wrong ones those with the lowest. With Δ
    more right than wrong ones, and k to leave out, (Δ + k) / 2 right ones go, as far as that is possible. So half of
    the rest are right. Of an odd number one more is right than wrong.

    Args:
        process: The mean reward of each completion's steps, NaN where there is none; that counts as the group's mean.
        outcome: The reward of its answer; right is one half and more. NaN where there is none: these go first. A group
            without any is kept whole.
        num_steps: Its steps. Of the right ones, and of the wrong ones, those with fewer than 2 or more than 30 go
            before the others, as in PROF's code.
        group_size: Completions of one prompt; neighbours are a group.
        keep: How many are kept of each group.

    Returns:
        Whether each is kept.

    Example:
        >>> consistent_completions([0.9, 0.2, 0.6, 0.7, 0.1], [1, 1, 1, 0, 0], [3, 3, 3, 3, 3], group_size=5, keep=2)
        [True, False, False, False, True]
    """
    kept: list[bool] = []
    for start in range(0, len(process), group_size):
        group = slice(start, start + group_size)
        kept += _of_group(process[group], outcome[group], num_steps[group], keep)
    return kept


def _of_group(process: Sequence[float], outcome: Sequence[float], num_steps: Sequence[int], keep: int) -> list[bool]:
    if all(map(math.isnan, outcome)):
        return [True] * len(outcome)
    mean = fmean([value for value in process if not math.isnan(value)] or [0.0])

    def consistency(place: int) -> tuple[bool, float]:
        value = mean if math.isnan(process[place]) else process[place]
        return FEWEST_STEPS <= num_steps[place] <= MOST_STEPS, value if outcome[place] >= 0.5 else -value

    unknown = [place for place, value in enumerate(outcome) if math.isnan(value)]
    right = sorted((place for place, value in enumerate(outcome) if value >= 0.5), key=consistency)
    wrong = sorted((place for place, value in enumerate(outcome) if value < 0.5), key=consistency)
    out = unknown[: len(outcome) - keep]
    k = len(outcome) - keep - len(out)
    of_right = max(0, min(k, (len(right) - len(wrong) + k) // 2))
    out += right[:of_right] + wrong[: k - of_right]
    return [place not in out for place in range(len(outcome))]
