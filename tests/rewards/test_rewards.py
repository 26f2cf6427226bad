"""Reward functions as TRL's trainers call them, the verifier's above all."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import get_callable_name

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.rewards import (
    BlockingReward,
    GenPRMReward,
    answer_reward,
    configured,
    genprm_reward,
    step_format_reward,
)
from genprm_trl.selection.aggregates import aggregate
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig, StepGRPOTrainer
from genprm_trl.verifier import GenPRM, Verifier, VerifierClient
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def check(prompt: str) -> str | Reply:
    """A model without rationales that computes a step's equation, and is struck by the word `boom`."""
    step = re.findall(r"user\n(.*?)<\|im_end\|>", prompt, re.DOTALL)[-1].splitlines()[-1]
    if "boom" in step:
        return Reply("", error="the engine broke")
    if "mumble" in step:
        return "{Perhaps}$\n"
    sums = re.findall(r"(\d+) \+ (\d+) = (\d+)", step)
    right = all(int(a) + int(b) == int(c) for a, b, c in sums)
    return f"{{{'Yes' if right else 'No'}}}$\n</output>\n"


def verifier(n: int = 1) -> GenPRM:
    return GenPRM(ScriptedGenerator(check, chosen_logprob=0.0), protocol=GenPRMProtocol(mode="direct"), n=n)


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


RIGHT, WRONG = "Step 1: 2 + 3 = 5\nStep 2: 5 + 1 = 6", "Step 1: 2 + 3 = 5\nStep 2: 5 + 1 = 7"


async def test_a_completion_has_the_reward_of_its_worst_step():
    reward = GenPRMReward(verifier())
    rewards = await reward(["What is 2 + 3 + 1?"] * 2, [RIGHT, WRONG])
    assert rewards[0] > 0.99
    assert rewards[1] < 0.01


@pytest.mark.parametrize(("rule", "expected"), [("min", 0.0), ("mean", 0.5), ("last", 0.0), ("product", 0.0)])
async def test_aggregates(rule, expected):
    [reward] = await GenPRMReward(verifier(), aggregate=rule)(["x"], [WRONG])
    assert reward == pytest.approx(expected, abs=0.01)
    assert aggregate([0.5, 0.4], rule) == pytest.approx({"min": 0.4, "mean": 0.45, "last": 0.4, "product": 0.2}[rule])


def test_any_verifier_is_asked_for_n_and_what_is_none_is_refused():
    for other in (verifier(), VerifierClient("http://127.0.0.1:1")):
        assert (GenPRMReward(other, n=8).verifier.n, other.n) == (8, 1)
    with pytest.raises(ConfigError, match=r"needs a Verifier, or the name or directory of one; 5 is neither"):
        GenPRMReward(5)


async def test_conversations_are_read_and_the_problem_is_the_last_user_message():
    prm = verifier()
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}]
    tools = [{"role": "tool", "content": "Step 9: 1 + 1 = 3"}, *message(RIGHT)]
    rewards = await GenPRMReward(prm)([prompt] * 3, [message(RIGHT), parts, tools])
    assert all(reward > 0.99 for reward in rewards)
    asked = prm.generator.calls[0][0]
    assert "What is 2 + 3?" in asked
    assert "Be brief." not in asked


async def test_a_column_can_hold_the_problem():
    prm = verifier()
    reward = GenPRMReward(prm, problem_column="problem")
    await reward(["<rendered>"], [RIGHT], problem=["the problem itself"])
    assert "the problem itself" in prm.generator.calls[0][0]
    assert "<rendered>" not in prm.generator.calls[0][0]
    with pytest.raises(ConfigError, match="no column 'problem'"):
        await reward(["x"], [RIGHT], answer=["5"])


async def test_equal_completions_are_judged_once():
    prm = verifier()
    await GenPRMReward(prm)(["p"] * 8, [RIGHT] * 7 + [WRONG])
    assert len(prm.generator.calls) == 4  # two solutions of two steps


