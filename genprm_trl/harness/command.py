"""The harness's own command line with our tasks and our model in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.harness.tasks import tasks_path

if TYPE_CHECKING:
    from argparse import Namespace

MODEL_NAME = "genprm"


def register() -> None:
    """Adds the model `genprm` to the harness's registry, to be imported when it is used. Safe to call twice.

    This is all that an entry point has to call.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    try:
        import lm_eval.models  # noqa: F401  (fills the registry with the harness's own models)
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise MissingExtraError("lm-eval", "eval", "genprm lm-eval") from error
    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target="genprm_trl.harness.model:GenPRMJudge")


def run_harness(words: Sequence[str]) -> None:
    """Runs `lm_eval WORDS` with our model registered and our tasks included beside those of the user.

    Raises:
        MissingExtraError: lm-eval is not installed.
        ConfigError: A word is no JSON.
        SystemExit: The harness's parser ends the run, for instance after `--help`.
    """
    register()
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    setup_logging()
    cli = HarnessCLI()
    before = sys.argv
    sys.argv = ["lm-eval", *words]  # where the harness's parser reads from
    try:
        arguments = cli.parse_args()
    except ValueError as error:  # what the harness says of broken JSON, past argparse
        raise ConfigError(str(error)) from None
    finally:
        sys.argv = before
    if getattr(arguments, "command", None) in ("run", "ls", "validate"):
        arguments.include_path = _include_paths(arguments)
    cli.execute(arguments)


def _include_paths(arguments: Namespace) -> list[str]:
    """The user's own directory of tasks, from the command line or the harness's configuration file, and ours."""
    given: Any = getattr(arguments, "include_path", None)
    config = getattr(arguments, "config", None)
    if given is None and config and Path(config).is_file():
        loaded = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        given = loaded.get("include_path") if isinstance(loaded, dict) else None
    own = [given] if isinstance(given, str) else list(given or [])
    # The harness lets a later directory win; a user's task of the same name is the one that is meant.
    return [str(tasks_path()), *own]
