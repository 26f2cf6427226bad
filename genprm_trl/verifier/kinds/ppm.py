"""Process preference models (rStar-Math, Guan et al. 2025, arXiv 2501.04519): one number for each step.

A causal model has a linear head with one output. The score of a step is read at the last token of its separator.
Training compares steps in pairs, so only differences between scores of one problem are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.generation.loading import default_device, loaded_whole
from genprm_trl.verifier.kinds.trained import AnswerScorer


class PreferenceScorer(AnswerScorer):
    """The score of a step is the sigmoid of the head's number, which is any number.

    The sigmoid keeps the order. It is computed in double precision, so that a score is 1 only for numbers above 36.

    Args:
        model: A sequence classifier with one label, whose head is the linear layer `score`.
        tokenizer: Its tokenizer.
        **options: Options of `AnswerScorer` and `StepScorer`.

    Raises:
        ConfigError: The model has another head, or an option has no such value.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any):
        _check_head(model)
        super().__init__(model, tokenizer, **options)

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `load_preference_model`."""
        return load_preference_model(path, device=device, dtype=dtype)

    def scores(self, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The sigmoid of the head's numbers at the ends of steps."""
        model: Any = self.model
        hidden = model.base_model(**inputs).last_hidden_state[rows, columns]
        values: torch.Tensor = model.score(hidden)[:, 0]
        return values.double().sigmoid()


def load_preference_model(path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
    """A trained process preference model.

    Args:
        path: Directory of a model or of a PEFT adapter, which is merged, or name of a model on the Hub.
        device: Where it goes. None is the first accelerator, else the CPU.
        dtype: Precision; `auto` is the checkpoint's own.

    Raises:
        ConfigError: There is no model, or its head has another size or was never trained.
        MissingExtraError: It is an adapter and peft is not installed.
    """
    try:
        with loaded_whole():
            if (Path(path) / "adapter_config.json").is_file():
                model = _load_adapter(path, dtype)
            else:
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    path, dtype=dtype, output_loading_info=True, trust_remote_code=False
                )
                if missing := sorted(info["missing_keys"]):
                    # transformers draws them at random: a causal model would give scores that mean nothing.
                    raise ConfigError(
                        f"'{path}' is no trained process preference model: it has no weights for "
                        f"{', '.join(missing[:3])}; give another --kind"
                    )
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"no process preference model could be loaded from '{path}': {first}") from error
    _check_head(model)
    return model.to(device or default_device()).eval()


def _check_head(model: Any) -> None:
    head, labels = getattr(model, "score", None), model.config.num_labels
    if labels != 1 or not isinstance(head, nn.Module):
        raise ConfigError(
            f"a process preference model has the linear head 'score' with one output; {type(model).__name__} has "
            f"{labels} labels{'' if isinstance(head, nn.Module) else ' and no such head'}: give another --kind"
        )


def _load_adapter(path: str, dtype: Any) -> Any:
    try:
        from peft import AutoPeftModelForSequenceClassification
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "Loading an adapter") from error
    return AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=dtype).merge_and_unload()
