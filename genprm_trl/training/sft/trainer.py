"""Training a generative process reward model on rationales: TRL's supervised fine-tuning on GenPRM's conversations."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from trl import SFTConfig, SFTTrainer

from genprm_trl.cards.model_card import GENERATIVE, THINKING
from genprm_trl.conversation.conversation import TokenKind
from genprm_trl.conversation.settings import ModelSettings, ProtocolName, load_settings
from genprm_trl.conversation.template import ChatFormat, TurnOpening
from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_config, load_tokenizer
from genprm_trl.protocol.genprm import MODES
from genprm_trl.training.card_facts import row_facts
from genprm_trl.training.dates import dated_by, training_date
from genprm_trl.training.options import TrainerOptions
from genprm_trl.training.prm.data import is_tokenized
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.training.scores import step_scores
from genprm_trl.training.sft.data import ConversationEncoder, Rows, as_dataset, encode_dataset
from genprm_trl.training.sft.packing import check_documents_apart

if TYPE_CHECKING:
    from peft import PeftModel

logger = get_logger(__name__)


@dataclass
class GenPRMConfig(TrainerOptions, SFTConfig):
    r"""Options of `GenPRMTrainer`, on top of those of `trl.SFTConfig`.

    Differs from `SFTConfig` in these defaults: `learning_rate` 2e-6 (arXiv 2504.00891, appendix); `max_length` 16384,
    which holds eight steps of the longest rationale that the published inference allows; `eval_packing` false, since
    step judgements are scored a solution at a time; and `bf16` true only where the accelerator computes in bfloat16
    (never on a CPU, where it has to be asked for).

    Attributes:
        mode: Train every row in this mode (a name of `protocol.MODES`); parts that its rationales have beyond it are
            left out, and `direct` needs no rationales but step labels. None trains each row in its own mode (its field
            `mode` or `source.mode`), the full one where it has none. Tokenized rows do not show their mode, so it has
            to be said here. The modes of a stream are those of the rows that were read.
        protocol: The format to train in: a GenPRM's, or a ThinkPRM's single chain of thought (arXiv 2504.16828), which
            has no modes. The rows of a ThinkPRM are those of `training.sft.chains.read_chain`.
        turn_opening: How an assistant's turn opens; see `conversation.template.ChatFormat`. With `as_published` and
            `as_published_ids_kept` all turns are trained with the template's own marker before them, which the
            verifier leaves out before the one turn that it opens, as the published inference does; only
            `generation_prompt` asks in exactly the trained tokens.
        first_turn: Form of the first user turn; see `protocol.GenPRMProtocol`.
        train_on_interpreter_output: Train on what the interpreter prints, too, which the model need not write.
        train_on_forced_prefix: Train on the prefixes that the verifier forces, too.
        skip_bad_rows: Skip rows that cannot be used, with a count, instead of stopping before training.
        step_metrics: At each evaluation, report how well the model judges steps given the rationales of the dataset.
    """

    learning_rate: float = field(default=2e-6, metadata={"help": "The initial learning rate for AdamW."})
    max_length: int | None = field(
        default=16384,
        metadata={
            "help": "Bound on the tokens of a conversation, and the length of a packed sequence. A conversation that "
            "is longer is cut after the last whole turn that fits."
        },
    )
    eval_packing: bool | None = field(
        default=False,
        metadata={"help": "Pack the evaluation data, too; there are no step metrics then."},
    )
    mode: str | None = field(
        default=None,
        metadata={
            "help": "Train every row in this mode; what its rationales hold beyond it is left out. 'direct' needs "
            "only step labels. Unset: each row's own mode, full where it has none.",
            "choices": list(MODES),
        },
    )
    protocol: str = field(
        default="genprm",
        metadata={
            "help": "The format to train in. thinkprm: one chain of thought judges all steps, without code.",
            "choices": list(get_args(ProtocolName)),
        },
    )
    turn_opening: str = field(
        default="generation_prompt",
        metadata={
            "help": "How an assistant's turn opens: with the chat template's generation prompt, or as the published "
            "GenPRM checkpoints have it.",
            "choices": list(get_args(TurnOpening)),
        },
    )
    first_turn: str = field(
        default="evaluation",
        metadata={
            "help": "Form of the first user turn, as in the published evaluation or the published demonstration.",
            "choices": ["evaluation", "demonstration"],
        },
    )
    train_on_interpreter_output: bool = field(
        default=False, metadata={"help": "Train on what the interpreter prints, too."}
    )
    train_on_forced_prefix: bool = field(
        default=False, metadata={"help": "Train on the prefixes that the verifier forces, too."}
    )
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Skip rows that cannot be used, with a count, instead of stopping."}
    )
    step_metrics: bool = field(
        default=True,
        metadata={
            "help": "At each evaluation, report the accuracy and ProcessBench F1 of P(Yes) at the verdicts, given the "
            "rationales before them."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Checks the three values at once; the settings that are saved are the ones that were used.
        self.model_settings([self.mode or "full"])
        if self.protocol == "thinkprm" and (self.mode is not None or self.turn_opening != "generation_prompt"):
            raise ConfigError(
                "a thinkprm has no mode and no other turn_opening than generation_prompt; leave them out"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length must be at least 1 or unset, got {self.max_length}")
        if self.packing and self.packing_strategy == "wrapped":
            raise ConfigError(
                "packing_strategy='wrapped' cuts rationales in the middle and lets them see one another; use 'bfd'"
            )
        for name in ("assistant_only_loss", "completion_only_loss"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name} has no meaning here: the loss is always on what the model must write (see "
                    "train_on_interpreter_output and train_on_forced_prefix)"
                )

    def model_settings(self, modes: Iterable[str]) -> ModelSettings:
        """What a verifier must know of a model trained so.

        Args:
            modes: Names of the modes it was trained in.
        """
        known = {name: order for order, name in enumerate(MODES)}
        return ModelSettings(
            turn_opening=self.turn_opening,  # type: ignore[arg-type]  # checked there
            first_turn=self.first_turn,  # type: ignore[arg-type]
            modes=tuple(sorted(modes, key=lambda name: known.get(name, -1))),
            protocol=self.protocol,  # type: ignore[arg-type]
        )

    @property
    def trained_kinds(self) -> tuple[TokenKind, ...]:
        """The kinds of tokens (`conversation.TokenKind`) that the loss is on."""
        kinds: list[TokenKind] = ["written", "mark", "end_of_turn"]
        if self.train_on_interpreter_output:
            kinds.append("interpreter")
        if self.train_on_forced_prefix:
            kinds.append("forced")
        return tuple(kinds)


class GenPRMTrainer(RewardModelTrainer, SFTTrainer):
    """Trains a generative process reward model (Zhao et al. 2025, arXiv 2504.00891, section 3).

    The model learns to write the rationale of each step in the conversation that the verifier holds with it: the loss
    is on what it must write, not on the prefixes that the verifier forces nor on what the interpreter prints.

    At each evaluation it reports, besides what `SFTTrainer` does, how P(Yes) / (P(Yes) + P(No)) at each verdict fares,
    given the dataset's rationale before it: `step_accuracy` in [0, 1], and `error_acc`, `correct_acc` and `f1` as
    in ProcessBench, in per cent (see `metrics.processbench_scores`), over the steps that fit `max_length`. That is
    cheap, and says whether the model reads a verdict off a good rationale; whether it writes good rationales is seen
    only with the verifier (`GenPRM`).

    Example:
        ```python
        from genprm_trl import GenPRMConfig, GenPRMTrainer

        trainer = GenPRMTrainer(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", args=GenPRMConfig("genprm-1.5b"), train_dataset=records
        )
        trainer.train()
        trainer.save_model()
        ```

    Args:
        model: A causal language model, also a PEFT one, or its name or path.
        args: Options; the defaults of `GenPRMConfig` if None. Plain `TrainingArguments` are taken as well. An
            `SFTConfig` keeps its own values, `max_length` 1024 for instance.
        train_dataset: The third argument here, where `SFTTrainer` has `data_collator`. `RationaleRecord`s or their
            rows; rows with `messages`, whose assistant turns are rationales (or `conversations` of messages with
            `from` and `value`); in the direct mode also rows with step labels (`problem`, `steps`, `label` as in
            ProcessBench, or `prompt`, `completions`, `labels`). A `datasets.Dataset`, an `IterableDataset`, or a list.
        eval_dataset: The same, or a dict of such datasets by name.
        processing_class: The tokenizer; loaded from the model's path if None. An adapter that is trained further needs
            the one that was saved with it if the chat template shows the date: its directory says which.
        **kwargs: Arguments of `trl.SFTTrainer`: `data_collator`, `callbacks`, `optimizers`, `peft_config`, ...

    Raises:
        ConfigError: Options contradict each other, or the tokenizer has no usable chat template.
        DataError: A row is unusable, or none fits.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "sft", "genprm-trl", "genprm"]
    _name = "GenPRM"
    card_kind = GENERATIVE
    args: GenPRMConfig
    train_dataset: Dataset | IterableDataset
    data_collator: Any

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: GenPRMConfig | TrainingArguments | None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ):
        if args is None:
            path = model if isinstance(model, str) else model.config.name_or_path
            args = GenPRMConfig(f"{Path(path).name or 'model'}-GenPRM")
        args = GenPRMConfig.of(args)
        if args.protocol == "thinkprm":
            self.card_kind = THINKING
        if train_dataset is None:
            raise ConfigError("`train_dataset` is required")
        if kwargs.get("formatting_func") is not None:
            raise ConfigError("formatting_func has no use here: the conversations are made from the rows")
        if processing_class is None and isinstance(model, str) and not _is_special_checkpoint(args):
            # Loaded as the verifier will load it; AutoTokenizer takes some saved tokenizers for another class.
            processing_class = load_tokenizer(model)
        # Which of MODES are trained in. Shared, since workers of the data loader may be those that read a stream.
        self._met = torch.zeros(len(MODES), dtype=torch.uint8).share_memory_()
        self._train_is_prepared = False
        self._max_tokens = _max_tokens(model, args)
        self._documents_are_apart = False
        self._judgements: list[torch.Tensor] = []
        self._data_facts: dict[str, str] = {}
        self._dated_by = dated_by(model, processing_class, args)
        self._template_date: str | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=as_dataset(train_dataset, _encoder(args, "train_dataset")),
            eval_dataset=_eval_dataset(eval_dataset, args),
            processing_class=processing_class,
            **kwargs,
        )
        # Verdicts are for evaluation alone.
        if _VERDICTS in _columns(self.train_dataset):
            self.train_dataset = self.train_dataset.remove_columns(_VERDICTS)
        if args.mode is None and args.protocol == "genprm" and not self._met.any():
            logger.warning(
                "The rows are tokenized and do not show their mode: genprm.json will say that it is full. Name "
                "another with the option mode."
            )
        if kwargs.get("data_collator") is None and args.step_metrics:
            self.data_collator = VerdictCollator(self.data_collator, flattens=self.padding_free)

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin,
        args: SFTConfig,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        """Encodes the conversations; SFTTrainer then finds a tokenized dataset, and packs it if asked."""
        assert isinstance(args, GenPRMConfig)
        is_train, self._train_is_prepared = not self._train_is_prepared, True  # TRL begins with the training data
        name = "train_dataset" if is_train else _eval_name(None if dataset_name == "eval" else dataset_name)
        columns = _columns(dataset)
        if "seq_lengths" in columns:
            return dataset  # TRL prepares a dict of evaluation sets twice, and would pack again what is packed
        tokenized = "input_ids" in columns
        if tokenized and "labels" in columns:
            # The first row of a stream speaks for it.
            is_table = isinstance(dataset, Dataset)
            tokenized = is_tokenized(dataset if is_table else Dataset.from_list(list(dataset.take(1))), name)
        if not tokenized:
            encoder = _encoder(args, name)
            encoder.tokenizer = getattr(processing_class, "tokenizer", processing_class)
            encoder.max_length = self._max_tokens
            encoder.template_date = self._freeze_date(encoder.tokenizer)
            chat = encoder.chat  # an unusable chat template shows before the work
            if is_train and (untrained := chat.untrained_end()):
                logger.warning(
                    f"The chat template has no token that ends {untrained}, so the model is not taught to end it. The "
                    "verifier relies on its stop string </output> there; other programs that use the model must stop "
                    "at it, too."
                )
            if is_train and isinstance(dataset, IterableDataset):
                encoder.met = self._met  # a stream is not read through beforehand
            dataset = encode_dataset(dataset, encoder, args.dataset_num_proc)
            if is_train:
                if isinstance(dataset, Dataset):
                    self._met[[list(MODES).index(mode) for mode in dataset.unique("mode")]] = 1
                self._data_facts = row_facts(dataset)
            dataset = dataset.remove_columns("mode")
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as TRL's trainer.

        Raises:
            ConfigError: The checkpoint was trained with another day in its chat template than the rows here show.
        """
        named = isinstance(resume_from_checkpoint, str | os.PathLike) and Path(resume_from_checkpoint).is_dir()
        if named and self._template_date is not None:
            kept = load_settings(str(resume_from_checkpoint))
            if kept is not None and kept.template_date not in (None, self._template_date):
                raise ConfigError(
                    f"{resume_from_checkpoint} was trained with {kept.template_date} as today's date in its chat "
                    f"template, and the rows here are encoded with {self._template_date}: set the option "
                    "resume_from_checkpoint, too, from which the day is taken"
                )
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Computes SFTTrainer's loss. Before the first one it checks that packed conversations are apart."""
        if self.padding_free and not self._documents_are_apart:
            # Here, since only now is the model where and how it will be trained, whatever wraps it.
            check_documents_apart(model, self.accelerator.unwrap_model(model), self.args.device)
            self._documents_are_apart = True
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _freeze_date(self, tokenizer: Any) -> str | None:
        """The day that the chat template shows in this training: today, or that of what it goes on from."""
        if self._template_date is None:
            self._template_date = training_date(tokenizer, self._dated_by)
        return self._template_date

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _VERDICTS not in self._signature_columns:
            self._signature_columns.append(_VERDICTS)

    def _prepare_eval(self, rows: Any) -> Any:
        return _eval_dataset(rows, self.args)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Runs the loop and adds the step metrics of what it saw."""
        self._judgements = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._judgements:
            metrics = verdict_metrics(row for batch in self._judgements for row in batch)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Evaluates one batch, and keeps how the model judges its steps for `evaluation_loop`."""
        verdicts = inputs.pop(_VERDICTS, None)
        result = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if verdicts is not None:
            judged = self._judge(model, self._prepare_inputs(inputs), verdicts.to(self.args.device))
            judged = self.accelerator.pad_across_processes(judged, dim=1, pad_index=-1)
            self._judgements.append(self.accelerator.gather_for_metrics(judged).cpu())
        return result

    @torch.no_grad()
    def _judge(self, model: torch.nn.Module, inputs: dict[str, Any], verdicts: torch.Tensor) -> torch.Tensor:
        """P(Yes) at each verdict.

        Args:
            model: The model as the evaluation loop prepared it.
            inputs: A batch on the model's device.
            verdicts: The verdicts that `VerdictCollator` added, shape (solutions, steps, 5).

        Returns:
            Shape (solutions, steps, 2): P(Yes), and 1 or 0 for what the dataset says; -1 where there is no step.
        """
        there = verdicts[..., 1] >= 0
        row, position, judgement, yes, no = verdicts[there].T
        # The logits before a token are its prediction. Only these are computed, not the whole sequence's.
        kept, column = torch.unique(position - 1, return_inverse=True)
        inputs = {name: value for name, value in inputs.items() if name != "labels"} | {"use_cache": False}
        base = self.accelerator.unwrap_model(model)
        base = base.get_base_model() if is_peft_model(base) else base
        limited = "logits_to_keep" in inspect.signature(base.forward).parameters
        with self.compute_loss_context_manager():
            logits = model(**inputs, **({"logits_to_keep": kept} if limited else {})).logits
        logits = logits[row, column if limited else position - 1].float()
        reward = torch.sigmoid(logits.gather(1, yes[:, None]) - logits.gather(1, no[:, None]))[:, 0]
        judged = torch.full((*verdicts.shape[:2], 2), -1.0, device=verdicts.device)
        judged[there] = torch.stack((reward, judgement.float()), dim=1)
        return judged

    @property
    def chat_format(self) -> ChatFormat:
        """The chat template that the conversations are encoded with."""
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        settings = self.model_settings
        return ChatFormat(tokenizer, settings.turn_opening, template_date=settings.template_date)

    @property
    def model_settings(self) -> ModelSettings:
        """What a verifier must know to ask the model as it was trained; saved with it."""
        met = [mode for mode, is_met in zip(MODES, self._met.tolist(), strict=True) if is_met]
        modes = [self.args.mode] if self.args.mode else met or ["full"]
        return replace(self.args.model_settings(modes), template_date=self._template_date)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves weights, tokenizer and the conversation's settings, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.model_settings.save(output_dir or self.args.output_dir)

    def card_training(self) -> dict[str, Any]:
        """Returns the modes and the form of the conversation that the model was trained with."""
        settings = self.model_settings
        if settings.protocol == "thinkprm":
            return {"protocol": settings.protocol}
        return {
            "modes": ", ".join(settings.modes),
            "turns open with": settings.turn_opening,
            "form of the first turn": settings.first_turn,
        }

    def card_data(self) -> dict[str, Any]:
        """Returns the counts of conversations as they were before packing."""
        return self._data_facts  # counted before the conversations were packed


