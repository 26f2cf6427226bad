"""The one place that opens outputs: it knows what a command reads, and which files this program has written.

Two things never happen, whatever the options say: a command writes to a file that it reads; and a result that somebody
else has written, or changed, is replaced without `--overwrite`.

    .genprm-written      beside results: a line for each file that was written there, by which command, with a hash
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, Literal

from genprm_trl.errors import ConfigError, file_error

logger = logging.getLogger(__name__)

WRITTEN = ".genprm-written"

# What makes a model directory. Settings of verdicts may lie there, too.
_OF_A_MODEL = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.safetensors.index.json")
_OF_ROWS = ("*.jsonl", "*.ndjson", "*.json", "*.gz", "*.parquet", "*.arrow", "*.csv", "*.tsv", "*.zst")
_BESIDE = (".settings.json", ".stage")
_NEVER_READ = ("*.settings.json", "trainer_state.json", "training_args.bin")

Kind = Literal["rows", "model", "file"]


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a command reads.

    Attributes:
        path: A file or a directory. What is not there, such as a name on the Hub, counts as nothing.
        kind: What is read of a directory: its files of `rows`, or those of a `model`.
    """

    path: Path
    kind: Kind = "file"

    def is_read(self, output: Path) -> bool:
        """Whether writing to a path would change what is read."""
        if not self.path.exists():
            return False
        ours, theirs = Path(os.path.realpath(self.path)), Path(os.path.realpath(output))
        if ours == theirs or (output.exists() and output.samefile(self.path)):
            return True
        if not self.path.is_dir():
            # What stands beside a file and says how it was made is read with it.
            beside = [Path(f"{ours}{ending}") for ending in _BESIDE]
            return output.exists() and any(each in (theirs, *theirs.parents) for each in beside)
        if ours in theirs.parents:
            # A new file of rows would be read by the next run. A model is what is there.
            return self._holds(theirs) and (self.kind == "rows" or (theirs.parent == ours and theirs.exists()))
        if output.is_file() and output.stat().st_nlink > 1:  # a hard link, which has no target to look at
            return any(self._holds(file) and file.samefile(output) for file in ours.rglob("*") if file.is_file())
        return False

    def _holds(self, file: Path) -> bool:
        patterns = _OF_ROWS if self.kind == "rows" else _OF_A_MODEL
        name = file.name.lower()
        return any(fnmatch(name, each) for each in patterns) and not any(fnmatch(name, each) for each in _NEVER_READ)


@dataclass(slots=True)
class CommandFiles:
    """What a command reads and writes.

    Attributes:
        reads: What it reads.
        results: Files that it writes in one piece. One that somebody else has written is not replaced.
        others: Other files and directories that it writes; whoever opens them knows whose they are.
        overwrite: Whether results of others may be replaced. None: the command has no such option.
        name: The option that names the output, for messages.
        command: The command's name. Results of another command are somebody else's.
        removes: Directories that it removes, with all that is in them.
        kept: Results that were there already, as they would have been written.
        changed: Results that were written.
    """

    reads: Sequence[Input] = ()
    results: Sequence[Path] = ()
    others: Sequence[Path] = ()
    overwrite: bool | None = False
    name: str = "--output"
    command: str = ""
    removes: Sequence[Path] = ()
    kept: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)

    def check(self) -> None:
        """Checks all paths, before the work.

        Raises:
            ConfigError: An output is read, is named twice, or was written by somebody else.
        """
        writes = [*self.results, *self.others]
        for path in self.results:
            if path.is_dir():
                raise ConfigError(f"{path} is a directory; name a file")
        for number, path in enumerate(writes):
            self.refuse_input(path)
            for other in writes[:number]:
                if os.path.realpath(path) == os.path.realpath(other) or (path.exists() and _same(path, other)):
                    raise ConfigError(f"{path} is written twice by this command, also as {other}; name other files")
            self._refuse_beside(path, writes)
        for each in self.reads:
            inside = Path(os.path.realpath(each.path))
            for path in self.removes:
                if each.path.exists() and Path(os.path.realpath(path)) in (inside, *inside.parents):
                    raise ConfigError(f"{path} would be removed, and {each.path} is read by this command")
        for path in self.results:
            if not self.overwrite and is_foreign(path, self.command):
                raise self.foreign(path)

    def _refuse_beside(self, path: Path, writes: Sequence[Path]) -> None:
        """Refuses a path that belongs to a file of another run: its settings, or what is in its stage directory."""
        own = {os.path.realpath(each) for each in writes}
        real = Path(os.path.realpath(path))
        for each in (real, *real.parents):
            for ending in _BESIDE:
                owner = os.path.realpath(str(each).removesuffix(ending))
                if owner != str(each) and owner not in own and (each.exists() or Path(owner).exists()):
                    raise ConfigError(f"{path} belongs to {owner}; name another {self.name}")

    def foreign(self, path: Path) -> ConfigError:
        """The error for a file of somebody else."""
        again = "" if self.overwrite is None else ", or --overwrite"
        return ConfigError(
            f"{path} exists, and this program did not write it as it is; choose another {self.name}{again}"
        )

    def refuse_input(self, path: Path) -> None:
        """Refuses to write to something that the command reads.

        Raises:
            ConfigError: The command reads the path.
        """
        for each in self.reads:
            if each.is_read(path):
                inside = "" if not each.path.is_dir() or _same(path, each.path) else f", as a part of {each.path}"
                raise ConfigError(f"{path} is read by this command{inside}; name another {self.name}")


