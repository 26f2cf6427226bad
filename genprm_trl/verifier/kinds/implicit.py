r"""Implicit process rewards (Yuan et al. 2024, arXiv 2412.01981): a causal model against its reference.

The log-ratio of token i is \(\rho_i = \log \pi_\theta(y_i) - \log \pi_{ref}(y_i)\). The reward of step t is
\(r_t = \beta \sum \rho_i\) over the tokens of the step, and \(q_t = r_1 + \dots + r_t\) is the accumulated reward.
Training on outcomes makes \(q_T\) of a whole solution the log-odds of a right answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, check_one_of, check_positive
from genprm_trl.generation.hf.logps import completion_logps
from genprm_trl.generation.loading import check_whole, load_model
from genprm_trl.verifier.kinds.trained import AnswerScorer
from genprm_trl.verifier.step_tokens import StepTokens

Value = Literal["step", "accumulated"]
DEFAULT_BETA = 0.05


class ImplicitScorer(AnswerScorer):
    r"""The score of a step is the sigmoid of its log-odds: of \(r_t\), or of the accumulated \(q_t\).

    A score of 0.5 is a log-ratio of 0: the model finds the step as likely as its reference does. The sigmoid keeps the
    order of the log-odds. It is computed in double precision, so that a score is 1 only for log-odds above 36.

    Both models read the same batch, one after the other. No more of a pass than the log-probabilities of its tokens is
    kept, so the memory needed is that of two models and one pass.

    Args:
        model: A causal language model \(\pi_\theta\), also with an adapter of PEFT.
        tokenizer: Its tokenizer.
        reference: \(\pi_{ref}\), what training started from: a model, a directory or a name on the Hub. It is loaded
            in the precision of `model`. None: the model without its adapter.
        beta: \(\beta\) of the training.
        value: `step` scores \(r_t\), `accumulated` \(q_t\). Of the latter the last one is the outcome's.
        **options: Options of `AnswerScorer` and `StepScorer`.

    Raises:
        ConfigError: There is no reference, it has another vocabulary, or an option has no such value.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: str | Path | PreTrainedModel | None = None,
        beta: float = DEFAULT_BETA,
        value: Value = "step",
        **options: Any,
    ):
        check_positive(beta=beta)
        check_one_of(get_args(Value), value=value)
        if not (reference is None or isinstance(reference, str | Path | torch.nn.Module)):
            raise ConfigError(f"reference must be a model, a directory or a name on the Hub, got {reference!r}")
        super().__init__(model, tokenizer, **options)
        self.beta, self.value = beta, value
        if reference is None and not getattr(model, "peft_config", None):
            raise ConfigError(
                "an implicit PRM is read against the model that its training started from, and its directory does not "
                "name that: give --kind_options '{\"reference\": ...}', or reference in Python"
            )
        self.reference: Any = reference
        if isinstance(reference, str | Path):
            self.reference = _load_reference(reference, model)
        if reference is not None:
            check_whole(self.reference)
            both: tuple[Any, Any] = model, self.reference
            own, other = (each.get_input_embeddings().num_embeddings for each in both)
            if own != other:
                raise ConfigError(
                    f"the reference has {other} embeddings and the model {own}: they must share a tokenizer"
                )

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `generation.loading.load_model`."""
        return load_model(path, device=device, dtype=dtype)

    @torch.inference_mode()
    def _forward(self, batch: list[StepTokens]) -> torch.Tensor:
        prompts = [tokens.input_ids[: tokens.prompt_length] for tokens in batch]
        answers = [tokens.input_ids[tokens.prompt_length :] for tokens in batch]
        ours = completion_logps(self.model, prompts, answers)
        with self._as_reference() as reference:
            theirs = completion_logps(reference, prompts, answers)
        log_odds = [
            step_log_odds(own - other, [end - tokens.prompt_length for end in tokens.step_ends], self.beta, self.value)
            for own, other, tokens in zip(ours, theirs, batch, strict=True)
        ]
        return torch.cat(log_odds).sigmoid().cpu()

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Any]:
        model: Any = self.model
        if self.reference is not None:
            yield self.reference
        elif hasattr(model, "disable_adapter"):  # PEFT's own class
            with model.disable_adapter():
                yield model
        else:  # transformers' own loading puts the adapter's layers into the model
            from peft.tuners.tuners_utils import BaseTunerLayer
            from peft.utils import ModulesToSaveWrapper

            layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer | ModulesToSaveWrapper)]
            for layer in layers:
                layer.enable_adapters(False)
            try:
                yield model
            finally:
                for layer in layers:
                    layer.enable_adapters(True)


def step_log_odds(ratios: torch.Tensor, step_ends: Sequence[int], beta: float, value: Value = "step") -> torch.Tensor:
    r"""The log-odds of steps, from the log-ratios of an answer's tokens.

    Args:
        ratios: \(\rho_i\), shape (tokens,).
        step_ends: The last token of each step. Shape (steps,).
        beta: \(\beta\).
        value: `step` for \(r_t\), `accumulated` for \(q_t\).

    Returns:
        Log-odds in double precision, shape (steps,).

    Examples:
        >>> step_log_odds(torch.tensor([2.0, -1, 4, -6, 1]), [1, 2, 4], beta=0.05).round(decimals=4).tolist()
        [0.05, 0.2, -0.25]
    """
    accumulated = beta * ratios.double().cumsum(0)[list(step_ends)]
    return accumulated if value == "accumulated" else accumulated.diff(prepend=accumulated.new_zeros(1))


def _load_reference(reference: str | Path, model: PreTrainedModel) -> PreTrainedModel:
    try:
        return load_model(reference, device=model.device, dtype=model.dtype)
    except ConfigError as error:
        raise ConfigError(
            f"the reference of the implicit PRM: {error}. If it is elsewhere, give --kind_options "
            "'{\"reference\": ...}'"
        ) from error
