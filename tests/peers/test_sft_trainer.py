"""`GenPRMTrainer` in the place of `SFTTrainer`: what TRL's test_sft_trainer.py checks, on rows that both can read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from genprm_trl import GenPRMConfig, GenPRMTrainer
from genprm_trl.training.sft.data import read_row
from tests.helpers.sft import records
from tests.helpers.tiny_models import CHATML_TEMPLATE
from tests.peers.conftest import EVALUATION_SETS, SHORT, Make, as_evaluation_set, stream, train, trained, weights

ROWS = [{"messages": read_row(record).to_row()["messages"]} for record in records(6)]
OF_TRAINER = ("eval_dataset", "callbacks", "peft_config", "compute_metrics", "data_collator", "processing_class")
CLASSES = {"stock": (SFTTrainer, SFTConfig), "ours": (GenPRMTrainer, GenPRMConfig)}


@pytest.fixture(params=CLASSES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str, model_dir: Path, tmp_path: Path) -> Make:
    def make(rows: Any = None, *, model: Any = None, **options: Any) -> Any:
        trainer, config = CLASSES[kind]
        given = {name: options.pop(name) for name in OF_TRAINER if name in options}
        defaults = {"output_dir": str(tmp_path / kind), "per_device_train_batch_size": 3, **SHORT}
        return trainer(
            str(model_dir) if model is None else model,
            args=config(**defaults | options),
            train_dataset=Dataset.from_list(ROWS) if rows is None else rows,
            **given,
        )

    return make


@pytest.fixture(scope="session")
def encoded(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows as token ids."""
    args = GenPRMConfig(str(tmp_path_factory.mktemp("encoded")), **SHORT)
    rows = GenPRMTrainer(str(model_dir), args=args, train_dataset=ROWS).train_dataset
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]


# --- Trainings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_type": "nll"},
        {"loss_type": "dft"},
        {"gradient_checkpointing": False},
        {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"packing": True},
        {"packing": True, "packing_strategy": "bfd_split"},
        {"padding_free": True, "max_length": None},
        {"pad_to_multiple_of": 64},
        {"neftune_noise_alpha": 5},
        {"label_smoothing_factor": 0.1},
        {"gradient_accumulation_steps": 2},
        {"shuffle_dataset": True},
        {"dataset_num_proc": 2},
        {"max_length": None},
        {"optim": "sgd"},
    ],
    ids=json.dumps,
)
def test_training_moves_every_weight(make: Make, options: dict[str, Any]) -> None:
    run = make(**options)
    assert train(run) == trained(run) == set(weights(run.model))


@pytest.mark.parametrize("form", ["messages", "conversations", "tokenized", "stream", "tokenized stream", "ids alone"])
def test_forms_of_data(make: Make, encoded: list[dict[str, Any]], form: str) -> None:
    rows: dict[str, Any] = {
        "messages": ROWS,
        "conversations": [
            {"conversations": [{"from": m["role"], "value": m["content"]} for m in row["messages"]]} for row in ROWS
        ],
        "tokenized": encoded,
        "ids alone": [{"input_ids": row["input_ids"]} for row in encoded],
    }
    given = stream(rows["messages" if form == "stream" else "tokenized"]) if "stream" in form else rows[form]
    # A stream that was mapped does not know its columns.
    run = make(given.map(dict) if "stream" in form else Dataset.from_list(given))
    assert train(run) == trained(run)


def test_a_model_may_be_given_loaded_and_in_another_precision(make: Make, model_dir: Path) -> None:
    run = make(model=AutoModelForCausalLM.from_pretrained(model_dir))
    assert train(run) == trained(run)
    run = make(model_init_kwargs={"dtype": torch.bfloat16})
    assert {weight.dtype for weight in run.model.parameters()} == {torch.bfloat16}
    run.train()


def test_plain_training_arguments_are_converted(kind: str, model_dir: Path, tmp_path: Path) -> None:
    trainer, config = CLASSES[kind]
    args = TrainingArguments(output_dir=str(tmp_path), **SHORT)
    run = trainer(str(model_dir), args=args, train_dataset=Dataset.from_list(ROWS))
    assert isinstance(run.args, config)
    assert run.args.learning_rate == SHORT["learning_rate"]


