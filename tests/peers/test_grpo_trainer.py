"""`StepGRPOTrainer` in the place of `GRPOTrainer`: what TRL's test_grpo_trainer.py checks of text models.

Every test runs with the stock class, with ours on outcome rewards alone, and with ours on step rewards beside them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForSequenceClassification, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from genprm_trl import StepGRPOConfig, StepGRPOTrainer
from tests.helpers.step_grpo import last_letter_steps, length_reward
from tests.helpers.tiny_models import tiny_tokenizer
from tests.peers.conftest import EVALUATION_SETS, SHORT, Make, as_evaluation_set, stream, train, trained, weights

ROWS = [{"prompt": f"What is {a} + 3?", "answer": str(a + 3)} for a in range(6)]
CONVERSATIONS = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
# The trainer, its options, and what each of them is given besides.
KINDS: dict[str, tuple[type, type, dict[str, Any], dict[str, Any]]] = {
    "stock": (GRPOTrainer, GRPOConfig, {}, {}),
    "outcome": (StepGRPOTrainer, StepGRPOConfig, {}, {"credit": "outcome"}),
    "steps": (StepGRPOTrainer, StepGRPOConfig, {"step_reward_func": last_letter_steps}, {"credit": "min_form"}),
}
OF_TRAINER = (
    "reward_funcs", "eval_dataset", "callbacks", "peft_config", "processing_class", "reward_processing_classes",
    "tools", "environment_factory", "step_reward_func",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def build(kind: str, model: Any, directory: Path, rows: Any = None, **options: Any) -> Any:
    trainer, config, given, of_config = KINDS[kind]
    given = given | {name: options.pop(name) for name in OF_TRAINER if name in options}
    given.setdefault("reward_funcs", length_reward)
    defaults = {
        "output_dir": str(directory / kind),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "gradient_checkpointing": False,
        **SHORT,
    }
    return trainer(
        str(model) if isinstance(model, Path) else model,
        args=config(**defaults | of_config | options),
        train_dataset=Dataset.from_list(ROWS) if rows is None else rows,
        **given,
    )


@pytest.fixture
def make(kind: str, model_dir: Path, tmp_path: Path) -> Make:
    def make(rows: Any = None, *, model: Any = model_dir, **options: Any) -> Any:
        return build(kind, model, tmp_path, rows, **options)

    return make


@pytest.fixture(scope="session")
def reward_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny reward model with its tokenizer."""
    path = tmp_path_factory.mktemp("rewards") / "tiny-reward-model"
    tokenizer = tiny_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# --- Trainings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "cispo", "sapo", "vespo", "luspo")),
        {"num_iterations": 2},
        {"beta": 0.1},
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"beta": 0.1, "use_bias_correction_kl": True},
        {"pad_to_multiple_of": 8},
        {"off_policy_mask_threshold": 0.5},
        {"importance_sampling_level": "sequence"},
        {"top_entropy_quantile": 0.5},
        {"entropy_coef": 0.01},
        {"entropy_coef": 0.01, "use_adaptive_entropy": True, "gradient_accumulation_steps": 2},
        {"top_p": 0.9, "top_k": 10, "min_p": 0.01, "repetition_penalty": 1.1},
        {"generation_kwargs": {"top_k": 10}},
        *({"scale_rewards": scale} for scale in ("group", "batch", "none", True, False)),
        {"delta": 2.0},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_generations": 8},
        {"steps_per_generation": 2},
        {"gradient_checkpointing": True},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"log_completions": True, "log_unique_prompts": True},
        {"dataloader_num_workers": 1},
        {"model_init_kwargs": {"dtype": "float32"}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_training_moves_every_weight(make: Make, options: dict[str, Any]) -> None:
    run = make(**options)
    assert train(run) == trained(run) == set(weights(run.model))


@pytest.mark.parametrize("rows", [ROWS, CONVERSATIONS], ids=["standard", "conversational"])
@pytest.mark.parametrize("streamed", [False, True])
def test_forms_of_data(make: Make, rows: list[dict[str, Any]], streamed: bool) -> None:
    seen: list[Any] = []

    def reward(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [float(len(str(completion))) for completion in completions]

    run = make(stream(rows) if streamed else Dataset.from_list(rows), reward_funcs=reward)
    assert train(run) == trained(run)
    if streamed:
        assert run.args.accelerator_config.dispatch_batches is False
    for prompt, completion in seen:
        assert prompt in [row["prompt"] for row in rows]
        assert isinstance(completion, str if rows is ROWS else list)


def test_a_stream_needs_dispatch_batches_off_and_no_workers(make: Make) -> None:
    with pytest.raises(ValueError, match="Iterable datasets require `dispatch_batches=False`"):
        make(stream(ROWS), accelerator_config={"dispatch_batches": True})
    assert make(stream(ROWS), dataloader_num_workers=4).args.dataloader_num_workers == 0


@pytest.mark.parametrize("of_config", [False, True])
def test_lora_trains_the_adapter_alone(make: Make, model_dir: Path, of_config: bool) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    if of_config:
        run = make(peft_config=lora, gradient_checkpointing=True)
    else:
        run = make(model=get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), lora))
    moved = train(run)
    assert moved
    assert moved <= trained(run)
    assert all("lora" in name for name in moved)


