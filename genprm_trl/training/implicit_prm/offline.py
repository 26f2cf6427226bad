r"""Training an implicit PRM on outcomes of whole solutions (Yuan et al. 2024, arXiv 2412.01981).

The model \(\pi_\theta\) is read as an outcome reward model, \(q_T = \beta \log(\pi_\theta / \pi_{ref})\) of a whole
solution. \(\pi_{ref}\) is the model that training starts from. Any loss on \(q_T\) makes a step's part of it the
reward of the step. No step is labelled.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import is_peft_model
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from genprm_trl.cards.model_card import IMPLICIT
from genprm_trl.errors import ConfigError, check_at_least, check_one_of, check_positive, check_text
from genprm_trl.generation.loading import check_name
from genprm_trl.training.answer_trainer import AnswerTrainer, check_generates
from genprm_trl.training.dates import dated_by
from genprm_trl.training.given_rows import is_encoded, problem_facts
from genprm_trl.training.implicit_prm.objective import outcome_loss
from genprm_trl.training.implicit_prm.pairs import PAIRED, UNPAIRED, as_rows, paired, unpaired
from genprm_trl.training.options import TrainerOptions
from genprm_trl.verifier.kinds.implicit import DEFAULT_BETA
from genprm_trl.verifier.kinds.trained import DEFAULT_ANSWER_SEPARATOR
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from genprm_trl.verifier.step_tokens import load_step_tokenizer

# What TRL calls the loss. The one of `ce` is ours; of TRL's it takes the form of the rows, without a KL term.
_UNPAIRED = {"ce": "apo_zero_unpaired", "kto": "kto"}
_PAIRED = {"dpo": ["sigmoid"], "nca": ["nca_pair"]}
LOSSES = (*_UNPAIRED, *_PAIRED)


@dataclass
class ImplicitPRMConfig(TrainerOptions, KTOConfig):
    r"""Options of `ImplicitPRMTrainer` and `ImplicitPairTrainer`, on top of those of `trl.KTOConfig`.

    Differs from it in the defaults of `loss_type`, `beta` and `learning_rate`, which are the paper's.

    Attributes:
        loss_type: `ce`: cross-entropy of each outcome. `kto`: KTO, also on single solutions. `dpo`, `nca`: DPO and NCA
            on pairs of a right and a wrong solution of a problem.
        beta: \(\beta\) of the log-ratios, in training and in scoring.
        step_separator: Text that follows every step, in token ids of its own.
        max_length: Bound on the tokens of problem and solution. A longer solution is left out whole. None is no bound.
    """

    learning_rate: float = field(default=5e-7, metadata={"help": "The initial learning rate for AdamW."})
    loss_type: str = field(
        default="ce",
        metadata={
            "help": "ce: cross-entropy of each outcome. kto: KTO, on single solutions too. dpo, nca: on pairs of a "
            "right and a wrong solution of a problem.",
            "choices": list(LOSSES),
        },
    )
    beta: float = field(
        default=DEFAULT_BETA, metadata={"help": "Factor of the log-ratios, in training and in scoring."}
    )
    step_separator: str = field(default=DEFAULT_ANSWER_SEPARATOR, metadata={"help": "Text that follows every step."})
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Bound on the tokens of problem and solution; a longer solution is left out whole."},
    )

    def __post_init__(self) -> None:
        check_one_of(LOSSES, loss_type=self.loss_type)
        check_text(step_separator=self.step_separator)
        check_positive(beta=self.beta)
        check_at_least(1, max_length=self.max_length)
        if self.sync_ref_model:
            raise ConfigError("sync_ref_model moves the reference, and scoring needs the one that training began with")
        if self.loss_type in _PAIRED and (self.desirable_weight, self.undesirable_weight) != (1, 1):
            raise ConfigError("desirable_weight and undesirable_weight are for ce and kto; pairs are balanced")
        if self.loss_type == "kto":
            if self.per_device_train_batch_size < 2:
                raise ConfigError("kto compares rows of a batch: per_device_train_batch_size must be at least 2")
            if self.train_sampling_strategy != "sequential":
                raise ConfigError("kto needs train_sampling_strategy sequential; rows are shuffled before")
        super().__post_init__()

    def for_trl(self) -> Any:
        """The options as TRL's trainers of single solutions and of pairs read them."""
        args: Any = copy.copy(self)
        if self.loss_type in _PAIRED:
            for option in dataclasses.fields(DPOConfig):
                if not hasattr(args, option.name):
                    setattr(args, option.name, option.default)
        args.loss_type = {**_UNPAIRED, **_PAIRED}[self.loss_type]
        return args