@pytest.mark.parametrize("of_config", [False, True])
def test_lora_trains_the_adapter_alone(make: Make, model_dir: Path, of_config: bool) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    if of_config:
        run = make(peft_config=lora)
    else:
        run = make(model=get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), lora))
    moved = train(run)
    assert moved == trained(run)
    assert all("lora" in name for name in moved)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=["prompt", "prefix"],
)
def test_virtual_tokens_are_trained(make: Make, config: Any) -> None:
    run = make(peft_config=copy.deepcopy(config), gradient_checkpointing=False)
    assert train(run) == trained(run)


def test_an_adapter_is_not_added_to_an_adapter(make: Make, model_dir: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), copy.deepcopy(lora))
    with pytest.raises(ValueError, match="PeftModel"):
        make(model=model, peft_config=lora)


def test_a_chat_template_may_come_from_a_file(make: Make, tmp_path: Path) -> None:
    template = CHATML_TEMPLATE + "{# ours #}"
    (tmp_path / "own.jinja").write_text(template, encoding="utf-8")
    run = make(chat_template_path=str(tmp_path / "own.jinja"))
    assert run.processing_class.chat_template == template
    assert train(run) == trained(run)


def test_callbacks_are_called_and_a_run_resumes(make: Make, model_dir: Path) -> None:
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    count = Count()
    run = make(callbacks=[count], **options)
    run.train()
    assert count.steps == 4
    again = make(**options)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir) / "checkpoint-2"))
    for name, weight in weights(again.model).items():
        torch.testing.assert_close(weight, run.model.get_parameter(name))


def test_tags_are_added(make: Make) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    for options in ({}, {"peft_config": lora}):
        run = make(**options)
        assert {"sft", "trl"} <= set(run.model.model_tags)
    run.save_model()
    run.create_model_card(model_name="tiny")
    card = (Path(run.args.output_dir) / "README.md").read_text(encoding="utf-8")
    for tag in ("trl", "sft"):
        assert f"- {tag}\n" in card


# --- Evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EVALUATION_SETS)
@pytest.mark.parametrize("later", [False, True], ids=["at init", "later"])
def test_evaluation_sets(make: Make, form: str, later: bool) -> None:
    rows = as_evaluation_set(form, ROWS[:3])
    run = make(**({} if later else {"eval_dataset": rows}))
    if not later:
        parts = run.eval_dataset.values() if isinstance(run.eval_dataset, dict) else [run.eval_dataset]
        assert all("input_ids" in next(iter(part)) for part in parts)
    metrics = run.evaluate(eval_dataset=rows) if later else run.evaluate()
    names = ["eval_data1_loss", "eval_data2_loss"] if "dict" in form else ["eval_loss"]
    alone = make(eval_dataset=Dataset.from_list(ROWS[:3])).evaluate()["eval_loss"]
    assert [metrics[name] for name in names] == pytest.approx([alone] * len(names), rel=1e-5)


def test_without_evaluation_set_there_is_none(make: Make) -> None:
    assert make().eval_dataset is None


def test_several_evaluation_sets_are_logged(make: Make) -> None:
    rows = Dataset.from_list(ROWS[:2])
    run = make(eval_dataset={"data1": rows, "data2": rows}, eval_strategy="steps", eval_steps=2)
    run.train()
    logged = {name for entry in run.state.log_history for name in entry}
    assert {"eval_data1_loss", "eval_data2_loss"} <= logged


def test_a_metric_of_trl_finds_the_best_model(make: Make) -> None:
    run = make(
        eval_dataset=Dataset.from_list(ROWS[:2]), eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_mean_token_accuracy",
    )  # fmt: skip
    run.train()
    assert run.state.best_metric is not None


def test_metrics_of_the_user_are_computed(make: Make) -> None:
    def share(prediction: Any) -> dict[str, float]:
        assert prediction.predictions.shape[:2] == prediction.label_ids.shape
        return {"my_metric": 0.123}

    run = make(eval_dataset=Dataset.from_list(ROWS[:2]), compute_metrics=share)
    assert run.evaluate()["eval_my_metric"] == 0.123


