"""Progress bars in log files: a stream that makes lines of what would be redrawn on a screen."""

from __future__ import annotations

import re
import threading
from typing import Any, TextIO

# Moving the cursor and clearing lines, as bars that stand below each other do.
_MOVES = re.compile(r"\x1b\[\d*[ABCDGJK]")


class LineStream:
    """Passes text on to a stream that is no terminal. Whatever a carriage return would write over gets its own line.

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
