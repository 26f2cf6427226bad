"""Processors, memory and accelerators."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from genprm_trl.doctor.finding import Finding, size
from genprm_trl.doctor.probing import ProbeResult

AREA = "hardware"
SHARED_MEMORY = 2**30  # bytes; a container's default of 64 MiB is too little for NCCL, vLLM and Ray
_SELECTOR = "https://pytorch.org/get-started/locally/"


def processors_and_memory() -> Iterator[Finding]:
    """Cores and memory that this process may use, and shared memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(AREA, "processors", "ok", f"{cores} ({platform.machine()})")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit(Path("/sys/fs/cgroup"))
    if limit is not None and limit < memory:
        yield Finding(AREA, "memory", "ok", f"{size(limit)} (this container's; the machine has {size(memory)})")
    else:
        yield Finding(AREA, "memory", "ok", size(memory))
    if Path("/dev/shm").is_dir():
        total = shutil.disk_usage("/dev/shm").total
        if total < SHARED_MEMORY:
            yield Finding(
                *(
                    AREA,
                    "shared memory",
                    "degraded",
                    f"{size(total)} in /dev/shm; several GPUs, vLLM and Ray need more",
                ),
                "docker run --shm-size=8g ... (or --ipc=host)",
            )
        else:
            yield Finding(AREA, "shared memory", "ok", f"{size(total)} in /dev/shm")


def _cgroup_limit(root: Path) -> int | None:
    """The memory limit of this process's container (control groups, version 2), in bytes."""
    try:
        return int((root / "memory.max").read_text())
    except (OSError, ValueError):  # no such file, or the word `max`
        return None


def accelerators(torch: ProbeResult) -> Iterator[Finding]:
    """What torch can compute on besides the processor, from what the probe `torch` learned."""
    if torch.error:
        return
    devices, build = torch.facts["devices"], torch.facts["cuda_build"]
    for index, device in enumerate(devices):
        detail = f"{device['name']}, {size(device['memory'])}, compute capability {device['capability']}"
        if "error" in device:
            fix = f"install a build of torch for this card: {_SELECTOR}"
            yield Finding(AREA, f"GPU {index}", "degraded", f"{detail}; {device['error']}", fix)
        else:
            yield Finding(AREA, f"GPU {index}", "ok", detail)
    if devices:
        return
    if torch.facts["mps"]:
        yield Finding(AREA, "GPU", "ok", "Apple's, through torch's mps")
    elif _has_nvidia_card() and build is None:
        fix = f"install a CUDA build of torch: {_SELECTOR}"
        yield Finding(AREA, "GPU", "degraded", "there is an NVIDIA driver, but torch is built for the CPU alone", fix)
    elif _has_nvidia_card():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = (
            f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
            if hidden is not None
            else f"nvidia-smi shows the driver's version: renew it, or install a torch for an older CUDA: {_SELECTOR}"
        )
        yield Finding(
            AREA, "GPU", "degraded", f"there is an NVIDIA driver, but torch (CUDA {build}) sees no card", fix
        )
    else:
        fix = "small models run on the CPU (genprm quickstart); larger ones on a machine with a GPU (--backend server)"
        yield Finding(AREA, "GPU", "absent", "none", fix)


def _has_nvidia_card() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
