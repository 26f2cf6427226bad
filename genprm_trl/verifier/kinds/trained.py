"""Scorers of models that were trained here on answers to a chat: what `step_scorer.json` says, and how they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import check_text
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.scorer_settings import found_reference, load_scorer_settings
from genprm_trl.verifier.step_tokens import AnswerEncoder, StepTokens

DEFAULT_ANSWER_SEPARATOR = "\n\n"


class AnswerScorer(StepScorer):
    """Reads the problem as a user's turn and the steps as the assistant's answer, as `AnswerEncoder` writes them.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        step_separator: What follows each step.
        chat_template: A Jinja template that replaces the tokenizer's.
        template_date: The day that the template shows as today's.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: There is no chat template, or an option has no such value.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        step_separator: str = DEFAULT_ANSWER_SEPARATOR,
        chat_template: str | None = None,
        template_date: str | None = None,
        **options: Any,
    ):
        check_text(step_separator=step_separator)
        super().__init__(model, tokenizer, **options)
        self._encode = AnswerEncoder(
            tokenizer, step_separator, chat_template=chat_template, template_date=template_date
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Loads a verifier of this kind, with the options that its directory names.

        The threshold of the directory was chosen for the scores as they are saved. It is left out where an option
        changes them.

        Args:
            model: A directory, or a name on the Hub.
            tokenizer: The tokenizer, or where it is. Default: the model's.
            backend: `transformers`.
            generator_kwargs: As in `StepScorer.from_pretrained`.
            **options: Passed to the class. They come before what the directory says.

        Raises:
            ConfigError: The model cannot be loaded as one of this kind, or an option is unknown or given twice.
        """
        settings = load_scorer_settings(model)
        saved = {} if settings is None else settings.arguments()
        if settings is not None and settings.threshold_with(options) is None:
            del saved["threshold"]
        if "reference" in saved:
            saved["reference"] = found_reference(model, saved["reference"])
        return super().from_pretrained(
            model, tokenizer=tokenizer, backend=backend, generator_kwargs=generator_kwargs, **{**saved, **options}
        )

    @property
    def step_separator(self) -> str:
        """What follows each step."""
        return self._encode.step_separator

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """As training encodes them; see `AnswerEncoder`."""
        return self._encode(problem, steps)
