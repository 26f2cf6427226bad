"""Training a process preference model on pairs of steps (rStar-Math, Guan et al. 2025, arXiv 2501.04519)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from genprm_trl.cards.model_card import PREFERENCE
from genprm_trl.errors import ConfigError, check_at_least, check_text
from genprm_trl.generation.loading import classifier_class
from genprm_trl.training.answer_trainer import AnswerTrainer, check_start
from genprm_trl.training.dates import dated_by
from genprm_trl.training.given_rows import fitting_pairs, is_encoded, problem_facts
from genprm_trl.training.options import TrainerOptions
from genprm_trl.training.ppm.pairs import ENCODED, as_rows
from genprm_trl.verifier.kinds.trained import DEFAULT_ANSWER_SEPARATOR
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from genprm_trl.verifier.step_tokens import load_step_tokenizer


@dataclass
class PPMConfig(TrainerOptions, RewardConfig):
    """Options of `PPMTrainer`, on top of those of `trl.RewardConfig`.

    Differs from it in two defaults: `learning_rate` is the paper's, and `max_length` is 2048.

    Attributes:
        step_separator: Text that follows every step, in token ids of its own.
        max_length: Bound on the tokens of problem and steps. A pair with a longer side is left out. None is no bound.
    """

    learning_rate: float = field(default=7e-6, metadata={"help": "The initial learning rate for AdamW."})
    step_separator: str = field(default=DEFAULT_ANSWER_SEPARATOR, metadata={"help": "Text that follows every step."})
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Bound on the tokens of problem and steps; a pair with a longer side is left out."},
    )

    def __post_init__(self) -> None:
        check_text(step_separator=self.step_separator)
        check_at_least(1, max_length=self.max_length)
        super().__post_init__()


_CITATION = """\
@article{guan2025rstar,
  title   = {rStar-Math: Small LLMs Can Master Math Reasoning with Self-Evolved Deep Thinking},
  author  = {Guan, Xinyu and Zhang, Li Lyna and Liu, Yifei and Shang, Ning and Sun, Youran and Zhu, Yi and Yang, Fan
             and Yang, Mao},
  journal = {arXiv preprint arXiv:2501.04519},
  year    = {2025}
}"""


def check_new_head(model: Any, init_kwargs: Mapping[str, Any] | None = None) -> None:
    """Checks that a model can get, or has, a head with one output.

    Args:
        model: The model to train, or where it is.
        init_kwargs: The trainer's option `model_init_kwargs`.

    Raises:
        ConfigError: There is no such model, or it is a classifier with another head.
    """
    start = check_start(model, init_kwargs)
    classifier = classifier_class(start.architectures)
    if classifier and not (classifier.endswith("ForSequenceClassification") and start.num_labels == 1):
        raise ConfigError(
            f"a process preference model is trained from a causal model or from another one with one output, and this "
            f"is a {classifier} with {start.num_labels} labels"
        )


class PPMTrainer(AnswerTrainer, RewardTrainer):
    r"""Trains a linear head with one output, and the model below it, by TRL's `RewardTrainer` on pairs of steps.

    The loss of a pair is \(-\log\sigma(s_{chosen} - s_{rejected})\), where s is the head's number at the end of the
    last step. No end-of-text token follows it, so that a step scores the same wherever the solution ends.

    Example:
        ```python
        from genprm_trl.training import PPMConfig, PPMTrainer

        rows = [{"problem": "What is 2 + 3 * 4?", "chosen": ["3 * 4 = 12."], "rejected": ["2 + 3 = 5."]}]
        trainer = PPMTrainer("Qwen/Qwen2.5-1.5B-Instruct", args=PPMConfig("math-ppm"), train_dataset=rows)
        trainer.train()
        trainer.save_model()
        ```

    Args:
        model: The model to train, or where to load it from. A causal model gets a new head.
        args: Options.
        train_dataset: Rows of `problem`, `chosen` and `rejected`, lists of steps: a `datasets.Dataset`, as
            `load_pairs` makes it, or a list.
        eval_dataset: The same, or a dict of such rows by name.
        peft_config: Wraps the model in an adapter, which is trained with the head.
        **options: Further arguments of `trl.RewardTrainer`.

    Raises:
        ConfigError: Options contradict each other.
        DataError: A row is unusable, or none fits.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "ppm", "genprm-trl"]
    card_kind = PREFERENCE
    read_rows = staticmethod(as_rows)
    card_citation = _CITATION

    def __init__(
        self,
        model: Any,
        args: PPMConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        peft_config: Any = None,
        **options: Any,
    ):
        path = str(model) if isinstance(model, str | Path) else str(model.config.name_or_path)
        args = PPMConfig(f"{Path(path).name or 'model'}-PPM") if args is None else PPMConfig.of(args)
        if train_dataset is None:
            raise ConfigError("`train_dataset` is required")
        check_new_head(model, args.model_init_kwargs)
        rows = as_rows(train_dataset, "train_dataset")
        if peft_config is not None:
            from peft import TaskType

            peft_config.task_type = TaskType.SEQ_CLS  # the one in which an adapter has the head
            if str(getattr(peft_config, "target_modules", "")).lower() == "all-linear":
                # PEFT would take the head for one of them, which is trained as it is.
                peft_config.exclude_modules = peft_config.exclude_modules or ["score"]
        if options.get("processing_class") is None:
            options["processing_class"] = load_step_tokenizer(path, args.model_init_kwargs)
        self.settings = StepScorerSettings("ppm", args.step_separator)
        self.dated_by = dated_by(model, options["processing_class"], args)
        super().__init__(
            path if isinstance(model, Path) else model,
            args,
            train_dataset=rows,
            eval_dataset=None if eval_dataset is None else self._prepare_eval(eval_dataset),
            peft_config=peft_config,
            **options,
        )
        self.rows_facts = {
            "pairs": f"{len(rows):,}",
            "pairs trained on": f"{len(self.train_dataset):,}",
            **problem_facts(rows),
        }

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        encode = self.encoder(processing_class, args)
        if is_encoded(dataset, ENCODED):
            return dataset
        rows = [
            {f"{side}_ids": encode(row["problem"], row[side]).input_ids for side in ("chosen", "rejected")}
            for row in dataset
        ]
        # TRL reads the head at the last token that is no padding.
        if rows[0]["chosen_ids"][-1] == processing_class.pad_token_id:
            raise ConfigError(
                f"step_separator={args.step_separator!r} ends in the token that pads batches, at which a step is not "
                "scored in training: give another step_separator, or another pad_token"
            )
        return Dataset.from_list(
            fitting_pairs(rows, lambda row: max(map(len, row.values())), args.max_length, dataset_name)
        )