_VERDICTS = "verdicts"


@dataclass(frozen=True, slots=True)
class VerdictCollator:
    """Adds the places of the verdicts to the batches that another collator makes of evaluation rows.

    Attributes:
        collator: Makes the batch; pads on the right, or puts the rows one after the other into a single one.
        flattens: Whether it does the latter.
    """

    collator: Any
    flattens: bool = False

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the collator's batch; with `verdicts`, of shape (solutions, steps, 5), where the examples have them.

        Along the last dimension: row of the batch, position, judgement, and the token ids of Yes and No; all -1 where
        a solution has fewer steps than others.
        """
        batch = self.collator(examples)
        if _VERDICTS not in examples[0]:
            return batch
        steps = max(len(example[_VERDICTS]) for example in examples)
        verdicts = torch.full((len(examples), steps, 5), -1, dtype=torch.long)
        offset = 0
        for number, example in enumerate(examples):
            places = torch.tensor(example[_VERDICTS], dtype=torch.long)
            verdicts[number, : len(places), 1:] = places
            verdicts[number, : len(places), 0] = 0 if self.flattens else number
            if self.flattens:
                verdicts[number, : len(places), 1] += offset
                offset += len(example["input_ids"])
        return {**batch, _VERDICTS: verdicts}


def verdict_metrics(judgements: Iterable[torch.Tensor]) -> dict[str, float]:
    """Accuracy over steps, and the scores of ProcessBench over solutions.

    Args:
        judgements: One tensor per solution, of shape (steps, 2), on the CPU: P(Yes), and 1 or 0 for whether the step
            is correct; -1 for missing steps.

    Returns:
        `step_accuracy`: share of steps judged right, in [0, 1]. `error_acc`, `correct_acc`, `f1`: see
        `metrics.processbench_scores`, in per cent; those that the data leave undefined are left out.
    """
    there = (solution[solution[:, 1] >= 0].numpy() for solution in judgements)
    accuracy, scores = step_scores((solution[:, 1] == 1, solution[:, 0] >= 0.5) for solution in there)
    return {"step_accuracy": accuracy, **scores}


def _is_special_checkpoint(args: GenPRMConfig) -> bool:
    """Whether the model is of another revision, or comes with code: SFTTrainer knows how to load its tokenizer."""
    revision = args.model_init_kwargs.get("revision") if isinstance(args.model_init_kwargs, dict) else None
    return args.trust_remote_code or revision not in (None, "main")


def _max_tokens(model: Any, args: GenPRMConfig) -> int | None:
    """The bound on a conversation: `max_length`, or the model's context where that is shorter."""
    config = getattr(model, "config", None)
    if config is None:
        init_kwargs = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
        config = load_config(model, revision=init_kwargs.get("revision"), trust_remote_code=args.trust_remote_code)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None or (args.max_length is not None and args.max_length <= context):
        return args.max_length
    if args.max_length is not None:
        logger.info(f"Conversations are cut at the model's context of {context} tokens, not at max_length.")
    return context


def _encoder(args: GenPRMConfig, name: str) -> ConversationEncoder:
    """Reads rows as `args` say; the tokenizer is not known before the model is loaded."""
    return ConversationEncoder(
        tokenizer=None,
        turn_opening=args.turn_opening,  # type: ignore[arg-type]
        first_turn=args.first_turn,  # type: ignore[arg-type]
        mode=args.mode,
        protocol=args.protocol,  # type: ignore[arg-type]
        trained=args.trained_kinds,
        skip_bad_rows=args.skip_bad_rows,
        name=name,
    )


def _eval_dataset(rows: Any, args: GenPRMConfig) -> Any:
    if isinstance(rows, dict):
        return {name: as_dataset(part, _encoder(args, _eval_name(name))) for name, part in rows.items()}
    return None if rows is None else as_dataset(rows, _encoder(args, _eval_name()))


def _columns(dataset: Dataset | IterableDataset) -> list[str]:
    """Names of a dataset's columns. A stream may not know them; its first row does."""
    return dataset.column_names or list(next(iter(dataset), {}))


def _eval_name(part: str | None = None) -> str:
    """What errors call the evaluation data, or a part of them."""
    return "eval_dataset" if part is None else f"eval_dataset[{part!r}]"
