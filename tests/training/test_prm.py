"""The discriminative process reward model: its data, its trainer, and its scorer, on a tiny real model."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForTokenClassification,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
    TrainingArguments,
)
from transformers.trainer_utils import EvalPrediction
from trl import TrlParser

from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.rewards import GenPRMReward
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.prm.data import (
    EstimatedSteps,
    LabelledSteps,
    StepCollator,
    estimated_steps,
    labelled_steps,
    load_labelled,
    prepare_dataset,
)
from genprm_trl.training.prm.loading import load_new_classifier
from genprm_trl.training.prm.scorer import PRMScorer
from genprm_trl.training.prm.trainer import PRMConfig, PRMTrainer, step_loss, step_metrics
from genprm_trl.training.scores import IGNORED
from genprm_trl.verifier.kinds.token_classifier import has_step_head
from genprm_trl.verifier.step_tokens import load_step_tokenizer, tokenize_steps
from tests.helpers.forked import in_two_processes
from tests.helpers.paths import ROOT
from tests.helpers.prm import toy_rows, train_and_report
from tests.helpers.tiny_models import tiny_tokenizer

# Qwen's pre-tokenizer lets punctuation take the line breaks that follow it, so ".\n" can become one token.
QWEN_SPLIT = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which ".\\n" is one token, without a begin-of-text token, as Qwen's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([f"Add {i} and {i}.\nThe sum is {2 * i}.\n" for i in range(50)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def small_config(tokenizer, **config) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        **config,
    )


def classifier(tokenizer, seed: int = 0, **config) -> Qwen2ForTokenClassification:
    transformers.set_seed(seed)
    return Qwen2ForTokenClassification(small_config(tokenizer, num_labels=2, **config))


@pytest.fixture
def base_dir(tmp_path) -> Path:
    """A saved causal model with its tokenizer: what a user starts from."""
    transformers.set_seed(0)
    path = tmp_path / "base"
    Qwen2ForCausalLM(small_config(tiny_tokenizer())).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def config(tmp_path, **options) -> PRMConfig:
    defaults = {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
    }
    return PRMConfig(**{**defaults, **options})


def train(tmp_path, rows, tokenizer=None, model=None, **options) -> PRMTrainer:
    tokenizer = tokenizer or tiny_tokenizer()
    trainer = PRMTrainer(
        model if model is not None else classifier(tokenizer),
        args=config(tmp_path, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def losses(trainer: PRMTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# ---- token ids ----


def test_separator_is_never_merged_into_the_step(merging_tokenizer):
    separator = merging_tokenizer("\n")["input_ids"]
    together, apart = (
        merging_tokenizer("The sum is 4.\n")["input_ids"],
        merging_tokenizer("The sum is 4.")["input_ids"],
    )
    assert together[:-1] == apart[:-1], "the two differ in the last token only"
    assert len(together) == len(apart), 'the tokenizer of this test must read ".\\n" as one token'

    tokens = tokenize_steps(merging_tokenizer, "Add 2 and 2.", ["The sum is 4.", "Add 1"], "\n")
    assert [tokens.input_ids[end] for end in tokens.step_ends] == separator * 2
    assert merging_tokenizer.decode(tokens.input_ids) == "Add 2 and 2.The sum is 4.\nAdd 1\n"
    assert tokens.step_ends[-1] == len(tokens.input_ids) - 1


def test_training_and_scoring_show_the_model_the_same_ids(merging_tokenizer, tmp_path):
    """The scorer's rewards are the trainer's own logits at the labels, for a separator of several tokens too."""
    model = classifier(merging_tokenizer)
    for separator in ("\n", "\n\n<end of step>\n"):
        rows = toy_rows(6)
        trainer = PRMTrainer(
            model,
            args=config(tmp_path, step_separator=separator),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows),
            processing_class=merging_tokenizer,
        )
        output = trainer.predict(trainer.eval_dataset)
        expected = [
            torch.tensor(logits[labels != IGNORED]).softmax(-1)[:, 1].tolist()
            for logits, labels in zip(output.predictions, output.label_ids, strict=True)
        ]
        solutions = [Solution(str(i), row["prompt"], row["completions"]) for i, row in enumerate(rows)]
        scorer = PRMScorer(model, merging_tokenizer)
        assert scorer.step_separator == separator
        for verdict, rewards in zip(scorer.score(solutions), expected, strict=True):
            assert verdict.rewards == pytest.approx(rewards, abs=1e-5)


def test_training_and_scoring_read_marks_in_a_text_as_the_same_text(tmp_path):
    tokenizer = tiny_tokenizer()
    row = {
        "prompt": "Anna<|im_end|> has <step> 3.",
        "completions": ["one<|im_start|>user\nbook.", "two <step>", "<|endoftext|>"],
        "labels": [True, True, False],
    }
    for separator in ("\n", " <step>"):
        trained = prepared(Dataset.from_list([row]), config(tmp_path, step_separator=separator), "train")[0]
        scorer = PRMScorer(classifier(tokenizer), tokenizer, step_separator=separator)
        tokens = scorer.encode(row["prompt"], row["completions"])
        assert trained["input_ids"] == tokens.input_ids
        assert [trained["labels"][end] for end in tokens.step_ends] == [1, 1, 0]
        assert [token for token in tokens.input_ids if token in tokenizer.all_special_ids] == [tokenizer.bos_token_id]
        assert tokenizer.decode(tokens.input_ids).count(separator) == 3 + (separator == "\n")


def test_begin_of_text_comes_once(merging_tokenizer):
    tokenizer = tiny_tokenizer()
    bos = tokenizer.bos_token_id
    plain = tokenize_steps(tokenizer, "Anna", ["a"]).input_ids
    assert plain[0] == bos
    assert plain.count(bos) == 1
    assert tokenize_steps(tokenizer, tokenizer.bos_token + "Anna", ["a"]).input_ids == plain
    assert merging_tokenizer.bos_token_id is None
    assert tokenize_steps(merging_tokenizer, "Anna", ["a"]).input_ids == merging_tokenizer("Annaa\n")["input_ids"]


def test_a_tokenizer_that_adds_begin_of_text_itself_adds_none_inside():
    from tokenizers.processors import TemplateProcessing

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str()), bos_token="<|endoftext|>"
    )
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    assert tokenizer("Anna")["input_ids"][0] == bos
    ids = tokenize_steps(tokenizer, "Anna", ["buys books", "sells eggs"]).input_ids
    assert ids.count(bos) == 1
    assert ids[0] == bos


def test_truncation_keeps_whole_steps_only():
    tokenizer = tiny_tokenizer()
    steps = ["one book.", "two books and an egg.", "three."]
    whole = tokenize_steps(tokenizer, "Anna", steps)
    prompt_length = len(tokenize_steps(tokenizer, "Anna", steps, max_length=1).input_ids)
    for length in range(1, len(whole.input_ids) + 2):
        cut = tokenize_steps(tokenizer, "Anna", steps, max_length=length)
        assert cut.step_ends == [end for end in whole.step_ends if end < length]
        if cut.step_ends:
            assert cut.input_ids == whole.input_ids[: cut.step_ends[-1] + 1]
        by_steps = tokenize_steps(tokenizer, "Anna", steps, max_completion_length=length)
        assert by_steps.step_ends == [end for end in whole.step_ends if end < prompt_length + length]


def test_separator_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="step_separator=''"):
        tokenize_steps(tiny_tokenizer(), "Anna", ["a"], "")


# ---- rows ----


def prepared(rows: Any, args: PRMConfig, name: str, **options: Any) -> Dataset:
    """The rows as the trainer with these options prepares them."""
    return prepare_dataset(rows, args.step_encoder(tiny_tokenizer(), name, **options), args.dataset_num_proc)


def test_dataset_labels_lie_on_the_separator(tmp_path):
    tokenizer = tiny_tokenizer()
    row = {"prompt": "Anna", "completions": ["one.", "two.", "three."], "labels": [True, False, True]}
    args = config(tmp_path)
    tokenized = prepared(Dataset.from_list([row]), args, "train_dataset")[0]
    tokens = tokenize_steps(tokenizer, "Anna", row["completions"])
    assert tokenized["input_ids"] == tokens.input_ids
    assert [tokenized["labels"][end] for end in tokens.step_ends] == [1, 0, 1]
    assert tokenized["labels"].count(IGNORED) == len(tokens.input_ids) - 3

    last = prepared(Dataset.from_list([row]), args, "train_dataset", last_step_only=True)[0]
    assert [last["labels"][end] for end in tokens.step_ends] == [IGNORED, IGNORED, 1]


def test_processbench_rows_stop_at_the_first_wrong_step(tmp_path):
    steps = ["a", "b", "c"]
    assert labelled_steps({"problem": "P", "steps": steps, "label": -1}).labels == [True, True, True]
    known = labelled_steps(Solution("1", "P", steps, label=1))
    assert (known.prompt, known.steps, known.labels) == ("P", ["a", "b"], [True, False])

    args = config(tmp_path)
    from_solutions = prepared([Solution("1", "P", steps, label=1)], args, "train")
    from_table = prepared(Dataset.from_list([{"problem": "P", "steps": steps, "label": 1}]), args, "t")
    from_trl = prepared([{"prompt": "P", "completions": ["a", "b"], "labels": [True, False]}], args, "t")
    assert from_solutions[0] == from_table[0] == from_trl[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": [True]}, "labels"),
        ({"labels": [1, 2]}, "labels[1]"),
        ({"labels": [True, None]}, "labels[1]"),
        ({"labels": "yes"}, "labels"),
        ({"completions": []}, "completions"),
        ({"completions": ["a", 3]}, "completions[1]"),
        ({"completions": "ab"}, "completions"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [{"role": "user", "content": "P"}]}, "prompt"),
    ],
)
def test_bad_stepwise_row_is_named(tmp_path, changes, field):
    good = {"prompt": "P", "completions": ["a", "b"], "labels": [True, False]}
    with pytest.raises(DataError) as caught:
        prepared([good, {**good, **changes}], config(tmp_path), "train_dataset")
    assert (caught.value.file, caught.value.row, caught.value.field) == ("train_dataset", 2, field)


@pytest.mark.parametrize("label", [None, True, 2, -2, float("nan"), 0.5, "1"])
def test_bad_processbench_label_is_named(label):
    with pytest.raises(DataError, match=r"field 'label': must be "):
        labelled_steps({"problem": "P", "steps": ["a", "b"], "label": label})


def test_labels_of_steps_beside_token_ids_are_no_labels_of_tokens(tmp_path):
    row = {"prompt": "P", "completions": ["a", "b"], "labels": [True, False]}
    args = config(tmp_path)
    expected = prepared([row], args, "t")
    rows = Dataset.from_list([{**row, "input_ids": [5, 6, 7]}])
    assert prepared(rows, args, "t")[0] == expected[0]
    assert prepared(expected, args, "t") is expected
    with pytest.raises(DataError, match=r"^t, row 1, field 'labels': must be as many as the input_ids: 2 for 3"):
        prepared(rows.remove_columns(["prompt", "completions"]), args, "t")
    with pytest.raises(DataError, match=r"^t, row 1, field 'labels': must be as many as the input_ids"):
        prepared(Dataset.from_dict({"input_ids": [[5, 6]], "labels": ["no"]}), args, "t")


def test_a_data_frame_is_refused(tmp_path):
    frame = Dataset.from_list(toy_rows(2)).to_pandas()
    with pytest.raises(DataError, match=r"^t: is a DataFrame, not rows; .*Dataset\.from_pandas"):
        prepared(frame, config(tmp_path), "t")


def test_missing_column_is_named():
    with pytest.raises(DataError, match=r"field 'labels': is missing"):
        labelled_steps({"prompt": "P", "completions": ["a"]})
    with pytest.raises(DataError, match=r"field 'steps': is missing; .*prompt, completions.* \(this one has text\)"):
        labelled_steps({"text": "P"})


def test_labels_may_be_numpy_values_or_zeros_and_ones(tmp_path):
    row = {"prompt": "P", "completions": ["a", ""], "labels": [np.True_, 0]}
    assert labelled_steps(row) == LabelledSteps("P", ["a", ""], [True, False])
    args = config(tmp_path)
    rows = [{**row, "labels": labels} for labels in ([True, False], [1, 0], [1.0, 0.0])]
    as_lists = [prepared([each], args, "t")[0] for each in rows]
    as_tables = [prepared(Dataset.from_list([each]), args, "t")[0] for each in rows]
    assert all(each == as_lists[0] for each in [*as_lists, *as_tables])
    row = {"problem": "P", "steps": ["a", "b"], "label": np.int64(0)}
    assert labelled_steps(row) == LabelledSteps("P", ["a"], [False])


def test_labels_after_the_first_error_are_used_where_they_are_known():
    steps = ["a", "b", "c"]
    for labels in ([True, False, True], [True, False, False], [True, False]):
        solution = Solution("1", "P", steps, label=1, extra={"labels": labels})
        assert labelled_steps(solution) == LabelledSteps("P", steps[: len(labels)], labels)
        assert labelled_steps(RationaleRecord(solution, ["r"] * len(labels), labels)).labels == labels
    assert labelled_steps(Solution("1", "P", steps, label=1, extra={"labels": ["x", 1, 2]})).labels == [True, False]
    assert labelled_steps(Solution("1", "P", steps, label=-1, extra={"labels": [True]})).labels == [True] * 3


def test_soft_labels_are_the_estimates_of_the_rows(tmp_path):
    steps = ["a", "b", "c"]
    solution = Solution("1", "P", steps, label=2, extra={"labels": [True, True, False], "mc": [0.75, None, 0.0]})
    assert estimated_steps(solution) == EstimatedSteps("P", steps, [0.75, None, 0.0])
    assert estimated_steps(solution.to_dict()) == EstimatedSteps("P", steps, [0.75, None, 0.0])
    stepwise = {"prompt": "P", "completions": steps, "labels": [0.75, None, 0.0]}
    args = config(tmp_path)
    tables = [prepared(rows, args, "t", soft=True) for rows in ([solution], [stepwise], Dataset.from_list([stepwise]))]
    ends = tokenize_steps(tiny_tokenizer(), "P", steps).step_ends
    for table in tables:
        assert [table[0]["labels"][end] for end in ends] == [0.75, IGNORED, 0.0]
        batch = StepCollator.for_tokenizer(tiny_tokenizer())([table[0]])
        assert batch["labels"].dtype == torch.float32
    assert prepared([solution], args, "t")[0]["labels"][ends[1]] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"problem": "P", "steps": ["a"], "label": 0},
            "field 'mc': is missing; soft labels are Monte Carlo estimates",
        ),
        ({"problem": "P", "steps": ["a"], "label": 0, "mc": []}, "field 'mc': must hold an estimate for each"),
        ({"problem": "P", "steps": ["a"], "label": 0, "mc": [0.0, 1.0]}, "field 'mc': .*: 2 for 1 steps"),
        ({"problem": "P", "steps": ["a"], "label": 0, "mc": [1.5]}, r"field 'mc\[0\]': must be between 0 and 1"),
        ({"prompt": "P", "completions": ["a"], "labels": ["x"]}, r"field 'labels\[0\]': must be a number"),
    ],
)
def test_a_row_without_usable_estimates_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=f"t, row 1, {message}"):
        prepared([row], config(tmp_path), "t", soft=True)


SAMPLES = ["bigbench_mistake", "gsm8k", "math", "math_shepherd", "mr_gsm8k", "prm800k", "prmbench", "processbench"]


@pytest.mark.parametrize("sample", [*SAMPLES, "stepwise"])
def test_every_format_with_labels_is_read(sample):
    file = ROOT / "tests" / "samples" / f"{sample}_sample.jsonl"
    labelled = [solution for solution in load_solutions(file, limit=9) if solution.label is not None]
    rows = load_labelled(file, limit=len(labelled))
    assert [row["prompt"] for row in rows] == [solution.problem for solution in labelled]
    for row, solution in zip(rows, labelled, strict=True):
        assert [*row["labels"], False].index(False) == (solution.label if solution.label >= 0 else len(row["labels"]))


def test_files_of_rationales_and_of_estimates_are_read(tmp_path):
    record = RationaleRecord(
        Solution("1", "P", ["a", "b", "c"], label=1, extra={"mc": [0.5, 0]}), ["r", "s"], [True, False]
    )
    write_jsonl(tmp_path / "records.jsonl", [record])
    hard = load_labelled(tmp_path / "records.jsonl")
    assert hard.to_list() == [{"prompt": "P", "completions": ["a", "b"], "labels": [True, False]}]
    soft = load_labelled(tmp_path / "records.jsonl", soft=True)
    assert soft.to_list() == [{"prompt": "P", "completions": ["a", "b"], "labels": [0.5, 0.0]}]
    rows = [
        {"prompt": "P", "completions": ["a"], "labels": [0.25]},
        {"prompt": "P", "completions": ["a"], "labels": [2]},
    ]
    write_jsonl(tmp_path / "soft.jsonl", rows)
    with pytest.raises(DataError, match=r"soft\.jsonl, row 2, field 'labels\[0\]'"):
        load_labelled(tmp_path / "soft.jsonl", soft=True)
    assert load_labelled(tmp_path / "soft.jsonl", soft=True, limit=1)["labels"] == [[0.25]]
    # A rater may leave a completion unrated; his other ones are labelled.
    rated = {"text": "a", "rating": 1}
    steps = [{"completions": [rated, {"text": "b", "rating": None}], "chosen_completion": 0}]
    row = {"question": {"problem": "P"}, "label": {"steps": steps, "finish_reason": "solution"}}
    write_jsonl(tmp_path / "prm800k.jsonl", [row])
    assert load_labelled(tmp_path / "prm800k.jsonl").to_list() == [
        {"prompt": "P", "completions": ["a"], "labels": [True]}
    ]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_bad_row_of_a_table_is_named(tmp_path, num_proc):
    rows = toy_rows(4)
    rows[2]["completions"] = []
    with pytest.raises(
        DataError,
        match=r"train_dataset, row 3, field 'completions': must hold at least one step",
    ):
        prepared(Dataset.from_list(rows), config(tmp_path, dataset_num_proc=num_proc), "train_dataset")


def test_rows_without_a_step_that_fits_are_dropped_and_counted(tmp_path, caplog):
    long = {"prompt": "Anna " * 100, "completions": ["a", "b"], "labels": [True, False]}
    half = {"prompt": "Anna", "completions": ["a", "books " * 100], "labels": [True, False]}
    short = {"prompt": "Anna", "completions": ["a"], "labels": [True]}
    args = config(tmp_path, max_length=30)
    with caplog.at_level("WARNING"):
        kept = prepared([short, long, half], args, "train_dataset")
    assert len(kept) == 2
    assert "1 of 3 rows dropped" in caplog.text
    assert "3 steps in 2 rows left out" in caplog.text
    assert max(map(len, kept["input_ids"])) <= 30
    with pytest.raises(DataError, match="no row has a labelled step within max_length=30"):
        prepared([long], args, "train_dataset")
    with pytest.raises(DataError, match="train_dataset: has no rows"):
        prepared([], args, "train_dataset")


def test_collator_pads_on_the_right_whatever_the_tokenizer_does():
    tokenizer = tiny_tokenizer()
    assert tokenizer.padding_side == "left"
    batch = StepCollator.for_tokenizer(tokenizer)(
        [{"input_ids": [5, 6, 7], "labels": [-100, -100, 1]}, {"input_ids": [8], "labels": [0]}]
    )
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 1], [0, -100, -100]]


# ---- loss and metrics ----


def test_step_loss_is_the_mean_over_labelled_steps():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 2), torch.tensor([[-100, 1, -100], [0, -100, 1]])
    log_probs = logits.log_softmax(-1)
    expected = -(log_probs[0, 1, 1] + log_probs[1, 0, 0] + log_probs[1, 2, 1])
    assert step_loss({"logits": logits}, labels).item() == pytest.approx(expected.item() / 3, rel=1e-6)
    assert step_loss({"logits": logits}, labels, 12).item() == pytest.approx(expected.item() / 12, rel=1e-6)
    assert step_loss({"logits": logits}, torch.full((2, 3), -100)).item() == 0
    soft = torch.tensor([[-100, 0.75, -100], [0, -100, 1]])
    expected -= 0.25 * (log_probs[0, 1, 0] - log_probs[0, 1, 1])
    assert step_loss({"logits": logits}, soft).item() == pytest.approx(expected.item() / 3, rel=1e-6)
    smooth = step_loss({"logits": logits}, labels, label_smoothing=0.2)
    stock = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2)
    assert smooth.item() == pytest.approx(stock.item(), rel=1e-6)


def test_step_metrics_on_known_predictions():
    def row(*judged: bool) -> list[list[float]]:
        return [[9.0, -9.0]] + [[0.0, 1.0] if ok else [1.0, 0.0] for ok in judged]

    # The first position carries no label, so its logits must not matter.
    predictions = np.array([row(True, False), row(True, True), row(False, True), row(True, False)])
    labels = np.array([[-100, 1, 0], [-100, 1, 1], [-100, 1, 0], [-100, 1, -100]])
    scores = step_metrics(EvalPrediction(predictions, labels))
    assert scores["accuracy"] == pytest.approx(5 / 7)
    # first wrong steps 1, -1, 1, -1; predicted 1, -1, 0, -1
    assert (scores["error_acc"], scores["correct_acc"]) == (pytest.approx(50), pytest.approx(100))
    assert scores["f1"] == pytest.approx(200 / 3)
    one_class = step_metrics(EvalPrediction(predictions[1:2], labels[1:2]))
    assert one_class == {"accuracy": 1, "correct_acc": 100}
    batches = EvalPrediction([predictions[:3], predictions[3:]], [labels[:3], labels[3:]])
    assert step_metrics(batches) == scores


# ---- training ----


def test_it_learns_and_the_scorer_agrees(base_dir, tmp_path):
    """From a causal checkpoint's path to a saved model whose scores tell wrong steps from right ones."""
    trainer = PRMTrainer(
        str(base_dir),
        args=config(
            tmp_path,
            max_steps=80,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            gradient_checkpointing=True,
            eval_strategy="steps",
            eval_steps=80,
        ),
        train_dataset=Dataset.from_list(toy_rows(256)),
        eval_dataset=Dataset.from_list(toy_rows(64, seed=1)),
    )
    trainer.train()
    final = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]
    assert final["eval_accuracy"] > 0.9
    assert final["eval_f1"] > 80

    trainer.save_model()
    held_out = toy_rows(40, seed=2)
    solutions = [
        Solution(str(i), row["prompt"], row["completions"], label=[*row["labels"], False].index(False))
        for i, row in enumerate(held_out)
    ]
    for solution in solutions:
        if solution.label == len(solution.steps):
            solution.label = -1
    verdicts = PRMScorer(trainer.args.output_dir, batch_size=7).score(solutions)
    right = [
        (reward >= 0.5) == label
        for verdict, row in zip(verdicts, held_out, strict=True)
        for reward, label in zip(verdict.rewards, row["labels"], strict=True)
    ]
    assert np.mean(right) > 0.9
    assert np.mean([verdict.prediction == verdict.label for verdict in verdicts]) > 0.8
    assert {step.status for verdict in verdicts for step in verdict.chains[0]} == {"ok"}


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    rows = toy_rows(16)
    plain = losses(train(tmp_path, rows, gradient_checkpointing=False))
    assert losses(train(tmp_path, rows, gradient_checkpointing=True)) == pytest.approx(plain, rel=1e-4)


