"""Trainings in processes of their own: how they are launched, what ends one that hangs, and what they leave."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.paths import ROOT
from tests.helpers.processes import family, kill


@dataclass(frozen=True)
class Finished:
    """What a job left."""

    out: Path
    code: int
    log: str
    seconds: float

    def told(self, name: str) -> dict[str, Any]:
        """What a training logged."""
        file = self.out / f"{name}.json"
        assert file.exists(), f"{name} did not finish:\n{self.log[-20000:]}"
        return json.loads(file.read_text())

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """The weights that it saved, of the model or of its adapter."""
        [file] = [path for path in (self.out / name).glob("*.safetensors") if "training" not in path.name]
        return load_file(file)


def torchrun(processes: int) -> list[str]:
    """Starts plain processes, or those of FSDP."""
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def accelerate_zero(processes: int, stage: int) -> list[str]:
    """Starts DeepSpeed with the set-up of the recipes, but for the precision, which a CPU does not have."""
    return [
        "accelerate.commands.launch",
        "--config_file", str(ROOT / "examples/configs/accelerate_zero3.yaml"),
        "--num_processes", str(processes),
        "--mixed_precision", "no",
        "--zero_stage", str(stage),
        "--main_process_port", str(free_port()),
    ]  # fmt: skip


def launch(
    launcher: Sequence[str],
    program: Sequence[str],
    out: Path,
    *,
    seconds: float,
    deepspeed: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a module in the processes of a launcher, and kills them all when its time is up.

    Args:
        launcher: Of `torchrun` or `accelerate_zero`.
        program: The module and its arguments.
        out: Where the job works and leaves what it did, the file `log` among it.
        seconds: How long it may take.
        deepspeed: The folder with DeepSpeed. Other jobs do not find it, since importing it changes them.
        environment: Further variables.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(ROOT), *(path for path in paths if not (Path(path) / "deepspeed").is_dir())]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if deepspeed is not None:
        paths.append(str(deepspeed))
        variables["DS_ACCELERATOR"] = "cpu"
    variables |= {"PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    started = time.monotonic()
    with (out / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", *launcher, "-m", *program], cwd=out, env=variables, stdout=log, stderr=log
        )
        try:
            code = job.wait(seconds)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            if job.poll() is None:
                kill(family(job.pid))
                job.wait()
    return Finished(out, code, (out / "log").read_text(errors="replace"), time.monotonic() - started)


def watch(seconds: float) -> None:
    """In a process of a job: from now, one that hangs prints its stacks.

    The first process ends a little later, and with it the job.
    """
    first = os.environ["RANK"] == "0"
    faulthandler.dump_traceback_later(seconds + 5 * first, exit=first)


def use_gloo_in_deepspeed() -> None:
    """In a process of a job: DeepSpeed would compile its own all-reduce for CPUs, for minutes."""
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
