"""Credit assignment by hand-worked numbers, and by what must hold for any rewards."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.training.credit import (
    EPSILON,
    min_form_rewards,
    spread_over_tokens,
    step_advantages,
    step_credit,
    step_lengths,
)

NAN = math.nan
CREDITS = ("process", "min_form", "discounted")


def rows(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# By hand -------------------------------------------------------------------------------------------------------------


def test_process_sums_the_normalised_rewards_of_the_steps_to_come():
    # Five rewards, mean 0.6; squared differences 3 * 0.16 + 2 * 0.36 = 1.2, over 4: variance 0.3.
    rewards = rows([1, 0, NAN], [1, 1, 0])
    deviation = math.sqrt(0.3) + EPSILON
    high, low = 0.4 / deviation, -0.6 / deviation
    expected = rows([high + low, low, 0], [2 * high + low, high + low, low])
    torch.testing.assert_close(step_credit(rewards, group_size=2, credit="process"), expected)


def test_process_normalises_each_group_by_itself_or_by_the_deviation_of_the_batch():
    rewards = rows([1], [0], [3], [1])
    by_group = step_credit(rewards, group_size=2, credit="process")
    first, second = 0.5 / (math.sqrt(0.5) + EPSILON), 1 / (math.sqrt(2) + EPSILON)
    torch.testing.assert_close(by_group, rows([first], [-first], [second], [-second]))
    by_batch = step_credit(rewards, group_size=2, credit="process", scale="batch")
    deviation = math.sqrt((0.25**2 + 1.25**2 + 1.75**2 + 0.25**2) / 3) + EPSILON
    torch.testing.assert_close(by_batch, rows([0.5], [-0.5], [1], [-1]) / deviation)
    torch.testing.assert_close(
        step_credit(rewards, group_size=2, credit="process", scale="none"), rows([0.5], [-0.5], [1], [-1])
    )


def test_min_form_weighs_the_worst_step():
    # Temperature 1: softmax(-1, 0, 1) of the rewards (1, 0, -1).
    weights = [math.exp(-1), 1.0, math.e]
    total = sum(weights)
    expected = rows([weights[0] / total, 0, -weights[2] / total])
    torch.testing.assert_close(min_form_rewards(rows([1, 0, -1]), temperature=1.0), expected)
    # Towards a temperature of 0 the value is the smallest reward.
    assert min_form_rewards(rows([0.5, -0.2, 0.4, NAN]), temperature=1e-3).nansum().item() == pytest.approx(-0.2)


def test_min_form_advantages_by_hand():
    # Steps of equal reward share it: (0.3, 0.3) and (-0.5, -0.5) out of 0.6 and -1. The others' mean a step is
    # subtracted at every step, and the rest is summed from the back.
    rewards = rows([0.6, 0.6], [-1.0, -1.0])
    torch.testing.assert_close(
        step_credit(rewards, group_size=2, credit="min_form"), rows([2 * 0.8, 0.8], [-2 * 0.8, -0.8])
    )


def test_the_leave_one_out_baseline_is_the_mean_of_the_others_a_step():
    # Means a step: 0.5, 1, 0. Of the others: 0.5, 0.25, 0.75. The fourth completion could not be scored.
    rewards = rows([1, 0], [1, NAN], [0, 0], [NAN, NAN])
    expected = rows([0, -0.5], [0.75, 0], [-1.5, -0.75], [0, 0])
    torch.testing.assert_close(step_credit(rewards, group_size=4, credit="discounted"), expected)


def test_the_token_baseline_charges_long_steps_more():
    # The other completion earns 1 in 10 tokens, or 2 in 4.
    rewards, lengths = rows([2, NAN], [1, 0]), torch.tensor([[4, 0], [2, 8]])
    credit = step_credit(rewards, group_size=2, credit="discounted", baseline="token", step_lengths=lengths)
    # First: 2 - 4 * 0.1. Second: 1 - 2 * 0.5 = 0 and 0 - 8 * 0.5 = -4.
    torch.testing.assert_close(credit, rows([1.6, 0], [-4, -4]))


def test_a_discount_makes_later_steps_count_less():
    credit = step_credit(rows([1, 1, 1], [0, 0, 0]), group_size=2, credit="discounted", gamma=0.5)
    torch.testing.assert_close(credit, rows([1.75, 1.5, 1], [-1.75, -1.5, -1]))


def test_a_step_that_was_not_scored_adds_nothing_and_has_what_follows_it():
    credit = step_credit(rows([NAN, 1.0], [0.0, 0.0]), group_size=2, credit="discounted")
    torch.testing.assert_close(credit, rows([1, 1], [-2, -1]))


def test_tokens_have_the_advantage_of_their_step():
    steps = torch.tensor([[0, 0, 1, -1], [0, 1, -1, 1]])
    assert step_lengths(steps, 3).tolist() == [[2, 1, 0], [1, 2, 0]]
    torch.testing.assert_close(spread_over_tokens(rows([5, 7], [1, 2]), steps), rows([5, 5, 7, 0], [1, 2, 0, 2]))


def test_outcome_and_steps_are_added_up_by_weight():
    steps = torch.tensor([[0, 0, -1], [0, 1, -1]])
    rewards, outcome = rows([1, NAN], [0, 0]), torch.tensor([2.0, -2.0], dtype=torch.float64)
    options = {"group_size": 2, "credit": "discounted"}
    process = step_advantages(rewards, steps, **options)
    both = step_advantages(rewards, steps, outcome_advantages=outcome, step_weight=0.5, **options)
    torch.testing.assert_close(both, outcome.unsqueeze(1) + 0.5 * process)
    alone = step_advantages(rewards, steps, group_size=2, credit="outcome", outcome_advantages=outcome)
    torch.testing.assert_close(alone, rows([2, 2, 2], [-2, -2, -2]))


# For any rewards -----------------------------------------------------------------------------------------------------


@st.composite
def batches(draw, max_steps=6, holes=True):
    groups, group_size = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    steps = draw(st.integers(1, max_steps))
    number = st.floats(-1, 1, allow_nan=False, width=32)
    values = st.one_of(number, st.just(NAN)) if holes else number
    table = draw(
        st.lists(
            st.lists(values, min_size=steps, max_size=steps),
            min_size=groups * group_size,
            max_size=groups * group_size,
        )
    )
    return torch.tensor(table, dtype=torch.float64), group_size


@given(batches(max_steps=1, holes=False), st.sampled_from(["group", "batch", "none"]))
def test_one_step_a_completion_gets_the_advantage_of_grpo(batch, scale):
    rewards, group_size = batch
    grouped = rewards.view(-1, group_size)
    expected = grouped - grouped.mean(dim=1, keepdim=True)
    if scale == "group":
        expected = expected / (grouped.std(dim=1, keepdim=True) + EPSILON)
    elif scale == "batch":
        expected = expected / (rewards.std() + EPSILON)
    credit = step_credit(rewards, group_size=group_size, credit="process", scale=scale)
    torch.testing.assert_close(credit, expected.view(-1, 1))


@given(batches(max_steps=1, holes=False), st.integers(1, 8), st.floats(0.05, 10))
def test_equal_step_rewards_give_the_whole_completion_the_advantage_of_rloo(batch, num_steps, temperature):
    # r / S at each step, less the others' mean of it, summed over S steps.
    rewards, group_size = batch
    credit = step_credit(
        rewards.repeat(1, num_steps), group_size=group_size, credit="min_form", temperature=temperature
    )
    grouped = rewards.view(-1, group_size)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group_size - 1)
    torch.testing.assert_close(credit[:, 0], (grouped - others).view(-1))


@given(batches(), st.sampled_from(CREDITS), st.sampled_from(["group", "batch", "none"]), st.integers(1, 5))
def test_padding_never_matters(batch, credit, scale, padding):
    rewards, group_size = batch
    options = {"group_size": group_size, "credit": credit, "scale": scale, "gamma": 0.9}
    padded = torch.cat([rewards, torch.full((len(rewards), padding), NAN, dtype=rewards.dtype)], dim=1)
    plain = step_credit(rewards, **options)
    assert plain.isfinite().all()
    torch.testing.assert_close(step_credit(padded, **options)[:, : rewards.shape[1]], plain)
    assert not step_credit(padded, **options)[:, rewards.shape[1] :].any()


@given(batches(), st.sampled_from(CREDITS), st.sampled_from(["group", "batch", "none"]), st.randoms())
def test_permuting_a_group_permutes_the_result(batch, credit, scale, random):
    rewards, group_size = batch
    order = list(range(group_size))
    random.shuffle(order)
    places = torch.tensor([start + place for start in range(0, len(rewards), group_size) for place in order])
    options = {"group_size": group_size, "credit": credit, "scale": scale}
    torch.testing.assert_close(step_credit(rewards[places], **options), step_credit(rewards, **options)[places])


@given(batches(holes=False), st.floats(-1, 1, allow_nan=False))
def test_process_credit_does_not_see_a_constant_added_to_all_rewards(batch, constant):
    rewards, group_size = batch
    credit = step_credit(rewards, group_size=group_size, credit="process", scale="none")
    moved = step_credit(rewards + constant, group_size=group_size, credit="process", scale="none")
    torch.testing.assert_close(moved, credit)


@settings(max_examples=50)
@given(batches(), st.sampled_from(CREDITS))
def test_groups_do_not_see_each_other_but_for_the_scale_of_a_batch(batch, credit):
    rewards, group_size = batch
    whole = step_credit(rewards, group_size=group_size, credit=credit)
    parts = [step_credit(part, group_size=group_size, credit=credit) for part in rewards.split(group_size)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_long_completions_of_well_rewarded_steps_gain_by_the_sum_and_not_by_the_minimum():
    """What keeps a policy from padding its answers (PURE, section 2)."""
    short, long = [0.9] + [NAN] * 9, [0.9] * 10
    summed = step_credit(rows(short, long), group_size=2, credit="process", scale="none")
    smallest = step_credit(rows(short, long), group_size=2, credit="min_form", baseline="token",
                           step_lengths=torch.tensor([[5] + [0] * 9, [5] * 10]))  # fmt: skip
    assert summed[1, 0].item() == pytest.approx(0.0)  # equal rewards: nothing to gain
    better = step_credit(rows([0.8] + [NAN] * 9, long), group_size=2, credit="process", scale="none")
    assert better[1, 0] > 5 * better[1, 9]  # ten times what one such step gains
    assert smallest[1, 0] < 0  # the same value from ten times the tokens


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"credit": "sum"}, "unknown credit rule 'sum'"),
        ({"scale": "global"}, "unknown scale 'global'"),
        ({"group_size": 2}, "not whole groups of 2"),
        ({"credit": "min_form", "temperature": 0.0}, "temperature"),
        ({"gamma": 1.5}, "gamma"),
        ({"credit": "min_form", "baseline": "median"}, "unknown baseline"),
        ({"credit": "min_form", "baseline": "token"}, "step_lengths"),
    ],
)
def test_wrong_options_are_named(options, what):
    with pytest.raises(ValueError, match=what):
        step_credit(torch.zeros(3, 2), **{"group_size": 3, **options})


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(completions, steps\)"):
        step_credit(torch.zeros(3), group_size=3)
    with pytest.raises(ValueError, match="token_steps"):
        step_advantages(torch.zeros(2, 2), torch.zeros(3, 4, dtype=torch.long), group_size=2)
    with pytest.raises(ValueError, match="outcome advantages"):
        step_advantages(
            torch.zeros(2, 2), torch.zeros(2, 4, dtype=torch.long), group_size=2, outcome_advantages=torch.zeros(3)
        )
    with pytest.raises(ValueError, match="unknown credit rule"):
        step_advantages(torch.zeros(2, 2), torch.zeros(2, 4, dtype=torch.long), group_size=2, credit="x")


def test_no_steps_at_all_is_no_advantage():
    advantages = step_advantages(torch.zeros(2, 0), torch.full((2, 3), -1), group_size=2)
    assert advantages.tolist() == [[0.0] * 3] * 2
