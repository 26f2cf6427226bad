"""Token classifiers with two labels: those of `PRMTrainer`, of TRL until 1.13, of axolotl, and PURE's.

A separator follows each step, in token ids of its own. The score of a step is P(label 1) at the last of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForTokenClassification

from genprm_trl.errors import ConfigError, MissingExtraError, check_text
from genprm_trl.generation.loading import check_shapes, default_device, load_config, loaded_whole, unloadable
from genprm_trl.verifier.opening import KINDS, model_names
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.step_tokens import DEFAULT_STEP_SEPARATOR, StepTokens, load_step_tokenizer, tokenize_steps

logger = logging.getLogger(__name__)


class PRMScorer(StepScorer):
    """Gives each step of a solution the probability that it is correct, read off at the step's end.

    The steps reach the model exactly as `PRMTrainer` showed them, through `tokenize_steps`. It is a `Verifier`, so it
    serves wherever a `GenPRM` does: in rewards, in the service, in search.

    Example:
        ```python
        scorer = PRMScorer("outputs/math-prm")
        verdicts = scorer.score(solutions)
        ```

    Args:
        model_or_path: A token classification model with two labels (1 is correct), or the directory or name of a saved
            one, also of a PEFT adapter. See `load_trained_classifier`.
        tokenizer: The model's tokenizer; loaded from the path if None.
        step_separator: What follows each step. None is the model's own, see `known_separator`. A
            model that names none gets a newline, and a warning.
        batch_size: Solutions in one forward pass.
        max_length: Bound on the tokens of problem and steps; the model's context length if None.
        threshold: Rewards below it mark a step as wrong.
        **options: Further options of `StepScorer`.

    Raises:
        ConfigError: Model or tokenizer cannot be loaded, the model is no classifier of two labels or is sharded, an
            option has no such value, or the separator has no tokens.
    """

    pooled = True

    def __init__(
        self,
        model_or_path: str | os.PathLike[str] | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        step_separator: str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        threshold: float = 0.5,
        **options: Any,
    ):
        check_text(step_separator=step_separator)
        if isinstance(model_or_path, str | os.PathLike):
            path = os.fspath(model_or_path)
            model = load_trained_classifier(path)
        else:
            model, path = model_or_path, model_or_path.config.name_or_path
        if model.config.num_labels != 2:
            raise ConfigError(
                f"The model has {model.config.num_labels} labels; a step is correct or not (num_labels=2)"
            )
        super().__init__(
            model,
            tokenizer if tokenizer is not None else load_step_tokenizer(path),
            batch_size=batch_size,
            max_length=max_length,
            threshold=threshold,
            **options,
        )
        if step_separator is None:
            step_separator = known_separator(model.config, path)
        if step_separator is None:
            step_separator = DEFAULT_STEP_SEPARATOR
            logger.warning(
                "The configuration of '%s' names no step separator, so %r is taken. If training used another, give "
                "it: --kind_options '{\"step_separator\": ...}', or step_separator in Python.",
                path,
                step_separator,
            )
        self.step_separator = step_separator
        self.encode("", ["1"])  # says so if the separator is no token

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `load_trained_classifier`."""
        return load_trained_classifier(path, device=device, dtype=dtype)

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """As `PRMTrainer` encodes them; what looks like a special token or the separator stays text."""
        return tokenize_steps(self.tokenizer, problem, steps, self.step_separator)


def known_separator(config: PreTrainedConfig, model: str) -> str | None:
    """What follows each step: what `PRMTrainer` saved with the model, or what a published checkpoint is known for.

    Args:
        config: The model's configuration.
        model: Its directory, or its name on the Hub.

    Returns:
        The separator, or None if nobody says.
    """
    saved: str | None = getattr(config, "step_separator", None)
    # The published checkpoints of this kind are those of PURE (arXiv 2504.15275), whose configurations do not say it.
    if saved is None and any(re.fullmatch(KINDS["token_classifier"].names, name) for name in model_names(model)):
        return "\n\n"
    return saved


