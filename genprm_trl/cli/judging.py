"""Judging what a file of verdicts does not hold yet, as the commands do it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from genprm_trl.cli import console
from genprm_trl.options.verifier import VerifierOptions, load_verifier

if TYPE_CHECKING:
    from genprm_trl.stages.verdict_file import VerdictFile

logger = logging.getLogger(__name__)


def judge_remaining(file: VerdictFile, path: Path, total: int, verifier: VerifierOptions) -> float:
    """Makes the verdicts that are missing, each written as it finishes; without any, no model is loaded.

    Args:
        file: Opened for the solutions that are to be judged.
        path: Where it is.
        total: How many solutions there are.
        verifier: What to judge with.

    Returns:
        The seconds that the judging took, loading not counted.
    """
    remaining = file.remaining
    if len(remaining) < total:
        done = total - len(remaining)
        logger.info("%s holds %d verdicts; going on with the other %d", path, done, len(remaining))
    if not remaining:
        return 0.0
    with load_verifier(verifier) as prm:
        console.set_kept(f"finished verdicts are in {path}; the same command goes on from there")
        started = time.monotonic()
        for verdict in prm.verify_all(remaining, progress=not console.is_quiet()):
            file.write(verdict)
        return time.monotonic() - started