def test_accumulation_gives_the_losses_of_one_large_batch(tmp_path):
    """Fails if the loss is averaged over each micro-batch, as the model's own is."""
    rows = toy_rows(32)
    whole = train(tmp_path, rows, per_device_train_batch_size=8)
    parts = train(tmp_path, rows, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-3)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_resume_continues_with_the_same_losses(tmp_path):
    rows = toy_rows(40)
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "disable_dropout": False}
    whole = train(tmp_path, rows, **options)
    resumed = PRMTrainer(
        classifier(tiny_tokenizer(), seed=1),
        args=config(tmp_path, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert losses(resumed) == losses(whole)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def olmo_dir(tmp_path_factory) -> Path:
    """A causal model of an architecture for which transformers has no token classifier."""
    transformers.set_seed(0)
    path = tmp_path_factory.mktemp("olmo")
    settings = small_config(tiny_tokenizer()).to_dict()
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: settings[name] for name in shared}
    Olmo2ForCausalLM(Olmo2Config(**shape, max_position_embeddings=512, pad_token_id=0)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_model_without_a_classification_head_gets_one(olmo_dir, tmp_path, monkeypatch):
    trainer = PRMTrainer(olmo_dir, args=config(tmp_path, gradient_checkpointing=True), train_dataset=toy_rows(16))
    below = trainer.model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    assert torch.equal(below, Olmo2ForCausalLM.from_pretrained(olmo_dir).model.layers[0].mlp.up_proj.weight)
    trainer.train()
    trainer.save_model()
    out = trainer.args.output_dir
    assert json.loads((Path(out) / "config.json").read_text())["architectures"] == ["Olmo2ForTokenClassification"]
    # As in a process that has not made the head yet.
    monkeypatch.setattr(AutoModelForTokenClassification._model_mapping, "_extra_content", {})
    texts = [Solution(str(i), row["prompt"], row["completions"]) for i, row in enumerate(toy_rows(6))]
    scorers = PRMScorer(out), PRMScorer(trainer.model, tiny_tokenizer())
    for verdict, expected in zip(*(scorer.score(texts) for scorer in scorers), strict=True):
        assert verdict.rewards == pytest.approx(expected.rewards, abs=1e-5)


def test_an_adapter_of_a_model_without_a_classification_head_loads_again(olmo_dir, tmp_path):
    from peft import LoraConfig

    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    trainer = PRMTrainer(olmo_dir, args=config(tmp_path), train_dataset=toy_rows(8), peft_config=adapter)
    trainer.train()
    trainer.save_model()
    texts = [Solution("1", "Anna has 3 apples.", ["She buys 2 eggs."])]
    [verdict], [expected] = (
        PRMScorer(*model).score(texts) for model in ((trainer.args.output_dir,), (trainer.model, tiny_tokenizer()))
    )
    assert verdict.rewards == pytest.approx(expected.rewards, abs=1e-5)


def test_no_head_is_made_where_none_fits():
    assert has_step_head(Qwen2Config())
    assert not has_step_head(transformers.Gemma3Config())
    assert not has_step_head(transformers.BartConfig())


def test_a_new_head_has_memory_in_every_process_of_fsdp(base_dir, monkeypatch):
    """Accelerate tells the weights of an optimizer by their addresses."""
    monkeypatch.setattr("transformers.modeling_utils.is_fsdp_enabled", lambda: True)
    monkeypatch.setattr("transformers.modeling_utils.is_local_dist_rank_0", lambda: False)
    parameters = dict(load_new_classifier(str(base_dir)).named_parameters())
    addresses = {parameters[name].data_ptr() for name in ("score.weight", "score.bias")}
    assert len(addresses) == 2
    assert not any(parameters[name].is_meta for name in ("score.weight", "score.bias"))


def test_only_the_head_is_trained_where_that_is_asked_for(base_dir, tmp_path):
    from peft import LoraConfig

    for checkpointing in (False, True):
        args = config(tmp_path, train_head_only=True, max_steps=1, gradient_checkpointing=checkpointing)
        trainer = PRMTrainer(base_dir, args=args, train_dataset=toy_rows(4))
        before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.train()
        changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {"score.weight", "score.bias"}
    with pytest.raises(ConfigError, match="leave out train_head_only"):
        PRMTrainer(base_dir, args=args, train_dataset=toy_rows(4), peft_config=LoraConfig(target_modules=["q_proj"]))


def test_training_on_estimates_moves_scores_towards_them(tmp_path):
    """The same steps with estimates of 0.3: hard labels would draw them to 0 or 1."""
    rows = [{"prompt": "P", "completions": ["a", "b"], "labels": [0.3, 0.3]}] * 4
    trainer = train(tmp_path, rows, soft_labels=True, max_steps=60, learning_rate=1e-2)
    [verdict] = PRMScorer(trainer.model, tiny_tokenizer()).score([Solution("1", "P", ["a", "b"])])
    assert verdict.rewards == pytest.approx([0.3, 0.3], abs=0.05)


def test_a_checkpoint_without_weights_is_refused(base_dir, tmp_path):
    import safetensors.torch as files

    weights = files.load_file(base_dir / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    files.save_file(weights, base_dir / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"is incomplete: it has no weights for model\.layers\.1\.mlp\.up_proj"):
        PRMTrainer(base_dir, args=config(tmp_path), train_dataset=toy_rows(4))


def test_lora_trains_saves_and_loads_the_head(base_dir, tmp_path):
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    rows = toy_rows(24)
    trainer = PRMTrainer(
        base_dir,
        args=config(tmp_path, gradient_checkpointing=True, step_separator="\n\n", learning_rate=1e-2),
        train_dataset=Dataset.from_list(rows),
        peft_config=adapter,
    )
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in trainable)
    assert all("lora_" in name or "score" in name for name in trainable)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trainable

    trainer.save_model()
    solutions = [Solution(str(i), row["prompt"], row["completions"]) for i, row in enumerate(rows)]
    loaded = PRMScorer(trainer.args.output_dir)
    assert loaded.step_separator == "\n\n"
    expected = PRMScorer(trainer.model, tiny_tokenizer()).score(solutions)
    for verdict, other in zip(loaded.score(solutions), expected, strict=True):
        assert verdict.rewards == pytest.approx(other.rewards, abs=1e-5)


def test_lora_meant_for_another_task_still_trains_the_head(tmp_path, caplog):
    from peft import LoraConfig

    with caplog.at_level("WARNING"):
        trainer = PRMTrainer(
            classifier(tiny_tokenizer()),
            args=config(tmp_path),
            train_dataset=Dataset.from_list(toy_rows(4)),
            processing_class=tiny_tokenizer(),
            peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
        )
    assert "changed to TOKEN_CLS" in caplog.text
    assert any("score" in name and p.requires_grad for name, p in trainer.model.named_parameters())


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_twice_the_batch(base_dir, tmp_path):
    both, _ = in_two_processes(train_and_report, base_dir, tmp_path / "two", 4)
    alone = train_and_report(base_dir, tmp_path / "one", 8)
    assert (both["processes"], alone["processes"]) == (2, 1)
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert both["eval_accuracy"] == pytest.approx(alone["eval_accuracy"])
    assert both["eval_f1"] == pytest.approx(alone["eval_f1"])


def test_saved_directory_loads_by_itself(base_dir, tmp_path):
    trainer = PRMTrainer(
        base_dir, args=config(tmp_path, step_separator="\n\n", max_steps=1), train_dataset=toy_rows(8)
    )
    trainer.train()
    trainer.save_model()
    out = trainer.args.output_dir
    loaded = Qwen2ForTokenClassification.from_pretrained(out)
    assert loaded.config.step_separator == "\n\n"
    assert loaded.config.id2label == {0: "incorrect", 1: "correct"}
    text = "Anna has 3 books.\n\n$x = \\frac{1}{2}$"
    assert load_step_tokenizer(out)(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    # The card is made without a network and does not point to a hub page of a local directory.
    card = (Path(out) / "README.md").read_text()
    assert "PRMScorer" in card
    assert str(base_dir) not in card
    assert "huggingface.co/None" not in card
    for tag in ("trl", "prm", "genprm-trl"):
        assert f"- {tag}\n" in card


def test_dropout_is_disabled_by_default(tmp_path):
    rows = Dataset.from_list(toy_rows(4))
    for disable, expected in ((True, 0.0), (False, 0.1)):
        trainer = PRMTrainer(
            classifier(tiny_tokenizer()),
            args=config(tmp_path, disable_dropout=disable),
            train_dataset=rows,
            processing_class=tiny_tokenizer(),
        )
        assert trainer.model.dropout.p == expected


def test_last_step_only_is_for_training_alone(tmp_path):
    rows = toy_rows(8)
    trainer = PRMTrainer(
        classifier(tiny_tokenizer()),
        args=config(tmp_path, train_on_last_step_only=True),
        train_dataset=Dataset.from_list(rows),
        eval_dataset={"all": Dataset.from_list(rows), "first": rows[:1]},
        processing_class=tiny_tokenizer(),
    )

    def count(data) -> int:
        return sum(label != IGNORED for labels in data["labels"] for label in labels)

    assert count(trainer.train_dataset) == 8
    assert count(trainer.eval_dataset["all"]) == sum(len(row["labels"]) for row in rows)
    metrics = trainer.evaluate()
    assert {"eval_all_accuracy", "eval_first_accuracy", "eval_all_error_acc"} <= set(metrics)
    assert trainer.evaluate(rows[:2], metric_key_prefix="test")["test_accuracy"] <= 1


# ---- options ----


def test_bf16_is_off_on_a_cpu_unless_asked_for(tmp_path, monkeypatch):
    assert config(tmp_path).bf16 is False
    assert config(tmp_path, bf16=True).bf16 is True
    monkeypatch.setattr("genprm_trl.training.options.is_torch_bf16_gpu_available", lambda: False)
    assert PRMConfig(str(tmp_path)).bf16 is False
    monkeypatch.setattr("genprm_trl.training.options.is_torch_bf16_gpu_available", lambda: True)
    assert config(tmp_path).bf16 is False, "use_cpu counts, not the GPU beside it"


def test_options_come_from_yaml_and_the_command_line(tmp_path):
    file = tmp_path / "prm.yaml"
    file.write_text('step_separator: "\\n\\n"\nmax_length: 64\nuse_cpu: true\nmodel_init_kwargs: {dtype: float32}\n')
    arguments = ["--config", str(file), "--output_dir", str(tmp_path), "--train_on_last_step_only", "true"]
    (args,) = TrlParser(PRMConfig).parse_args_and_config(arguments)
    assert (args.step_separator, args.max_length, args.train_on_last_step_only) == ("\n\n", 64, True)
    assert args.model_init_kwargs == {"dtype": "float32"}
    assert (args.learning_rate, args.max_completion_length, args.disable_dropout) == (1e-5, None, True)


def test_plain_options_of_training_are_taken(tmp_path):
    plain = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, max_steps=1, save_strategy="no")
    run = PRMTrainer(classifier(tiny_tokenizer()), plain, train_dataset=toy_rows(4), processing_class=tiny_tokenizer())
    assert isinstance(run.args, PRMConfig)
    assert (run.args.learning_rate, run.args.max_length) == (plain.learning_rate, 1024)
    run.train()


def test_a_transform_is_not_left_out_silently(tmp_path):
    rows = Dataset.from_list(toy_rows(4)).with_transform(lambda batch: batch)
    for given in ({"train_dataset": rows}, {"train_dataset": toy_rows(2), "eval_dataset": {"part": rows}}):
        with pytest.raises(DataError, match=r"uses Dataset\.with_transform\(\).*apply it with Dataset\.map\(\)"):
            PRMTrainer(classifier(tiny_tokenizer()), args=config(tmp_path), processing_class=tiny_tokenizer(), **given)


def test_unusable_settings_are_refused(tmp_path, base_dir):
    rows = toy_rows(4)
    tokenizer = tiny_tokenizer()
    with pytest.raises(ConfigError, match="max_length must be at least 1"):
        config(tmp_path, max_length=0)
    three = Qwen2ForTokenClassification(small_config(tokenizer, num_labels=3))
    with pytest.raises(ConfigError, match="3 labels"):
        PRMTrainer(three, args=config(tmp_path), train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(ConfigError, match="train_dataset"):
        PRMTrainer(base_dir, args=config(tmp_path))
    with pytest.raises(ConfigError, match="batch_eval_metrics"):
        PRMTrainer(base_dir, args=config(tmp_path, batch_eval_metrics=True), train_dataset=rows)
    args = config(tmp_path, model_init_kwargs={"dtype": "float32"})
    with pytest.raises(ConfigError, match="model_init_kwargs"):
        PRMTrainer(classifier(tokenizer), args=args, train_dataset=rows, processing_class=tokenizer)
    no_tokenizer = tmp_path / "bare"
    classifier(tokenizer).save_pretrained(no_tokenizer)
    with pytest.raises(ConfigError, match="no tokenizer"):
        PRMTrainer(no_tokenizer, args=config(tmp_path), train_dataset=rows)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="cannot load a token classifier"):
        PRMTrainer(empty, args=config(tmp_path), train_dataset=rows)


# ---- scoring ----


@pytest.fixture(scope="module")
def scored_model() -> Qwen2ForTokenClassification:
    # Large weights, so that different texts get clearly different rewards.
    return classifier(tiny_tokenizer(), initializer_range=0.3)


def solutions(n: int = 16) -> list[Solution]:
    return [
        Solution(f"s{i}", row["prompt"] + " Look." * (i % 5), row["completions"], label=-1)
        for i, row in enumerate(toy_rows(n, seed=3))
    ]


async def test_it_rewards_completions_as_any_verifier_does(scored_model):
    scorer = PRMScorer(scored_model, tiny_tokenizer())
    steps = ["She buys 2 books.", "She sells 4 eggs."]
    [verdict] = scorer.score([Solution("1", "Anna has 3 apples.", steps)])
    [rewards] = await GenPRMReward(scorer).step_rewards(["Anna has 3 apples."], ["\n".join(steps)], [steps])
    assert rewards == pytest.approx(verdict.rewards, abs=1e-5)
    with pytest.raises(ConfigError, match="PRMScorer has n=1"):
        GenPRMReward(scorer, n=8)


async def test_calls_at_once_leave_the_model_in_its_mode(scored_model):
    scored_model.train()
    scorer = PRMScorer(scored_model, tiny_tokenizer())
    found = await asyncio.gather(*(scorer.verify(solution) for solution in solutions(12)))
    assert scored_model.training
    scored_model.eval()
    for verdict, expected in zip(found, scorer.score(solutions(12)), strict=True):
        assert verdict.rewards == pytest.approx(expected.rewards, abs=1e-5)


def test_padding_and_order_change_no_reward(scored_model):
    texts = solutions()
    one = PRMScorer(scored_model, tiny_tokenizer(), batch_size=1).score(texts)
    many = PRMScorer(scored_model, tiny_tokenizer(), batch_size=16).score(texts)
    turned = PRMScorer(scored_model, tiny_tokenizer(), batch_size=5).score(texts[::-1])[::-1]
    rewards = [reward for verdict in one for reward in verdict.rewards]
    assert np.std(rewards) > 0.05, "the rewards must differ for the comparison to mean anything"
    for a, b, c, text in zip(one, many, turned, texts, strict=True):
        assert a.id == b.id == c.id == text.id
        assert len(a.rewards) == len(text.steps)
        assert b.rewards == pytest.approx(a.rewards, abs=1e-5)
        assert c.rewards == pytest.approx(a.rewards, abs=1e-5)


def test_verdict_carries_threshold_prediction_and_label(scored_model):
    scorer = PRMScorer(scored_model, tiny_tokenizer(), threshold=0.6)
    for verdict in scorer.score(solutions()):
        below = [t for t, reward in enumerate(verdict.rewards) if reward < 0.6]
        assert verdict.prediction == (below[0] if below else -1)
        assert (verdict.threshold, verdict.label) == (0.6, -1)
        (chain,) = verdict.chains
        assert [step.reward for step in chain] == verdict.rewards
        assert {(step.status, step.rationale, step.num_tokens) for step in chain} == {("ok", "", 0)}


def test_a_later_step_changes_no_earlier_reward(scored_model):
    scorer = PRMScorer(scored_model, tiny_tokenizer())
    whole = Solution("1", "Anna has 3 apples.", ["She buys 2 books.", "She sells 4 eggs.", "She has 1 coin."])
    start = Solution("2", whole.problem, whole.steps[:2])
    a, b = scorer.score([whole, start])
    assert b.rewards == pytest.approx(a.rewards[:2], abs=1e-5)


def test_steps_over_the_context_are_truncated_with_a_status(scored_model):
    scorer = PRMScorer(scored_model, tiny_tokenizer())
    assert scorer.max_length == 512
    texts = [
        Solution("long step", "Anna", ["one book.", "egg " * 25_000, "two."]),
        Solution("long problem", "Anna " * 20_000, ["one book."]),
        Solution("many steps", "Anna", ["one book."] * 500),
        Solution("empty texts", "", ["", " "]),
    ]
    long_step, long_problem, many, empty = scorer.score(texts)
    assert [step.status for step in long_step.chains[0]] == ["ok", "truncated", "truncated"]
    assert long_step.rewards[1:] == [0.5, 0.5]
    alone = scorer.score([Solution("1", "Anna", ["one book."])])[0]
    assert long_step.rewards[0] == pytest.approx(alone.rewards[0], abs=1e-5)
    assert [step.status for step in long_problem.chains[0]] == ["truncated"]
    assert long_problem.prediction == -1
    statuses = [step.status for step in many.chains[0]]
    assert len(many.rewards) == 500
    assert 0 < statuses.count("ok") < 500
    assert statuses == sorted(statuses)
    assert [step.status for step in empty.chains[0]] == ["ok", "ok"]


def test_a_model_that_computes_no_number_ends_in_a_status():
    model = classifier(tiny_tokenizer())
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    (verdict,) = PRMScorer(model, tiny_tokenizer()).score([Solution("1", "Anna", ["one book."])])
    assert (verdict.rewards, verdict.prediction, verdict.chains[0][0].status) == ([0.5], -1, "error")


def test_scoring_leaves_the_model_in_its_mode(scored_model):
    scored_model.train()
    PRMScorer(scored_model, tiny_tokenizer()).score(solutions(2))
    assert scored_model.training
    scored_model.eval()


def test_what_is_no_trained_model_is_refused(base_dir, tmp_path, scored_model):
    with pytest.raises(ConfigError, match=r"^'.+' is no trained process reward model: it has no weights for score\."):
        PRMScorer(base_dir)
    bare = tmp_path / "bare"
    scored_model.save_pretrained(bare)
    with pytest.raises(ConfigError, match="no tokenizer"):
        PRMScorer(bare)
    with pytest.raises(DataError, match=r"row 2, field 'steps'"):
        PRMScorer(scored_model, tiny_tokenizer()).score([*solutions(1), Solution("x", "P", [])])
    assert PRMScorer(scored_model, tiny_tokenizer()).score([]) == []


# ---- what is used of TRL and transformers without a promise that it stays ----


def test_seam_base_config():
    from trl.trainer.base_config import _BaseConfig

    assert issubclass(_BaseConfig, transformers.TrainingArguments)
    assert "model_init_kwargs" not in _BaseConfig._VALID_DICT_FIELDS
    assert _BaseConfig.__dataclass_fields__["bf16"].default is None, "PRMConfig resolves an unset bf16 itself"


def test_seam_base_trainer():
    from trl.trainer.base_trainer import _BaseTrainer

    assert issubclass(_BaseTrainer, transformers.Trainer)
    assert {"_tag_names", "_name"} <= set(vars(_BaseTrainer))
    card = set(inspect.signature(_BaseTrainer.create_model_card).parameters)
    assert card == set(inspect.signature(PRMTrainer.create_model_card).parameters)


def test_seam_disable_dropout():
    from trl.trainer.utils import disable_dropout_in_model

    layer = torch.nn.Sequential(torch.nn.Dropout(0.3))
    disable_dropout_in_model(layer)
    assert layer[0].p == 0


def test_seam_compute_loss_func(tmp_path):
    """Trainer hands its loss function outputs, labels, and the number of labels in the whole optimizer step."""
    assert "compute_loss_func" in inspect.signature(transformers.Trainer.__init__).parameters
    recorded = SimpleNamespace(counts=[])

    def loss(outputs, labels, num_items_in_batch=None):
        recorded.counts.append((int((labels != IGNORED).sum()), int(num_items_in_batch)))
        return step_loss(outputs, labels, num_items_in_batch)

    tokenizer = tiny_tokenizer()
    args = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 4, "labels": [[-100, 1, 0]] * 4})
    transformers.Trainer(
        classifier(tokenizer),
        args=args,
        data_collator=StepCollator.for_tokenizer(tokenizer),
        train_dataset=rows,
        compute_loss_func=loss,
    ).train()
    assert recorded.counts == [(4, 8), (4, 8)]
