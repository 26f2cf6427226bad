"""What the trainers of verifiers that read answers share: the settings beside the weights, and the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import PreTrainedConfig

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import classifier_class, load_config
from genprm_trl.training.dates import training_date
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from genprm_trl.verifier.step_tokens import AnswerEncoder


def check_start(model: Any, init_kwargs: Mapping[str, Any] | None) -> PreTrainedConfig:
    """Checks what a training starts from, which TRL loads without asking what it is.

    Args:
        model: The model, or where it is.
        init_kwargs: The trainer's option `model_init_kwargs`.

    Returns:
        The configuration. For a loaded model its `architectures` are the class that was loaded.

    Raises:
        ConfigError: There is no such model, or it is an adapter that TRL would not take for one.
    """
    if isinstance(model, str | Path):
        if Path(model, "adapter_config.json").is_file():
            raise ConfigError(f"{model} is an adapter: merge it into its model, and train from the directory of that")
        return load_config(model, revision=(init_kwargs or {}).get("revision"))
    if getattr(model, "peft_config", None) and not is_peft_model(model):
        raise ConfigError("the model holds an adapter that transformers has loaded: load it with peft, or merge it")
    base = model.get_base_model() if is_peft_model(model) else model
    config = copy(base.config)
    config.architectures = [type(base).__name__]
    return config


def check_generates(model: Any, init_kwargs: Mapping[str, Any] | None) -> None:
    """Checks what a training of a causal language model starts from, as `check_start` does.

    Raises:
        ConfigError: As `check_start`; or it is a classifier.
    """
    if classifier := classifier_class(check_start(model, init_kwargs).architectures):
        raise ConfigError(f"training starts from a model that generates text, and this is a {classifier}")


class AnswerTrainer(RewardModelTrainer):
    """Saves `step_scorer.json` with each checkpoint. `threshold.choose_threshold` then chooses the threshold in it.

    Attributes:
        settings: What `step_scorer.json` says.
        rows_facts: Counts of the training data, for the card.
        dated_by: Whose settings may name the day that the chat template shows; see `dates.dated_by`.
    """

    settings: StepScorerSettings
    rows_facts: dict[str, Any]
    dated_by: Sequence[str]

    def encoder(self, tokenizer: Any, args: Any) -> AnswerEncoder:
        """What encodes rows, as the verifier will. The settings get the day that a dated chat template shows."""
        if self.settings.template_date is None:
            self.settings = replace(self.settings, template_date=training_date(tokenizer, self.dated_by))
        return AnswerEncoder(tokenizer, args.step_separator, template_date=self.settings.template_date)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves weights, tokenizer and `step_scorer.json`, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.settings.save(output_dir or self.args.output_dir)

    def card_data(self) -> dict[str, Any]:
        """Counts of the training data."""
        return self.rows_facts

    def card_training(self) -> dict[str, Any]:
        """Returns the step separator, and the threshold with how it was chosen."""
        return {
            "step separator": repr(self.settings.step_separator),
            "threshold": self.settings.described_threshold(),
        }
