"""Causal models that mark a step with `+` or `-`: what reading their next token has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_model
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.step_tokens import single_token


class MarkScorer(StepScorer):
    """The score is P(`+`) / (P(`+`) + P(`-`)) of the token that follows a place.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, a fast one.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: `+` or `-` is no single token, the tokenizer is no fast one, or an option has no such value.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{type(tokenizer).__name__} does not say where its tokens stand in a text; give a fast tokenizer"
            )
        self.marks = [single_token(tokenizer, "+"), single_token(tokenizer, "-")]

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `generation.loading.load_model`."""
        return load_model(path, device=device, dtype=dtype)

    def scores(self, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The softmax over the two marks."""
        hidden = self.model.base_model(**inputs).last_hidden_state[rows, columns]
        # At the steps' places alone: the logits of all tokens of a long batch would not fit.
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden)[:, self.marks]
        return logits.float().softmax(-1)[:, 0]