@pytest.mark.parametrize("text", ["", " \n\n ", "\n"])
async def test_a_blank_completion_has_the_lowest_reward(text):
    prm = verifier()
    assert await GenPRMReward(prm)(["p", "p"], [text, message(text)]) == [0.0, 0.0]
    assert await GenPRMReward(prm).step_rewards(["p"], [text], [[]]) == [[0.0]]
    reward = GenPRMReward(prm, blank_reward=-0.5, aggregate="mean")
    assert await reward(["p"], [text]) == [-0.5]
    assert await reward.step_rewards(["p"], [text], [[]]) == [[-0.5]]  # StepGRPOTrainer has it from here
    assert prm.generator.calls == []


async def test_steps_beyond_the_bound_are_not_judged_and_earn_nothing():
    prm = verifier()
    text = "\n".join(["1 + 1 = 2"] * 10_000)
    reward = GenPRMReward(prm, max_steps=3, step_style="line")
    assert await reward(["p"], [text]) == [0.0]
    [rewards] = await reward.step_rewards(["p"], [text], [text.splitlines()])
    assert len(rewards) == 10_000
    assert min(rewards[:3]) > 0.99
    assert set(rewards[3:]) == {0.0}
    assert len(prm.generator.calls) == 6


async def test_what_the_verifier_failed_at_is_none_and_what_it_could_not_judge_is_a_half():
    reward = GenPRMReward(verifier())
    steps = [["1 + 1 = 2", "boom"], ["mumble"], ["boom"]]
    rewards = await reward.step_rewards(["p"] * 3, ["", "", ""], steps)
    assert rewards[0][0] > 0.99
    assert rewards[0][1] is None
    assert rewards[1] == [0.5]
    totals = await reward(["p"] * 2, ["1 + 1 = 2\nboom", "boom"])
    assert totals[0] > 0.99
    assert totals[1] is None


class Dying(Verifier):
    """Goes away after its first verdict."""

    async def verify(self, solution):
        raise NotImplementedError

    async def verify_stream(self, solutions):
        async for verdict in verifier().verify_stream(solutions[:1]):
            yield verdict
        raise GenPRMError("the service stays away")


async def test_a_verifier_that_goes_away_costs_rewards_and_not_the_training(caplog):
    rewards = await GenPRMReward(Dying())(["p"] * 3, [RIGHT, WRONG, "1 + 1 = 2"])
    assert rewards[0] > 0.99
    assert rewards[1:] == [None, None]
    assert "2 of 3 completions have no reward" in caplog.text


async def test_a_verifier_that_is_closed_gives_none(caplog):
    prm = verifier()
    await prm.close()
    assert await GenPRMReward(prm)(["p"], [RIGHT]) == [None]
    assert "closed" in caplog.text


async def test_figures_are_logged():
    logged: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    await GenPRMReward(verifier(n=2))(
        ["p"] * 2,
        [RIGHT, "mumble"],
        log_metric=logged.__setitem__,
        log_extra=extra.__setitem__,
        trainer_state=SimpleNamespace(global_step=7),
    )
    assert logged["genprm/share_no_verdict"] == pytest.approx(2 / 6)
    assert logged["genprm/share_error"] == logged["genprm/share_fallback"] == 0  # else their means would leave it out
    assert sum(value for name, value in logged.items() if "share" in name) == pytest.approx(1.0)
    assert logged["genprm/unscored"] == 0
    assert logged["genprm/tokens"] > 0
    assert logged["genprm/code_blocks"] == 0
    assert len(extra["step_rewards"]) == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "either a verifier"),
        ({"verifier": "x", "server": "http://127.0.0.1:1"}, "either a verifier"),
        ({"aggregate": "sum"}, "unknown aggregate 'sum'"),
        ({"step_style": "x"}, "unknown step_style"),
        ({"max_steps": 0}, "max_steps"),
        ({"mode": "direct"}, "takes no mode"),
    ],
)
def test_wrong_arguments_are_named(arguments, what):
    if arguments and "verifier" not in arguments:
        arguments = {"verifier": verifier(), **arguments}
    with pytest.raises(ConfigError, match=what):
        GenPRMReward(**arguments)


# Outcome and format --------------------------------------------------------------------------------------------------


def test_answers_are_graded_and_a_missing_reference_is_none():
    logged: dict[str, float] = {}
    completions = [r"so \boxed{0.5}", message(r"\boxed{3}"), r"\boxed{1}", "", "x"]
    rewards = answer_reward(
        completions, answer=["1/2", "4", None, "2", " "], log_metric=logged.__setitem__, prompts=["p"] * 5
    )
    assert rewards == [1.0, 0.0, None, 0.0, None]
    assert 0 < logged["answer/given"] < 1
    with pytest.raises(ConfigError, match="column 'answer'"):
        answer_reward(completions)


