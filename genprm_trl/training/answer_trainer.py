"""What the trainers of verifiers that read answers share: the settings beside the weights, and the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_config
from genprm_trl.records import Solution
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.training.threshold import chosen_threshold
from genprm_trl.verifier.kinds.trained import AnswerScorer
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
    """Saves `step_scorer.json` with each checkpoint, and chooses the threshold in it when training ends.

    Attributes:
        settings: What `step_scorer.json` says.
        rows_facts: Counts of the training data, for the card.
    """

    settings: StepScorerSettings
    rows_facts: dict[str, Any]
    _held_out: tuple[Sequence[Solution], str] | None = None

    def choose_threshold_on(self, solutions: Sequence[Solution], name: str) -> None:
        """Lets the threshold be chosen on held-out solutions before the model is saved at the end.

        Args:
            solutions: Solutions with labels that `threshold.check_held_out` accepts.
            name: What they are called.

        Raises:
            ConfigError: The training shards the model, and scoring needs it whole.
        """
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ConfigError(
                "a threshold is chosen with the whole model in one process, which DeepSpeed and FSDP do not keep: "
                "leave the data for it out, and judge with --threshold"
            )
        self._held_out = solutions, name

    def scorer(self) -> AnswerScorer:
        """A verifier of the model as it is now."""
        raise NotImplementedError

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves weights, tokenizer and `step_scorer.json`, and a model card to `args.output_dir`."""
        if self._held_out is not None and not _internal_call and self.is_world_process_zero():
            threshold, how = chosen_threshold(self.scorer(), *self._held_out)
            self.settings = replace(self.settings, threshold=threshold, threshold_from=how)
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.settings.save(output_dir or self.args.output_dir)

    def card_data(self) -> dict[str, Any]:
        """Counts of the training data."""
        return self.rows_facts

    def card_training(self) -> dict[str, Any]:
        """Returns the step separator, and the threshold with how it was chosen."""
        how = self.settings.threshold_from
        chosen = f"chosen on {how['solutions']} solutions of {how['data']}, F1 {how['f1']:g}" if how else "not chosen"
        return {
            "step separator": repr(self.settings.step_separator),
            "threshold": f"{self.settings.threshold:.4g}, {chosen}",
        }
