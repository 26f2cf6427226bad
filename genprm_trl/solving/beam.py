"""Beam search over steps (Snell et al. 2024, arXiv 2408.03314, section 5.2)."""

from __future__ import annotations

from genprm_trl.selection.aggregates import Aggregate
from genprm_trl.solving.paths import Grower, Path


async def beam_search(grower: Grower, n: int, width: int, score: Aggregate = "min") -> list[Path]:
    """Keeps the best n / width of n prefixes and samples `width` next steps of each, until all kept ones have ended.

    Solutions that have ended stay in the beam as long as their score is among the best.

    Args:
        grower: Samples and judges.
        n: Paths at once.
        width: Next steps sampled of each path that is kept.
        score: Rule that turns the rewards of a path's steps into its score.

    Returns:
        The paths that were kept last, best first.
    """
    paths = await grower.start(n)
    while True:
        # Sorting is stable: among equals the one sampled first.
        kept = sorted(paths, key=lambda path: -path.score(score))[: max(1, n // width)]
        if not any(path.is_open for path in kept):
            return kept
        ended = [path for path in kept if not path.is_open]
        paths = ended + await grower.extend([path for path in kept if path.is_open for _ in range(width)])