def adapter_separator(config: PreTrainedConfig, path: str) -> str | None:
    """The separator that `PRMTrainer` saved beside an adapter; the base model's configuration does not know it.

    Args:
        config: The configuration of the base model.
        path: The adapter's directory.

    Returns:
        The separator, or None if none was saved.
    """
    if not (Path(path) / "config.json").is_file():
        return None
    separator: str | None = getattr(type(config).from_pretrained(path), "step_separator", None)
    return separator


def has_step_head(config: PreTrainedConfig) -> bool:
    """Whether models of an architecture can be step classifiers.

    Some architectures (OLMo 2) have no token classification form in transformers. They get one here: a linear layer
    on the last hidden states, as transformers' own forms have it. Its weights and its class name are saved as usual,
    so a directory needs no code of its own, and loads again here.

    Args:
        config: A model's configuration.

    Returns:
        Whether `AutoModelForTokenClassification` makes such models, now at the latest.
    """
    kind = type(config)
    if kind in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return True
    trunk = MODEL_MAPPING.get(kind, None)
    reads_text_alone = config.get_text_config() is config and not config.is_encoder_decoder
    if not reads_text_alone or not isinstance(trunk, type) or not issubclass(trunk, PreTrainedModel):
        return False
    of_architecture: Any = trunk.__bases__[0]
    # The module is the architecture's: transformers looks there for what its attention can do.
    attributes = {"__module__": trunk.__module__, "base_model_prefix": of_architecture.base_model_prefix}
    name = f"{trunk.__name__.removesuffix('Model')}ForTokenClassification"
    head = type(name, (GenericForTokenClassification, of_architecture), attributes)
    AutoModelForTokenClassification.register(kind, head, exist_ok=True)
    return True


def prepare_head(path: str, revision: str | None = None) -> None:
    """Makes a head for the architecture of a model, if it needs one. What is wrong with the model, loading says."""
    with contextlib.suppress(ConfigError):
        has_step_head(load_config(path, revision=revision))


def load_trained_classifier(path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
    """A trained step classifier.

    Args:
        path: Directory of a model or of a PEFT adapter, or name of a model on the hub.
        device: Where it goes. None is the first accelerator, else the CPU.
        dtype: Precision; `auto` is the checkpoint's own.

    Raises:
        ConfigError: There is no model, or its classification head was never trained.
        MissingExtraError: It is an adapter and peft is not installed.
    """
    try:
        if (Path(path) / "adapter_config.json").is_file():
            model = _load_adapter(path, dtype)
        else:
            prepare_head(path)
            with loaded_whole():
                model, info = AutoModelForTokenClassification.from_pretrained(
                    path, dtype=dtype, output_loading_info=True, trust_remote_code=False, ignore_mismatched_sizes=True
                )
            check_shapes(
                info,
                f"'{path}' is no process reward model as its config.json says",
                "give a classifier of two labels, with its own config.json",
            )
            if info["missing_keys"]:
                # transformers draws them at random: a causal model would give scores that mean nothing.
                missing = ", ".join(sorted(info["missing_keys"]))
                raise ConfigError(f"'{path}' is no trained process reward model: it has no weights for {missing}")
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise unloadable(error, path, "process reward model") from error
    return model.to(device or default_device())


def _load_adapter(path: str, dtype: Any) -> PreTrainedModel:
    try:
        from peft import AutoPeftModelForTokenClassification, PeftConfig
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "Loading an adapter") from error
    prepare_head(str(PeftConfig.from_pretrained(path).base_model_name_or_path))
    with loaded_whole():
        model = AutoPeftModelForTokenClassification.from_pretrained(path, dtype=dtype)
    if (separator := adapter_separator(model.config, path)) is not None:
        model.config.step_separator = separator
    return model
