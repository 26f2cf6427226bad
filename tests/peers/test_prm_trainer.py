"""What TRL's test_prm_trainer.py checked of the `PRMTrainer` that it had until its version 1.13."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from transformers import Qwen2Config, Qwen2ForTokenClassification, TrainingArguments

from genprm_trl import PRMConfig, PRMTrainer
from tests.helpers.prm import toy_rows
from tests.helpers.tiny_models import tiny_tokenizer
from tests.peers.conftest import SHORT, train, trained, weights

TOKENIZER = tiny_tokenizer()
PROMPT, STEPS = "Which number is larger, 9.8 or 9.11?", ["11 is greater than 8.", "Hence, 9.11 > 9.8."]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prm") / "tiny-classifier"
    config = Qwen2Config(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_labels=2, pad_token_id=TOKENIZER.pad_token_id, attention_dropout=0.0,
    )  # fmt: skip
    Qwen2ForTokenClassification(config).save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


def make(model_dir: Path, tmp_path: Path, rows: Any = None, **options: Any) -> Any:
    of_trainer = ("eval_dataset", "peft_config")
    given = {name: options.pop(name) for name in of_trainer if name in options}
    args = PRMConfig(**{"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 4, **SHORT, **options})
    return PRMTrainer(
        model=Qwen2ForTokenClassification.from_pretrained(model_dir), args=args, processing_class=TOKENIZER,
        train_dataset=Dataset.from_list(toy_rows(8)) if rows is None else rows, **given,
    )  # fmt: skip


def encoded(model_dir: Path, tmp_path: Path, labels: Any, **options: Any) -> tuple[list[int], list[int]]:
    row = {"prompt": PROMPT, "completions": STEPS, "labels": labels}
    rows = make(model_dir, tmp_path, Dataset.from_list([row]), **options).train_dataset
    return rows[0]["input_ids"], rows[0]["labels"]


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
@pytest.mark.parametrize("labels", [[True, False], [1, 0], [1.0, 0.0]])
def test_a_step_is_labelled_at_the_last_token_of_its_separator(
    model_dir: Path, tmp_path: Path, separator: str, labels: Any
) -> None:
    def ids(text: str) -> list[int]:
        return TOKENIZER.encode(text, add_special_tokens=False)

    start, steps, end = [TOKENIZER.bos_token_id, *ids(PROMPT)], [ids(step) for step in STEPS], ids(separator)
    expected = [*start, *steps[0], *end, *steps[1], *end]
    first, last = len(start) + len(steps[0]) + len(end) - 1, len(expected) - 1
    found, marked = encoded(model_dir, tmp_path, labels, step_separator=separator)
    assert found == expected
    assert {at: label for at, label in enumerate(marked) if label != -100} == {first: 1, last: 0}
    _, marked = encoded(model_dir, tmp_path, labels, step_separator=separator, train_on_last_step_only=True)
    assert {at: label for at, label in enumerate(marked) if label != -100} == {last: 0}
    # What is cut off has no label. TRL kept the tokens of a step that was cut; ours leaves out whole steps.
    for options in ({"max_length": first + 1}, {"max_completion_length": first + 1 - len(start)}):
        assert encoded(model_dir, tmp_path, labels, step_separator=separator, **options) == (
            expected[: first + 1],
            [-100] * first + [1],
        )


@pytest.mark.parametrize("last_step_only", [True, False])
def test_training_moves_every_weight(model_dir: Path, tmp_path: Path, last_step_only: bool) -> None:
    run = make(model_dir, tmp_path, train_on_last_step_only=last_step_only)
    assert train(run) == trained(run) == set(weights(run.model))


def test_tokenized_rows_and_plain_arguments(model_dir: Path, tmp_path: Path) -> None:
    rows = make(model_dir, tmp_path).train_dataset
    run = make(model_dir, tmp_path, Dataset.from_list([dict(row) for row in rows]))
    assert train(run) == trained(run)
    run = PRMTrainer(
        str(model_dir), args=TrainingArguments(str(tmp_path), **SHORT), train_dataset=Dataset.from_list(toy_rows(4))
    )
    assert isinstance(run.args, PRMConfig)


@pytest.mark.parametrize("form", ["none", "dataset", "dict"])
def test_evaluation_sets(model_dir: Path, tmp_path: Path, form: str) -> None:
    part = Dataset.from_list(toy_rows(4, seed=1))
    rows = {"none": None, "dataset": part, "dict": {"data1": part, "data2": part}}[form]
    run = make(model_dir, tmp_path, eval_dataset=rows)
    if rows is None:
        assert run.eval_dataset is None
    else:
        names = ["eval_loss"] if form == "dataset" else ["eval_data1_loss", "eval_data2_loss"]
        assert set(names) <= run.evaluate().keys()
        assert set(names) <= make(model_dir, tmp_path).evaluate(rows).keys()


def test_lora_trains_adapter_and_head(model_dir: Path, tmp_path: Path) -> None:
    lora = LoraConfig(task_type=TaskType.TOKEN_CLS, inference_mode=False, r=8, lora_alpha=32, lora_dropout=0.1)
    run = make(model_dir, tmp_path, peft_config=lora)
    moved = train(run)
    assert moved == trained(run)
    assert all("lora" in name or "modules_to_save" in name for name in moved)


def test_tags_are_added(model_dir: Path, tmp_path: Path) -> None:
    run = make(model_dir, tmp_path)
    assert run.model.model_tags == run._tag_names
    assert {"trl", "prm"} <= set(run.model.model_tags)


def test_without_data_it_is_a_value_error(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        PRMTrainer(str(model_dir), args=PRMConfig(str(tmp_path), **SHORT))


def test_the_loss_is_the_same_however_the_batch_is_accumulated(model_dir: Path, tmp_path: Path) -> None:
    # TRL's summed over the accumulated batches what it should have averaged.
    rows = Dataset.from_list(toy_rows(8))
    runs = [
        make(model_dir, tmp_path, copy.deepcopy(rows), per_device_train_batch_size=8 // steps,
             gradient_accumulation_steps=steps)
        for steps in (1, 4)
    ]  # fmt: skip
    for run in runs:
        run.train()
    for name, weight in weights(runs[0].model).items():
        torch.testing.assert_close(runs[1].model.get_parameter(name), weight, rtol=1e-3, atol=1e-4)
