"""Solutions with outcomes from which a tiny implicit PRM learns."""

from __future__ import annotations

import random
from typing import Any

from genprm_trl.records import Solution


def toy_solutions(problems: int, *, each: int = 2, seed: int = 0, name: str = "Anna") -> list[dict[str, Any]]:
    """Rows of ProcessBench: as many right as wrong solutions of each problem. A solution is wrong iff it buys eggs."""
    rng, rows = random.Random(seed), []
    for number in range(problems):
        problem = f"{name} has {number + 2} apples. What does she buy?"
        for place in range(2 * each):
            wrong = rng.randrange(2) if place % 2 else -1
            bought = ["eggs" if step == wrong else "books" for step in range(2)]
            steps = [f"She buys {rng.randint(1, 9)} {what} more." for what in bought]
            solution = Solution(f"{name}{number}-{place}", problem, steps, final_answer_correct=wrong < 0, label=wrong)
            rows.append(solution.to_dict())
    return rows
