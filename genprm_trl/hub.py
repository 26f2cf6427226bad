"""Uploads to the Hugging Face Hub, and the cards that describe what is uploaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from genprm_trl.cards.model_card import (
    CardContent,
    MeasuredScore,
    add_scores,
    arguments_block,
    framework_versions,
    usage_snippet,
    write_model_card,
)
from genprm_trl.cards.tables import facts_table
from genprm_trl.errors import ConfigError
from genprm_trl.rows.outputs import WRITTEN
from genprm_trl.version import __version__

__all__ = [
    "CardContent",
    "MeasuredScore",
    "add_scores",
    "arguments_block",
    "facts_table",
    "framework_versions",
    "make_repository",
    "push_card",
    "push_data_set",
    "push_model",
    "usage_snippet",
    "write_model_card",
]


def make_repository(repo_id: str, kind: Literal["model", "dataset"], *, private: bool = True) -> None:
    """Makes a repository on the Hub unless it exists. Call it before the work, so that a refusal costs nothing.

    Args:
        repo_id: `USER/NAME`.
        kind: What is going to be in it.
        private: Whether a new one is private. One that exists stays what it is.

    Raises:
        ConfigError: There is no login, the Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ConfigError(f"uploading to {repo_id} needs a login: hf auth login, or a token in HF_TOKEN")
    with _refusals(f"{repo_id} cannot be uploaded to"):
        HfApi().create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)


def push_data_set(directory: str | Path, repo_id: str) -> str:
    """Uploads a dataset's directory, its card included, to a repository of the Hub.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: The Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    message = f"Made with genprm-trl {__version__}"
    with _refusals(f"the dataset in {directory} was not uploaded to {repo_id}"):
        commit = HfApi().upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=directory,
            commit_message=message,
            ignore_patterns=[f"*{WRITTEN}"],
        )
    return commit.commit_url


def push_model(directory: str | Path, repo_id: str, *, private: bool = True) -> str:
    """Uploads a finished model's directory, without its checkpoints, to a repository of the Hub.

    Args:
        directory: The model's directory.
        repo_id: `USER/NAME`, or `NAME` for the account that is logged in.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: The Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    make_repository(repo_id, "model", private=private)
    with _refusals(f"the model in {directory} was not uploaded to {repo_id}"):
        name = HfApi().create_repo(repo_id, exist_ok=True).repo_id
        commit = HfApi().upload_folder(
            repo_id=name,
            folder_path=directory,
            commit_message="End of training",
            ignore_patterns=["_*", "checkpoint-*", f"*{WRITTEN}"],
        )
    return commit.commit_url


def push_card(model_dir: str | Path, repo_id: str) -> str:
    """Puts a model directory's card into a repository of the Hub, after the Hub's own check of it.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: The Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import ModelCard

    with _refusals(f"the card of {model_dir} was not uploaded to {repo_id}"):
        card = ModelCard.load(Path(model_dir) / "README.md")
        return str(card.push_to_hub(repo_id, commit_message="Update the card"))


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    # What the Hub's client raises where there is no connection: httpx's error, or httpx2's, by its version.
    connection_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except (HfHubHTTPError, LocalTokenNotFoundError, HFValidationError, connection_error, ValueError) as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from error