def test_thoughts_are_no_answers():
    considered = r"<think>Is it \boxed{5}? No, 6.</think>The answer is 6."
    completions = [considered, considered, r"<think>Is it \boxed{5}? Let me", "hm \\boxed{5}</think> So 6."]
    assert answer_reward(completions, answer=["6", "5", "5", "5"]) == [1.0, 0.0, 0.0, 0.0]
    assert answer_reward([message(text) for text in completions], answer=["6", "5", "5", "6"]) == [1.0, 0.0, 0.0, 1.0]


def test_words_behind_a_number_are_units():
    completions = ["She earns 6 * 8 = 48. The answer is 48 dollars.", "The answer is 48.", "#### 48 tickets"]
    assert answer_reward(completions, answer=["48"] * 3) == [1.0] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Step 1: a\nStep 2: b", 1.0),
        ("**Step 1: a**\n**Step 2:** b", 1.0),
        ("Step 1: a\nStep 3: b", 0.5),
        ("Step 1: a\nStep 1: b", 0.5),
        ("Step 1: a\nStep 2:", 0.5),
        ("First\nStep 1: a", 0.5),
        ("no steps", 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_steps_in_order(text, expected):
    assert step_format_reward([text, message(text)], prompts=["p", "p"]) == [expected, expected]


# In the trainers -----------------------------------------------------------------------------------------------------


def options(directory, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(directory / "run"), "per_device_train_batch_size": 2, "num_generations": 2,
        "max_completion_length": 8, "max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False,
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, **changes,
    }  # fmt: skip


@pytest.fixture
def policy(tmp_path) -> str:
    tiny_model().save_pretrained(tmp_path / "policy")
    tiny_tokenizer().save_pretrained(tmp_path / "policy")
    return str(tmp_path / "policy")


DATA = Dataset.from_dict({"prompt": ["What is 2 + 3?", "What is 4 + 4?"], "answer": ["5", "8"]})


@pytest.mark.parametrize(
    ("trainer_class", "config_class"), [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)], ids=["grpo", "rloo"]
)
def test_stock_trainers_take_the_verifier_beside_an_answer(tmp_path, policy, trainer_class, config_class):
    trainer = trainer_class(
        policy,
        reward_funcs=[GenPRMReward(verifier()), answer_reward],
        args=config_class(**options(tmp_path)),
        train_dataset=DATA,
    )
    trainer.train()
    [log] = [log for log in trainer.state.log_history if "loss" in log]
    assert math.isfinite(log["rewards/GenPRMReward/mean"])
    assert log["genprm/unscored"] == 0
    assert log["genprm/tokens"] > 0


