"""What a command shows: log lines, progress bars, results, and what is kept if it is interrupted.

Results go to stdout and everything else to stderr, so that `genprm ... > file` holds only results.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from genprm_trl.rows.secrets import mask_text

if TYPE_CHECKING:
    from tqdm import tqdm

_quiet = False
_kept: str | None = None

# Moving the cursor and clearing lines, as bars that stand below each other do.
_MOVES = re.compile(r"\x1b\[\d*[ABCDGJK]")


class LineStream:
    """Makes lines of progress bars, for a stream that is no terminal.

    Whatever a carriage return would write over gets its own line.

    Blank lines that come of clearing a bar, and spaces at the end of a line, are left out.

    Args:
        stream: Where the text goes.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._lock = threading.Lock()
        self._written = False  # whether there is text on the current line
        self._spaces = ""  # seen, and written only if text follows

    def write(self, text: str) -> int:
        """Writes text. Returns its length, as every text stream does."""
        with self._lock:
            if not self._written and text and not text.strip("\n"):  # how a bar moves to its place below others
                return len(text)
            for piece in re.split(r"([\r\n])", _MOVES.sub("", text)):
                if piece == "\n":
                    self._stream.write("\n")
                    self._written, self._spaces = False, ""
                elif piece == "\r":
                    if self._written:
                        self._stream.write("\n")
                    self._written, self._spaces = False, ""
                elif piece.strip(" "):
                    kept = piece.rstrip(" ")
                    self._stream.write(self._spaces + kept)
                    self._written, self._spaces = True, piece[len(kept) :]
                else:
                    self._spaces += piece
        return len(text)

    def isatty(self) -> bool:
        """Never: such a stream has no need of this one."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _StderrHandler(logging.Handler):
    """Writes a record without breaking a progress bar that is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = mask_text(self.format(record))
            if record.levelno >= logging.WARNING:
                text = f"{record.levelname.lower()}: {text}"
            if isinstance(sys.stderr, LineStream):
                print(f"\r{text}", file=sys.stderr, flush=True)  # on a separate line, and no bar drawn again
            # A bar can only be on the screen if somebody has imported tqdm; otherwise do not pay for it.
            elif "tqdm" in sys.modules:
                from tqdm import tqdm

                tqdm.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def configure(verbosity: int = 0) -> None:
    """Sets up logging and progress bars, those of transformers, datasets and huggingface_hub included.

    Call it before they are imported: they read the environment once. Variables that are already set win.

    Args:
        verbosity: 0 shows this package's log lines and others' warnings; 1 and above shows everybody's; below 0
            shows only errors and no progress bar. Of several processes of one training run, only the first one
            speaks; the others show only errors.
    """
    global _quiet
    _quiet = verbosity < 0 or os.environ.get("RANK", "0") != "0"
    ours = logging.ERROR if _quiet else logging.DEBUG if verbosity > 0 else logging.INFO
    others = logging.ERROR if _quiet else logging.INFO if verbosity > 0 else logging.WARNING
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s" if verbosity > 0 else "%(message)s"))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(others)
    logging.getLogger("genprm_trl").setLevel(ours)
    logging.captureWarnings(True)
    # Python's warnings are for people who write code on other libraries; a command's user cannot act on them.
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbosity > 0 else logging.ERROR)

    environment = {
        "TRANSFORMERS_VERBOSITY": logging.getLevelName(others).lower(),
        # OpenMP threads that spin at barriers starve each other where cores are few or shared: torch falls to a tenth
        # of its speed and less.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if _quiet:
        environment |= {
            "TQDM_DISABLE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
    elif not sys.stderr.isatty():
        # In a log file every refresh of a bar is a separate line: show life, do not flood.
        environment["TQDM_MININTERVAL"] = "30"
        if not isinstance(sys.stderr, LineStream):
            sys.stderr = LineStream(sys.stderr)
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def set_log_format(format: str, *filters: logging.Filter) -> None:
    """Gives log lines another form, for a command that runs for days rather than before somebody's eyes.

    Args:
        format: A format of `logging.Formatter`.
        filters: Filters that add the fields that `format` names to records.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StderrHandler):
            handler.setFormatter(logging.Formatter(format))
            for each in filters:
                handler.addFilter(each)


def is_quiet() -> bool:
    """Whether the user asked for errors only (`-q`)."""
    return _quiet


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr that keeps to `-q` and is calm in log files.

    Args:
        iterable: What to iterate over; None for a bar that is updated by hand.
        options: tqdm's own: `total`, `desc`, `unit`, `initial`, ...
    """
    from tqdm.auto import tqdm

    defaults: dict[str, Any] = {"file": sys.stderr, "disable": _quiet, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        defaults |= {"mininterval": 30.0, "dynamic_ncols": False}
    return tqdm(iterable, **(defaults | options))


def print_facts(facts: Mapping[str, object]) -> None:
    """Prints results to stdout, one line each: a name of up to 18 characters, and what there is to say."""
    for name, text in facts.items():
        print(f"{name:<18} {text}")


def print_format(name: str) -> None:
    """Prints to stdout which row format was recognised, and what its rows were taken for."""
    from genprm_trl.data.formats import describe_format

    if os.environ.get("RANK", "0") == "0":
        print_facts({"format": describe_format(name)})
        sys.stdout.flush()


def set_kept(message: str | None) -> None:
    """Says what an interrupted run leaves behind and how to resume; shown if the user presses Ctrl-C."""
    global _kept
    _kept = message


def kept() -> str | None:
    """What `set_kept` was told."""
    return _kept
