"""Turns Monte Carlo estimates into step labels: relative progress, hard and difference labels.

The estimate MC(s) of a state is the share of rollouts from it that end at the right answer. A solution of T steps has
T + 1 states: the problem itself (`initial`, MC(s_1)) and the prefix after each step (`mc`, MC(s_t, a_t)). A rule
compares the estimate after a step with the one before it:

| rule | a step is correct if | source |
| --- | --- | --- |
| relative progress (RPE) | MC(s_t, a_t) / MC(s_t) >= epsilon | GenPRM, arXiv 2504.00891, section 3.2 |
| difference | MC(s_t, a_t) - MC(s_t) >= -delta | the same paper's ablation, section 5 |
| hard | MC(s_t, a_t) > 0 | Math-Shepherd, arXiv 2312.08935, section 3.3 |

The same conventions hold under every rule:

- **Zero stays zero.** After the first step whose estimate is 0, every later estimate counts as 0, whatever is given.
  Such a step needs no rollouts and may be given as None.
- **Zero after zero is wrong.** From zero no step makes progress, although a difference of 0 would be accepted.
- **From zero to more is progress.** MC(s_1) = 0 means that the completion model did not solve the problem by itself. A
  first step with an estimate above 0 is then correct, because its ratio is infinite.
- A ratio above 1 (the step helps) is correct like any ratio from epsilon on, and is not clipped.
- Estimates are ratios of two counts and are compared as fractions with a denominator up to a million. A step exactly
  at the threshold is therefore correct, whatever floating point makes of 0.24 / 0.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, Protocol, get_args

from genprm_trl.errors import ConfigError, check_share

RuleName = Literal["rpe", "hard", "difference"]

_MAX_DENOMINATOR = 10**6


class LabelRule(Protocol):
    """Judges a step by the estimates before and after it.

    A rule is monotone if the estimate before the step is above 0: a correct step stays correct if that estimate is
    smaller, or the one after the step larger. Early stopping relies on it.

    Attributes:
        compares: Whether the estimate before the step matters at all (once it is above 0).
    """

    compares: ClassVar[bool]

    def judge(self, before: Fraction, after: Fraction) -> bool:
        """Whether a step is correct that leads from an estimate above 0 to another."""
        ...


@dataclass(frozen=True, slots=True)
class RelativeProgress:
    """MC(s_t, a_t) / MC(s_t) >= epsilon."""

    compares: ClassVar[bool] = True
    epsilon: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon must be above 0, got {self.epsilon}")

    def judge(self, before: Fraction, after: Fraction) -> bool:
        """Whether the estimate after the step is at least epsilon times the one before it."""
        return after >= _exact(self.epsilon) * before


@dataclass(frozen=True, slots=True)
class Difference:
    """MC(s_t, a_t) - MC(s_t) >= -delta."""

    compares: ClassVar[bool] = True
    delta: float = 0.1

    def __post_init__(self) -> None:
        check_share(delta=self.delta)

    def judge(self, before: Fraction, after: Fraction) -> bool:
        """Whether the step lowers the estimate by at most delta."""
        return after - before >= -_exact(self.delta)


@dataclass(frozen=True, slots=True)
class Hard:
    """MC(s_t, a_t) > 0."""

    compares: ClassVar[bool] = False

    def judge(self, before: Fraction, after: Fraction) -> bool:
        """Whether any rollout after the step succeeded; the estimate before it does not matter."""
        return after > 0


def make_rule(name: RuleName, *, epsilon: float = 0.8, delta: float = 0.1) -> LabelRule:
    """The rule of a name.

    Raises:
        ConfigError: The name is unknown, or the rule's own threshold is out of range.
    """
    match name:
        case "rpe":
            return RelativeProgress(epsilon)
        case "hard":
            return Hard()
        case "difference":
            return Difference(delta)
    raise ConfigError(f"unknown label rule {name!r}; choose one of {', '.join(get_args(RuleName))}")


def judge_step(rule: LabelRule, before: Fraction, after: Fraction) -> bool:
    """A rule with the conventions about zero."""
    if before == 0:
        return after > 0
    return rule.judge(before, after)


def false_alarms(rule: LabelRule, rate: float, rollouts: int) -> float:
    """The chance that a step which changes nothing is labelled wrong, because estimates are noisy.

    Both estimates, before and after the step, come from so many rollouts of the same rate of success.

    Args:
        rule: The rule. It must be monotone.
        rate: The rate of success, in [0, 1].
        rollouts: K, the rollouts of each estimate.

    Example:
        >>> [round(false_alarms(RelativeProgress(0.8), rate, 64), 2) for rate in (0.15, 0.4, 0.7, 0.9)]
        [0.29, 0.15, 0.03, 0.0]
    """
    chances = [_binomial(rollouts, successes, rate) for successes in range(rollouts + 1)]
    chance = chances[0] * chances[0]  # from zero to zero is wrong, from zero to more is right
    after, lower = 0, 0.0  # the least successes after the step that are right, and the chance of fewer
    for before in range(1, rollouts + 1):
        while after <= rollouts and not rule.judge(Fraction(before, rollouts), Fraction(after, rollouts)):
            lower += chances[after]
            after += 1
        chance += chances[before] * lower
    return chance


def step_labels(mc: Sequence[float | None], initial: float, rule: LabelRule) -> list[bool]:
    """Labels the steps of a solution by a rule.

    Args:
        mc: The estimate after each step, in [0, 1]; None for steps after the first with estimate 0.
        initial: The problem's own estimate MC(s_1).
        rule: The rule.

    Returns:
        One boolean per step: whether it is correct.

    Raises:
        ValueError: An estimate is outside [0, 1], or missing where it counts.
    """
    before = _estimate(initial, "initial")
    labels = []
    lost = False
    for index, value in enumerate(mc):
        if lost:
            labels.append(False)
            continue
        if value is None:
            raise ValueError(f"mc[{index}] is missing, and no step before it has the estimate 0")
        after = _estimate(value, f"mc[{index}]")
        labels.append(judge_step(rule, before, after))
        before, lost = after, after == 0
    return labels


def relative_progress(mc: Sequence[float | None], initial: float, epsilon: float = 0.8) -> list[bool]:
    """Labels by Relative Progress Estimation (arXiv 2504.00891, section 3.2): correct iff the ratio reaches epsilon.

    Args:
        mc: The estimate MC(s_t, a_t) after each step t, in [0, 1]; None for steps after the first with estimate 0.
        initial: The problem's own estimate MC(s_1), in [0, 1].
        epsilon: The least ratio of a correct step.

    Returns:
        One boolean per step: whether it is correct.

    Raises:
        ValueError: An estimate is outside [0, 1], or missing where it counts.
        ConfigError: Epsilon is not above 0.

    Examples:
        >>> relative_progress([0.5, 0.45, 0.25, 0.0, 0.0], initial=0.5)
        [True, True, False, False, False]
    """
    return step_labels(mc, initial, RelativeProgress(epsilon))


def hard_labels(mc: Sequence[float | None], initial: float) -> list[bool]:
    """Hard labels (Math-Shepherd, arXiv 2312.08935): correct iff any rollout reached the answer.

    Arguments and errors are those of `relative_progress`. The initial estimate changes nothing; it is a parameter so
    that the three rules are interchangeable.

    Examples:
        >>> hard_labels([0.5, 0.45, 0.25, 0.0, 0.0], initial=0.5)
        [True, True, True, False, False]
    """
    return step_labels(mc, initial, Hard())


def difference_labels(mc: Sequence[float | None], initial: float, delta: float = 0.1) -> list[bool]:
    """Labels by the difference of estimates: correct iff MC(s_t, a_t) - MC(s_t) >= -delta.

    Args:
        mc: The estimate after each step, as for `relative_progress`.
        initial: The problem's own estimate MC(s_1), in [0, 1].
        delta: The largest loss of a correct step, in [0, 1]. The paper compares 0.1 and 0.5.

    Returns:
        One boolean per step: whether it is correct.

    Raises:
        ValueError: An estimate is outside [0, 1], or missing where it counts.
        ConfigError: Delta is outside [0, 1].

    Examples:
        >>> difference_labels([0.5, 0.45, 0.25, 0.0, 0.0], initial=0.5)
        [True, True, False, False, False]
    """
    return step_labels(mc, initial, Difference(delta))


def first_error(labels: Sequence[bool]) -> int:
    """Index from 0 of the first wrong step, -1 for none: `Solution.label`."""
    return next((index for index, correct in enumerate(labels) if not correct), -1)


def _binomial(trials: int, successes: int, rate: float) -> float:
    if rate in (0, 1):
        return float(successes == trials * rate)
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(ways + successes * math.log(rate) + (trials - successes) * math.log1p(-rate))


def _exact(threshold: float) -> Fraction:
    """A threshold as it is written: 0.8 is 4/5 and not the nearest binary fraction."""
    return Fraction(str(threshold))


def _estimate(value: float, name: str) -> Fraction:
    if not 0 <= value <= 1:  # NaN, too
        raise ValueError(f"{name} must be within [0, 1], but is {value}")
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)
