"""Rows with step labels, checked and turned into token ids and token labels for `PRMTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow
import pyarrow.compute as compute
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, Features, List, Value
from torch.nn.utils.rnn import pad_sequence

from genprm_trl.data.formats import read_stepwise
from genprm_trl.data.sources import is_transformed, refuse_frame
from genprm_trl.errors import DataError
from genprm_trl.records import Solution
from genprm_trl.training.scores import IGNORED
from genprm_trl.verifier.step_tokens import DEFAULT_STEP_SEPARATOR, padding_token, tokenize_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

Rows: TypeAlias = Dataset | Sequence[Solution | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """A prompt and the steps whose correctness is known.

    Attributes:
        prompt: The problem.
        steps: The steps, at least one.
        labels: One boolean per step: whether it is correct.
    """

    prompt: str
    steps: list[str]
    labels: list[bool]


def labelled_steps(row: Solution | Mapping[str, Any]) -> LabelledSteps:
    """Reads a row of either form that `PRMTrainer` takes.

    The forms are TRL's stepwise-supervision rows (`prompt`, `completions`, `labels`) and ProcessBench's (`problem`,
    `steps`, `label`), the latter also as a `Solution`. ProcessBench marks only the first wrong step, so its steps
    before that are correct, that one is wrong, and those after it, whose correctness is unknown, are left out.

    Args:
        row: The row.

    Returns:
        The `LabelledSteps`.

    Raises:
        DataError: A field is missing, empty, of the wrong type, or the lengths differ. Names the field.
    """
    if isinstance(row, Solution):
        solution = row
    elif "prompt" in row or "completions" in row:
        return LabelledSteps(*read_stepwise(row))
    elif "steps" in row:
        known = {name: row[name] for name in ("problem", "steps", "label", "labels") if name in row}
        solution = Solution.from_dict(known, default_id="row")
    else:
        raise DataError(
            "is missing; a row needs prompt, completions and labels, or problem, steps and label "
            f"(this one has {', '.join(row) or 'no field'})",
            field="steps",
        )
    if solution.label is None:
        raise DataError("must be the index of the first wrong step, or -1 for none, but is missing", field="label")
    if solution.label < 0:
        return LabelledSteps(solution.problem, list(solution.steps), [True] * len(solution.steps))
    steps = solution.steps[: solution.label + 1]
    return LabelledSteps(solution.problem, steps, [True] * solution.label + [False])


def refuse_transform(rows: Any, name: str | None, otherwise: str = "") -> None:
    """Refuses a dataset whose rows a function makes anew at each reading, since they are encoded once.

    Args:
        rows: The dataset.
        name: What errors call it.
        otherwise: What else than applying the function can be done, for the error.

    Raises:
        DataError: The dataset has a transform.
    """
    if is_transformed(rows):
        raise DataError(
            f"uses Dataset.with_transform(), which would be left out: apply it with Dataset.map(){otherwise}",
            file=name,
        )


def is_tokenized(rows: Dataset, name: str | None) -> bool:
    """Whether rows are token ids with labels of tokens, not ids beside labels of steps.

    Args:
        rows: The dataset.
        name: What errors call it.

    Returns:
        Whether it has both columns, and as many labels as ids in each row. False if the lengths differ and the rows
        have steps, too, from which they can be encoded.

    Raises:
        DataError: The lengths differ in a row, and there are no steps.
    """
    columns = set(rows.column_names)
    if not {"input_ids", "labels"} <= columns:
        return False
    if is_transformed(rows):  # what the columns hold is known when they are read
        return True
    number = 0
    for batch in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(1000):
        ids, labels = _lengths(batch["input_ids"]), _lengths(batch["labels"])
        for tokens, labelled in zip(ids, labels, strict=True):
            number += 1
            if tokens == labelled:
                continue
            if columns & {"completions", "steps", "rationales", "messages", "conversations"}:
                return False
            raise DataError(
                f"must be as many as the input_ids: {labelled} for {tokens}; labels of steps need the steps",
                file=name,
                row=number,
                field="labels",
            )
    return True


def _lengths(lists: Any) -> list[int | None]:
    """The lengths of an Arrow column's lists; None where there is no list."""
    try:
        return list(compute.list_value_length(lists).to_pylist())
    except pyarrow.ArrowNotImplementedError:
        return [None] * len(lists)


