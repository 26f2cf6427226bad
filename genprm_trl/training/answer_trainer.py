"""What the trainers of verifiers that read answers share: the settings beside the weights, and the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genprm_trl.generation.loading import load_config
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from genprm_trl.verifier.step_tokens import load_step_tokenizer


def tokenizer_of(model: Any, args: Any) -> Any:
    """The tokenizer of a model to train; what is wrong with the files of a model, it says before TRL loads them.

    Args:
        model: The model, or where it is.
        args: The trainer's options.

    Raises:
        ConfigError: There is no model, or no tokenizer.
    """
    if not isinstance(model, str | Path):
        return load_step_tokenizer(str(model.config.name_or_path))
    load_config(model, revision=(args.model_init_kwargs or {}).get("revision"))
    return load_step_tokenizer(str(model))


class AnswerTrainer(RewardModelTrainer):
    """Saves `step_scorer.json` with each checkpoint. `threshold.choose_threshold` then chooses the threshold in it.

    Attributes:
        settings: What `step_scorer.json` says.
        rows_facts: Counts of the training data, for the card.
    """

    settings: StepScorerSettings
    rows_facts: dict[str, Any]

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
