"""Rows with step labels, checked and turned into token ids and token labels for `PRMTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import pyarrow
import pyarrow.compute as compute
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, Features, List, Value
from torch.nn.utils.rnn import pad_sequence

from genprm_trl.data.formats import read_stepwise, read_stepwise_with
from genprm_trl.data.solutions import Records, RowReader, solution_reader
from genprm_trl.data.sources import is_transformed, refuse_frame
from genprm_trl.errors import DataError
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.rows.fields import as_identifier, as_list, as_number, as_step_label
from genprm_trl.training.scores import IGNORED
from genprm_trl.verifier.step_tokens import DEFAULT_STEP_SEPARATOR, pad_right, padding_token, tokenize_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

Row: TypeAlias = Solution | RationaleRecord | Mapping[str, Any]
Rows: TypeAlias = Dataset | Sequence[Row]


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


@dataclass(frozen=True, slots=True)
class EstimatedSteps:
    """A prompt and the steps for which there are Monte Carlo estimates.

    Attributes:
        prompt: The problem.
        steps: The steps, at least one.
        labels: One number per step: the share, in [0, 1], of rollouts after it that reached the right answer. None
            where no estimate was made.
    """

    prompt: str
    steps: list[str]
    labels: list[float | None]


def labelled_steps(row: Row) -> LabelledSteps:
    """Reads a row of any form that `PRMTrainer` takes.

    The forms are TRL's stepwise-supervision rows (`prompt`, `completions`, `labels`), rationale records, and
    ProcessBench's rows (`problem`, `steps`, `label`), the last also as a `Solution`. ProcessBench marks only the first
    wrong step, so its steps before that are correct, that one is wrong, and those after it are left out, unless the
    solution has `labels` for them, too.

    Args:
        row: The row.

    Returns:
        The `LabelledSteps`.

    Raises:
        DataError: A field is missing, empty, of the wrong type, or the lengths differ. Names the field.
    """
    if _is_stepwise(row):
        return LabelledSteps(*read_stepwise(row))
    record = _record(row)
    if isinstance(record, RationaleRecord):
        solution, labels = record.solution, record.labels
    else:
        solution, labels = record, _known_labels(record)
    return LabelledSteps(solution.problem, list(solution.steps[: len(labels)]), list(labels))


def estimated_steps(row: Row) -> EstimatedSteps:
    """Reads a row of the same forms for soft labels: the Monte Carlo estimates that `genprm label` wrote (`mc`).

    In a stepwise-supervision row the labels are the estimates.

    Raises:
        DataError: As `labelled_steps`; or there are no estimates, or one is outside [0, 1].
    """
    if _is_stepwise(row):
        return EstimatedSteps(*read_stepwise_with(row, _as_estimate))
    record = _record(row)
    solution = record.solution if isinstance(record, RationaleRecord) else record
    if solution.extra.get("mc") is None:
        raise DataError("is missing; soft labels are Monte Carlo estimates, which genprm label writes", field="mc")
    estimates = [_as_estimate(each, f"mc[{index}]") for index, each in enumerate(as_list(solution.extra["mc"], "mc"))]
    if not 1 <= len(estimates) <= len(solution.steps):
        raise DataError(
            f"must hold an estimate for each judged step: {len(estimates)} for {len(solution.steps)} steps", field="mc"
        )
    return EstimatedSteps(solution.problem, list(solution.steps[: len(estimates)]), estimates)


def _is_stepwise(row: Row) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(row, Mapping) and ("prompt" in row or "completions" in row)


def _record(row: Row) -> Solution | RationaleRecord:
    if isinstance(row, Solution | RationaleRecord):
        return row
    if row.get("rationales") is not None and isinstance(row.get("solution"), Mapping):
        return RationaleRecord.from_dict({"id": "row", **row})
    if "steps" in row:
        return Solution.from_dict(row, default_id="row")
    raise DataError(
        "is missing; a row needs prompt, completions and labels, or problem, steps and label "
        f"(this one has {', '.join(row) or 'no field'})",
        field="steps",
    )


def _known_labels(solution: Solution) -> list[bool]:
    """Labels of the first steps of a solution, as far as they are known."""
    if solution.label is None:
        raise DataError("must be the index of the first wrong step, or -1 for none, but is missing", field="label")
    known = [True] * len(solution.steps) if solution.label < 0 else [True] * solution.label + [False]
    given = solution.extra.get("labels")
    if isinstance(given, list) and len(given) > len(known):
        try:
            return [as_step_label(label, f"labels[{index}]") for index, label in enumerate(given)]
        except DataError:  # what is no label of a step says nothing beside `label`
            pass
    return known


def _as_estimate(value: Any, field: str) -> float | None:
    return (
        None if value is None else float(value) if isinstance(value, bool) else as_number(value, field, low=0, high=1)
    )


def load_labelled(
    source: Any,
    *,
    soft: bool = False,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_format: Callable[[str], None] | None = None,
) -> Dataset:
    """Reads a file of solutions with step labels; errors name the file and its row.

    Args:
        source: A file or dataset of any kind that `loading.load_solutions` takes, or of rationale records.
        soft: Whether to take Monte Carlo estimates for labels.
        split: The split, where the source has several.
        format: The rows' format, a name in `formats.FORMATS`, or `auto`.
        limit: Read only the first LIMIT solutions.
        skip_bad_rows: Leave bad rows out, with a warning for each.
        on_format: Called with the name of the rows' format, once it is known.

    Returns:
        A dataset with the columns `prompt`, `completions` and `labels`. Of a row of several solutions, those without
        labels are left out.

    Raises:
        DataError: The source is unreadable or has no usable row; or, unless `skip_bad_rows`, a row is bad.
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    open_solutions = solution_reader(format, on_format)

    def open_reader(stem: str) -> RowReader:
        read_solutions = open_solutions(stem)

        def read(row: Mapping[str, Any], number: int) -> list[_Read]:
            if isinstance(row.get("solution"), Mapping):
                record = RationaleRecord.from_dict(row)
                return [_Read(record.solution.id, _steps(record, soft))]
            if soft and row.get("completions") is not None:  # its labels are none for a reader of solutions
                return [_Read(as_identifier(row, f"{stem}-{number}"), estimated_steps(row))]
            solutions = read_solutions(row, number)
            labelled = [solution for solution in solutions if solution.label is not None] or solutions
            return [_Read(solution.id, _steps(solution, soft)) for solution in labelled]

        return read

    rows: Records[_Read] = Records(source, open_reader, split=split, limit=limit, skip_bad_rows=skip_bad_rows)
    return _as_dataset([row.steps for row in rows])


