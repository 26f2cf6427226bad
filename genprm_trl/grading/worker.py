"""The process behind `grading.pool`: reads pairs of answers from standard input, compares them, writes the outcome.

Run as a script, one JSON object a line each way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from typing import Any

_MEMORY_BYTES = 2 << 30


def confine() -> None:
    """Bounds the memory of this process and forbids it to write files."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def compare(prediction: str, reference: str) -> dict[str, Any]:
    """Compares two answers, of which the first may be none."""
    from genprm_trl.grading import algebra
    from genprm_trl.grading.answers import read_answer
    from genprm_trl.grading.equality import equal

    ours, theirs = read_answer(prediction), read_answer(reference)
    if ours is None:
        return {"correct": False, "status": "no_answer"}
    return {"correct": theirs is not None and equal(ours, theirs, algebra.compare), "status": "ok"}


def main() -> None:
    """Answers requests until standard input ends."""
    # Whatever a library prints must not get between the answers.
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        confine()
        logging.disable(logging.CRITICAL)
        # Loads the libraries and their grammars before the first question, whose time is limited.
        compare(r"\frac{1}{2} + x", "x + 0.5")
        out.write(b'{"status": "ready"}\n')
        for line in sys.stdin.buffer:
            request = json.loads(line)
            # If the parent is killed it cannot kill us. The alarm's default action ends the process even in C code.
            signal.setitimer(signal.ITIMER_REAL, request["timeout"] + 1.0)
            try:
                reply = compare(request["prediction"], request["reference"])
            except Exception as error:  # MemoryError and RecursionError among them
                reply = {"correct": False, "status": "error", "message": type(error).__name__}
            signal.setitimer(signal.ITIMER_REAL, 0)
            out.write(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
