"""PROF's choice of completions: groups worked by hand, and the advantages of a real trainer on a fixed batch."""

from __future__ import annotations

import math
from typing import Any

import pandas
import pytest
import torch
from trl import GRPOTrainer

from genprm_trl.errors import ConfigError
from genprm_trl.training.credit import outcome_advantages, step_advantages
from genprm_trl.training.step_grpo.consistency import consistent_completions
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig
from tests.helpers.step_grpo import (
    PROMPTS,
    Watch,
    advantages_of,
    good_steps,
    length_reward,
    make,
    options,
    scripted,
)

NAN = math.nan


def kept(process: list[float], outcome: list[float], keep: int, num_steps: list[int] | None = None) -> list[int]:
    """The places of what is kept of one group."""
    chosen = consistent_completions(
        process, outcome, num_steps or [3] * len(process), group_size=len(process), keep=keep
    )
    return [place for place, is_kept in enumerate(chosen) if is_kept]


@pytest.mark.parametrize(
    ("process", "outcome", "keep", "expected"),
    [
        # Delta 2, k 4: three right ones go, the doubted 1, 2 and 4, and one wrong one, the liked 6.
        ([0.9, 0.2, 0.6, 0.8, 0.4, 0.1, 0.7, 0.3], [1, 1, 1, 1, 1, 0, 0, 0], 4, [0, 3, 5, 7]),
        # Delta 0: two of each.
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [1, 0, 1, 0, 1, 0, 1, 0], 4, [1, 3, 4, 6]),
        # Delta -6: the only right one stays, though it is doubted.
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [1, 0, 0, 0, 0, 0, 0, 0], 4, [0, 1, 2, 3]),
        # Delta 6: (6 + 4) / 2 = 5 is more than 4; the only wrong one stays, though it is liked.
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9], [1, 1, 1, 1, 1, 1, 1, 0], 4, [4, 5, 6, 7]),
        ([0.4, 0.3, 0.2, 0.1], [1, 1, 1, 1], 2, [0, 1]),
        ([0.4, 0.3, 0.2, 0.1], [0, 0, 0, 0], 2, [2, 3]),
        ([0.4, 0.3, 0.2, 0.1], [1, 0, 1, 0], 4, [0, 1, 2, 3]),
        # Who has no outcome goes first, and a group without any has nothing to be consistent with.
        ([0.9, 0.3, 0.2, 0.1], [NAN, 1, 0, 0], 3, [1, 2, 3]),
        ([0.9, 0.3, 0.2, 0.1], [NAN] * 4, 2, [0, 1, 2, 3]),
        # The mean of the others is 0.5: the unscored one goes after 0.4.
        ([0.6, NAN, 0.4, 0.5], [1, 1, 1, 0], 3, [0, 1, 3]),
        ([0.4, 0.6], [0.5, 0.49], 2, [0, 1]),
        # Of an odd number one more is right, however many there are: (0 + 1) / 2, (2 + 1) / 2 and (-2 + 1) / 2.
        ([0.4, 0.3, 0.2, 0.1], [1, 1, 0, 0], 3, [0, 1, 3]),
        ([0.5, 0.4, 0.3, 0.2, 0.1], [1, 1, 1, 0, 0], 3, [0, 1, 4]),
        ([0.4, 0.3, 0.2, 0.1], [1, 1, 1, 0], 3, [0, 1, 3]),
        ([0.4, 0.3, 0.2, 0.1], [1, 0, 0, 0], 3, [0, 2, 3]),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [1, 1, 1, 1, 0, 0], 3, [0, 1, 5]),
    ],
)
def test_groups_by_hand(process, outcome, keep, expected):
    assert kept(process, outcome, keep) == expected


def test_too_few_and_too_many_steps_go_first_as_in_the_code_of_prof():
    process, outcome = [0.9, 0.2, 0.8, 0.1, 0.9, 0.8], [1, 1, 1, 0, 0, 0]
    assert kept(process, outcome, 4, [2, 2, 30, 2, 2, 30]) == [0, 2, 3, 5]
    assert kept(process, outcome, 4, [1, 2, 31, 1, 2, 2]) == [0, 1, 4, 5]


def test_each_group_is_chosen_from_alone():
    process, outcome = [0.9, 0.1, 0.2, 0.3], [1, 1, 0, 0]
    both = consistent_completions(process * 2, outcome + outcome[::-1], [3] * 8, group_size=4, keep=2)
    assert both == [True, False, True, False, False, True, False, True]


