"""StepGRPOTrainer: advantages of tokens through the real trainer, and the seams of TRL that it rests on."""

from __future__ import annotations

import copy
import math
from typing import Any

import pandas
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from genprm_trl.errors import ConfigError
from genprm_trl.rewards import answer_reward, degenerate_text_penalty
from genprm_trl.training.credit import step_advantages
from genprm_trl.training.step_grpo.figures import idle_steps
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig, StepGRPOTrainer
from tests.helpers.forked import in_two_processes
from tests.helpers.step_grpo import (
    PROMPTS,
    TEXTS,
    TOKENIZER,
    Watch,
    advantages_and_losses,
    advantages_of,
    dataset,
    good_steps,
    good_steps_async,
    last_letter_steps,
    length_reward,
    make,
    options,
    scripted,
)
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

# Agreement with stock GRPO -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_steps", [False, True])
def test_outcome_credit_is_stock_grpo_to_the_last_bit(tmp_path, with_steps):
    stock, ours = Watch(), Watch()
    shared = {"reward_funcs": length_reward, "max_steps": 4, "num_iterations": 2, "beta": 0.05}
    make(tmp_path, GRPOTrainer, stock, **shared).train()
    steps = {"step_reward_func": last_letter_steps} if with_steps else {}
    make(tmp_path, StepGRPOTrainer, ours, **shared, **steps, credit="outcome").train()
    for name in ("loss", "grad_norm", "reward", "kl"):
        assert ours.values(name) == stock.values(name), name
    assert len(set(stock.values("loss"))) == 4


def test_steps_without_weight_change_nothing(tmp_path):
    stock, ours = Watch(), Watch()
    make(tmp_path, GRPOTrainer, stock, reward_funcs=length_reward).train()
    make(
        tmp_path, watch=ours, reward_funcs=length_reward, step_reward_func=last_letter_steps, step_reward_weight=0.0
    ).train()
    assert ours.values("loss") == pytest.approx(stock.values("loss"), rel=1e-6)
    assert len(set(ours.values("loss"))) == 2


# Advantages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", [good_steps, good_steps_async])
@pytest.mark.parametrize("credit", ["process", "min_form", "discounted"])
def test_advantages_are_those_of_the_credit_rule_at_the_tokens_of_the_steps(tmp_path, credit, func):
    trainer = make(
        tmp_path, step_reward_func=func, rollout_func=scripted, credit=credit, step_discount=0.9, step_style="step"
    )
    advantages, output = advantages_of(trainer)
    nan = math.nan
    rewards = torch.tensor([[1.0, 1, nan], [1, 0, nan], [0, 1, 1], [0, nan, nan]])
    if credit == "min_form":
        rewards = 2 * rewards - 1
    # By hand: the tokens of each step's text, with the line break before it; the end belongs to the last step.
    steps = torch.full(output["completion_ids"].shape, -1)
    for row, text in enumerate(TEXTS):
        at = 0
        for number, step in enumerate(text.split("\n")):
            length = len(TOKENIZER.encode(("\n" if number else "") + step, add_special_tokens=False))
            steps[row, at : at + length] = number
            at += length
        steps[row, at] = number
        assert output["completion_ids"][row, at] == TOKENIZER.eos_token_id
    expected = step_advantages(rewards, steps, group_size=4, credit=credit, gamma=0.9)
    torch.testing.assert_close(advantages, expected)
    assert advantages.shape == output["completion_ids"].shape
    assert advantages.abs().sum() > 1


def test_outcome_advantages_are_added_with_the_weight_of_the_steps(tmp_path):
    def outcome(completions, **kwargs):
        return [1.0, 0.0, 0.0, 0.0]

    shared = {"rollout_func": scripted, "credit": "process", "step_style": "step"}
    both, _ = advantages_of(
        make(tmp_path, reward_funcs=[outcome], step_reward_func=good_steps, step_reward_weight=0.5, **shared)
    )
    steps, _ = advantages_of(make(tmp_path, step_reward_func=good_steps, **shared))
    alone, _ = advantages_of(make(tmp_path, GRPOTrainer, reward_funcs=[outcome], rollout_func=scripted))
    torch.testing.assert_close(both, alone.unsqueeze(1) + 0.5 * steps)
    assert alone.shape == (4,)