def test_trainers_that_await_nothing_take_a_blocking_reward(tmp_path, policy):
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    prm, changes = verifier(), options(tmp_path, max_new_tokens=8)
    for name in ("num_generations", "max_completion_length"):
        del changes[name]
    trainer = OnlineDPOTrainer(
        policy,
        reward_funcs=[BlockingReward(GenPRMReward(prm)), answer_reward],
        args=OnlineDPOConfig(**changes),
        train_dataset=DATA,
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    assert trainer.reward_func_names == ["GenPRMReward", "answer_reward"]
    assert prm.generator.calls
    [log] = [log for log in trainer.state.log_history if "loss" in log]
    assert math.isfinite(log["objective/scores"])


async def test_a_blocking_reward_works_beside_a_running_loop_and_raises_what_is_raised():
    reward = BlockingReward(GenPRMReward(verifier(), problem_column="problem"))
    rewards = reward(["x"] * 2, completions=[RIGHT, WRONG], problem=["p", "p"])
    assert rewards[0] > 0.99
    assert rewards[1] < 0.01
    with pytest.raises(ConfigError, match="no column 'problem'"):
        reward(["x"], completions=[RIGHT])


def test_step_grpo_takes_the_verifier_for_its_steps(tmp_path, policy):
    trainer = StepGRPOTrainer(
        policy,
        [answer_reward],
        StepGRPOConfig(**options(tmp_path, step_style="line")),
        DATA,
        step_reward_func=GenPRMReward(verifier()),
    )
    trainer.train()
    [log] = [log for log in trainer.state.log_history if "loss" in log]
    assert math.isfinite(log["rewards/GenPRMReward/mean"])
    assert log["steps/count"] > 0


# Configured by the environment ---------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(configured, "_reward", None)


async def test_the_configured_reward_loads_its_verifier_once(tmp_path, policy, monkeypatch, fresh):
    path = tmp_path / "reward.yaml"
    path.write_text(f"verifier: {policy}\nmode: direct\naggregate: mean\nmax_step_tokens: 8\n", encoding="utf-8")
    monkeypatch.setenv("GENPRM_REWARD_CONFIG", str(path))
    [reward] = await genprm_reward(["p"], [RIGHT])
    assert 0 <= reward <= 1
    loaded = configured._reward
    assert loaded.aggregate == "mean"
    await genprm_reward(["p"], [WRONG])
    assert configured._reward is loaded
    await loaded.verifier.close()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "needs the environment variable GENPRM_REWARD_CONFIG"),
        ("aggregate: min", "names no verifier and no server"),
        ("- a list", "must hold the arguments"),
        ("verifier: [", "GENPRM_REWARD_CONFIG"),
        ("server: http://127.0.0.1:1\naggregate: sum", "unknown aggregate"),
    ],
)
async def test_a_wrong_configuration_is_named(tmp_path, monkeypatch, fresh, text, what):
    monkeypatch.delenv("GENPRM_REWARD_CONFIG", raising=False)
    if text is not None:
        (tmp_path / "reward.yaml").write_text(text, encoding="utf-8")
        monkeypatch.setenv("GENPRM_REWARD_CONFIG", str(tmp_path / "reward.yaml"))
    with pytest.raises(ConfigError, match=what):
        await genprm_reward(["p"], [RIGHT])


THOUGHT = "<think>Is it so?\n2 + 3 = 9</think>\n"


async def test_thoughts_are_not_judged():
    reward = GenPRMReward(verifier())
    prompts = ["What is 2 + 3 + 1?"] * 4
    completions = [THOUGHT + RIGHT, THOUGHT + WRONG, "2 + 3 = 9?</think>" + RIGHT, "<think>" + RIGHT]
    rewards = await reward(prompts, completions)
    assert [round(value, 1) for value in rewards] == [1.0, 0.0, 1.0, 0.0]
    judged = await GenPRMReward(verifier(), thinking="judge")(prompts, completions)
    assert judged[0] < 0.01
    assert judged[3] > 0.99
    # What the template opened, as far as it can be seen.
    assert await reward(["Problem<think>\n"] * 2, [RIGHT, "hm</think>" + RIGHT]) == [0.0, rewards[0]]
    assert await GenPRMReward(verifier(), thinking="opened", blank_reward=-1.0)(prompts[:1], [RIGHT]) == [-1.0]


def test_thoughts_are_no_steps_in_order():
    texts = [THOUGHT + RIGHT, "<think>Step 1: hm</think>It is 6.", "<think>" + RIGHT]
    assert step_format_reward(texts) == [1.0, 0.0, 0.0]
    assert step_format_reward(["Step 1: <think>hm\nStep 2: No"], thinking="judge") == [1.0]
    assert step_format_reward([RIGHT], thinking="opened") == [0.0]


async def test_two_verifiers_have_two_names():
    figures: dict[str, list[float]] = {}
    columns: dict[str, list[Any]] = {}
    logs = {
        "log_metric": lambda name, value: figures.setdefault(name, []).append(value),
        "log_extra": lambda name, values: columns.setdefault(name, []).extend(values),
    }
    strict, loose = GenPRMReward(verifier(), name="strict"), GenPRMReward(verifier(), name="loose")
    for reward in (strict, loose):
        await reward(["What is 2 + 3 + 1?"], [RIGHT], **logs)
    assert (get_callable_name(strict), get_callable_name(loose)) == ("strict", "loose")
    assert get_callable_name(GenPRMReward(verifier())) == "GenPRMReward"
    assert set(columns) == {"strict_step_rewards", "loose_step_rewards"}
    assert {name.split("/")[0] for name in figures} == {"strict", "loose"}
    assert all(len(values) == 1 for values in figures.values())
