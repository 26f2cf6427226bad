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

_PACKAGE = Path(__file__).parents[1]
_OTHERS = ("trl", "transformers", "torch", "lm_eval")  # they decide which options there are, and their defaults


def print_kept_help(command: str, show: Callable[[], object]) -> None:
    """Prints the help text that `show` prints, and keeps it in the user's cache directory for the next time.

    Another version of a package, or another width of the terminal, has another text. Where the cache directory
    cannot be used, `show` is called each time.

    Args:
        command: The command's name.
        show: Prints the help text; it may end in `SystemExit`, as argparse does.

    Raises:
        SystemExit: `show` ended with another exit code than 0.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (it does without a home)
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
    facts: list[object] = [sys.version, shutil.get_terminal_size().columns]
    for name in _OTHERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts.append((name, metadata.version(name)))
    # An editable installation changes without its version.
    facts += sorted((str(file), file.stat().st_mtime_ns) for file in _PACKAGE.rglob("*.py"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
