"""The harness's own command line with our tasks and our model in it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.harness.tasks import tasks_path
from genprm_trl.rows.secrets import MaskingFilter, mask

if TYPE_CHECKING:
    from argparse import Namespace

MODEL_NAME = "genprm"
_OF_VERIFIERS = re.compile(r"best_of_n|\w+_genprm(_|$)")  # the names of their tasks and groups


def register() -> None:
    """Adds the model `genprm` to the harness's registry, to be imported when it is used. Safe to call twice.

    The harness finds models of other packages by no other means, so call this before `simple_evaluate`.

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
        ConfigError: A word is no JSON, there is no such task or model, or a task is not for the model.
        SystemExit: The harness's parser ends the run, for instance after `--help`.
    """
    register()
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    setup_logging()
    for handler in logging.getLogger("lm_eval").handlers:
        handler.addFilter(MaskingFilter())  # the harness logs the model's arguments
    cli = HarnessCLI()
    before = sys.argv
    sys.argv = ["lm-eval", *words]  # where the harness's parser reads from
    try:
        arguments = cli.parse_args()
    except ValueError as error:  # what the harness says of broken JSON, past argparse
        raise ConfigError(str(error)) from None
    finally:
        sys.argv = before
    command = getattr(arguments, "command", None)
    if command in ("run", "ls", "validate"):
        arguments.include_path = _include_paths(arguments)
    if command == "run":
        _refuse_other_models(arguments)
    try:
        with _masked_results():
            cli.execute(arguments)
    except (ValueError, TypeError, FileNotFoundError) as error:
        # What the harness says of its own options: no such task, no such model. Anything else may be a bug.
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        of_options = place.parent.name in ("_cli", "config") or place.name in ("registry.py", "evaluator.py")
        if "lm_eval" in place.parts and of_options:
            raise ConfigError(str(error)) from None
        raise


@contextlib.contextmanager
def _masked_results() -> Iterator[None]:
    """Lets the harness see its results without the secrets of the model's arguments, which it puts in many places."""
    import lm_eval

    evaluate = lm_eval.simple_evaluate

    def evaluate_and_mask(*, model_args: Any = None, **others: Any) -> Any:
        results = evaluate(model_args=model_args, **others)
        if isinstance(model_args, dict):  # the harness prints it in the end
            model_args.update(mask(model_args))
        return mask(results)

    lm_eval.simple_evaluate = evaluate_and_mask
    try:
        yield
    finally:
        lm_eval.simple_evaluate = evaluate


def _refuse_other_models(arguments: Namespace) -> None:
    """Refuses the tasks of verifiers on another model, which would generate all answers before that shows.

    Raises:
        ConfigError: The model is not `genprm`.
    """
    model, tasks = _setting(arguments, "model"), _setting(arguments, "tasks")
    if model in (MODEL_NAME, "dummy"):  # the harness's own dummy answers at once, and says nothing
        return
    named = [name for words in ([tasks] if isinstance(tasks, str) else tasks or []) for name in str(words).split(",")]
    for name in named:
        if _OF_VERIFIERS.match(name.strip()):
            raise ConfigError(
                f"the task {name.strip()} is for verifiers: run it with --model {MODEL_NAME}, not {model or 'hf'}"
            )


def _setting(arguments: Namespace, name: str) -> Any:
    """An option of the harness, from the command line or from its configuration file."""
    given: Any = getattr(arguments, name, None)
    config = getattr(arguments, "config", None)
    if given is None and config and Path(config).is_file():
        try:
            loaded = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None  # the harness says so itself
        given = loaded.get(name) if isinstance(loaded, dict) else None
    return given


def _include_paths(arguments: Namespace) -> list[str]:
    """The user's own directory of tasks, from the command line or the harness's configuration file, and ours."""
    given = _setting(arguments, "include_path")
    own = [given] if isinstance(given, str) else list(given or [])
    # The harness lets a later directory win; a user's task of the same name is the one that is meant.
    return [str(tasks_path()), *own]