_CITATION = """\
@article{yuan2024free,
  title   = {Free Process Rewards without Process Labels},
  author  = {Yuan, Lifan and Li, Wendi and Chen, Huayu and Cui, Ganqu and Ding, Ning and Zhang, Kaiyan and Zhou, Bowen
             and Liu, Zhiyuan and Peng, Hao},
  journal = {arXiv preprint arXiv:2412.01981},
  year    = {2024}
}"""


# Where a trained adapter goes on, TRL keeps a copy of it under this name, and PEFT saves it in a folder of that name.
_START = "ref"
NAMED = "scoring loads the reference"  # see `generation.loading.check_name`
_REFERENCES = {None: "the model without its adapter", _START: "the adapter as it was at the start"}


def check_reference(model: Any, ref_model: Any, args: ImplicitPRMConfig, peft_config: Any) -> str | None:
    """What scoring is to load as the reference of a training: the model that it starts from.

    Args:
        model: The model to train, or where it is.
        ref_model: The reference, if it is another model.
        args: The trainer's options.
        peft_config: The adapter that the model gets, if it gets one.

    Returns:
        A directory, a name on the Hub, or the folder in the trained model's directory that has the adapter with which
        training started. None if the reference is the model without its adapter.

    Raises:
        ConfigError: No name stands for the reference, or the model does not generate text.
    """
    if isinstance(model, str | Path):
        check_name(model, args.model_init_kwargs or {}, NAMED)
    check_generates(model, args.model_init_kwargs)
    if ref_model is None and peft_config is not None:
        return None
    if ref_model is None and not isinstance(model, str | Path) and is_peft_model(model):
        if list(model.peft_config) != ["default"]:
            raise ConfigError("a model with a trained adapter has the one adapter 'default': merge the others")
        return _START
    if ref_model is not None and (not hasattr(ref_model, "config") or is_peft_model(ref_model)):
        raise ConfigError(
            "ref_model must be a loaded model without an adapter: merge it, save the model and load that"
        )
    named = model if ref_model is None else ref_model
    path = str(named) if isinstance(named, str | Path) else str(named.config.name_or_path)
    if not path:
        raise ConfigError("scoring loads the reference by its name, and the model has none: save it, and load that")
    return str(Path(path).resolve()) if Path(path).is_dir() else path  # the settings are read elsewhere, too


class _OfflineTrainer(AnswerTrainer):
    """What the trainers on single solutions and on pairs share. Named before TRL's trainer."""

    card_kind = IMPLICIT
    card_citation = _CITATION
    losses: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: ImplicitPRMConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **options: Any,
    ):
        path = str(model) if isinstance(model, str | Path) else str(model.config.name_or_path)
        if args is None:
            args = ImplicitPRMConfig(f"{Path(path).name or 'model'}-Implicit-PRM", loss_type=self.losses[0])
        args = ImplicitPRMConfig.of(args)
        if args.loss_type not in self.losses:
            raise ConfigError(
                f"{type(self).__name__} trains with the losses {' and '.join(self.losses)}, not {args.loss_type}"
            )
        if train_dataset is None:
            raise ConfigError("`train_dataset` is required")
        rows = self.read_rows(train_dataset, "train_dataset")
        if eval_dataset is not None:
            eval_dataset = self._prepare_eval(eval_dataset)
        reference = check_reference(model, ref_model, args, options.get("peft_config"))
        if options.get("processing_class") is None:
            options["processing_class"] = load_step_tokenizer(path)
        self.settings = StepScorerSettings("implicit", args.step_separator, args.beta, reference=reference)
        self.dated_by = dated_by(model, options["processing_class"], args)
        self.loss_name = args.loss_type
        super().__init__(
            path if isinstance(model, Path) else model,
            ref_model,
            args.for_trl(),
            train_dataset=rows,
            eval_dataset=eval_dataset,
            **options,
        )
        self.args.loss_type = args.loss_type
        self.rows_facts = {}
        if "final_answer_correct" in rows.column_names:
            right = sum(rows["final_answer_correct"])
            self.rows_facts["solutions"] = f"{len(rows):,}, of which {right:,} are right"
        self.rows_facts |= {
            **problem_facts(rows),
            "rows trained on": f"{len(self.train_dataset):,}",
        }

    def card_training(self) -> dict[str, Any]:
        """Returns the loss, beta and the reference besides separator and threshold."""
        return {
            "loss": self.loss_name,
            "beta": self.settings.beta,
            "reference": _REFERENCES.get(self.settings.reference, "the base model"),
            **super().card_training(),
        }


