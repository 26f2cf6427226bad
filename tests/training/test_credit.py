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
    worst_step_to_come,
)

NAN = math.nan
CREDITS = ("process", "min_form", "discounted")
BASELINES = ("return", "step", "token", "mean_return")


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


def test_the_worst_step_to_come_is_weighed_anew_at_each_step():
    # Temperature 1: over all steps exp(-r) of (1, 0, -1) as above; then of (0, -1); then -1 itself.
    weights = [math.exp(-1), 1.0, math.e]
    expected = rows([(weights[0] - weights[2]) / sum(weights), -math.e / (1 + math.e), -1])
    torch.testing.assert_close(worst_step_to_come(rows([1, 0, -1]), temperature=1.0), expected)
    # A step without a reward has the value of what follows; past the last one there is none.
    nearly_strict = worst_step_to_come(rows([0.5, NAN, -0.2, 0.4, NAN]), temperature=1e-3)
    torch.testing.assert_close(nearly_strict, rows([-0.2, -0.2, -0.2, 0.4, NAN]), equal_nan=True)


def test_min_form_compares_the_worst_steps_to_come():
    # The second has ended with 0.4 when the first comes to its third step.
    rewards = rows([0.8, -0.6, 0.2], [0.4, 0.4, NAN])
    credit = step_credit(rewards, group_size=2, credit="min_form", temperature=1e-3)
    torch.testing.assert_close(credit, rows([-0.6 - 0.4, -0.6 - 0.4, 0.2 - 0.4], [0.4 + 0.6, 0.4 + 0.6, 0]))