class _Read(NamedTuple):
    id: str
    steps: LabelledSteps | EstimatedSteps


def _steps(row: Row, soft: bool) -> LabelledSteps | EstimatedSteps:
    return estimated_steps(row) if soft else labelled_steps(row)


def _as_dataset(rows: Sequence[LabelledSteps | EstimatedSteps]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [row.prompt for row in rows],
            "completions": [row.steps for row in rows],
            "labels": [row.labels for row in rows],
        }
    )


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
        soft: Whether labels are Monte Carlo estimates.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    step_separator: str = DEFAULT_STEP_SEPARATOR
    max_length: int | None = None
    max_completion_length: int | None = None
    last_step_only: bool = False
    soft: bool = False

    def read(self, row: Row, number: int) -> LabelledSteps | EstimatedSteps:
        """The row's steps.

        Raises:
            DataError: The row is unusable. Names it.
        """
        try:
            return _steps(row, self.soft)
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
        labels: list[float] = [IGNORED] * len(tokens.input_ids)
        last = len(example.steps) - 1
        for step, (end, label) in enumerate(zip(tokens.step_ends, example.labels, strict=False)):
            if label is not None and (step == last or not self.last_step_only):
                labels[end] = float(label) if self.soft else int(label)
        return {
            "input_ids": tokens.input_ids,
            "labels": labels,
            "labelled": sum(label != IGNORED for label in labels),
            "cut": len(example.steps) - len(tokens.step_ends),
        }


def prepare_dataset(rows: Rows, encoder: StepEncoder, num_proc: int | None = None) -> Dataset:
    """Turns rows into `input_ids` and `labels`: 1, 0 or the estimate at the end of each labelled step, else -100.

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
        rows = _as_dataset([encoder.read(row, number) for number, row in enumerate(rows, start=1)])
    if len(rows) == 0:
        raise DataError("has no rows", file=name)
    if is_tokenized(rows, name):
        return rows
    refuse_transform(rows, name)
    kind = "float32" if encoder.soft else "int64"
    # One process tokenizes and the others read its cache.
    with PartialState().main_process_first():
        tokenized = rows.with_format(None).map(
            encoder,
            with_indices=True,
            remove_columns=rows.column_names,
            # Named, because `map` would otherwise keep the type of the column `labels`, which is bool.
            features=Features(
                {
                    "input_ids": List(Value("int64")),
                    "labels": List(Value(kind)),
                    "labelled": Value("int64"),
                    "cut": Value("int64"),
                }
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
    """Pads `input_ids` and, where present, `labels` on the right; see `pad_right`.

    Attributes:
        pad_token_id: Token to pad `input_ids` with. The attention mask hides it, so any token does.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask` and `labels`, each of shape (batch, longest).

        All are LongTensors, but for soft labels, which are a FloatTensor.
        """
        batch = pad_right([example["input_ids"] for example in examples], self.pad_token_id)
        if "labels" in examples[0]:
            labels = [torch.as_tensor(example["labels"]) for example in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> StepCollator:
        """Pads with the tokenizer's padding token, or its end-of-text token, or token 0."""
        return cls(padding_token(tokenizer))
