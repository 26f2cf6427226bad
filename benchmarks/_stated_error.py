"""How often the sequential test for adaptive N is wrong in simulation, against the error that it states."""

from __future__ import annotations

import random

from genprm_trl.verifier.decision import SequentialRule, average


def simulate(trials: int = 4000) -> None:
    """Prints what comes of rewards near the threshold, where it is hardest: votes, graded ones, ones near 0 and 1."""
    for error in (0.05, 0.01):
        for n in (8, 32, 64):
            rng = random.Random(0)
            rule, exact = SequentialRule(n, 0.5, error), SequentialRule(n, 0.5, 1e-300)
            wrong = spent = spent_exact = 0
            for _ in range(trials):
                rewards = _draw_rewards(rng, n)
                stop, side = _first_side(rule, rewards)
                spent += stop
                spent_exact += _first_side(exact, rewards)[0]
                wrong += (side == "below") != (average(rewards) < 0.5)
            print(
                f"  N={n:2}, stated error {error}: wrong in {100 * wrong / trials:.2f} % of {trials} populations, "
                f"{spent / trials:.1f} chains on average (exact rule: {spent_exact / trials:.1f})"
            )


def _first_side(rule: SequentialRule, rewards: list[float]) -> tuple[int, str | None]:
    seen = 0
    while (side := rule.side(rewards[:seen]) if seen else None) is None:
        seen += 1 if seen == 0 else rule.fewest_more(rewards[:seen])
    return seen, side


def _draw_rewards(rng: random.Random, n: int) -> list[float]:
    p, shape = rng.choice([0.2, 0.35, 0.45, 0.5, 0.55, 0.65, 0.8]), rng.choice(["votes", "graded", "sure"])
    if shape == "votes":
        return [float(rng.random() < p) for _ in range(n)]
    weight = 4 if shape == "graded" else 0.2
    return [rng.betavariate(weight * p, weight * (1 - p)) for _ in range(n)]