def test_advantages_of_what_is_kept():
    rewards = torch.tensor([1.0, NAN, 1.0, 0.0, 0.0, 1.0, NAN, 0.0], dtype=torch.float64)
    by_group = outcome_advantages(rewards, 4)
    # 1, 1, 0: mean 2/3, deviation 0.57735. 0, 1, 0: mean 1/3.
    expected = [0.57725, 0, 0.57725, -1.1545, -0.57725, 1.1545, 0, -0.57725]
    assert by_group.tolist() == pytest.approx(expected, abs=1e-5)
    # Over the batch 1, 1, 0, 0, 1, 0 have the deviation 0.54772.
    by_batch = outcome_advantages(rewards, 4, "batch").tolist()
    assert by_batch[:4] == pytest.approx([0.60847, 0, 0.60847, -1.21694], abs=1e-5)
    assert outcome_advantages(rewards, 4, "none").tolist()[:4] == pytest.approx([1 / 3, 0, 1 / 3, -2 / 3])
    assert outcome_advantages(torch.tensor([1.0, NAN]), 2).tolist() == [0.0, 0.0]


# A trainer -----------------------------------------------------------------------------------------------------------

# Of the scripted completions the mean step rewards are 1, 1/2, 2/3 and 0, and the steps 2, 2, 3 and 1.
SHARED: dict[str, Any] = {"rollout_func": scripted, "step_reward_func": good_steps, "step_style": "step"}


def places_right(*places: int) -> Any:
    def outcome(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(place % 4 in places) for place in range(len(completions))]

    return outcome


@pytest.mark.parametrize(
    ("right", "advantages"),
    [
        # Delta 0, k 2. Right 1 and 1/2: the first stays. Wrong 2/3 and 0: the last has one step, and goes first.
        ((0, 1), [0.70700, 0, -0.70700, 0]),
        # Delta 2, k 2: two of the right ones go, the one with a single step and then the one of 1/2.
        ((1, 2, 3), [-0.70700, 0, 0.70700, 0]),
    ],
)
def test_outcome_advantages_are_those_of_the_kept_ones(tmp_path, right, advantages):
    trainer = make(tmp_path, reward_funcs=[places_right(*right)], credit="outcome", keep_consistent=2, **SHARED)
    ours, output = advantages_of(trainer)
    assert ours.tolist() == pytest.approx(advantages, abs=1e-4)  # 1 and 0 have the deviation 0.70711
    there = [value != 0 for value in advantages]
    assert output["completion_mask"].any(dim=1).tolist() == there
    assert output["num_items_in_batch"] == output["completion_mask"].sum()
    assert list(trainer._logs["extra"]["kept"]) == there
    assert trainer._metrics["train"]["kept/share"] == [0.5]
    assert trainer._metrics["train"]["kept/right"] == [0.5]


@pytest.mark.parametrize(
    ("other", "weights"),
    [(1.0, [1.0, 1.0]), (1.0, [1.0, -1.0]), (None, [1.0, 0.0]), (None, [1.0, 1.0])],
)
def test_right_is_what_the_reward_for_answers_says(tmp_path, other, weights):
    """Neither good form nor a reward that says nothing makes a wrong answer right, or hides a right one."""

    def form(completions: list[Any], **kwargs: Any) -> list[float | None]:
        return [other] * len(completions)

    trainer = make(
        tmp_path, reward_funcs=[form, places_right(1)], reward_weights=weights[::-1], outcome="outcome",
        credit="outcome", keep_consistent=2, **SHARED,
    )  # fmt: skip
    ours, _ = advantages_of(trainer)
    # Right is the 1/2 alone. Of the wrong ones, 1, 2/3 and 0, the last has one step, and goes first.
    assert list(trainer._logs["extra"]["kept"]) == [False, True, True, False]
    assert trainer._metrics["train"]["kept/right"] == [0.5]
    assert ours.tolist() == pytest.approx([0, 0.707, -0.707, 0], abs=1e-3)


