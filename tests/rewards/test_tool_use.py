"""OTC's efficiency by numbers worked from its formulas, and the fewest calls that a prompt has needed."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from genprm_trl.errors import ConfigError
from genprm_trl.rewards import ToolEfficiencyReward, answer_reward, verdict_agreement_reward
from genprm_trl.rewards.tool_use import tool_efficiency
from tests.helpers.step_grpo import Watch, options, scripted
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("fewest", "c", "expected"),
    [
        (2, 1, [0, 0.8660, 1, 0.9511, 0.8660, 0.7818, 0.7071]),
        (1, 1, [0, 1, 0.8660, 0.7071, 0.5878]),
        (3, 1, [0, 0.7071, 0.9511, 1, 0.9749]),
        (0, 1, [1, 0.5, 0.3090, 0.2225, 0.1736]),
        (None, 2, [1, 0.7071, 0.5, 0.3827]),
        (None, 4, [1, 0.8660, 0.7071, 0.5878]),
    ],
)
def test_the_efficiency_of_calls(fewest, c, expected):
    assert [tool_efficiency(m, fewest, c=c) for m in range(len(expected))] == pytest.approx(expected, abs=5e-5)


def called(times: int, answer: str) -> list[dict[str, Any]]:
    calls = [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "python", "arguments": {}}}]},
        {"role": "tool", "content": "5"},
    ]
    return [*calls * times, {"role": "assistant", "content": f"The answer is {answer}."}]


def test_only_what_is_right_is_compared_with_the_fewest_calls_of_its_group():
    reward = ToolEfficiencyReward(answer_reward)
    completions = [called(3, "5"), called(1, "5"), called(0, "6"), called(2, "5")]
    rewards = reward(completions, prompts=["2 + 3?"] * 3 + ["5?"], answer=["5"] * 3 + [None])
    assert rewards == pytest.approx([0.7071, 1, 0, None], abs=5e-5)
    # The fewest calls of a prompt only fall.
    assert reward([called(2, "5")], prompts=["2 + 3?"], answer=["5"]) == pytest.approx([0.8660], abs=5e-5)
    assert reward([called(0, "5")], prompts=["2 + 3?"], answer=["5"]) == [1.0]
    assert reward([called(1, "5")], prompts=["2 + 3?"], answer=["5"]) == pytest.approx([0.5])
    assert reward.__name__ == "answer_reward_tools"
    assert reward.columns == ("answer",)
    alone = ToolEfficiencyReward(answer_reward, rule="ppo", c=2, name="thrift")
    assert alone(completions[:2], prompts=["2 + 3?"] * 2, answer=["5"] * 2) == pytest.approx(
        [0.3827, 0.7071], abs=5e-5
    )
    assert alone.__name__ == "thrift"


def test_code_rounds_of_a_verifier_beyond_the_forced_ones():
    logged: dict[str, float] = {}
    reward = ToolEfficiencyReward(verdict_agreement_reward, forced=1)
    verdicts = [[True, True], [True, True], [False]]
    rewards = reward(
        [""] * 3, prompts=["p"] * 3, verdicts=verdicts, statuses=[["ok"] * len(row) for row in verdicts],
        num_steps=[2] * 3, label=[-1] * 3, code_rounds=[2, 4, 1], log_metric=logged.__setitem__,
    )  # fmt: skip
    assert rewards == pytest.approx([1.0, tool_efficiency(2, 0), 0.0])
    assert logged["tools/calls"] == pytest.approx(2 / 3)
    assert logged["tools/productivity"] == 1.0


def test_right_answers_for_each_call():
    logged: dict[str, float] = {}
    completions = [called(3, "5"), called(3, "5"), called(2, "5")]
    ToolEfficiencyReward(answer_reward)(
        completions, prompts=["p"] * 3, answer=["5"] * 3, log_metric=logged.__setitem__
    )
    assert logged["tools/productivity"] == 0.375


def test_a_penalty_is_not_scaled_and_sets_no_standard():
    def signed(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [{"right": 1.0, "wrong": -1.0}.get(completion) for completion in completions]

    logged: dict[str, float] = {}
    reward = ToolEfficiencyReward(signed)
    completions = ["right", "wrong", "wrong", "unknown"]
    rewards = reward(completions, prompts=["p"] * 4, code_rounds=[4, 0, 8, 1], log_metric=logged.__setitem__)
    assert rewards == [1.0, -1.0, -1.0, None]
    assert list(reward.fewest.values()) == [4]
    assert logged["tools/productivity"] == pytest.approx(1 / 13)
    assert reward(completions[1:3], prompts=["q"] * 2, code_rounds=[0, 8]) == [-1.0, -1.0]
    assert ToolEfficiencyReward(signed, rule="ppo")(["wrong"], prompts=["p"], code_rounds=[8]) == [-1.0]


def test_a_resumed_training_knows_the_fewest_calls(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None)
    state = SimpleNamespace(global_step=2, is_world_process_zero=True)
    reward = ToolEfficiencyReward(answer_reward)
    with pytest.raises(ConfigError, match=r"checkpoint-2 has no fewest_calls_answer_reward_tools\.json"):
        reward.on_train_begin(args, state, None)
    reward([called(1, "5")], prompts=[[{"role": "user", "content": "2 + 3?"}]], answer=["5"])
    reward.on_save(args, state, None)
    other = ToolEfficiencyReward(lambda completions, **kwargs: [1.0])  # its name is no name for a file everywhere
    other([called(3, "5")], prompts=["4 + 4?"])
    other.on_save(args, state, None)
    assert (tmp_path / "checkpoint-2" / "fewest_calls_%3Clambda%3E_tools.json").exists()
    again = ToolEfficiencyReward(answer_reward)
    state = SimpleNamespace(global_step=2, is_world_process_zero=True)  # another training's, though the first still is
    again.on_train_begin(args, state, None)
    assert list(again.fewest.values()) == [1]
    assert again.fewest == reward.fewest
    with pytest.raises(ConfigError, match=r"two rewards of this training are called answer_reward_tools: give one"):
        ToolEfficiencyReward(answer_reward).on_train_begin(args, state, None)


@pytest.mark.parametrize(
    ("options", "what"), [({"rule": "x"}, "unknown rule"), ({"c": 0}, "c must be"), ({"forced": -1}, "forced")]
)
def test_wrong_options_are_named(options, what):
    with pytest.raises(ConfigError, match=what):
        ToolEfficiencyReward(answer_reward, **options)
    with pytest.raises(ConfigError, match="needs the prompts"):
        ToolEfficiencyReward(answer_reward)(["5"], answer=["5"])


def test_a_real_training_saves_the_fewest_calls_and_resumes_with_them(tmp_path):
    def right(completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0] * len(completions)

    def run(rounds: list[int], **resume: Any) -> ToolEfficiencyReward:
        reward = ToolEfficiencyReward(right, name="thrift")
        trainer = GRPOTrainer(
            copy.deepcopy(tiny_model()),
            reward_funcs=[reward],
            args=GRPOConfig(**options(tmp_path, save_strategy="steps", save_steps=1)),
            train_dataset=Dataset.from_dict({"prompt": ["What is 2 + 3?"] * 2}),
            processing_class=tiny_tokenizer(),
            rollout_func=lambda prompts, trainer: scripted(prompts, trainer) | {"code_rounds": rounds},
            callbacks=[reward, watch := Watch()],
        )
        trainer.train(**resume)
        values.append(watch.values("rewards/thrift/mean")[-1])
        return reward

    values: list[float] = []
    before = run([3, 3, 2, 4])
    assert list(before.fewest.values()) == [2]
    # Against 2 calls: sin(180° · 3 / 5) = 0.9511 for each of the four.
    after = run([3, 3, 3, 3], resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert after.fewest == before.fewest
    assert values[1] == pytest.approx(0.9511, abs=5e-5)
    assert values[0] == pytest.approx((2 * 0.9511 + 1 + 0.8660) / 4, abs=5e-5)
