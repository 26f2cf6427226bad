"""`step_scorer.json`: what belongs to a verifier that was trained here to score steps, beside its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genprm_trl.conversation.settings import SCORER_SETTINGS_FILE, settings_path
from genprm_trl.conversation.template import check_date
from genprm_trl.errors import ConfigError, check_positive, check_share, check_text
from genprm_trl.rows.jsonl import write_text

STEP_SCORER_FILE = SCORER_SETTINGS_FILE


@dataclass(frozen=True, slots=True)
class StepScorerSettings:
    """What scoring must know of a training.

    Attributes:
        kind: The kind of verifier, a name in `opening.KINDS`.
        step_separator: Text that follows every step.
        beta: Factor of an implicit PRM's log-ratios; None for other kinds.
        reference: Directory or Hub id of an implicit PRM's reference model, or a folder of its own directory that has
            an adapter. None: the model without its adapter.
        threshold: A step whose reward is below it is judged wrong.
        threshold_from: How the threshold was chosen: the data, and the score that it reached on them. None: it is the
            one that the kind has without a choice.
        template_date: The day that the chat template showed as today's in training. None if it shows none.

    Raises:
        ConfigError: A value is of another type, or out of range.
    """

    kind: str
    step_separator: str
    beta: float | None = None
    reference: str | None = None
    threshold: float = 0.5
    threshold_from: dict[str, Any] | None = None
    template_date: str | None = None

    def __post_init__(self) -> None:
        check_text(kind=self.kind, step_separator=self.step_separator, reference=self.reference)
        check_share(threshold=self.threshold)
        check_date(self.template_date)
        if self.beta is not None:
            check_positive(beta=self.beta)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the kind's class that they stand for."""
        values = asdict(self)
        return {name: values[name] for name in (*_SCORES, "threshold") if values.get(name) is not None}

    def threshold_with(self, options: Iterable[str]) -> float | None:
        """The threshold, unless one of these options changes the scores for which it was chosen.

        Args:
            options: Names of options that the verifier is given.
        """
        return None if set(options) - _HARMLESS else self.threshold

    def described_threshold(self) -> str:
        """The threshold and how it was chosen, in words."""
        how = self.threshold_from
        chosen = f"chosen on {how['solutions']} solutions of {how['data']}, F1 {how['f1']:g}" if how else "not chosen"
        return f"{self.threshold:.4g}, {chosen}"

    def save(self, model_dir: str | os.PathLike[str]) -> None:
        """Writes `step_scorer.json` into a model directory."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        write_text(Path(model_dir, STEP_SCORER_FILE), json.dumps(values, indent=2) + "\n")


def load_scorer_settings(model: str | os.PathLike[str]) -> StepScorerSettings | None:
    """Reads the settings that a verifier was saved with.

    Args:
        model: A model directory, or the Hub id of a model.

    Returns:
        The settings; None if there are none, for example because the model was trained elsewhere.

    Raises:
        ConfigError: There is a settings file that cannot be used.
    """
    path = settings_path(model, STEP_SCORER_FILE)
    if path is None:
        return None
    try:
        # Keys that a later version may add are passed over.
        values = {key: value for key, value in json.loads(path.read_bytes()).items() if key in _FIELDS}
        return StepScorerSettings(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the settings of a verifier that scores steps: {error}") from error


def found_reference(model: str | os.PathLike[str], reference: str) -> str:
    """Where the reference of an implicit PRM is.

    Args:
        model: The directory of the PRM, or its Hub id.
        reference: What `step_scorer.json` names.

    Raises:
        ConfigError: It is a folder of a model on the Hub, which nothing loads by a name.
    """
    own = Path(model, reference)
    if (own / "adapter_config.json").is_file():
        return str(own)
    is_folder_name = Path(reference).name == reference  # a model's name may look so, too
    if is_folder_name and not Path(model).is_dir() and settings_path(model, f"{reference}/adapter_config.json"):
        raise ConfigError(
            f"the reference of {model} is the folder {reference} in its repository, which is not loaded from there: "
            f"download the repository (hf download {model} --local-dir DIRECTORY), and name the directory"
        )
    return reference


# What makes the scores, and so the threshold that was chosen for them.
_SCORES = ("step_separator", "beta", "reference", "template_date")
# What changes nothing about the scores. The day is the one that the template would show without the option.
_HARMLESS = {"stop", "seed", "threshold", "batch_size", "max_length", "template_date"}
_FIELDS = frozenset(StepScorerSettings.__dataclass_fields__)
