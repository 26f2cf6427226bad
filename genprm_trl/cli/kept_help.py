"""Help texts that are kept, for commands whose options are those of a package that takes seconds to import."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from genprm_trl.errors import GenPRMError
from genprm_trl.rows.jsonl import write_text
from genprm_trl.version import __version__

_PACKAGE = Path(__file__).parents[1]
_OTHERS = ("trl", "transformers", "torch", "lm_eval")  # they decide which options there are, and their defaults


def print_kept_help(command: str, show: Callable[[], object]) -> None:
    """Prints the help text that `show` prints, and keeps it in the user's cache directory for the next time.

    Another version of a package, or another width of the terminal, has another text. Where there is no cache
    directory, or it cannot be used, `show` is called each time.

    Args:
        command: The command's name.
        show: Prints the help text; it may end in `SystemExit`, as argparse does.

    Raises:
        SystemExit: `show` ended with another exit code than 0.
    """
    # A user without a home keeps the ~, and a relative path would be one in the working directory.
    homes = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))  # noqa: PTH111
    home = next(filter(os.path.isabs, homes), None)
    if home is None:
        sys.stdout.write(_printed(show))
        return
    cache = Path(home, "genprm-trl", "help")
    file = cache / f"{command}-{_key()}.txt"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = _printed(show)
        with contextlib.suppress(OSError, GenPRMError):
            for old in cache.glob(f"{command}-*.txt"):
                old.unlink()
            write_text(file, text)
    sys.stdout.write(text)


def _printed(show: Callable[[], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            show()
        except SystemExit as stop:
            if stop.code:  # no help text
                raise
    return text.getvalue()


def _key() -> str:
    """A digest of all that a help text depends on."""
    facts: list[object] = [__version__, sys.version, shutil.get_terminal_size().columns]
    for name in _OTHERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts.append((name, metadata.version(name)))
    # An editable installation changes without its version.
    stats = ((file, file.stat()) for file in _PACKAGE.rglob("*.py"))
    facts += sorted((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
