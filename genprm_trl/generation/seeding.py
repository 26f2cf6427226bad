"""Seeds that depend on what is sampled and on nothing else: not on order, batch, process or machine."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """The seed of one thing out of many, named by what it is.

    Args:
        seed: The run's seed.
        names: What tells this thing from the others, for example an id and a number.

    Returns:
        An integer in [0, 2**48).

    Examples:
        >>> derive_seed(0, "problem-1", 3) == derive_seed(0, "problem-1", 3)
        True
        >>> derive_seed(0, "problem-1", 3) == derive_seed(1, "problem-1", 3)
        False
    """
    key = "/".join(map(str, (seed, *names))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big")
