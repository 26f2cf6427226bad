"""ImplicitPRM: its rewards and gradients against the formula, what it learns, and its work within the trainer."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerControl, TrainerState
from trl import GRPOConfig

from genprm_trl.errors import ConfigError
from genprm_trl.rewards import answer_reward
from genprm_trl.training.implicit_prm.model import DIRECTORY, ImplicitPRM
from tests.helpers.forked import in_two_processes
from tests.helpers.implicit_prm import (
    BETA,
    COMPLETION_IDS,
    LABELS,
    PROMPT_IDS,
    STEPS,
    TOKEN_STEPS,
    call,
    learn_as_rank,
    make_prm,
    two_models,
)
from tests.helpers.step_grpo import TEXTS, TOKENIZER, Watch, advantages_of, dataset, make, scripted
from tests.helpers.tiny_models import tiny_model


def log_ratio(model: Any, reference: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Written apart from the code: one sequence, no padding, the whole distribution."""
    whole = torch.tensor([prompt + completion])
    ours = torch.log_softmax(model(whole).logits[0], dim=-1)
    theirs = torch.log_softmax(reference(whole).logits[0], dim=-1).detach()
    places = range(len(prompt), whole.shape[1])
    return torch.stack([ours[at - 1, whole[0, at]] - theirs[at - 1, whole[0, at]] for at in places])


def expected_rewards(model: Any, reference: Any) -> list[list[float]]:
    rewards = []
    for prompt, completion, of_tokens, steps in zip(PROMPT_IDS, COMPLETION_IDS, TOKEN_STEPS, STEPS, strict=True):
        ratio = log_ratio(model, reference, prompt, completion)
        rewards.append([
            BETA * sum(ratio[at].item() for at, step in enumerate(of_tokens) if step == number)
            for number in range(len(steps))
        ])  # fmt: skip
    return rewards


def flat(rewards: Any) -> list[float]:
    return [reward for row in rewards for reward in row]


def assert_close(rewards: Any, expected: Any) -> None:
    assert [len(row) for row in rewards] == [len(row) for row in expected]
    assert flat(rewards) == pytest.approx(flat(expected), abs=1e-5)


# Rewards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rewards_are_the_log_ratios_of_the_tokens_of_each_step(batch_size):
    model, reference = two_models()
    expected = expected_rewards(model, reference)
    prm = make_prm(model, ref_model=reference, batch_size=batch_size)
    rewards = call(prm, training=False)
    assert_close(rewards, expected)
    assert min(abs(reward) for row in rewards for reward in row) > 1e-2


def test_a_copy_of_the_model_is_the_reference_by_default():
    prm = make_prm(two_models()[0])
    assert_close(call(prm, training=False), [[0.0] * len(row) for row in STEPS])
    call(prm)
    assert any(abs(reward) > 1e-4 for row in call(prm, training=False) for reward in row)


def test_of_an_adapter_the_model_without_it_is_the_reference():
    base = two_models()[0]
    peft = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.5))
    prm = make_prm(peft, learning_rate=0.05)
    assert prm.ref_model is None
    first = call(prm)
    assert_close(first, expected_rewards(peft, base))  # after its first step, since it learns before it scores
    assert any(abs(reward) > 1e-3 for row in first for reward in row)
    for name, parameter in peft.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, base.get_parameter(name.replace(".base_layer", "")))


@pytest.mark.parametrize("update", ["before", "after"])
def test_the_model_learns_before_or_after_it_scores(update):
    model, reference = two_models()
    untrained = expected_rewards(model, reference)
    rewards = call(make_prm(model, ref_model=reference, update=update))
    trained = expected_rewards(model, reference)
    assert_close(rewards, trained if update == "before" else untrained)
    assert max(abs(a - b) for a, b in zip(flat(trained), flat(untrained), strict=True)) > 1e-3