def test_discounted_compares_the_same_steps():
    # Of the others at the three steps: (0 + 1) / 2, (1 + 1) / 2 and (0.5 + 1) / 2; a completion goes on as it ended.
    rewards = rows([1, 1, 0], [0, 1, 0.5], [1, NAN, NAN], [NAN, NAN, NAN])
    credit = step_credit(rewards, group_size=4, credit="discounted", gamma=0.5)
    first = [1 - 0.5, 1 - 1, 0 - 0.75]
    expected = [first[0] + 0.5 * (first[1] + 0.5 * first[2]), first[1] + 0.5 * first[2], first[2]]
    torch.testing.assert_close(credit[0], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(credit[2:], rows([0.5, 0, 0], [0, 0, 0]))


def test_min_form_in_the_figures_of_its_paper():
    # Signed rewards at T = 0.1, as in PURE: nearly everything falls to the worst step.
    credited = min_form_rewards(rows([0.8, -0.6, 0.2]))
    torch.testing.assert_close(credited, rows([0.0, -0.5998, 0.0001]), atol=5e-5, rtol=0)
    assert credited.sum().item() == pytest.approx(-0.5997, abs=5e-5)


@pytest.mark.parametrize(
    ("baseline", "lengths", "expected"),
    [
        ("token", [[6, 4, 0], [15, 15, 0]], [[-0.70, -0.64, 0], [2.10, 1.00, 0]]),
        # The second writes the same text in three steps of 0.1.
        ("step", None, [[-0.8, -0.7, 0], [1.2, 0.8, 0.4]]),
    ],
)
def test_what_pures_baselines_charge_for_a_step(baseline, lengths, expected):
    rewards = rows([0, -0.6, NAN], [0.2, 0.1, NAN] if baseline == "token" else [0.1, 0.1, 0.1])
    lengths = torch.tensor(lengths) if lengths else None
    credit = step_credit(rewards, group_size=2, credit="discounted", baseline=baseline, step_lengths=lengths)
    torch.testing.assert_close(credit, rows(*expected))


def test_one_right_answer_of_four():
    # Leave-one-out as in PURE and T1, and GRPO's mean without a deviation: the first is 4 / 3 of the second.
    rewards = rows([1], [0], [0], [0])
    leave_one_out = rows([1], [-1 / 3], [-1 / 3], [-1 / 3])
    torch.testing.assert_close(step_credit(rewards, group_size=4, credit="min_form"), leave_one_out)
    grpo = step_credit(rewards, group_size=4, credit="process", scale="none")
    torch.testing.assert_close(grpo, leave_one_out * 3 / 4)


def test_splitting_a_step_changes_nothing_for_the_token_baseline():
    whole = step_credit(
        rows([-0.6, NAN], [0.3, NAN]), group_size=2, credit="discounted", baseline="token",
        step_lengths=torch.tensor([[4, 0], [30, 0]]),
    )  # fmt: skip
    split = step_credit(
        rows([-0.6, 0.0], [0.3, NAN]), group_size=2, credit="discounted", baseline="token",
        step_lengths=torch.tensor([[2, 2], [30, 0]]),
    )  # fmt: skip
    assert whole[0, 0].item() == split[0, 0].item() == pytest.approx(-0.64)


# Two groups of three completions, with P(Yes) - P(No) of each step and its tokens.
PURE_REWARDS = rows(
    [0.8, -0.6, 0.2, NAN], [0.4, 0.4, NAN, NAN], [-0.9, NAN, NAN, NAN],
    [0.7, 0.1, -0.2, 0.5], [-1.0, 0.6, NAN, NAN], [0.9, 0.9, 0.9, NAN],
)  # fmt: skip
PURE_TOKENS = ([4, 3, 5], [6, 2], [7], [2, 4, 3, 1], [3, 3], [2, 2, 6])
# What PURE's code returns for them before it hides separators: `process_experiences` of its main branch with
# `reward_baseline` step and token, and `compute_rloo_outcome_advantage` of its verl branch on responses of 12 and of
# 16 tokens.
PURE_ADVANTAGES = {
    "step": [
        [0.450269, 0.100269, 0.350067], [1.49991, 0.749955], [-0.900045],
        [0.214927, 0.114845, 0.010107, 0.100434], [-1.253732, -0.126866], [1.719402, 1.146268, 0.573134],
    ],
    "token": [
        [-0.199731, -0.333065, 0.166734], [1.031465, 0.357866], [-0.830094],
        [-0.122573, -0.135155, -0.164893, 0.006684], [-1.214478, -0.107239], [1.640671, 1.192536, 0.744402],
    ],
    "mean_return 12": [
        [-0.453897, -0.453898, 0.1459], [0.837408, 0.637408], [-0.841759],
        [-0.260073, -0.260155, -0.264893, -0.074566], [-1.129999, -0.129999], [1.095001, 0.795001, 0.495001],
    ],
    "mean_return 16": [
        [-0.490356, -0.490356, 0.109442], [0.728056, 0.528056], [-0.856319],
        [-0.241323, -0.241405, -0.246143, -0.055816], [-1.097499, -0.0975], [1.04625, 0.74625, 0.44625],
    ],
}  # fmt: skip


@pytest.mark.parametrize("published", PURE_ADVANTAGES)
def test_pures_baselines_give_the_numbers_of_its_code(published):
    baseline, _, response_length = published.partition(" ")
    width = int(response_length or 12)
    token_steps = torch.tensor(
        [
            [step for step, count in enumerate(row) for _ in range(count)] + [-1] * (width - sum(row))
            for row in PURE_TOKENS
        ]
    )
    advantages = step_advantages(PURE_REWARDS, token_steps, group_size=3, credit="min_form", baseline=baseline)
    for row, expected, counts in zip(advantages, PURE_ADVANTAGES[published], PURE_TOKENS, strict=True):
        by_token = [value for value, count in zip(expected, counts, strict=True) for _ in range(count)]
        assert row.tolist() == pytest.approx(by_token + [0] * (width - len(by_token)), abs=2e-6)
    # The width of the batch does not matter where the longest response is given.
    wider = torch.nn.functional.pad(token_steps, (0, 5), value=-1)
    again = step_advantages(
        PURE_REWARDS, wider, group_size=3, credit="min_form", baseline=baseline, response_length=width
    )
    torch.testing.assert_close(again[:, :width], advantages)


def test_min_form_advantages_by_hand():
    # Steps of equal reward share it: (0.3, 0.3) and (-0.5, -0.5) out of 0.6 and -1. The others' mean a step is
    # subtracted at every step, and the rest is summed from the back.
    rewards = rows([0.6, 0.6], [-1.0, -1.0])
    torch.testing.assert_close(
        step_credit(rewards, group_size=2, credit="min_form", baseline="step"), rows([2 * 0.8, 0.8], [-2 * 0.8, -0.8])
    )


def test_the_step_baseline_is_the_mean_of_the_others_a_step():
    # Means a step: 0.5, 1, 0. Of the others: 0.5, 0.25, 0.75. The fourth completion could not be scored.
    rewards = rows([1, 0], [1, NAN], [0, 0], [NAN, NAN])
    expected = rows([0, -0.5], [0.75, 0], [-1.5, -0.75], [0, 0])
    torch.testing.assert_close(step_credit(rewards, group_size=4, credit="discounted", baseline="step"), expected)


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
    credit = step_credit(rows([NAN, 1.0], [0.0, 0.0]), group_size=2, credit="discounted", baseline="step")
    torch.testing.assert_close(credit, rows([1, 1], [-2, -1]))
    rewards = rows([NAN, 0.5, NAN, 1.0, NAN], [0.0] * 5)
    for credit, expected in (("min_form", [0.5, 0.5, 1, 1, 0]), ("discounted", [1.5, 1.5, 1, 1, 0])):
        given = step_credit(rewards, group_size=2, credit=credit, temperature=1e-3)
        torch.testing.assert_close(given[0], torch.tensor(expected, dtype=torch.float64))


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


@settings(max_examples=40)
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


def rloo(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """The advantage of TRL's `RLOOTrainer`: a reward less the mean of the others' of its group, shape (B, 1)."""
    grouped = rewards.view(-1, group_size)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group_size - 1)
    return (grouped - others).view(-1, 1)


@settings(max_examples=40)
@given(batches(max_steps=1, holes=False), st.data(), st.floats(0.05, 10))
def test_equal_step_rewards_give_every_step_the_advantage_of_rloo(batch, data, temperature):
    """Whatever the number of steps of each completion."""
    rewards, group_size = batch
    counts = data.draw(st.lists(st.integers(1, 8), min_size=len(rewards), max_size=len(rewards)))
    after_the_end = torch.arange(max(counts)) >= torch.tensor(counts).unsqueeze(1)
    steps = rewards.repeat(1, max(counts)).masked_fill(after_the_end, NAN)
    credit = step_credit(steps, group_size=group_size, credit="min_form", temperature=temperature)
    expected = rloo(rewards, group_size).expand(steps.shape).masked_fill(after_the_end, 0)
    torch.testing.assert_close(credit, expected)
    # A sum has that much a step.
    summed = step_credit(steps, group_size=group_size, credit="discounted")
    torch.testing.assert_close(summed[:, :1], rloo(rewards, group_size) * torch.tensor(counts).unsqueeze(1))


@settings(max_examples=40)
@given(batches(max_steps=1, holes=False), st.integers(1, 8), st.floats(0.05, 10))
def test_equal_step_rewards_give_the_first_step_the_advantage_of_rloo_by_pures_step_baseline(
    batch, count, temperature
):
    # r / S at each step, less the others' mean of it, summed over S steps.
    rewards, group_size = batch
    credit = step_credit(
        rewards.repeat(1, count), group_size=group_size, credit="min_form", temperature=temperature, baseline="step"
    )
    torch.testing.assert_close(credit[:, :1], rloo(rewards, group_size))


@settings(max_examples=40)
@given(batches(), st.sampled_from(CREDITS), st.floats(-5, 5, allow_nan=False))
def test_a_constant_added_to_all_rewards_changes_nothing_by_default(batch, credit, constant):
    """So the sign of the rewards decides nothing: neither long completions gain by it nor short ones."""
    rewards, group_size = batch
    options = {"group_size": group_size, "credit": credit, "scale": "none"}
    torch.testing.assert_close(
        step_credit(rewards + constant, **options), step_credit(rewards, **options), atol=1e-6, rtol=1e-6
    )


@settings(max_examples=40)
@given(batches(), st.sampled_from(CREDITS), st.sampled_from(BASELINES), st.floats(0.1, 10))
def test_scaled_rewards_scale_the_advantages(batch, credit, baseline, factor):
    rewards, group_size = batch
    lengths = 3 * (~rewards.isnan()).long()
    options = {
        "group_size": group_size, "credit": credit, "scale": "none", "baseline": baseline, "step_lengths": lengths,
        "response_length": 40,
    }  # fmt: skip
    scaled = step_credit(factor * rewards, temperature=0.1 * factor, **options)
    torch.testing.assert_close(scaled, factor * step_credit(rewards, temperature=0.1, **options), atol=1e-6, rtol=1e-6)


RULES = st.fixed_dictionaries(
    {
        "credit": st.sampled_from(CREDITS),
        "baseline": st.sampled_from(BASELINES),
        "scale": st.sampled_from(["group", "batch", "none"]),
        "gamma": st.just(0.9),
        "response_length": st.just(40),
    }
)


@settings(max_examples=40)
@given(batches(), RULES, st.integers(1, 5))
def test_padding_never_matters(batch, rule, padding):
    rewards, group_size = batch
    lengths = torch.arange(rewards.numel()).view(rewards.shape) % 4 + 1
    plain = step_credit(rewards, group_size=group_size, step_lengths=lengths, **rule)
    assert plain.isfinite().all()
    padded = step_credit(
        torch.nn.functional.pad(rewards, (0, padding), value=NAN), group_size=group_size,
        step_lengths=torch.nn.functional.pad(lengths, (0, padding)), **rule,
    )  # fmt: skip
    torch.testing.assert_close(padded[:, : rewards.shape[1]], plain)
    assert not padded[:, rewards.shape[1] :].any()


@settings(max_examples=40)
@given(batches(), RULES, st.randoms())
def test_permuting_a_group_permutes_the_result(batch, rule, random):
    rewards, group_size = batch
    lengths = torch.arange(rewards.numel()).view(rewards.shape) % 4 + 1
    order = list(range(group_size))
    random.shuffle(order)
    places = torch.tensor([start + place for start in range(0, len(rewards), group_size) for place in order])
    permuted = step_credit(rewards[places], group_size=group_size, step_lengths=lengths[places], **rule)
    plain = step_credit(rewards, group_size=group_size, step_lengths=lengths, **rule)
    torch.testing.assert_close(permuted, plain[places])


@settings(max_examples=40)
@given(batches(), RULES.filter(lambda rule: rule["scale"] != "batch"))
def test_groups_do_not_see_each_other_but_for_the_scale_of_a_batch(batch, rule):
    rewards, group_size = batch
    lengths = torch.arange(rewards.numel()).view(rewards.shape) % 4 + 1
    whole = step_credit(rewards, group_size=group_size, step_lengths=lengths, **rule)
    parts = [
        step_credit(part, group_size=group_size, step_lengths=tokens, **rule)
        for part, tokens in zip(rewards.split(group_size), lengths.split(group_size), strict=True)
    ]
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
    same_value = step_credit(rows(short, long), group_size=2, credit="min_form")
    torch.testing.assert_close(same_value, torch.zeros_like(same_value))


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
        ({"credit": "min_form", "baseline": "mean_return", "response_length": 8}, "step_lengths"),
        ({"credit": "min_form", "baseline": "mean_return"}, "response_length above 0"),
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