_running: list[CommandFiles] = []


@contextlib.contextmanager
def command_files(files: CommandFiles) -> Iterator[CommandFiles]:
    """Lets all that is opened for writing in the block be checked against the files of a command.

    Raises:
        ConfigError: `CommandFiles.check` refuses a path.
    """
    files.check()
    _running.append(files)
    try:
        yield files
    finally:
        _running.remove(files)


def inputs_of(*options: Any) -> list[Input]:
    """What options read: the fields of dataclasses with `metadata={"reads": KIND}`, and what their `reads_also` names.

    Examples:
        >>> @dataclass
        ... class Options:
        ...     file: str = field(default="a.jsonl", metadata={"reads": "rows"})
        ...     limit: int = 3
        >>> [str(each.path) for each in inputs_of(Options())]
        ['a.jsonl']
    """
    found = []
    for each in options:
        for option in fields(each) if is_dataclass(each) else ():
            if kind := option.metadata.get("reads") or _READ_BY_TRL.get(option.name):
                found += inputs(kind, getattr(each, option.name))
        if hasattr(each, "reads_also"):
            found += each.reads_also()
    return found


# Options of TRL and transformers have no such mark.
_READ_BY_TRL: dict[str, Kind] = {
    "resume_from_checkpoint": "model",
    "chat_template_path": "model",
    "deepspeed": "file",
    "fsdp_config": "file",
    "accelerator_config": "file",
}


def inputs(kind: Kind, *sources: Any) -> list[Input]:
    """The inputs that sources are; what is no path is passed over."""
    flat = [item for source in sources for item in (source if isinstance(source, list | tuple) else [source])]
    return [Input(Path(item), kind) for item in flat if isinstance(item, str | os.PathLike) and str(item)]


def refuse_input(path: Path) -> None:
    """Refuses to open a file for writing that the running command reads.

    Raises:
        ConfigError: The command reads the path.
    """
    for files in _running:
        files.refuse_input(path)


def refuse_foreign(path: Path) -> None:
    """Refuses to go on towards a result that somebody else has changed, before the work is paid for.

    Args:
        path: The result. If nothing at all is known of it, others have checked whose it is.

    Raises:
        ConfigError: A command is running that may not replace it.
    """
    if (
        _running
        and not any(files.overwrite for files in _running)
        and is_foreign(path, _running[-1].command, unknown=False)
    ):
        raise _running[-1].foreign(path)


def is_foreign(path: Path, command: str, *, unknown: bool = True) -> bool:
    """Whether a file is there that a command has not written, or that was changed since.

    Args:
        path: The file. An empty one is nobody's.
        command: The command.
        unknown: The answer for a file of which nothing is known at all.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    written = _written(path, command)
    return unknown if not written else _digest(path) not in written


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, result: bool = False) -> Iterator[IO[bytes]]:
    """Opens a new file that takes the path's place when the block ends well, and vanishes when it does not.

    Readers see the old file or the new one, never a part of either. A file that has the same content stays untouched.

    Args:
        path: The file. Its directory is made where missing.
        result: Whether it is a result. While a command runs, one that somebody else has written is not replaced. One
            that was changed since the command has written the same content stays as it is, with a warning.

    Raises:
        DataError: The disk refused it. What was at the path before is still there.
        ConfigError: The running command reads it, or somebody else has written it.
    """
    path = Path(path)
    refuse_input(path)
    # In the same directory, since only a rename within one file system is atomic.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if _takes_place(temporary, path, result):
            temporary.replace(path)
        else:
            temporary.unlink()
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise file_error(error, "cannot be written", path) from error
        raise


def _takes_place(new: Path, path: Path, result: bool) -> bool:
    """Whether a new file is to take a path's place."""
    result = result and bool(_running)
    if path.is_file() and filecmp.cmp(new, path, shallow=False):
        if result and _digest(path) in _written(path, _running[-1].command):
            for files in _running:
                files.kept.append(path)
        return False
    if not result:
        return True
    digest, command = _digest(new), _running[-1].command
    if not any(files.overwrite for files in _running) and is_foreign(path, command):
        if digest in _written(path, command):
            logger.warning("%s was changed since it was written; it stays as it is", path)
            return False
        raise _running[-1].foreign(path)
    _note(path, digest, command)  # first, so that a kill leaves no file that seems to be somebody else's
    for files in _running:
        files.changed.append(path)
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _written(path: Path, command: str) -> set[str]:
    """Hashes of all that a command has written to a path."""
    try:
        lines = path.with_name(WRITTEN).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    found = set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill
            row = json.loads(line)
            if (row["file"], row["by"]) == (path.name, command):
                found.add(row["digest"])
    return found


def _note(path: Path, digest: str, command: str) -> None:
    if digest in _written(path, command):
        return
    # One short line in one call: several processes may write in a directory.
    line = json.dumps({"file": path.name, "by": command, "digest": digest}) + "\n"
    with path.with_name(WRITTEN).open("ab", buffering=0) as file:
        file.write(line.encode())


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