@dataclass(frozen=True)
class StepEncoder:
    """Turns a row into token ids and labels; `datasets` calls it in as many processes as it likes.

    Attributes:
        tokenizer: The model's tokenizer.
        name: Name of the rows in errors and warnings.
        step_separator: Text that ends each step.
        max_length: Bound on the tokens of a row. None is no bound.
        max_completion_length: Bound on the tokens of the steps. None is no bound.
        last_step_only: Label only the last step.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    step_separator: str = DEFAULT_STEP_SEPARATOR
    max_length: int | None = None
    max_completion_length: int | None = None
    last_step_only: bool = False

    def read(self, row: Solution | Mapping[str, Any], number: int) -> LabelledSteps:
        """The row's steps.

        Raises:
            DataError: The row is unusable. Names it.
        """
        try:
            return labelled_steps(row)
        except DataError as error:
            raise error.at(file=self.name, row=number) from None

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The columns `input_ids` and `labels`, the number of labelled steps, and of those that are cut."""
        example = self.read(row, index + 1)
        tokens = tokenize_steps(
            self.tokenizer,
            example.prompt,
            example.steps,
            self.step_separator,
            max_length=self.max_length,
            max_completion_length=self.max_completion_length,
        )
        labels = [IGNORED] * len(tokens.input_ids)
        last = len(example.steps) - 1
        for step, (end, label) in enumerate(zip(tokens.step_ends, example.labels, strict=False)):
            if step == last or not self.last_step_only:
                labels[end] = int(label)
        return {
            "input_ids": tokens.input_ids,
            "labels": labels,
            "labelled": sum(label != IGNORED for label in labels),
            "cut": len(example.steps) - len(tokens.step_ends),
        }


def prepare_dataset(rows: Rows, encoder: StepEncoder, num_proc: int | None = None) -> Dataset:
    """Turns rows into `input_ids` and `labels`: 1 or 0 at the end of each labelled step, -100 everywhere else.

    Steps that do not fit the encoder's bounds are left out, and so are the rows of which no labelled step is left; a
    warning counts both. A dataset that has `input_ids` and a label for each is returned as it is.

    Args:
        rows: Rows that `labelled_steps` reads.
        encoder: What encodes them.
        num_proc: Number of processes that encode.

    Raises:
        DataError: A row is unusable, there are no rows, or none is left.
    """
    name = encoder.name
    if not isinstance(rows, Dataset):
        refuse_frame(rows, name)
        if isinstance(rows, str | Mapping) or not isinstance(rows, Sequence):
            raise DataError(f"must be a `datasets.Dataset` or a list of rows, got {type(rows).__name__}", file=name)
        read = [encoder.read(row, number) for number, row in enumerate(rows, start=1)]
        columns = {"prompt": [r.prompt for r in read], "completions": [r.steps for r in read]}
        rows = Dataset.from_dict({**columns, "labels": [r.labels for r in read]})
    if len(rows) == 0:
        raise DataError("has no rows", file=name)
    if is_tokenized(rows, name):
        return rows
    refuse_transform(rows, name)
    integers = List(Value("int64"))
    # One process tokenizes and the others read its cache.
    with PartialState().main_process_first():
        tokenized = rows.with_format(None).map(
            encoder,
            with_indices=True,
            remove_columns=rows.column_names,
            # Named, because `map` would otherwise keep the type of the column `labels`, which is bool.
            features=Features(
                {"input_ids": integers, "labels": integers, "labelled": Value("int64"), "cut": Value("int64")}
            ),
            num_proc=num_proc,
            desc=f"Tokenizing {name}",
        )
    labelled, cut = np.asarray(tokenized["labelled"]), np.asarray(tokenized["cut"])
    tokenized = tokenized.remove_columns(["labelled", "cut"])
    bounds = f"max_length={encoder.max_length}, max_completion_length={encoder.max_completion_length}"
    if cut.any():
        logger.warning(f"{name}: {int(cut.sum())} steps in {int((cut > 0).sum())} rows left out, over {bounds}.")
    kept = np.flatnonzero(labelled > 0)
    if len(kept) == 0:
        raise DataError(f"no row has a labelled step within {bounds}", file=name)
    if len(kept) < len(tokenized):
        logger.warning(
            f"{name}: {len(tokenized) - len(kept)} of {len(tokenized)} rows dropped, no labelled step within {bounds}."
        )
        tokenized = tokenized.select(kept)
    return tokenized


@dataclass(frozen=True, slots=True)
class StepCollator:
    """Pads `input_ids` and, where present, `labels` on the right, whatever side the tokenizer pads for generation.

    On the right, padding comes after everything that a causal model looks at, so it changes no step's score, also in
    models with absolute positions.

    Attributes:
        pad_token_id: Token to pad `input_ids` with. The attention mask hides it, so any token does.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask` and `labels`, each a LongTensor of shape (batch, longest)."""
        ids = [torch.as_tensor(example["input_ids"], dtype=torch.long) for example in examples]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        }
        if "labels" in examples[0]:
            labels = [torch.as_tensor(example["labels"], dtype=torch.long) for example in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> StepCollator:
        """Pads with the tokenizer's padding token, or its end-of-text token, or token 0."""
        return cls(padding_token(tokenizer))