def test_what_cannot_be_scored_moves_nothing(tmp_path):
    def half(prompts, completions, steps, **kwargs):
        rewards = good_steps(prompts, completions, steps)
        rewards[1] = [None] * len(rewards[1])
        return rewards

    advantages, _ = advantages_of(make(tmp_path, step_reward_func=half, rollout_func=scripted, step_style="step"))
    assert not advantages[1].any()
    assert advantages[0].any()


def test_a_completion_without_outcome_reward_has_no_outcome_advantage(tmp_path):
    def outcome(completions, **kwargs):
        return [1.0, None, 0.0, None]

    shared = {"rollout_func": scripted, "reward_funcs": [outcome]}
    trainer = make(tmp_path, step_reward_func=good_steps, step_reward_weight=0.0, **shared)
    ours, _ = advantages_of(trainer)
    stock, _ = advantages_of(make(tmp_path, GRPOTrainer, **shared))
    torch.testing.assert_close(ours[:, 0], stock)
    assert stock.tolist()[1] == stock.tolist()[3] == 0.0


def test_tokens_of_tools_belong_to_no_step(tmp_path):
    tool = TOKENIZER.encode("\nStep 9: said a tool!", add_special_tokens=False)

    def with_tool(prompts, trainer):
        output = scripted(prompts, trainer)
        output["env_mask"] = [[1] * len(ids) + [0] * len(tool) for ids in output["completion_ids"]]
        output["completion_ids"] = [ids + tool for ids in output["completion_ids"]]
        output["logprobs"] = [[-1.0] * len(ids) for ids in output["completion_ids"]]
        return output

    shared = {"step_reward_func": good_steps, "step_style": "step", "credit": "process"}
    masked, output = advantages_of(make(tmp_path, rollout_func=with_tool, **shared))
    plain, _ = advantages_of(make(tmp_path, rollout_func=scripted, **shared))
    assert not (masked * (1 - output["tool_mask"])).any()
    for row, text in enumerate(TEXTS):
        length = len(TOKENIZER.encode(text, add_special_tokens=False)) + 1
        torch.testing.assert_close(masked[row, :length], plain[row, :length])


def test_idle_steps_are_charged(tmp_path):
    idle = "Step 1: so!\nStep 2: so!\nStep 3:"

    def rollout(prompts, trainer):
        ids = [*TOKENIZER.encode(idle, add_special_tokens=False), TOKENIZER.eos_token_id]
        return {"prompt_ids": [[5]] * 4, "completion_ids": [ids] * 4, "logprobs": [[-1.0] * len(ids)] * 4}

    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, step_reward_func=good_steps, rollout_func=rollout, idle_step_penalty=0.25, max_steps=1,
        step_style="step",
    )  # fmt: skip
    trainer.train()
    assert watch.values("rewards/good_steps/mean") == [-0.25]  # 1, 0.75 and -0.25; the smallest is logged
    assert watch.values("steps/idle") == [pytest.approx(2 / 3)]
    assert watch.values("steps/count") == [3.0]


@pytest.mark.parametrize(
    ("steps", "idle"),
    [
        (["Step 1: -3 + 5 = 2", "**Step 2:** 3 + 5 = 8", "Step 3: 3 + 5 = 8."], [False, False, True]),
        (["Step 1: 3 + 5 * 2", "Step 2: (3 + 5) * 2"], [False, False]),
        (["## Step 3) 7", "## Step 4) 7", "Step 5)"], [False, True, True]),
    ],
)
def test_steps_are_told_apart_by_their_signs_and_brackets(steps, idle):
    assert idle_steps(steps) == idle


