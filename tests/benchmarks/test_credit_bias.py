"""The length bias of credit rules: none by default, and that of PURE's baselines as docs/rl.md states it."""

import pytest

from benchmarks.credit_bias import first_steps, stopping_gradient


@pytest.mark.parametrize("credit", ["process", "min_form", "discounted"])
@pytest.mark.parametrize("world", ["0.9", "0.2", "a quality"])
def test_no_default_favours_a_number_of_steps(credit, world):
    gradient, error = stopping_gradient(world, credit, "return", groups=2000)
    assert abs(gradient) <= max(3 * error, 1e-6)
    assert first_steps(credit, "return") == pytest.approx([0] * 4, abs=1e-6)


@pytest.mark.parametrize("baseline", ["step", "token"])
def test_pures_baselines_favour_short_completions_if_rewards_are_high_and_long_ones_if_not(baseline):
    for world, sign in (("0.9", 1), ("0.2", -1)):
        gradient, error = stopping_gradient(world, "min_form", baseline, groups=2000)
        assert sign * gradient > 10 * error
    assert first_steps("min_form", "step") == pytest.approx([0.59, 0.11, -1.33, -3.73], abs=0.01)
