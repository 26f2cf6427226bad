"""Functions run in processes of their own, to be killed or to train together.

They are forked from a server that has imported what most of them need: the imports take longer than the work. The
functions stand in modules of `tests.helpers`, where the new processes find them.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "genprm_trl.training.callbacks",
        "genprm_trl.training.implicit_prm.model",
        "genprm_trl.training.prm.trainer",
        "genprm_trl.training.sft.trainer",
        "genprm_trl.training.step_grpo.trainer",
    ]
)


def exit_code_of(work: Callable[..., Any], *arguments: Any, timeout: float = 240) -> int:
    """How a process ends that runs `work(*arguments)`: its exit code, or the negative number of a signal."""
    process = _CONTEXT.Process(target=work, args=arguments)
    process.start()
    try:
        process.join(timeout)
    finally:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def in_two_processes(work: Callable[..., Any], *arguments: Any, timeout: float = 240) -> list[Any]:
    """What `work(*arguments)` returns in each of two processes of one world; plain values, for they are pickled."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_CONTEXT.Pipe() for _ in range(2)]
    processes = [
        _CONTEXT.Process(target=_rank, args=(rank, port, pipes[rank][1], work, arguments)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    waiting = {pipes[rank][0]: rank for rank in range(2)}
    results: list[Any] = [None, None]
    try:
        while waiting:
            ready = wait(waiting, timeout)
            assert ready, f"nothing in {timeout} s from {sorted(waiting.values())}"
            for ours in ready:
                assert isinstance(ours, Connection)
                rank = waiting.pop(ours)
                failure, results[rank] = ours.recv()  # EOFError: the process died
                assert failure is None, f"process {rank}: {failure}"
        for process in processes:
            process.join(timeout)
    finally:
        for process in processes:
            process.kill()
    return results


def _rank(rank: int, port: int, pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send((None, work(*arguments)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))