def test_a_blank_completion_is_one_step_of_the_lowest_reward(tmp_path):
    def rollout(prompts, trainer):
        output = scripted(prompts, trainer)
        output["completion_ids"][0] = [*TOKENIZER.encode(" \n", add_special_tokens=False), TOKENIZER.eos_token_id]
        output["completion_ids"][2] = [TOKENIZER.eos_token_id]
        output["logprobs"] = [[-1.0] * len(ids) for ids in output["completion_ids"]]
        return output

    def seen(prompts, completions, steps, **kwargs):
        assert [len(completion) for completion in steps] == [0, 2, 0, 1]
        return [[1.0] * len(completion) for completion in steps]

    advantages, output = advantages_of(
        make(tmp_path, step_reward_func=seen, rollout_func=rollout, step_style="step", credit="process")
    )
    written = output["completion_mask"].bool()
    assert (advantages[0][written[0]] < 0).all()
    assert (advantages[2][written[2]] < 0).all()
    assert (advantages[1][written[1]] > 0).all()


@pytest.mark.parametrize(
    ("func", "what"),
    [
        (lambda prompts, completions, steps, **_: [[0.5]] * (len(steps) - 1), "a list for each of 4 completions"),
        (lambda prompts, completions, steps, **_: [[0.5] * (len(s) + 1) for s in steps], "must return 2 rewards"),
        (lambda prompts, completions, steps, **_: [["good"] * len(s) for s in steps], "not all finite"),
        (lambda prompts, completions, steps, **_: [[math.inf] * len(s) for s in steps], "not all finite"),
        (lambda prompts, completions, steps, **_: 0.5, "a list for each of 4 completions"),
    ],
)
def test_a_wrong_answer_of_the_step_reward_function_is_named(tmp_path, func, what):
    with pytest.raises(ConfigError, match=what):
        advantages_of(make(tmp_path, step_reward_func=func, rollout_func=scripted, step_style="step"))


# Working with what TRL offers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_every_loss_takes_the_advantages_of_tokens(tmp_path, loss_type):
    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, step_reward_func=last_letter_steps, loss_type=loss_type, credit="process", max_steps=1,
        step_style="line",
    )  # fmt: skip
    trainer.train()
    [norm] = watch.values("grad_norm")
    assert math.isfinite(norm)
    assert norm > 0


def test_a_token_moves_by_its_own_advantage(tmp_path):
    """The gradient of the loss at each token is minus its advantage, where old and new policy are the same."""
    trainer = make(tmp_path, step_reward_func=good_steps, rollout_func=scripted, credit="process", step_style="step",
                   loss_type="bnpo")  # fmt: skip
    advantages, output = advantages_of(trainer)
    captured: list[torch.Tensor] = []
    original = trainer._get_per_token_logps_and_entropies

    def capture(*args, **kwargs):
        logps, entropies, aux = original(*args, **kwargs)
        logps.retain_grad()
        captured.append(logps)
        return logps, entropies, aux

    trainer._get_per_token_logps_and_entropies = capture
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, output).backward()
    mask = output["completion_mask"]
    torch.testing.assert_close(captured[0].grad, -advantages * mask / mask.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iterations": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4},
        {"gradient_checkpointing": True},
        {"beta": 0.1, "importance_sampling_level": "sequence"},
        {"mask_truncated_completions": True, "off_policy_mask_threshold": 0.5},
        {"scale_rewards": "batch", "scale_step_rewards": "batch", "per_device_train_batch_size": 8},
        {"multi_objective_aggregation": "normalize_then_sum", "step_baseline": "token"},
        {"top_entropy_quantile": 0.5},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_of_trl_work_with_steps(tmp_path, changes):
    watch = Watch()
    make(
        tmp_path, watch=watch, reward_funcs=[length_reward], step_reward_func=last_letter_steps, step_style="line",
        **changes,
    ).train()  # fmt: skip
    assert len(watch.values("loss")) == 2
    assert all(map(math.isfinite, watch.values("loss")))
    for name in ("steps/count", "process_outcome/gap", "step_advantages/std_within", "rewards/last_letter_steps/mean"):
        assert watch.values(name), name


def test_the_reference_of_t1_follows_the_policy_as_a_moving_average(tmp_path):
    """T1's recipe (examples/configs/grpo_t1_7b.yaml) rests on these options of TRL."""
    policies: list[list[torch.Tensor]] = []

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            policies.append([weight.detach().clone() for weight in model.parameters()])

    trainer = make(
        tmp_path, reward_funcs=[length_reward, degenerate_text_penalty], credit="outcome", scale_rewards="none",
        temperature=1.2, min_p=0.05, entropy_coef=1e-3, beta=2e-4, sync_ref_model=True, ref_model_sync_steps=1,
        ref_model_mixup_alpha=0.01, max_steps=3,
    )  # fmt: skip
    expected = [weight.detach().clone() for weight in trainer.ref_model.parameters()]
    trainer.add_callback(Keep())
    trainer.train()
    for policy in policies:  # of a reference of 0 and a policy of 1: 0.01, 0.0199, 0.029701
        expected = [0.99 * reference + 0.01 * weight for reference, weight in zip(expected, policy, strict=True)]
    assert len(policies) == 3
    moved = 0.0
    for reference, average, policy in zip(trainer.ref_model.parameters(), expected, policies[-1], strict=True):
        torch.testing.assert_close(reference.detach(), average, rtol=1e-5, atol=1e-7)
        moved = max(moved, float((reference - policy).detach().abs().max()))
    assert moved > 1e-4  # it lags behind


def test_an_adapter_is_trained(tmp_path):
    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, step_reward_func=last_letter_steps,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
    )  # fmt: skip
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    assert before
    assert all("lora" in name for name in before)
    assert any(
        not torch.equal(before[name], value) for name, value in trainer.model.named_parameters() if name in before
    )