@pytest.mark.parametrize("packed", [(True, True), (True, False), (False, True)])
def test_training_and_evaluation_are_packed_by_themselves(make: Make, packed: tuple[bool, bool]) -> None:
    run = make(eval_dataset=Dataset.from_list(ROWS), packing=packed[0], eval_packing=packed[1], max_length=1024)
    assert [len(rows) < len(ROWS) for rows in (run.train_dataset, run.eval_dataset)] == list(packed)
    assert "seq_lengths" in (run.train_dataset if packed[0] else run.eval_dataset).column_names
    if packed[0]:
        run.train()


# --- What is refused -------------------------------------------------------------------------------------------------


def test_wrong_uses_are_value_errors(make: Make, kind: str, model_dir: Path, tmp_path: Path) -> None:
    trainer, config = CLASSES[kind]
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        trainer(str(model_dir), args=config(str(tmp_path), **SHORT))
    with pytest.raises(ValueError, match="`max_length` is not enforced"):
        make(padding_free=True, max_length=1024)
    with pytest.raises(ValueError, match="loss_type"):
        make(loss_type="none of them")


def test_a_transform_needs_trainer_ready_rows(make: Make, encoded: list[dict[str, Any]]) -> None:
    rows = Dataset.from_list(ROWS).with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match=r"Dataset\.with_transform\(\).*skip_prepare_dataset.*trainer-ready"):
        make(rows)
    ready = Dataset.from_dict({"number": list(range(len(encoded)))}).with_transform(
        lambda batch: {name: [encoded[n][name] for n in batch["number"]] for name in ("input_ids", "labels")}
    )
    run = make(ready, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False)
    assert train(run) == trained(run)


def test_masks_without_labels_cannot_skip_the_preparation(make: Make, encoded: list[dict[str, Any]]) -> None:
    rows = [{"input_ids": row["input_ids"], "completion_mask": [1] * len(row["input_ids"])} for row in encoded]
    with pytest.raises(ValueError, match="labels"):
        make(Dataset.from_list(rows), dataset_kwargs={"skip_prepare_dataset": True})


def test_what_ours_refuses_on_purpose(model_dir: Path, tmp_path: Path) -> None:
    # The loss is always on what the model must write, and a conversation is cut at whole turns only.
    for options in (
        {"assistant_only_loss": True},
        {"completion_only_loss": True},
        {"packing": True, "packing_strategy": "wrapped"},
    ):
        with pytest.raises(ValueError, match=r"has no meaning here|cuts rationales in the middle"):
            GenPRMConfig(str(tmp_path), **SHORT, **options)
    with pytest.raises(ValueError, match="formatting_func has no use here"):
        GenPRMTrainer(
            str(model_dir), args=GenPRMConfig(str(tmp_path), **SHORT), train_dataset=ROWS, formatting_func=str
        )
    with pytest.raises(ValueError, match="no row has a turn within max_length=16"):
        GenPRMTrainer(
            str(model_dir),
            args=GenPRMConfig(str(tmp_path), **SHORT, max_length=16),
            train_dataset=Dataset.from_list(ROWS),
        )


# --- Numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"packing": True, "max_length": 1024},
        {"gradient_checkpointing": False},
        {"loss_type": "dft"},
        {"loss_type": "nll"},
        {"neftune_noise_alpha": 5},
    ],
    ids=json.dumps,
)
def test_the_weights_are_those_of_stock_training(
    model_dir: Path, tmp_path: Path, encoded: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    common = {"per_device_train_batch_size": 2, "max_length": 16384, **SHORT, "max_steps": 4, **options}
    # One after the other, since either starts with the seed and draws from the generator of the process.
    args = GenPRMConfig(str(tmp_path), **common)
    ours = GenPRMTrainer(str(model_dir), args=args, train_dataset=Dataset.from_list(ROWS))
    moved = train(ours)
    stock = SFTTrainer(
        str(model_dir), args=SFTConfig(str(tmp_path), **common), train_dataset=Dataset.from_list(encoded)
    )
    assert train(stock) == moved
    for name, weight in weights(stock.model).items():
        torch.testing.assert_close(ours.model.get_parameter(name), weight, rtol=0, atol=0)
