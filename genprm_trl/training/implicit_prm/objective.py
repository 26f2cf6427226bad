"""The cross-entropy of outcomes, which the offline and the online training share."""

from __future__ import annotations

import torch
from torch.nn import functional


def outcome_loss(log_odds: torch.Tensor, outcomes: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    r"""The cross-entropy of outcomes (arXiv 2412.01981, section 3): \(-l \log\sigma(q_T) - (1 - l) \log\sigma(-q_T)\).

    Args:
        log_odds: \(q_T = \beta \log(\pi_\theta / \pi_{ref})\) of whole completions. Shape (completions,).
        outcomes: \(l\) in [0, 1]. Shape (completions,).
        weights: Factors of the completions' losses; 1 if None. Shape (completions,).

    Returns:
        The sum over the completions, a scalar.

    Examples:
        >>> [round(outcome_loss(torch.tensor([0.3]), torch.tensor([l])).item(), 6) for l in (1.0, 0.0)]
        [0.554355, 0.854355]
    """
    return functional.binary_cross_entropy_with_logits(
        log_odds, outcomes.to(log_odds.dtype), weight=weights, reduction="sum"
    )