def test_training_resumes_to_the_same_losses(tmp_path):
    shared = {
        "reward_funcs": [length_reward], "step_reward_func": last_letter_steps, "step_style": "line", "max_steps": 4,
        "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    whole, resumed = Watch(), Watch()
    make(tmp_path, watch=whole, **shared).train()
    make(tmp_path, watch=resumed, **shared).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert len(whole.values("loss")) == 4
    assert resumed.values("loss") == whole.values("loss")[2:]


def test_evaluation_scores_steps_too(tmp_path):
    trainer = make(
        tmp_path, step_reward_func=last_letter_steps, eval_dataset=dataset(), per_device_eval_batch_size=4,
        num_generations_eval=2,
    )  # fmt: skip
    metrics = trainer.evaluate()
    assert math.isfinite(metrics["eval_loss"])
    assert "eval_steps/count" in metrics


def test_the_same_configuration_can_make_a_second_trainer(tmp_path):
    config = StepGRPOConfig(**options(tmp_path, reward_weights=[2.0]))
    for _ in range(2):
        trainer = StepGRPOTrainer(
            copy.deepcopy(tiny_model()), [length_reward], config, dataset(), step_reward_func=good_steps,
            processing_class=TOKENIZER,
        )  # fmt: skip
        assert trainer.reward_weights.tolist() == [2.0]
    assert config.reward_weights == [2.0]


def test_conversations_and_the_answer_reward(tmp_path):
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, reward_funcs=[answer_reward], step_reward_func=last_letter_steps, max_steps=1,
        train_dataset=dataset().remove_columns("prompt").add_column("prompt", prompts),
    )  # fmt: skip
    trainer.train()
    assert watch.values("rewards/answer_reward/mean") == [0.0]  # a random model


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"credit": "sum"}, "unknown credit 'sum'; choose one of outcome, process, min_form, discounted"),
        ({"step_style": "sentence"}, "unknown step_style"),
        ({"scale_step_rewards": "x"}, "unknown scale_step_rewards"),
        ({"step_baseline": "x"}, "unknown step_baseline"),
        ({"min_form_temperature": 0.0}, "min_form_temperature"),
        ({"step_discount": -0.1}, "step_discount"),
        ({"step_reward_weight": math.nan}, "step_reward_weight"),
        ({"idle_step_penalty": -0.1}, "idle_step_penalty"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, what):
    with pytest.raises(ConfigError, match=what):
        StepGRPOConfig(**options(tmp_path, **changes))


