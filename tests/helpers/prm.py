"""Labelled steps from which a tiny process reward model learns."""

from __future__ import annotations

import random


def toy_rows(n: int, seed: int = 0) -> list[dict]:
    """A step is wrong iff it buys eggs. Labels of neighbours are independent: one on another step teaches nothing."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        labels = [rng.random() < 0.6 for _ in range(rng.randint(1, 5))]
        steps = [f"Anna buys {rng.randint(1, 9)} {'books' if ok else 'eggs'} more." for ok in labels]
        rows.append({"prompt": f"Anna has {rng.randint(1, 9)} apples.", "completions": steps, "labels": labels})
    return rows
