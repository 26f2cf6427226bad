"""HackingStop: series worked by hand, and trainings in which a policy does and does not please a bad verifier."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from genprm_trl.errors import ConfigError
from genprm_trl.training import HackingStop
from genprm_trl.training.step_grpo.figures import idle_steps
from tests.helpers.step_grpo import Watch, make

LOGGER = "genprm_trl.training.hacking"


def watched(callback: HackingStop, every: int = 1, directory: Path = Path("nowhere"), **series: list[Any]) -> int:
    """Logs a value of each series every so many steps, as a trainer does.

    Returns:
        The step at which the training is told to stop, 0 if it is not.
    """
    steps = every * max(map(len, series.values()))
    state = TrainerState(max_steps=steps, save_steps=1, logging_steps=every)
    control = TrainerControl()
    args = TrainingArguments(str(directory), use_cpu=True)
    callback.on_train_begin(args, state, control)
    for place in range(max(map(len, series.values()))):
        values = {name.replace("__", "/"): row[place] for name, row in series.items() if place < len(row)}
        state.log_history.append({**values, "step": every * (place + 1)})
        callback.on_log(args, state, control)
        if control.should_training_stop:
            return every * (place + 1)
    return 0


@pytest.mark.parametrize(
    ("figure", "values", "stops_at"),
    [
        # The first window's median is 0.1. At step 8 the last four are 0.1, 0.4, 0.4, 0.4.
        ("process_outcome/gap", [0.1] * 5 + [0.4] * 5, 8),
        ("process_outcome/gap", [0.1] * 5 + [0.29] * 9, 0),
        ("process_outcome/gap", [0.5] * 4 + [0.1] * 9, 0),  # the policy learns what is right
        ("process_outcome/gap", [0.1] * 8 + [0.9] + [0.1] * 8, 0),  # one batch is no sign
        ("process_outcome/gap", [0.9] + [0.1] * 16, 0),
        ("process_outcome/gap", [0.1, None, 0.1, math.nan, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], 8),
        ("steps/idle", [0.0] * 4 + [0.1, 0.2, 0.3, 0.4], 8),  # 0.25 is more than 0.2 above 0
        ("steps/idle", [0.5] * 4 + [0.7] * 4, 0),
        ("steps/count", [8.0, 6, 6, 4, 5, 3, 2, 2, 2], 8),  # 6 at first, 2.5 at last
        ("steps/count", [6.0] * 4 + [3.0] * 9, 0),  # half of them is not less than half
        ("steps/count", [6.0] * 4 + [30.0] * 9, 0),
        ("steps/tokens", [10.0] * 4 + [20, 20, 22, 22], 8),
        ("steps/tokens", [10.0] * 4 + [20.0] * 9, 0),
        # Against the window before, from the third on: slow growth is none. At step 12 it is 0.05, the median now 0.5.
        ("kl", [0.05] * 8 + [0.5] * 4, 12),
        ("kl", [0.05] * 12 + [0.5] * 4, 14),
        ("kl", [0.03 * step for step in range(30)], 0),  # steady growth from the reference, where it is 0
        ("kl", [0.005 * step**2 for step in range(30)], 0),
        ("kl", [0.0, 0.01, 0.02, 0.02, 0.04, 0.1, 0.18, 0.2], 0),
        ("kl", [0.05 * 1.2**step for step in range(30)], 0),
        ("kl", [0.0001] * 4 + [0.01] * 9, 0),  # a hundred times nearly nothing
    ],
)
def test_series_by_hand(figure, values, stops_at):
    assert watched(HackingStop(window=4), **{figure.replace("/", "__"): values}) == stops_at


def test_windows_are_steps_of_training_or_as_long_as_the_interval_of_logs():
    rising = [0.1] * 5 + [0.5] * 9
    # Logged every 10 steps: the window of steps 41 to 60 has the median 0.3 at 60, and that of 51 to 70 has 0.5.
    assert watched(HackingStop(window=20), every=10, process_outcome__gap=rising) == 70
    assert watched(HackingStop(window=20), every=50, process_outcome__gap=rising) == 300
    assert watched(HackingStop(window=20, gap_rise=0.1), every=10, process_outcome__gap=rising) == 60


def test_the_line_says_what_how_much_and_what_to_do(tmp_path, caplog):
    for step in (2, 4, 6, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rising = {"process_outcome__gap": [0.1] * 5 + [0.4] * 9, "steps__idle": [0.0] * 8 + [1.0] * 6}
    warns, stops = HackingStop("warn", window=4), HackingStop(window=4)
    assert watched(warns, directory=tmp_path, **rising) == 0
    assert not warns.stopped
    of_gap, of_idle = caplog.messages  # once each
    assert of_gap == (
        "Reward hacking? process_outcome/gap went from 0.1 (steps 1 to 4) to 0.4 (steps 5 to 8): the verifier likes "
        "more, and no more answers are right. Weigh final answers more, or use a better verifier. checkpoint-4 is "
        "from before."
    )
    assert "steps/idle went from 0 (steps 1 to 4) to 0.5 (steps 7 to 10)" in of_idle
    assert "idle_step_penalty" in of_idle
    assert "checkpoint-6 is from before." in of_idle
    caplog.clear()
    assert watched(stops, **rising) == 8
    assert stops.stopped
    kept_none = "No checkpoint from before is kept (save_steps, save_total_limit). Training stops."
    assert caplog.messages[0].endswith(kept_none)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"action": "off"}, "unknown action 'off'; choose one of warn, stop"),
        ({"window": 0}, "window must be at least 1"),
        ({"gap_rise": 0}, "gap_rise must be positive"),
        ({"count_share": 2}, "count_share must be within"),
        ({"process": "GenPRMReward"}, "name both, or neither"),
    ],
)
def test_wrong_options_are_named(options, what):
    with pytest.raises(ConfigError, match=what):
        HackingStop(**options)


@pytest.mark.parametrize(
    ("steps", "logging_options", "watches"),
    [
        (8, {}, True),
        (7, {}, False),
        (8, {"logging_strategy": "no"}, False),
        (8, {"logging_steps": 3}, False),  # steps 3 and 6
        (12, {"logging_steps": 3}, True),  # 3 to 12 are ten steps
        (8, {"logging_steps": 10}, False),
        (8, {"logging_steps": 0.1}, True),
        (9, {"logging_strategy": "epoch"}, False),  # four steps an epoch: 4 and 8
        (12, {"logging_strategy": "epoch"}, True),
    ],
)
def test_a_training_that_is_too_short_says_so(tmp_path, caplog, steps, logging_options, watches):
    def likes_more(prompts: Any, completions: Any, steps: list[list[str]], trainer_state: Any, **kwargs: Any) -> Any:
        return [[float(trainer_state.global_step >= 5)] * max(1, len(row)) for row in steps]

    def wrong(completions: list[str], **kwargs: Any) -> list[float]:
        return [0.0] * len(completions)

    trainer = make(tmp_path, reward_funcs=[wrong], step_reward_func=likes_more, max_steps=steps, **logging_options)
    trainer.add_callback(stop := HackingStop("warn", window=4))
    with caplog.at_level(logging.INFO, LOGGER):
        trainer.train()
    assert ("is not watched" in caplog.text) != watches
    assert ("process_outcome/gap went" in caplog.text) == watches
    assert not stop.stopped


@pytest.mark.parametrize(
    ("action", "saving", "said"),
    [
        ("stop", {"save_strategy": "no"}, True),
        ("stop", {"save_strategy": "steps", "save_steps": 3}, True),
        ("stop", {"save_strategy": "steps", "save_steps": 0.9}, True),  # of 3 steps, rounded up
        ("stop", {"save_strategy": "steps", "save_steps": 2}, False),
        ("stop", {"save_strategy": "epoch"}, True),
        ("warn", {"save_strategy": "no"}, False),
    ],
)
def test_a_training_that_may_stop_says_if_there_is_no_way_back(tmp_path, caplog, action, saving, said):
    epoch = {"max_steps": -1, "num_train_epochs": 1} if saving["save_strategy"] == "epoch" else {"max_steps": 3}
    trainer = make(tmp_path, step_reward_func=digits, **epoch, **saving)
    trainer.add_callback(HackingStop(action))
    trainer.train()
    assert ("no checkpoint is saved before the last step" in caplog.text) == said


def test_a_rule_can_be_switched_off():
    rising = {"process_outcome__gap": [0.1] * 4 + [0.9] * 9, "steps__count": [6.0] * 4 + [1.0] * 9}
    assert watched(HackingStop(window=4, gap_rise=math.inf, count_share=0), **rising) == 0


# Trainings -----------------------------------------------------------------------------------------------------------


def likes_idle_steps(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
    """A verifier that is pleased by steps without content, and by repetition."""
    return [[float(idle) for idle in idle_steps(completion)] for completion in steps]


def has_digit(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(any(character.isdigit() for character in text)) for text in completions]


def digits(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
    return [[float(any(map(str.isdigit, step))) for step in completion] for completion in steps]


LEARNING = {
    "reward_funcs": has_digit, "credit": "discounted", "step_style": "line", "learning_rate": 1e-2,
    "lr_scheduler_type": "constant", "num_generations": 16, "per_device_train_batch_size": 16,
    "max_completion_length": 16, "max_steps": 30,
}  # fmt: skip


def test_a_policy_that_pleases_with_empty_and_repeated_steps_is_stopped_and_stays_so(tmp_path, caplog):
    watch = Watch()
    saving = {"step_reward_func": likes_idle_steps, "save_strategy": "steps", "save_steps": 1}
    trainer = make(tmp_path, watch=watch, **LEARNING, **saving)
    trainer.add_callback(stop := HackingStop(window=5))
    with caplog.at_level(logging.WARNING, LOGGER):
        trainer.train()
    steps = trainer.state.global_step
    assert stop.stopped
    assert 10 <= steps < 30
    idle = watch.values("steps/idle")
    assert max(idle[:5]) < 0.2 < idle[-1]  # it has learned that they pay
    [line] = caplog.messages
    assert f"(steps {steps - 4} to {steps}): steps without content pay" in line
    assert f"checkpoint-{steps - 5} is from before. Training stops." in line
    # The log of a checkpoint is enough to see it again at once.
    again = make(tmp_path, **LEARNING, **saving)
    again.add_callback(HackingStop(window=5))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{steps}"))
    assert again.state.global_step == steps + 1


def test_a_policy_that_learns_what_is_right_is_left_alone(tmp_path, caplog):
    watch = Watch()
    trainer = make(tmp_path, watch=watch, **LEARNING | {"max_steps": 20}, step_reward_func=digits, beta=0.01)
    trainer.add_callback(stop := HackingStop(window=5))
    with caplog.at_level(logging.WARNING, LOGGER):
        trainer.train()
    right = watch.values("rewards/has_digit/mean")
    assert sum(right[-5:]) > 2 * sum(right[:5])
    assert watch.values("kl")
    assert trainer.state.global_step == 20
    assert "Reward hacking?" not in caplog.text
    assert not stop.stopped


def test_the_gap_of_two_rewards_of_stock_grpo(tmp_path):
    def pleased(completions: list[str], **kwargs: Any) -> list[float]:
        """Likes what the outcome reward does not."""
        return [1 - reward for reward in has_digit(completions)]

    changes = {name: value for name, value in LEARNING.items() if name not in ("credit", "step_style", "reward_funcs")}
    trainer = make(tmp_path, GRPOTrainer, reward_funcs=[has_digit, pleased], reward_weights=[0.0, 1.0], **changes)
    trainer.add_callback(stop := HackingStop(window=5, process="pleased", outcome="has_digit"))
    trainer.train()
    assert stop.stopped


def test_form_beside_answers_is_no_sign_where_the_verifier_is_honest(tmp_path):
    def share_right(trainer_state: Any) -> float:
        return 0.8 if trainer_state.global_step >= 4 else 0.26

    def answers(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        return [share_right(trainer_state)] * len(completions)

    def form(completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0] * len(completions)

    def honest(
        prompts: Any, completions: Any, steps: list[list[str]], trainer_state: Any, **kwargs: Any
    ) -> list[list[float]]:
        return [[share_right(trainer_state)] * max(1, len(completion)) for completion in steps]

    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, reward_funcs=[answers, form], outcome="answers", step_reward_func=honest, max_steps=8,
    )  # fmt: skip
    trainer.add_callback(stop := HackingStop(window=4))
    trainer.train()
    assert watch.values("rewards/honest/mean") == pytest.approx([0.26] * 4 + [0.8] * 4)
    assert watch.values("process_outcome/gap") == pytest.approx([0] * 8, abs=1e-6)
    assert not stop.stopped