def test_a_trainer_needs_something_to_reward(tmp_path):
    with pytest.raises(ConfigError, match="needs a step_reward_func"):
        make(tmp_path, reward_funcs=[length_reward])
    for func in (None, good_steps):
        with pytest.raises(ConfigError, match="No reward source provided: credit='outcome' needs reward_funcs"):
            make(tmp_path, credit="outcome", step_reward_func=func)
    with pytest.raises(ConfigError, match="reward_weights holds 2 weights for 1"):
        make(tmp_path, reward_funcs=[length_reward], step_reward_func=good_steps, reward_weights=[1.0, 1.0])
    with pytest.raises(ConfigError, match="must be a StepGRPOConfig"):
        StepGRPOTrainer(tiny_model(), [length_reward], good_steps, dataset(), step_reward_func=good_steps)


def test_plain_options_of_grpo_are_taken(tmp_path):
    for extra in ({}, {"steps_per_generation": 2}, {"generation_batch_size": 16}):
        plain = GRPOConfig(**options(tmp_path, **extra))
        run = StepGRPOTrainer(
            copy.deepcopy(tiny_model()), length_reward, plain, dataset(), step_reward_func=good_steps,
            processing_class=TOKENIZER,
        )  # fmt: skip
        assert isinstance(run.args, StepGRPOConfig)
        assert run.args.credit == "min_form"
        for name in ("learning_rate", "generation_batch_size", "steps_per_generation", "num_generations"):
            assert getattr(run.args, name) == getattr(plain, name), name
        assert {"trl", "grpo", "genprm-trl"} <= set(run.model.model_tags)


@pytest.mark.parametrize("outcomes", [False, True])
def test_a_completion_without_any_reward_is_warned_of(tmp_path, caplog, outcomes):
    def none(completions, **kwargs):
        return [None] * len(completions)

    def no_steps(prompts, completions, steps, **kwargs):
        return [[None] * len(of_one) for of_one in steps]

    funcs = {"reward_funcs": none} if outcomes else {}
    run = make(tmp_path, step_reward_func=no_steps, rollout_func=scripted, step_style="step", max_steps=1, **funcs)
    with caplog.at_level("WARNING"):
        run.train()
    assert caplog.text.count("All reward functions returned None for the following kwargs") == 1


def test_a_column_that_a_transform_makes_is_found(tmp_path):
    def reward(completions, answer, **kwargs):
        return [float(len(each)) for each in answer]

    reward.columns = ("answer",)
    rows = Dataset.from_dict({"prompt": PROMPTS}).with_transform(lambda batch: {**batch, "answer": batch["prompt"]})
    make(tmp_path, reward_funcs=reward, step_reward_func=last_letter_steps, train_dataset=rows, max_steps=1).train()


# Two processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_advantages_of_one(tmp_path):
    # Two processes that write the same file would be in each other's way.
    tiny_model().save_pretrained(tmp_path / "model")
    both, _ = in_two_processes(advantages_and_losses, tmp_path, 2)
    one = advantages_and_losses(tmp_path, 4)
    assert (both["processes"], one["processes"]) == (2, 1)
    torch.testing.assert_close(torch.tensor(both["advantages"]), torch.tensor(one["advantages"]))
    assert torch.tensor(one["advantages"]).abs().sum() > 1
    assert both["gap"] == pytest.approx(one["gap"])
    assert both["idle"] == pytest.approx(one["idle"])


