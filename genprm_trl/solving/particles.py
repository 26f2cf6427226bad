"""Particle filtering over steps (Puri et al. 2025, arXiv 2502.01618, algorithm 1).

Solutions are the hidden states of a state-space model whose transition is the policy and whose observation, that each
step is right, has the verifier's likelihood. Beam search trusts the highest reward. Particles are resampled in
proportion to theirs, so one wrong reward does not end a good solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genprm_trl.errors import ConfigError
from genprm_trl.solving.paths import Grower, Path

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Annealing:
    """The temperature of resampling, linear in the step.

    High temperatures resample almost evenly and keep the variety of first steps, low ones follow the verifier.

    Attributes:
        start: The temperature at the first resampling.
        end: The temperature from resampling `steps` on. At 1 the weights are the odds that the step is right.
        steps: Resamplings from `start` to `end`; with 1 it is `end` at once.

    Raises:
        ConfigError: A value is out of range.
    """

    start: float = 2.0
    end: float = 1.0
    steps: int = 4

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.end > 0):
            raise ConfigError(f"temperatures of resampling must be positive, got {self.start} and {self.end}")
        if self.steps < 1:
            raise ConfigError(f"temperatures must be annealed over at least 1 step, got {self.steps}")

    def temperature(self, resampling: int) -> float:
        """The temperature of a resampling, counted from 0."""
        if resampling >= self.steps - 1:
            return self.end
        return self.start + (self.end - self.start) * resampling / (self.steps - 1)


def resampling_weights(rewards: Sequence[float], temperature: float) -> np.ndarray:
    """Softmax of the rewards' logits divided by the temperature. Shape (n,).

    Examples:
        >>> resampling_weights([0.5, 0.8], 1.0).round(3).tolist()  # odds of 1 and 4
        [0.2, 0.8]
    """
    import numpy as np

    tiny = np.finfo(float).eps
    clipped = np.clip(np.asarray(rewards, dtype=float), tiny, 1 - tiny)
    logits = (np.log(clipped) - np.log1p(-clipped)) / temperature
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


async def particle_filter(grower: Grower, n: int, annealing: Annealing, generator: np.random.Generator) -> list[Path]:
    """Grows n particles a step at a time, resampling them by the reward of their last step, until all have ended.

    Particles that have ended take part in resampling with the reward of the step that ended them.

    Args:
        grower: Samples and judges.
        n: Particles.
        annealing: The temperature of resampling.
        generator: Draws the resamplings.

    Returns:
        The particles. Several may be the same.
    """
    particles = await grower.start(n)
    resampling = 0
    while any(particle.is_open for particle in particles):
        weights = resampling_weights([particle.reward for particle in particles], annealing.temperature(resampling))
        drawn = generator.choice(n, size=n, p=weights)
        particles = await grower.extend([particles[index] for index in sorted(drawn)])
        resampling += 1
    return particles