def test_step_advantages_are_those_of_the_kept_ones(tmp_path):
    trainer = make(
        tmp_path, reward_funcs=[places_right(0, 1)], credit="process", keep_consistent=2, step_reward_weight=0.5,
        **SHARED,
    )  # fmt: skip
    ours, output = advantages_of(trainer)
    whole = make(tmp_path, reward_funcs=[places_right(0, 1)], credit="process", **SHARED)
    _, everything = advantages_of(whole)
    assert torch.equal(output["completion_ids"], everything["completion_ids"])
    length = output["completion_ids"].shape[1]
    steps = [each.credited_steps + [-1] * (length - len(each.token_ids)) for each in trainer._completions(everything)]
    expected = step_advantages(
        torch.tensor([[1.0, 1, NAN], [NAN] * 3, [0, 1, 1], [NAN] * 3]), torch.tensor(steps), group_size=4,
        credit="process", step_weight=0.5, outcome_advantages=torch.tensor([0.70700, 0, -0.70700, 0]),
    )  # fmt: skip
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert not ours[1].any()
    assert not ours[3].any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_to_keep_all_of_them_is_stock_grpo(tmp_path, scale):
    shared = {"rollout_func": scripted, "scale_rewards": scale, "num_generations": 2}
    funcs = {"reward_funcs": [places_right(0, 1, 2), length_reward], "reward_weights": [1.0, 0.3]}
    stock, _ = advantages_of(make(tmp_path, GRPOTrainer, **shared, **funcs), PROMPTS[:2])
    ours, output = advantages_of(
        make(
            tmp_path, keep_consistent=2, credit="outcome", step_reward_func=good_steps, outcome="outcome", **shared,
            **funcs,
        ),
        PROMPTS[:2],
    )  # fmt: skip
    torch.testing.assert_close(ours, stock)
    assert output["completion_mask"].any(dim=1).all()
    assert ours.abs().sum() > 0


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_policy_is_trained_as_if_the_others_had_not_been_generated(tmp_path, loss_type):
    """What is left out changes no weight: its step rewards and outcomes may be anything."""

    def scaled(factor: float) -> list[torch.Tensor]:
        def outcome(completions: list[Any], **kwargs: Any) -> list[float]:
            return [1.0, 0.6 * factor, 0.0, 0.0]

        watch = Watch()
        trainer = make(
            tmp_path, watch=watch, reward_funcs=[outcome], credit="outcome", keep_consistent=2, max_steps=1,
            loss_type=loss_type, log_completions=True, **SHARED,
        )  # fmt: skip
        trainer.train()
        assert watch.values("kept/right") == [0.5]
        assert watch.values("grad_norm")[0] > 0
        return [weight.detach().clone() for weight in trainer.model.parameters()]

    for one, other in zip(scaled(1.0), scaled(1.5), strict=True):
        assert torch.equal(one, other)
    [table] = list((tmp_path / "run" / "completions").glob("*.parquet"))
    table = pandas.read_parquet(table)
    assert table["kept"].tolist() == [True, False, True, False]
    # 1 and 0 are trained on; among all four they would have other advantages.
    assert table["advantage"].tolist() == pytest.approx([0.707, 0, -0.707, 0], abs=1e-3)
    assert table["mean_advantage"].tolist() == pytest.approx([0.707, 0, -0.707, 0], abs=1e-3)


def test_evaluations_count_all_of_them(tmp_path):
    trainer = make(tmp_path, reward_funcs=[places_right(0, 1)], credit="outcome", keep_consistent=2, **SHARED)
    trainer.model.eval()
    rows = [{"prompt": PROMPTS[0], "answer": "5"} for _ in range(4)]
    output = trainer._generate_and_score_completions(rows)
    assert output["completion_mask"].any(dim=1).all()
    assert (output["advantages"] != 0).all()


def test_wrong_options_are_named(tmp_path):
    for number in (1, 5):
        with pytest.raises(
            ConfigError, match=rf"keep_consistent must be from 2 to num_generations \(4\), got {number}"
        ):
            StepGRPOConfig(**options(tmp_path, keep_consistent=number))
    with pytest.raises(ConfigError, match="multi_objective_aggregation='sum_then_normalize'"):
        StepGRPOConfig(**options(tmp_path, keep_consistent=2, multi_objective_aggregation="normalize_then_sum"))
    with pytest.raises(ConfigError, match="keep_consistent needs a step_reward_func"):
        make(tmp_path, reward_funcs=[places_right(0)], credit="outcome", keep_consistent=2)
    with pytest.raises(ConfigError, match="keep_consistent needs reward_funcs"):
        make(tmp_path, step_reward_func=good_steps, keep_consistent=2)
    funcs = [places_right(0), length_reward]
    for rewards, outcome in ((funcs, None), (funcs, ""), (funcs[:1], "")):
        with pytest.raises(ConfigError, match="keep_consistent needs a reward that says which answers are right"):
            make(tmp_path, reward_funcs=rewards, step_reward_func=good_steps, keep_consistent=2, outcome=outcome)