# What is logged ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["process", "outcome"])
def test_step_rewards_are_logged_beside_what_trl_logs(tmp_path, credit):
    stock, ours = Watch(), Watch()
    shared = {"reward_funcs": [length_reward], "rollout_func": scripted, "max_steps": 1, "log_completions": True}
    make(tmp_path, GRPOTrainer, stock, **shared).train()
    make(tmp_path, watch=ours, step_reward_func=good_steps, step_style="step", credit=credit, **shared).train()
    for name in ("reward", "reward_std", "frac_reward_zero_std", "rewards/length_reward/mean"):
        assert ours.values(name) == stock.values(name), name
    # The smallest rewards are 1, 0, 0 and 0; the outcome rewards are their letters'.
    assert ours.values("rewards/good_steps/mean") == [0.25]
    assert ours.values("rewards/good_steps/std") == [0.5]
    outcomes = length_reward(TEXTS)
    assert ours.values("process_outcome/gap") == [pytest.approx(0.25 - sum(outcomes) / 4)]
    [path] = (tmp_path / "run" / "completions").glob("*.parquet")
    table = pandas.read_parquet(path)
    assert table["good_steps"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert [row.tolist() for row in table["step_rewards"]] == good_steps(None, None, [t.split("\n") for t in TEXTS])
    if credit == "outcome":
        assert table["mean_advantage"].tolist() == pytest.approx(table["advantage"].tolist(), abs=1e-6)
    assert table["mean_advantage"].abs().min() > 0


def test_outcomes_can_be_watched_without_being_rewarded(tmp_path):
    rewarded, watched, alone = Watch(), Watch(), Watch()
    shared = {"step_reward_func": good_steps, "step_style": "step", "rollout_func": scripted, "max_steps": 1}
    make(tmp_path, watch=rewarded, reward_funcs=[length_reward], **shared).train()
    make(tmp_path, watch=watched, reward_funcs=[length_reward], reward_weights=[0.0], **shared).train()
    make(tmp_path, watch=alone, **shared).train()
    for name in ("process_outcome/gap", "process_outcome/wrong_but_liked", "rewards/length_reward/mean"):
        assert watched.values(name) == rewarded.values(name) != [], name
    for name in ("loss", "grad_norm"):
        assert watched.values(name) == alone.values(name) != rewarded.values(name), name


def test_a_step_reward_function_logs_of_the_batch_that_it_rewards(tmp_path):
    calls: list[bool] = []

    def func(prompts, completions, steps, training, log_metric, log_extra, trainer_state, **kwargs):
        calls.append(training)
        log_metric("judge/call", len(calls))
        log_metric("judge/call", len(calls))
        log_extra("judge", [f"{trainer_state.global_step}: {len(row)}" for row in steps])
        return good_steps(prompts, completions, steps)

    watch = Watch()
    trainer = make(tmp_path, watch=watch, step_reward_func=func, rollout_func=scripted, eval_dataset=dataset(),
                   step_style="step", per_device_eval_batch_size=4)  # fmt: skip
    trainer.train()
    assert watch.values("judge/call") == [1.0, 2.0]
    assert list(trainer._logs["extra"]["judge"]) == ["1: 2", "1: 2", "1: 3", "1: 1"]
    trainer.evaluate()
    assert watch.values("eval_judge/call") == [4.5]  # of calls 3 to 6
    assert calls == [True, True, False, False, False, False]


def test_a_step_reward_function_is_told_what_the_policy_saw_and_wrote(tmp_path):
    told: dict[str, Any] = {}

    async def func(**kwargs):
        told.update(kwargs)
        return good_steps(**kwargs)

    def rollout(prompts, trainer):
        return scripted(prompts, trainer) | {"source": [f"row {place}" for place in range(len(prompts))]}

    trainer = make(tmp_path, step_reward_func=func, rollout_func=rollout, step_style="step")
    advantages_of(trainer)
    assert told["prompts"] == PROMPTS[:1] * 4
    assert told["completions"] == TEXTS
    assert told["steps"] == [text.split("\n") for text in TEXTS]
    assert told["prompt_ids"] == [TOKENIZER.encode(PROMPTS[0])] * 4
    assert told["completion_ids"] == scripted(PROMPTS[:1] * 4, trainer)["completion_ids"]
    assert [max(steps) + 1 for steps in told["token_steps"]] == [2, 2, 3, 1]
    assert told["answer"] == ["5"] * 4
    assert told["source"] == ["row 0", "row 1", "row 2", "row 3"]
    assert told["training"]
    assert told["trainer_state"] is trainer.state
    advantages_of(trainer, [[{"role": "user", "content": PROMPTS[0]}]])
    assert told["completions"] == [[{"role": "assistant", "content": text}] for text in TEXTS]


# The seam of TRL: what is relied on, of the trainer as it is ---------------------------------------------------------


class Seam(GRPOTrainer):
    """Keeps what `_generate_and_score_completions` is given and returns, and what is logged by then."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = []

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        self.seen.append((mode, [dict(row) for row in inputs], dict(output)))
        self._metrics[mode]["ours"].append(float(len(self.seen)))
        self._logs["extra"]["ours"].extend(range(len(inputs)))
        return output


def test_seam_each_batch_comes_through_one_method_as_whole_groups(tmp_path):
    watch = Watch()
    trainer = make(tmp_path, Seam, watch, reward_funcs=[length_reward], rollout_func=scripted, eval_dataset=dataset(),
                   per_device_train_batch_size=8, per_device_eval_batch_size=4, num_generations_eval=2)  # fmt: skip
    trainer.train()
    trainer.evaluate()
    assert [mode for mode, _, _ in trainer.seen] == ["train"] * 2 + ["eval"] * 2
    assert watch.values("ours") == [1.0, 2.0]
    assert watch.values("eval_ours") == [3.5]
    assert len(trainer._logs["extra"]["ours"]) == 8
    assert trainer.environments is None
    for mode, rows, output in trainer.seen:
        size = 4 if mode == "train" else 2
        for start in range(0, len(rows), size):
            assert len({row["prompt"] for row in rows[start : start + size]}) == 1
        assert {"prompt", "answer"} <= set(rows[0])
        assert output["advantages"].shape == (len(rows),)
        ids = scripted([row["prompt"] for row in rows], trainer)
        for name in ("prompt", "completion"):
            kept = zip(output[f"{name}_ids"], output[f"{name}_mask"].bool(), strict=True)
            assert [row[mask].tolist() for row, mask in kept] == ids[f"{name}_ids"]
        assert "tool_mask" not in output
    outcomes = length_reward(TEXTS)
    assert list(trainer._logs["rewards"]["length_reward"])[-2:] == pytest.approx(outcomes[:2])


def test_seam_the_outcome_rewards_of_a_batch_come_through_one_method(tmp_path):
    seen = []

    class Rewarded(GRPOTrainer):
        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            seen.append(super()._calculate_rewards(*args, **kwargs))
            return seen[-1]

    def outcome(completions, **kwargs):
        return [1.0, None, 0.0, None]

    advantages_of(make(tmp_path, Rewarded, reward_funcs=[outcome, length_reward], rollout_func=scripted))
    [rewards] = seen
    assert rewards.shape == (4, 2)
    assert rewards[:, 0].isnan().tolist() == [False, True, False, True]
    assert rewards[:, 1].tolist() == pytest.approx(length_reward(TEXTS))


def well_formed(completions: list[Any], **kwargs: Any) -> list[float]:
    return [1.0] * len(completions)


def no_opinion(completions: list[Any], **kwargs: Any) -> list[None]:
    return [None] * len(completions)


def first_is_right(completions: list[Any], **kwargs: Any) -> list[float]:
    return [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("others", "weights"),
    [
        ([], [1.0]),
        ([well_formed], [1.0, 1.0]),  # the mean of both is one half and more for all
        ([well_formed], [0.0, 1.0]),
        ([well_formed], [1.0, -1.0]),  # which add up to 0
        ([no_opinion], [1.0, 0.0]),
        ([no_opinion, well_formed], [1.0, 1.0, 1.0]),
    ],
)
def test_the_verifier_is_compared_with_right_answers_alone(tmp_path, others, weights):
    def likes_the_first_two(
        prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any
    ) -> list[list[float]]:
        return [[float(place < 2)] * len(row) for place, row in enumerate(steps)]

    trainer = make(
        tmp_path, reward_funcs=[first_is_right, *others], reward_weights=weights, step_reward_func=likes_the_first_two,
        rollout_func=scripted, step_style="step", outcome="first_is_right",
    )  # fmt: skip
    advantages_of(trainer)
    metrics = trainer._metrics["train"]
    assert metrics["process_outcome/gap"] == [0.25]
    assert metrics["process_outcome/wrong_but_liked"] == [pytest.approx(1 / 3)]


def test_which_reward_is_of_answers_is_named(tmp_path, caplog):
    shared = {"step_reward_func": good_steps, "rollout_func": scripted}
    two = [first_is_right, well_formed]
    for reward_funcs, outcome in ((two, None), (two, ""), ([well_formed], "")):
        caplog.clear()
        trainer = make(tmp_path, reward_funcs=reward_funcs, outcome=outcome, **shared)
        advantages_of(trainer)
        assert "process_outcome/gap" not in trainer._metrics["train"]
        assert ("one of first_is_right, well_formed, with the argument outcome" in caplog.text) == (outcome is None)
    for reward_funcs in (two, [first_is_right, first_is_right]):
        with pytest.raises(
            ConfigError, match="outcome='first' must be the name of one of the outcome rewards: first_"
        ):
            make(tmp_path, reward_funcs=reward_funcs, outcome="first", **shared)
    with pytest.raises(ConfigError, match="outcome='first_is_right' must be the name of one"):
        make(tmp_path, reward_funcs=[first_is_right, first_is_right], outcome="first_is_right", **shared)


def test_seam_truncated_completions_are_masked_and_padded(tmp_path):
    trainer = make(tmp_path, GRPOTrainer, reward_funcs=[length_reward], rollout_func=cut_after_three_tokens,
                   mask_truncated_completions=True)  # fmt: skip
    _, output = advantages_of(trainer)
    ids, mask = output["completion_ids"], output["completion_mask"]
    assert mask.sum(dim=1).tolist()[0] == 0
    assert mask.any(dim=1).tolist() == [False, True, True, True]
    assert (ids[0, 3:] == TOKENIZER.pad_token_id).all()
    assert (ids[0, :3] != TOKENIZER.pad_token_id).all()
    assert ids[0, 2] != TOKENIZER.eos_token_id


def cut_after_three_tokens(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    output = scripted(prompts, trainer)
    for name in ("completion_ids", "logprobs"):
        output[name][0] = output[name][0][:3]
    return output


def test_seam_the_mask_of_tools_comes_with_the_batch(tmp_path):
    def rollout(prompts, trainer):
        output = scripted(prompts, trainer)
        return output | {"env_mask": [[1] * (len(ids) - 1) + [0] for ids in output["completion_ids"]]}

    _, output = advantages_of(make(tmp_path, GRPOTrainer, reward_funcs=[length_reward], rollout_func=rollout))
    lengths = output["completion_mask"].sum(dim=1)
    for mask, length in zip(output["tool_mask"], lengths, strict=True):
        assert mask[:length].tolist() == [1] * (length - 1) + [0]


def test_seam_the_loss_takes_advantages_of_tokens(tmp_path):
    """The same advantage at every token is the same loss as one for the completion."""
    trainer = make(tmp_path, GRPOTrainer, reward_funcs=[length_reward])
    advantages, output = advantages_of(trainer)
    trainer.current_gradient_accumulation_steps = 1
    whole = trainer.compute_loss(trainer.model, output)
    output["advantages"] = advantages.unsqueeze(1).expand(output["completion_ids"].shape)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, output), whole, rtol=0, atol=0)


def test_arguments_stand_in_the_order_of_the_trainer_of_trl(tmp_path):
    args, rows = StepGRPOConfig(**options(tmp_path)), Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    # A trainer replaces the model's forward, which others share.
    model, tokenizer = copy.deepcopy(tiny_model()), tiny_tokenizer()
    trainer = StepGRPOTrainer(model, [length_reward], args, rows, None, tokenizer, step_reward_func=good_steps)
    assert trainer.args is args
    assert trainer.processing_class is tokenizer
    assert trainer._step_rewards is good_steps
    assert len(trainer.train_dataset) == 2


def test_without_outcome_rewards_none_are_logged_and_a_step_reward_finds_the_best_model(tmp_path):
    def by_place(prompts, completions, steps, **kwargs):
        return [[0.25 + index / 8 for _ in row] for index, row in enumerate(steps)]

    trainer = make(
        tmp_path, step_reward_func=by_place, rollout_func=scripted, step_style="step", eval_dataset=dataset(),
        per_device_eval_batch_size=4, log_completions=True, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="rewards/by_place/mean",
    )  # fmt: skip
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry if "reward" in name}
    assert logged == {f"{prefix}rewards/by_place/{figure}" for prefix in ("", "eval_") for figure in ("mean", "std")}
    assert trainer.state.best_metric == pytest.approx(0.25 + 1.5 / 8)
    tables = [pandas.read_parquet(path) for path in (tmp_path / "run" / "completions").glob("*.parquet")]
    assert tables
    assert all("by_place" in table and "no_outcome_reward" not in table for table in tables)
