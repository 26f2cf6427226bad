"""Training a discriminative process reward model: classification of each step at its end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

# Every name of TRL that this trainer rests on and that TRL does not promise to keep. tests/training/test_prm.py has a
# test for each.
from trl.trainer.base_config import _BaseConfig
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import disable_dropout_in_model

from genprm_trl.cards.model_card import DISCRIMINATIVE
from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.training.options import TrainerOptions
from genprm_trl.training.prm.data import Rows, StepCollator, StepEncoder, prepare_dataset
from genprm_trl.training.prm.loading import load_new_classifier
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.training.scores import IGNORED, step_scores
from genprm_trl.verifier.step_tokens import DEFAULT_STEP_SEPARATOR, load_step_tokenizer

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

logger = get_logger(__name__)


@dataclass
class PRMConfig(TrainerOptions, _BaseConfig):
    r"""Options of `PRMTrainer`, on top of those of `transformers.TrainingArguments`.

    Differs from `TrainingArguments` in four defaults: `learning_rate` 1e-5, `logging_steps` 10,
    `gradient_checkpointing` true, and `bf16` true where the accelerator computes in bfloat16 (never on a CPU, where
    it has to be asked for).

    Attributes:
        step_separator: Text that follows every step, in separate token ids; the step is classified at the last one.
        max_length: Bound on the tokens of prompt and steps. Steps that do not fit are left out. None is no bound.
        max_completion_length: Bound on the tokens of the steps, without the prompt. None is no bound.
        train_on_last_step_only: Train only on the last step's label (outcome supervision); evaluation uses all.
        soft_labels: Train on the Monte Carlo estimates of the rows; evaluation uses labels.
        train_head_only: Train the classification head alone, and leave the model below it as it is.
        disable_dropout: Set every dropout probability to 0.
        dataset_num_proc: Processes that tokenize. None is only this one.
        model_init_kwargs: Arguments of `from_pretrained` for a model given by its name or path.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*_BaseConfig._VALID_DICT_FIELDS, "model_init_kwargs"]

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})
    step_separator: str = field(
        default=DEFAULT_STEP_SEPARATOR,
        metadata={"help": "Text that follows every step; the step is classified at its last token."},
    )
    max_length: int | None = field(
        default=1024,
        metadata={"help": "Bound on the tokens of prompt and steps; steps that do not fit are left out."},
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Bound on the tokens of the steps, without the prompt. Unset is no bound."}
    )
    train_on_last_step_only: bool = field(
        default=False, metadata={"help": "Train only on the last step's label. Evaluation uses all labels."}
    )
    soft_labels: bool = field(
        default=False,
        metadata={
            "help": "Train on the share of rollouts after each step that reached the right answer (mc, which "
            "`genprm label` writes), in place of right and wrong. Evaluation uses labels."
        },
    )
    train_head_only: bool = field(
        default=False, metadata={"help": "Train the classification head alone. The model below it stays as it is."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Set every dropout probability to 0."})
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenize the data."}
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Arguments of `from_pretrained`, as JSON, for a model given by its name or path."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_length", "max_completion_length"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise ConfigError(f"{name} must be at least 1 or unset, got {bound}")

    def step_encoder(
        self, tokenizer: PreTrainedTokenizerBase, name: str, *, last_step_only: bool = False, soft: bool = False
    ) -> StepEncoder:
        """What encodes the rows of that name by these options."""
        return StepEncoder(
            tokenizer, name, self.step_separator, self.max_length, self.max_completion_length, last_step_only, soft
        )


_CITATION = """\
@article{uesato2022solving,
  title   = {Solving math word problems with process- and outcome-based feedback},
  author  = {Uesato, Jonathan and Kushman, Nate and Kumar, Ramana and Song, Francis and Siegel, Noah and
             Wang, Lisa and Creswell, Antonia and Irving, Geoffrey and Higgins, Irina},
  journal = {arXiv preprint arXiv:2211.14275},
  year    = {2022}
}"""


class PRMTrainer(RewardModelTrainer, _BaseTrainer):
    """Trains a token classifier to tell at the end of each step whether the step is correct.

    Discriminative process supervision as in Uesato et al. 2022 (arXiv 2211.14275) and Lightman et al. 2023
    (arXiv 2305.20050). Takes the rows and options of the `PRMTrainer` that TRL had until its version 1.13.

    The loss is the cross-entropy of the labelled steps, averaged over all labelled steps of an optimizer step,
    whichever device and accumulation step they are in. With `args.soft_labels` the target of a step is the share of
    rollouts after it that reached the right answer (soft estimation, Math-Shepherd, arXiv 2312.08935, section 3.3).
    Evaluation reports `step_metrics` unless `compute_metrics`
    is given.

    Example:
        ```python
        from datasets import Dataset

        from genprm_trl import PRMConfig, PRMTrainer

        row = {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12.", "2 + 12 = 15."], "labels": [True, False]}
        trainer = PRMTrainer(
            "Qwen/Qwen2.5-Math-1.5B", args=PRMConfig("math-prm"), train_dataset=Dataset.from_list([row])
        )
        trainer.train()
        ```

    Args:
        model: A token classification model with two labels (1 is correct), also a PEFT one, or the name or path of any
            checkpoint; a causal model gets a new classification head, also where transformers has none for its
            architecture. Loaded in float32 unless `args.model_init_kwargs` says otherwise.
        args: Options; the defaults of `PRMConfig` if None. Plain `TrainingArguments` are taken as well.
        data_collator: Makes batches of `input_ids` and `labels`; `StepCollator` if None.
        train_dataset: Rows with `prompt`, `completions` and `labels` (true or false a completion, also as 1 and 0 or
            1.0 and 0.0), ProcessBench rows with `problem`, `steps` and `label`, or rows of rationales: a
            `datasets.Dataset` or a list, of `Solution`s and `RationaleRecord`s, too.
        eval_dataset: The same, or a dict of such datasets by name.
        processing_class: The tokenizer; loaded from the model's path if None.
        compute_metrics: Computes metrics from logits (rows, length, 2) and labels (rows, length). Default:
            `step_metrics`.
        callbacks: Callbacks of `transformers.Trainer`.
        optimizers: Optimizer and scheduler of `transformers.Trainer`.
        optimizer_cls_and_kwargs: Optimizer class and arguments of `transformers.Trainer`.
        preprocess_logits_for_metrics: Function of `transformers.Trainer` that is applied before metrics.
        peft_config: Wraps the model in an adapter. Its task type is set to token classification, with which PEFT
            trains and saves the classification head along with the adapter.

    Raises:
        ConfigError: The model has not two labels, the tokenizer cannot be loaded, or options contradict each other.
        DataError: A row is unusable, or none has a labelled step that fits.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "prm", "genprm-trl"]
    _name = "PRM"
    card_kind = DISCRIMINATIVE
    card_citation = _CITATION

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | PeftModel,
        args: PRMConfig | TrainingArguments | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        peft_config: PeftConfig | None = None,
    ):
        path = os.fspath(model) if isinstance(model, str | os.PathLike) else model.config.name_or_path
        args = PRMConfig(f"{Path(path).name or 'model'}-PRM") if args is None else PRMConfig.of(args)
        if train_dataset is None:
            raise ConfigError("`train_dataset` is required")
        if compute_metrics is None:
            if args.batch_eval_metrics:
                raise ConfigError("batch_eval_metrics=True needs your own compute_metrics")
            compute_metrics = step_metrics

        set_seed(args.seed)  # before the classification head is drawn
        if isinstance(model, str | os.PathLike):
            classifier = load_new_classifier(path, args.model_init_kwargs)
        elif args.model_init_kwargs:
            raise ConfigError("model_init_kwargs is for a model given by its path; this one is loaded already")
        else:
            classifier = model
        if classifier.config.num_labels != 2:
            raise ConfigError(
                f"The model has {classifier.config.num_labels} labels; a step is correct or not (num_labels=2)"
            )
        if processing_class is None:
            processing_class = load_step_tokenizer(path, args.model_init_kwargs)
        # Kept with the weights, so that a scorer separates the steps as training did.
        classifier.config.step_separator = args.step_separator
        if peft_config is not None:
            classifier = _add_adapter(classifier, peft_config)
        if args.train_head_only:
            if is_peft_model(classifier):
                raise ConfigError("an adapter trains the head with it: leave out train_head_only, or the adapter")
            classifier.base_model.requires_grad_(False)
        if is_peft_model(classifier) and args.gradient_checkpointing:
            classifier.enable_input_require_grads()  # else nothing before the adapters needs a gradient, or gets one
        if args.disable_dropout:
            disable_dropout_in_model(classifier)

        encoder = args.step_encoder(
            processing_class,
            "train_dataset",
            last_step_only=args.train_on_last_step_only,
            soft=args.soft_labels,
        )
        train_dataset = prepare_dataset(train_dataset, encoder, args.dataset_num_proc)
        eval_dataset = _prepare_eval(eval_dataset, processing_class, args)
        super().__init__(
            model=classifier,
            args=args,
            data_collator=data_collator or StepCollator.for_tokenizer(processing_class),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            # Trainer would take the loss from the model, and transformers' token classifiers average it over the
            # micro-batch while Trainer counts on a sum over `num_items_in_batch`: wrong by the number of processes and
            # accumulation steps.
            compute_loss_func=functools.partial(step_loss, label_smoothing=args.label_smoothing_factor),
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if args.n_gpu > 1:
            raise ConfigError(
                "Several GPUs are visible to one process. Start it with `accelerate launch`, or make one visible with "
                "CUDA_VISIBLE_DEVICES."
            )
        self.model.add_model_tags(self._tag_names)

    def _prepare_eval(self, rows: Any) -> Any:
        return _prepare_eval(rows, self.processing_class, self.args)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves weights, tokenizer and configuration, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and is_peft_model(self.accelerator.unwrap_model(self.model)):
            # PEFT saves the adapter alone; the separator is in the model's configuration.
            self.model.config.save_pretrained(output_dir or self.args.output_dir)

    def _save_checkpoint(self, *args: Any) -> None:
        """Writes the card with each checkpoint, as the trainers of TRL do."""
        self.create_model_card(model_name=Path(self.args.hub_model_id or self.args.output_dir).name)
        super()._save_checkpoint(*args)

    def card_training(self) -> dict[str, Any]:
        """Returns the step separator that the model was trained with, the kind of its labels, and what was trained."""
        return {
            "step separator": repr(self.args.step_separator),
            "labels of steps": "Monte Carlo estimates" if self.args.soft_labels else "right or wrong",
            **({"trained": "the head alone"} if self.args.train_head_only else {}),
        }


def step_loss(
    outputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of the labelled steps.

    Args:
        outputs: The model's outputs, with `logits` of shape (batch, length, 2).
        labels: 1, 0 or, for a soft label, a number in [0, 1]; else -100; shape (batch, length).
        num_items_in_batch: Number of labelled steps to average over; those of this batch if None.
        label_smoothing: Share of the target spread over both labels.

    Returns:
        A scalar: the sum over this batch's labelled steps divided by `num_items_in_batch`. A step with the label y and
        the probability p of being correct has -y log p - (1 - y) log(1 - p).
    """
    labelled = labels != IGNORED
    logits, correct = outputs["logits"][labelled].float(), labels[labelled].float()
    targets = torch.stack([1 - correct, correct], dim=-1)
    total = cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    if num_items_in_batch is None:
        num_items_in_batch = labelled.sum().clamp(min=1)
    return total / num_items_in_batch


def step_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy over steps, and the scores of ProcessBench over solutions.

    A step counts as judged correct where P(correct) >= 0.5; a solution's first wrong step is compared with the first
    step so judged, among the steps that fit `max_length`.

    Args:
        prediction: Logits of shape (rows, length, 2) and labels of shape (rows, length), or lists of such batches.

    Returns:
        `accuracy`: share of labelled steps judged right, in [0, 1]. `error_acc`, `correct_acc`, `f1`: see
        `metrics.processbench_scores`, in per cent; those that need a class of which there is no row are left out.
    """
    accuracy, scores = step_scores(
        (labels[labels != IGNORED] == 1, (logits[:, 1] >= logits[:, 0])[labels != IGNORED])
        for logits, labels in zip(_rows(prediction.predictions), _rows(prediction.label_ids), strict=True)
    )
    return {"accuracy": accuracy, **scores}


def _rows(batches: Any) -> Iterable[np.ndarray]:
    """The rows of an array, or of a list of arrays (`eval_do_concat_batches=False`)."""
    return chain.from_iterable(batches) if isinstance(batches, list) else batches


def _prepare_eval(rows: Any, tokenizer: PreTrainedTokenizerBase, args: PRMConfig) -> Any:
    def prepare(part: Rows, name: str) -> Dataset:
        return prepare_dataset(part, args.step_encoder(tokenizer, name), args.dataset_num_proc)

    if isinstance(rows, dict):
        return {name: prepare(part, f"eval_dataset[{name!r}]") for name, part in rows.items()}
    return None if rows is None else prepare(rows, "eval_dataset")


def _add_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    try:
        from peft import TaskType, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "Training an adapter") from error
    if is_peft_model(model):
        raise ConfigError("The model has an adapter already; pass it without peft_config, or merge the adapter first")
    if peft_config.task_type != TaskType.TOKEN_CLS:
        # Another type would leave the classification head at its random start, frozen and not saved.
        if peft_config.task_type is not None:
            logger.warning(f"peft_config.task_type={peft_config.task_type} changed to TOKEN_CLS.")
        peft_config.task_type = TaskType.TOKEN_CLS
    if str(getattr(peft_config, "target_modules", "")).lower() == "all-linear" and not peft_config.exclude_modules:
        # PEFT would take the head for one of them, which is trained as it is.
        peft_config.exclude_modules = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return get_peft_model(model, peft_config)
