"""A second process for work that has little use for a second core.

The miniature world's models are so small that two threads are hardly faster than one; two models at once are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


class SideProcess:
    """Runs functions, one after another, in one more process; each of the two gets half of the cores.

    A fresh interpreter, not a fork, which would copy locks that torch's threads hold: a script that uses it needs the
    customary `if __name__ == "__main__":`. It shows no progress bars. The process ends with the block, also in the
    middle of a function if an exception leaves the block, and if this process is killed.
    """

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        share = max(1, self._threads // 2)
        self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare, (share,))
        self._process = self._executor.submit(os.getpid)
        torch.set_num_threads(share)
        return self

    def submit(
        self, function: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
    ) -> Future[ResultT]:
        """Starts a function of a module, with arguments that can be pickled, when those before it are done."""
        return self._executor.submit(function, *args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads)
        if error is not None:
            with contextlib.suppress(BrokenProcessPool, ProcessLookupError):  # Ctrl-C has reached it, too
                os.kill(self._process.result(), signal.SIGKILL)
        self._executor.shutdown(cancel_futures=True)


def _prepare(threads: int) -> None:
    # Read when the libraries are imported, which is later. Two processes' bars would write over each other.
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
