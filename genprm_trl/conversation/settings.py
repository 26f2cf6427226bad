"""The conversation settings that a model was trained with, kept next to its weights for the verifier."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from genprm_trl.conversation.template import TurnOpening, check_date, shows_date, today
from genprm_trl.errors import ConfigError, check_one_of
from genprm_trl.protocol.genprm import MODES, FirstTurn

SETTINGS_FILE = "genprm.json"
SCORER_SETTINGS_FILE = "step_scorer.json"  # of a verifier that scores steps; see `verifier.scorer_settings`
POLICY_SETTINGS_FILE = "policy.json"  # of a policy whose chat template shows a day; it holds no more than that

ProtocolName = Literal["genprm", "thinkprm"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What training and inference must agree on besides the chat template, which the tokenizer keeps.

    Attributes:
        turn_opening: How an assistant's turn opens; see `template.ChatFormat`.
        first_turn: Form of the first user turn; see `protocol.GenPRMProtocol`.
        modes: Names of the modes that the model was trained in (`protocol.MODES`), the main one first.
        template_date: The day that the chat template showed as today's in training, such as `2026-12-01`. None if the
            template shows none, or if the day is not known.
        protocol: The format that the model was trained in, and so its kind of verifier. Only a `genprm` has a form of
            the first turn, and modes.

    Raises:
        ConfigError: for an unknown value, listing the known ones.
    """

    turn_opening: TurnOpening = "generation_prompt"
    first_turn: FirstTurn = "evaluation"
    modes: tuple[str, ...] = ("full",)
    template_date: str | None = None
    protocol: ProtocolName = "genprm"

    def __post_init__(self) -> None:
        check_one_of(get_args(ProtocolName), protocol=self.protocol)
        check_one_of(get_args(TurnOpening), turn_opening=self.turn_opening)
        check_one_of(get_args(FirstTurn), first_turn=self.first_turn)
        if not self.modes:
            raise ConfigError("modes must name at least one mode")
        for mode in self.modes:
            check_one_of(MODES, mode=mode)
        check_date(self.template_date)

    @property
    def default_mode(self) -> str:
        """The mode to verify in unless another is asked for."""
        return self.modes[0]

    def save(self, model_dir: str | os.PathLike[str]) -> None:
        """Writes `genprm.json` into a model directory."""
        text = json.dumps(asdict(self), indent=2)
        Path(model_dir, SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")


def load_settings(model: str | os.PathLike[str]) -> ModelSettings | None:
    """Reads the settings that a model was saved with.

    Args:
        model: A model directory, or the Hub id of a model.

    Returns:
        The settings; None if the model has none, for example because it was trained elsewhere.

    Raises:
        ConfigError: if there is a settings file that cannot be used.
    """
    path = settings_path(model, SETTINGS_FILE)
    if path is None:
        return None
    try:
        # Keys that a later version may add are passed over.
        values = {key: value for key, value in json.loads(path.read_bytes()).items() if key in _FIELDS}
        if "modes" in values:
            values["modes"] = tuple(values["modes"])
        return ModelSettings(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the settings of a GenPRM: {error}") from error


def settings_path(model: str | os.PathLike[str], name: str) -> Path | None:
    """Where a small file of a model is.

    Args:
        model: A model directory, or the Hub id of a model.
        name: The file's name.

    Returns:
        Its path; None if the model has no such file.
    """
    path = Path(model, name)
    if path.is_file():
        return path
    if Path(model).is_dir():
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            os.fspath(model),
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:  # no such repository, or no name of one: whoever loads the model says so
        return None
    return None if found is None else Path(found)


def frozen_date(chat_template: str, *models: str | os.PathLike[str]) -> str | None:
    """The day that a chat template is to show as today's in all of a run, also after it was resumed.

    Args:
        chat_template: The template.
        models: Directories or Hub ids whose settings may name the day, the most important one first: the model that is
            trained or asked, checkpoints.

    Returns:
        The first day that is named, or else today; None if the template shows no day.

    Raises:
        ConfigError: There is a settings file that cannot be used.
    """
    if not shows_date(chat_template):
        return None
    return next(filter(None, map(named_date, models)), None) or today()


def named_date(model: str | os.PathLike[str]) -> str | None:
    """The day that a model's chat template showed as today's in training; None if its directory names none.

    Args:
        model: A model directory, or the Hub id of a model.

    Raises:
        ConfigError: There is a settings file that cannot be used.
    """
    try:
        settings = load_settings(model)
        paths = {each: settings_path(model, each) for each in (SCORER_SETTINGS_FILE, POLICY_SETTINGS_FILE)}
    except OSError:  # the name of a directory that has gone
        return None
    if settings is not None and settings.template_date is not None:
        return settings.template_date
    named: str | None = None
    for name, path in paths.items():
        if path is None or named is not None:
            continue
        try:
            named = json.loads(path.read_bytes()).get("template_date")
            check_date(named)
        except (OSError, ValueError, AttributeError) as error:
            of_whom = "a policy" if name == POLICY_SETTINGS_FILE else "a verifier that scores steps"
            raise ConfigError(f"{path}: not the settings of {of_whom}: {error}") from error
    return named


_FIELDS = frozenset(ModelSettings.__dataclass_fields__)