class ImplicitPRMTrainer(_OfflineTrainer, KTOTrainer):
    r"""Trains an implicit PRM on single solutions: cross-entropy of outcomes, or TRL's KTO.

    The cross-entropy of a solution with the outcome l is \(-l \log\sigma(q_T) - (1 - l) \log\sigma(-q_T)\). One
    solution of a problem is enough for it. Everything else is TRL's: the reference model, adapters, precomputed
    log-probabilities.

    Example:
        ```python
        from genprm_trl.training import ImplicitPRMConfig, ImplicitPRMTrainer

        rows = [
            {"problem": "What is 2 + 3 * 4?", "steps": ["3 * 4 = 12.", "2 + 12 = 14."], "final_answer_correct": True},
            {"problem": "What is 2 + 3 * 4?", "steps": ["2 + 3 = 5.", "5 * 4 = 20."], "final_answer_correct": False},
        ]
        trainer = ImplicitPRMTrainer(
            "Qwen/Qwen2.5-1.5B-Instruct", args=ImplicitPRMConfig("implicit-prm"), train_dataset=rows
        )
        trainer.train()
        trainer.save_model()
        ```

    Args:
        model: The causal language model to train, or where to load it from. The reference is that model as it starts.
            Of a `PeftModel` it is the model with the adapter as it is now; with `peft_config` the model without one.
        ref_model: The reference, if it is another model. Scoring loads it by its name.
        args: Options, with the loss `ce` or `kto`.
        train_dataset: Rows of `problem`, `steps` and `final_answer_correct`: a `datasets.Dataset`, as `load_outcomes`
            makes it, or a list, of `Solution`s, too. Rows that another such trainer has encoded stay as they are.
        eval_dataset: The same, or a dict of such rows by name.
        **options: Further arguments of `trl.KTOTrainer`.

    Raises:
        ConfigError: The loss is one of pairs, or options contradict each other.
        DataError: A row is unusable, or none fits.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "implicit-prm", "genprm-trl"]
    losses = tuple(_UNPAIRED)
    read_rows = staticmethod(functools.partial(as_rows, encoded=UNPAIRED))

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        encode = self.encoder(processing_class, args)
        rows = dataset
        if not is_encoded(dataset, UNPAIRED):
            rows = unpaired(dataset, encode, args.max_length, dataset_name, args.seed)
        if not self.calculate_KL or "KL_completion_ids" in rows.column_names:
            return rows
        # KTO's baseline is made of completions to other prompts. As in TRL, each row has its neighbour's in the batch.
        # By chance that is one to the same problem, and a last batch of one row has its own.
        ids, size = list(rows["completion_ids"]), args.per_device_train_batch_size
        batches = (ids[start : start + size] for start in range(0, len(ids), size))
        return rows.add_column("KL_completion_ids", [each for batch in batches for each in batch[-1:] + batch[:-1]])

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        if self.loss_name != "ce":
            return super()._compute_loss(model, inputs, return_outputs)
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        routed = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(**read, **routed, labels=labels, use_cache=False, fused_lm_head=True)
        logps = outputs.log_probs[:, 1 - labels.size(1) :].sum(-1)
        if self.precompute_ref_logps:
            reference = inputs["ref_logps"]
        else:
            reference, _ = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        log_odds, outcomes = self.beta * (logps - reference), inputs["label"].to(logps.device)
        weights = torch.where(outcomes, self.desirable_weight, self.undesirable_weight)
        loss = outcome_loss(log_odds, outcomes, weights) / len(outcomes)
        metrics = self._metrics["train" if self.model.training else "eval"]
        # Of a model that has learned nothing the log-odds are 0, which tells no outcome.
        told = (log_odds > 0) == outcomes
        for name, values in (("accuracy", told), ("rewards", log_odds)):
            metrics[name].append(self.accelerator.gather_for_metrics(values.detach().float()).mean().item())
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss


class ImplicitPairTrainer(_OfflineTrainer, DPOTrainer):
    """Trains an implicit PRM on pairs of a right and a wrong solution, by TRL's DPO or NCA.

    Args:
        model: The causal language model to train, or where to load it from. The reference is that model as it starts.
            Of a `PeftModel` it is the model with the adapter as it is now; with `peft_config` the model without one.
        ref_model: The reference, if it is another model. Scoring loads it by its name.
        args: Options, with the loss `dpo` or `nca`.
        train_dataset: Rows as in `ImplicitPRMTrainer`, several solutions of each problem.
        eval_dataset: The same, or a dict of such rows by name.
        **options: Further arguments of `trl.DPOTrainer`.

    Raises:
        ConfigError: The loss is one of single solutions, or options contradict each other.
        DataError: A row is unusable, or there is no pair.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "implicit-prm", "genprm-trl"]
    losses = tuple(_PAIRED)
    read_rows = staticmethod(functools.partial(as_rows, encoded=PAIRED))

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        encode = self.encoder(processing_class, args)
        if is_encoded(dataset, PAIRED):
            return dataset
        return paired(dataset, encode, args.max_length, dataset_name, args.seed)