def test_callbacks_are_called_and_a_run_resumes(make: Make) -> None:
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

    count = Count()
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run = make(callbacks=[count], **options)
    run.train()
    assert count.steps == 4
    again = make(**options)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir) / "checkpoint-2"))
    assert again.state.global_step == 4
    for name, weight in weights(again.model).items():
        torch.testing.assert_close(weight, run.model.get_parameter(name))


def test_tags_and_card(make: Make) -> None:
    run = make()
    assert {"trl", "grpo"} <= set(run.model.model_tags)
    run.create_model_card(model_name="tiny")
    card = (Path(run.args.output_dir) / "README.md").read_text(encoding="utf-8")
    assert "- grpo\n" in card
    assert "DeepSeekMath" in card


# --- Rewards ---------------------------------------------------------------------------------------------------------


def letters(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(len(set(str(completion)))) for completion in completions]


async def letters_later(completions: list[Any], **kwargs: Any) -> list[float]:
    return letters(completions)


def constant(completions: list[Any], **kwargs: Any) -> list[float]:
    return [1.0] * len(completions)


def nothing(completions: list[Any], **kwargs: Any) -> list[None]:
    return [None] * len(completions)


def near(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Needs a column of the dataset."""
    assert len(answer) == len(completions)
    return [float(len(text) + len(right)) for text, right in zip(completions, answer, strict=True)]


@pytest.mark.parametrize(
    ("funcs", "options"),
    [
        ([length_reward, letters], {}),
        ([length_reward, constant, letters_later], {}),
        ([length_reward, nothing], {}),
        ([length_reward, letters], {"reward_weights": [0.7, 0.3]}),
        ([length_reward, letters], {"multi_objective_aggregation": "normalize_then_sum"}),
        ([near], {}),
    ],
)  # fmt: skip
def test_kinds_of_reward_functions(make: Make, funcs: list[Any], options: dict[str, Any]) -> None:
    run = make(reward_funcs=funcs, **options)
    assert train(run) == trained(run)
    logged = {name for entry in run.state.log_history for name in entry}
    assert {f"rewards/{func.__name__}/mean" for func in funcs} <= logged
    assert {"reward", "reward_std", "frac_reward_zero_std"} <= logged


def test_reward_models(make: Make, reward_dir: Path) -> None:
    for funcs in ([str(reward_dir)], [length_reward, str(reward_dir)]):
        run = make(reward_funcs=funcs)
        assert train(run) == trained(run)
    tokenizer = tiny_tokenizer()
    model = Qwen2ForSequenceClassification.from_pretrained(reward_dir)
    run = make(reward_funcs=model, reward_processing_classes=tokenizer)
    assert run.reward_processing_classes == [tokenizer]
    run = make(reward_funcs=[model, model], reward_processing_classes=[tokenizer, tokenizer])
    assert len(run.reward_processing_classes) == 2
    with pytest.raises(ValueError, match="must match"):
        make(reward_funcs=[model, model], reward_processing_classes=tokenizer)


def test_a_completion_without_any_reward_is_warned_of(make: Make, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        make(reward_funcs=nothing, max_steps=1).train()
    assert "All reward functions returned None for the following kwargs:" in caplog.text


def test_a_reward_function_reads_the_state_and_logs(make: Make, capsys: pytest.CaptureFixture) -> None:
    def reward(
        completions: list[str], trainer_state: Any, log_extra: Any, log_metric: Any, **kwargs: Any
    ) -> list[float]:
        assert trainer_state.global_step >= 0
        log_extra("beginning", [completion[:5] for completion in completions])
        log_metric("custom_accuracy", 0.75)
        return [float(len(completion)) for completion in completions]

    run = make(reward_funcs=reward, log_completions=True)
    run.train()
    assert "beginning" in run._logs["extra"]
    assert [entry["custom_accuracy"] for entry in run.state.log_history if "custom_accuracy" in entry] == [0.75, 0.75]


def test_all_truncated_and_masked_completions_move_nothing(make: Make) -> None:
    # A random model hardly ever ends within so few tokens.
    run = make(mask_truncated_completions=True, loss_type="dapo")
    assert train(run) == set()
    assert run.state.log_history[-1]["train_loss"] == pytest.approx(0.0)


def test_masked_completions_are_left_out(make: Make) -> None:
    run = make(mask_truncated_completions=True, loss_type="dapo", max_completion_length=4)
    end, pad = tiny_tokenizer().eos_token_id, tiny_tokenizer().pad_token_id
    written = torch.tensor([[10, 11, 12, 13], [14, 15, end, pad], [16, 17, 18, end], [end, pad, pad, pad]])

    def generate(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.cat([input_ids, written], dim=1)

    with patch.object(run.model, "generate", side_effect=generate):
        assert train(run) == trained(run)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_sequence_level_sampling_with_a_sum_over_tokens_is_warned_of(
    make: Make, caplog: pytest.LogCaptureFixture, loss_type: str
) -> None:
    with caplog.at_level("WARNING", logger="trl.trainer.grpo_trainer"):
        make(importance_sampling_level="sequence", loss_type=loss_type)
    assert ("weights each sequence by its completion length" in caplog.text) == (loss_type != "grpo")


# --- Tools -----------------------------------------------------------------------------------------------------------


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product.
    """
    return a * b


async def multiply_later(a: int, b: int) -> int:
    return multiply(a, b)


multiply_later.__doc__ = multiply.__doc__


class Counter:
    """An environment with one tool."""

    def reset(self, **kwargs: Any) -> None:
        self.count = 0

    def increment(self, step: int) -> int:
        """
        Increments the counter.

        Args:
            step: What to add.

        Returns:
            The new value.
        """
        self.count += step
        return self.count


def call(name: str, **arguments: int) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def train_with_calls(run: Any, texts: list[str]) -> set[str]:
    """Trains with the model writing these texts, and `Done!` to the results of tools."""
    tokenizer = run.processing_class

    def ids(text: str, length: int = 0) -> list[int]:
        written = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        return written + [tokenizer.pad_token_id] * (length - len(written))

    calls = 0

    def generate(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        longest = max(len(ids(text)) for text in texts)
        rows = [ids(text, longest) for text in texts] if calls % 2 else [ids("Done!")] * len(input_ids)
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    with patch.object(run.model, "generate", side_effect=generate):
        moved = train(run)
    assert calls == 4  # two in each of two steps
    return moved


@pytest.fixture(scope="session")
def tool_tokenizer() -> Any:
    """A tokenizer whose template knows tools: Qwen3's."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize("tool", [multiply, multiply_later])
def test_tools_are_called(make: Make, tool_tokenizer: Any, tool: Any) -> None:
    run = make(
        Dataset.from_list(CONVERSATIONS),
        tools=[tool],
        reward_funcs=letters,
        processing_class=copy.deepcopy(tool_tokenizer),
        max_completion_length=400,
    )
    name = tool.__name__
    moved = train_with_calls(run, [call(name, a=3, b=4), call(name, a=3, c=4), "I know no tool.", "Nor do I."])
    assert moved == trained(run)
    logged = {name: value for entry in run.state.log_history for name, value in entry.items()}
    assert logged["tools/call_frequency"] == pytest.approx(1 / 2)
    assert logged["tools/failure_frequency"] == pytest.approx(1 / 2)


def test_environments_give_tools(make: Make, tool_tokenizer: Any) -> None:
    run = make(
        Dataset.from_list(CONVERSATIONS),
        environment_factory=Counter,
        reward_funcs=letters,
        processing_class=copy.deepcopy(tool_tokenizer),
        max_completion_length=400,
    )
    texts = [call("increment", step=2), call("decrement", step=1), "I count nothing.", "Nor do I."]
    assert train_with_calls(run, texts) == trained(run)
    assert [environment.count for environment in run.environments] == [2, 0, 0, 0]


# --- Evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EVALUATION_SETS)
def test_evaluation_sets(make: Make, form: str) -> None:
    rows = as_evaluation_set(form, ROWS[:2])
    names = ["eval_data1_loss", "eval_data2_loss"] if "dict" in form else ["eval_loss"]
    run = make(eval_dataset=rows)
    assert (set(run.eval_dataset) == {"data1", "data2"}) if "dict" in form else (run.eval_dataset is rows)
    assert set(names) <= run.evaluate().keys()
    assert set(names) <= make().evaluate(eval_dataset=rows).keys()


@pytest.mark.parametrize("options", [{}, {"num_generations_eval": 2}, {"eval_on_start": True, "loss_type": "grpo"}])
def test_evaluation_while_training(make: Make, options: dict[str, Any]) -> None:
    run = make(eval_dataset=Dataset.from_list(ROWS[:2]), eval_strategy="steps", eval_steps=2, **options)
    run.train()
    assert any("eval_reward" in entry for entry in run.state.log_history)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_wrong_uses_are_value_errors(make: Make, model_dir: Path, tmp_path: Path) -> None:
    for trainer, config, given in (
        (GRPOTrainer, GRPOConfig, {}),
        (StepGRPOTrainer, StepGRPOConfig, {"credit": "outcome"}),
    ):
        args = config(output_dir=str(tmp_path), **SHORT, **given)
        with pytest.raises(ValueError, match="No reward source provided"):
            trainer(str(model_dir), args=args, train_dataset=Dataset.from_list(ROWS))
        with pytest.raises(ValueError, match="`train_dataset` is required"):
            trainer(str(model_dir), length_reward, args)


# --- Numbers ---------------------------------------------------------------------------------------------------------

PLAIN = [
    {},
    {"loss_type": "dr_grpo"},
    {"num_iterations": 2},
    {"reward_weights": [0.7, 0.3]},
    {"mask_truncated_completions": True, "max_completion_length": 24},
    {"top_entropy_quantile": 0.5},
    {"importance_sampling_level": "sequence"},
    {"steps_per_generation": 2},
    {"gradient_accumulation_steps": 2},
]
WITHOUT_WEIGHT = {
    "outcome credit without steps": ("outcome", {}),
    "outcome credit with steps": ("outcome", {"step_reward_func": last_letter_steps}),
    "steps of weight 0": ("steps", {"step_reward_weight": 0.0}),
}


@pytest.mark.parametrize("options", PLAIN, ids=json.dumps)
def test_the_weights_are_those_of_stock_training(model_dir: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    common = {"reward_funcs": [length_reward, letters], "max_steps": 4, "learning_rate": 1e-3, **options}
    stock = build("stock", model_dir, tmp_path, **common)
    moved = train(stock)
    for kind, given in WITHOUT_WEIGHT.values():
        ours = build(kind, model_dir, tmp_path, **common, **given)
        assert train(ours) == moved
        # A ratio of sequences times advantages of tokens is another order of sums. Adam magnifies what is nearly 0.
        apart = 1e-4 if kind == "steps" and "importance_sampling_level" in options else 0.0
        for name, weight in weights(stock.model).items():
            torch.testing.assert_close(ours.model.get_parameter(name), weight, rtol=0, atol=apart)
        for theirs, our in zip(stock.state.log_history, ours.state.log_history, strict=True):
            assert theirs.keys() <= our.keys()
            for name in ("loss", "reward", "reward_std", "entropy", "completions/mean_length"):
                assert our.get(name) == pytest.approx(theirs.get(name), abs=1e-4), name
