"""Telling whether a model directory still holds the model that it held before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from genprm_trl.verifier.scorer_settings import STEP_SCORER_FILE, found_reference

# What decides a model's answers: weights, architecture, tokenizer, chat template, and our own settings.
_PATTERNS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model")
# What training leaves beside a model and does not decide anything; genprm-NAME.json is that of a command.
_IGNORED = ("trainer_state.json", "training_args.bin", "quickstart.json", "genprm-*.json", "*.settings.json")
_SAMPLES, _SAMPLE_BYTES = 64, 16_384


def model_fingerprint(model: str | os.PathLike[str], *, without: Collection[str] = ()) -> str | None:
    """A short hash of the files that make a model directory, the same wherever and whenever they were copied.

    Small files are read whole. Of large ones, evenly spaced samples are read along with their size: training moves
    every weight, and the files of a large model would take minutes to read.

    With an adapter, the model that it is loaded on counts, too, and the reference that an implicit PRM has.

    Args:
        model: A directory, or the name of a model on the Hub.
        without: Names of files that do not count.

    Returns:
        The hash, or None if there is no such directory.
    """
    directory = Path(model)
    if not directory.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    _add_files(digest, directory, without)
    if (directory / "adapter_config.json").is_file():
        for path in _beside_adapter(directory):
            digest.update(b"\0beside\0")
            if Path(path).is_dir():
                _add_files(digest, Path(path))
            else:
                digest.update(path.encode())
    return digest.hexdigest()


def _beside_adapter(directory: Path) -> list[str]:
    """What an adapter is loaded with: its base, and the reference of an implicit PRM."""
    found = []
    for file, field in (("adapter_config.json", "base_model_name_or_path"), (STEP_SCORER_FILE, "reference")):
        try:
            named = json.loads((directory / file).read_bytes()).get(field)
        except (OSError, ValueError, AttributeError):  # there is none; whoever loads the model says what is wrong
            continue
        if isinstance(named, str):
            found.append(found_reference(directory, named))
    return found


def _add_files(digest: hashlib.blake2b, directory: Path, without: Collection[str] = ()) -> None:
    files = {path for pattern in _PATTERNS for path in directory.glob(pattern)}
    for path in sorted(files):
        if path.is_file() and not any(fnmatch(path.name, ignored) for ignored in (*_IGNORED, *without)):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            _add_content(digest, path)


def _add_content(digest: hashlib.blake2b, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
            return
        for sample in range(_SAMPLES):
            file.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