def test_nothing_is_learned_in_evaluations_or_without_outcomes():
    model, reference = two_models()
    before = copy.deepcopy(model.state_dict())
    call(make_prm(model, ref_model=reference), training=False)
    call(make_prm(model, ref_model=reference, labels=[None] * 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"batch_size": 1}, LABELS),
        ({"batch_size": 3, "gradient_checkpointing": True}, LABELS),
        ({"batch_size": 2}, [1.0, None, None, 0.0]),
    ],
)
def test_the_gradient_is_that_of_the_formula(options, labels):
    model, reference = two_models(attention_dropout=0.5)  # which must be off
    formula = copy.deepcopy(model)
    losses = []
    for prompt, completion, of_tokens, label in zip(PROMPT_IDS, COMPLETION_IDS, TOKEN_STEPS, labels, strict=True):
        if label is None:
            continue
        ratio = log_ratio(formula, reference, prompt, completion)
        right = torch.sigmoid(BETA * sum(ratio[at] for at, step in enumerate(of_tokens) if step >= 0))
        losses.append(-(label * right.log() + (1 - label) * (1 - right).log()))
    torch.stack(losses).mean().backward()

    prm = make_prm(model, labels=labels, ref_model=reference, max_grad_norm=1e9, **options)
    # A step of plain descent shows the gradient.
    prm.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    start = copy.deepcopy(model.state_dict())
    logged: dict[str, float] = {}
    call(prm, log_metric=logged.__setitem__)
    for name, parameter in formula.named_parameters():
        torch.testing.assert_close(start[name] - model.get_parameter(name), parameter.grad, rtol=1e-3, atol=1e-5)
    assert logged["implicit_prm/loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    grads = [parameter.grad for parameter in formula.parameters()]
    assert logged["implicit_prm/grad_norm"] == pytest.approx(torch.nn.utils.get_total_norm(grads).item(), rel=1e-4)


def test_gradient_checkpointing_really_happens():
    model, reference = two_models()
    prm = make_prm(model, ref_model=reference, gradient_checkpointing=True)
    calls = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    prm.batch_size = 4
    call(prm, training=True)
    # Forward and again in the backward pass, with gradients; then once without, to score.
    assert sum(calls) == 2 * len(model.model.layers)
    assert len(calls) == 3 * len(model.model.layers)


def test_loss_goes_down_and_accuracy_up_where_outcomes_can_be_told():
    """Right completions speak of apples, wrong ones of books; what else they say, and the prompts, tell nothing."""
    torch.manual_seed(0)
    prm = ImplicitPRM(
        copy.deepcopy(tiny_model(seed=3)),
        lambda completions, **columns: [float("apples" in completion) for completion in completions],
        learning_rate=1e-3,
        beta=0.5,
    )
    history: list[dict[str, float]] = []
    number = 0
    for _ in range(25):
        completions = []
        for _ in range(8):
            number += 1
            thing = "apples" if torch.rand(()) < 0.5 else "books"
            completions.append(f"Anna has {number % 17} {thing}.\nSo it is {number % 13}.")
        ids = [TOKENIZER.encode(completion) for completion in completions]
        history.append({})
        rewards = prm(
            ["p"] * 8, completions, [["one"]] * 8, prompt_ids=[PROMPT_IDS[0]] * 8, completion_ids=ids,
            token_steps=[[0] * len(row) for row in ids], log_metric=history[-1].__setitem__,
        )  # fmt: skip
    assert history[0]["implicit_prm/loss"] == pytest.approx(math.log(2), abs=1e-4)  # model and reference are equal
    late = history[-5:]
    assert sum(log["implicit_prm/loss"] for log in late) / 5 < 0.3
    assert sum(log["implicit_prm/accuracy"] for log in late) / 5 > 0.9
    signs = [reward > 0 for (reward,) in rewards]
    assert signs == ["apples" in completion for completion in completions]


# Completions that are not as usual -----------------------------------------------------------------------------------


def test_completions_that_are_not_as_usual():
    model, reference = two_models(max_context=32)
    prm = make_prm(model, ref_model=reference, labels=[None, 0.0, 1.0, 1.0])
    end = TOKENIZER.eos_token_id
    rewards = call(
        prm,
        training=False,
        steps=[["a", "b"], [], [], ["long"]],
        completion_ids=[COMPLETION_IDS[0], [end], [], [5] * 40],
        token_steps=[TOKEN_STEPS[0], [-1], [], [0] * 40],
    )
    model_rewards = expected_rewards(model, reference)
    assert rewards[0] == pytest.approx(model_rewards[0], abs=1e-5)  # without an outcome it is scored all the same
    blank = BETA * log_ratio(model, reference, PROMPT_IDS[1], [end]).item()
    assert rewards[1] == pytest.approx([blank], abs=1e-5)
    assert rewards[2] == [None]  # no tokens at all
    assert rewards[3] == [None]  # more than the context


def test_a_blank_completion_is_rewarded_through_the_trainer(tmp_path):
    def blank_first(prompts, trainer):
        output = scripted(prompts, trainer)
        output["completion_ids"][0] = [TOKENIZER.eos_token_id]
        output["logprobs"][0] = [-1.0]
        return output

    model, reference = two_models()
    prm = make_prm(model, ref_model=reference, labels=[0.0, 1.0, 1.0, 1.0])
    trainer = make(
        tmp_path, step_reward_func=prm, rollout_func=blank_first, credit="process", signed_step_rewards=False
    )
    _, output = advantages_of(trainer)
    prompt = output["prompt_ids"][0][output["prompt_mask"][0].bool()].tolist()
    expected = BETA * log_ratio(model, reference, prompt, [TOKENIZER.eos_token_id]).item()
    assert trainer._logs["extra"]["step_rewards"][0] == pytest.approx([expected], abs=1e-4)


# In the trainer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["process", "min_form"])
def test_rewards_and_metrics_through_the_trainer(tmp_path, credit):
    model, reference = two_models()
    prm = ImplicitPRM(model, answer_reward, ref_model=reference, beta=BETA)
    watch = Watch()
    trainer = make(
        tmp_path, watch=watch, reward_funcs=[answer_reward], step_reward_func=prm, rollout_func=scripted,
        credit=credit, signed_step_rewards=False, step_style="step",
    )  # fmt: skip
    advantages, output = advantages_of(trainer)
    step_rewards = trainer._logs["extra"]["step_rewards"]
    assert [len(row) for row in step_rewards] == [2, 2, 3, 1]
    prompt = output["prompt_ids"][0][output["prompt_mask"][0].bool()].tolist()
    for row, rewards in enumerate(step_rewards):
        ids = output["completion_ids"][row][output["completion_mask"][row].bool()].tolist()
        assert sum(rewards) == pytest.approx(BETA * log_ratio(model, reference, prompt, ids).sum().item(), abs=3e-4)
    assert advantages.shape == output["completion_ids"].shape
    assert advantages.isfinite().all()
    assert advantages.abs().sum() > 0
    trainer.train()
    for name in ("loss", "accuracy", "grad_norm", "reward"):
        values = watch.values(f"implicit_prm/{name}")
        assert len(values) == 2, name
        assert all(map(math.isfinite, values)), name
    assert len(TEXTS) == 4


def test_log_ratios_are_not_taken_for_probabilities(tmp_path):
    trainer = make(tmp_path, step_reward_func=make_prm(), credit="min_form")
    with pytest.raises(ConfigError, match="set signed_step_rewards=False"):
        trainer.train()


def test_evaluations_do_not_train_the_model(tmp_path):
    prm = make_prm(labels=LABELS)
    trainer = make(
        tmp_path, step_reward_func=prm, credit="process", eval_dataset=dataset(), per_device_eval_batch_size=4
    )
    before = copy.deepcopy(prm.model.state_dict())
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert all(torch.equal(value, before[name]) for name, value in prm.model.state_dict().items())


@pytest.mark.parametrize("with_adapter", [False, True])
def test_resumed_training_is_training_without_a_break(tmp_path, with_adapter):
    def new_prm() -> ImplicitPRM:
        model = two_models()[0]
        if with_adapter:
            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4))
        return ImplicitPRM(
            model, lambda completions, **c: [float(len(t) % 2) for t in completions], learning_rate=1e-2
        )

    shared = {"credit": "process", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole, resumed = Watch(), Watch()
    first = new_prm()
    make(tmp_path, watch=whole, step_reward_func=first, **shared).train()
    saved = tmp_path / "run" / "checkpoint-2"
    assert (saved / DIRECTORY / "optimizer.pt").exists()
    second = new_prm()
    make(tmp_path, watch=resumed, step_reward_func=second, **shared).train(resume_from_checkpoint=str(saved))
    for name in ("loss", "implicit_prm/loss"):
        assert resumed.values(name) == whole.values(name)[2:], name
    trained = dict(first.model.named_parameters())
    assert all(torch.equal(value, trained[name]) for name, value in second.model.named_parameters())


def test_resuming_without_the_model_is_an_error(tmp_path):
    shared = {"credit": "process", "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make(tmp_path, step_reward_func=make_prm(labels=LABELS), **shared).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    kept = tmp_path / "kept"
    (checkpoint / DIRECTORY).rename(kept)
    with pytest.raises(ConfigError, match=r"resumes from step 1, but there is no implicit process reward model"):
        make(tmp_path, step_reward_func=make_prm(), **shared).train(resume_from_checkpoint=str(checkpoint))
    prm = make_prm()
    prm.load(kept)
    make(tmp_path, step_reward_func=prm, **shared).train(resume_from_checkpoint=str(checkpoint))
    # The output directory has a checkpoint of the same step, but another one is named.
    args = GRPOConfig(str(tmp_path / "run"), resume_from_checkpoint=str(kept), use_cpu=True, bf16=False)
    with pytest.raises(ConfigError, match=rf"reward model in {kept}"):
        make_prm().on_train_begin(args, TrainerState(global_step=2), TrainerControl())


def test_loading_needs_a_model_of_the_same_kind(tmp_path):
    make_prm().save(tmp_path / "saved")
    other = ImplicitPRM(copy.deepcopy(tiny_model(hidden_size=32)), answer_reward)
    with pytest.raises(ConfigError, match="is not of this kind"):
        other.load(tmp_path / "saved")
    with pytest.raises(ConfigError, match="there is no implicit process reward model in"):
        other.load(tmp_path / "nothing")


# Options -------------------------------------------------------------------------------------------------------------


async def async_outcome(**columns: Any) -> list[float]:
    return []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"update": "never"}, "unknown update 'never'; choose one of before, after"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"outcome_reward": async_outcome}, "must not be async"),
    ],
)
def test_wrong_options_are_named(options, what):
    with pytest.raises(ConfigError, match=what):
        ImplicitPRM(tiny_model(), **{"outcome_reward": answer_reward, **options})


def test_models_that_cannot_be_used_are_refused():
    model = two_models()[0]
    with pytest.raises(ConfigError, match="ref_model is the model that is trained"):
        ImplicitPRM(model, answer_reward, ref_model=model)
    with pytest.raises(ConfigError, match="nothing to train"):
        ImplicitPRM(model.requires_grad_(False), answer_reward)


@pytest.mark.parametrize(
    ("labels", "what"), [([1.0] * 3, "3 labels for 4 completions"), ([1.0, 2.0, 0.0, 0.0], r"returned 2\.0")]
)
def test_wrong_labels_are_named(labels, what):
    with pytest.raises(ConfigError, match=what):
        call(make_prm(labels=labels))


def test_another_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="must share a tokenizer"):
        call(make_prm(), completion_ids=[[10**6], *COMPLETION_IDS[1:]], token_steps=[[0], *TOKEN_STEPS[1:]])


# Two processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_learn_what_one_learns():
    one = learn_as_rank()
    for two in in_two_processes(learn_as_rank):
        assert two.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(value), rtol=1e-4, atol=1e-5, msg=name)
