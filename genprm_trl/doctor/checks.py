"""The checks of `genprm doctor`."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import LocalSandbox, Protection
from genprm_trl.sandbox.base import ExecutionResult
from genprm_trl.sandbox.local import EXPECTED
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.sandbox.remedies import SERVER, remedy_for

# TRL and transformers load their parts when they are used, so that importing them alone proves little.
TRIALS = {
    "trainers": "from genprm_trl import GenPRMTrainer, PRMTrainer, StepGRPOTrainer",
    "grading": "from genprm_trl.grading.comparison import grade; assert grade('it is 1/2', '0.5', timeout=60).correct",
}
TORCH = "install a build of torch for this machine: https://pytorch.org/get-started/locally/"
NVIDIA_DRIVER = [Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg")]


class Finding(NamedTuple):
    """A line of the report."""

    area: str
    name: str
    status: str  # ok; absent: only needed by those who want what it brings; degraded; failed: everybody needs it
    detail: str
    fix: str = ""


def examine(online: bool = False, sandbox: SandboxOptions | None = None) -> Iterator[Finding]:
    """Looks at this machine.

    Args:
        online: Whether to ask the Hub. Nothing else is sent over the network, unless code runs on a server.
        sandbox: Where code is to run, and what is required of it. Default: as of all commands.
    """
    yield Finding("python", "Python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")
    packages = needed()
    names = [package.name for package, _ in packages if version_of(package.name)]
    imports = {name: f"import {'yaml' if name == 'pyyaml' else name.replace('-', '_')}" for name in names}
    errors = try_out(TRIALS | imports)
    torch = None if errors.get("torch") else importlib.import_module("torch")
    checks = {"libraries": check_libraries(packages, errors)}
    if not errors.get("trl"):
        checks["vllm"] = check_vllm()
    checks |= {"hardware": check_hardware(torch), "sandbox": check_sandbox(sandbox), "hub": check_hub(online)}
    for area, findings in checks.items():
        try:
            yield from findings
        except Exception as error:
            # Without a sandbox no verifier can run code; everything else can be done without.
            status, fix = ("failed", "see --debug") if area == "sandbox" else ("degraded", "check network and login")
            yield Finding(area, area, status, f"could not be examined: {type(error).__name__}: {error}", fix)


def needed(lines: Sequence[str] | None = None) -> list[tuple[Requirement, str]]:
    """What this package needs, as its own metadata says: for everyone (with an empty extra), then by users' extras."""
    ours = metadata.requires("genprm-trl") if version_of("genprm-trl") else None
    found = [Requirement(line) for line in lines or ours or ()]
    extras = ["", *dict.fromkeys(re.findall(r"extra == .(\w+)", " ".join(str(each.marker) for each in found)))]
    rows = [(r, extra) for extra in extras for r in found if not r.marker or r.marker.evaluate({"extra": extra})]
    everyone = [each for each, extra in rows if not extra]
    return [row for row in rows if not row[1] or (row[0] not in everyone and row[1] not in ("dev", "docs"))]


def version_of(package: str) -> str | None:
    """The version that is installed, if one is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def try_out(trials: Mapping[str, str], patience: float = 300.0) -> dict[str, str]:
    """Runs Python by name in other processes, which a broken package can end or hang. Gives errors by name."""

    def attempt(code: str) -> str:
        try:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=patience)
        except (subprocess.TimeoutExpired, OSError) as error:  # OSError: such as no memory for another process
            return f"could not be tried: {error}"
        if done.returncode < 0:
            return f"ended the process ({signal.Signals(-done.returncode).name})"
        said = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", done.stderr.decode(errors="replace"), re.MULTILINE)
        return (said or [f"exit code {done.returncode}"])[-1] if done.returncode else ""

    if not attempt("\n".join(trials.values())):  # the quick way, if nothing is broken
        return dict.fromkeys(trials, "")
    with ThreadPoolExecutor(max_workers=4) as threads:
        return dict(zip(trials, threads.map(attempt, trials.values()), strict=True))


def check_libraries(packages: Sequence[tuple[Requirement, str]], errors: Mapping[str, str]) -> Iterator[Finding]:
    """Installed versions against the supported ranges, and what came of trying the packages out."""
    for name in TRIALS:
        say, fix = partial(Finding, "libraries", name), "install what is named above, or: pip install -U genprm-trl"
        yield say("failed", errors[name], fix) if errors[name] else say("ok", "work")
    for package, extra in packages:
        name, supported = package.name, ",".join(sorted(map(str, package.specifier), reverse=True))
        say = partial(Finding, "extras" if extra else "libraries", name)
        bad = "degraded" if extra else "failed"
        install = f"pip install 'genprm-trl[{extra}]'" if extra else f"pip install '{name}{supported}'"
        if (version := version_of(name)) is None:
            yield say("absent" if extra else "failed", "not installed", install)
        elif not package.specifier.contains(version, prereleases=True):
            yield say(bad, f"{version} is outside the supported range {supported}", install)
        elif errors.get(name):
            yield say(bad, f"{version} is installed and does not work: {errors[name]}", f"{install} --force-reinstall")
        else:
            yield say("ok", f"{version} (supported: {supported})")


def check_vllm() -> Iterator[Finding]:
    """Whether the vLLM at hand fits TRL, which says what its trainers support, and what vLLM itself asks for."""
    from trl.import_utils import is_vllm_available

    package = next(iter(metadata.packages_distributions().get("vllm", ())), None)  # vllm, or a build for CPUs
    if package is None:
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_vllm_available()
    problems = [said for each in caught if "vLLM" in (said := str(each.message))]
    for each in map(Requirement, metadata.requires(package) or ()):
        if each.name in ("torch", "transformers") and (each.marker is None or each.marker.evaluate({"extra": ""})):
            version = version_of(each.name)
            if version is not None and not each.specifier.contains(version, prereleases=True):
                problems.append(f"It wants {each.name} {each.specifier}; {version} is installed.")
    names = [package, "trl", "transformers"]
    say = partial(Finding, "extras", "versions together")
    at_hand = ", ".join(f"{name} {version_of(name)}" for name in names)
    fix = "keep vLLM in another environment (vllm serve, trl vllm-serve) and use --backend server, --vllm_mode server"
    yield say("degraded", f"{at_hand}. {' '.join(problems)}", fix) if problems else say("ok", f"{at_hand}: fit")


def check_hardware(torch: Any) -> Iterator[Finding]:
    """Processors, memory, and what torch can compute on; None stands for a torch that does not work."""
    say = partial(Finding, "hardware")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield say("processors", "ok", f"{cores} ({platform.machine()})")
    yield say("memory", "ok", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        yield say("memory limit", "ok", f"{int(text) / 2**30:.1f} GiB")
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total  # a container has 64 MiB unless it is told otherwise
        fix = "" if shared >= 2**30 else "several GPUs, vLLM and Ray need more: docker run --shm-size=8g ..."
        yield say("shared memory", "degraded" if fix else "ok", f"{shared / 2**30:.1f} GiB in /dev/shm", fix)
    for index in range(torch.cuda.device_count() if torch else 0):
        card = torch.cuda.get_device_properties(index)
        detail = f"{card.name}, {card.total_memory / 2**30:.1f} GiB, compute capability {card.major}.{card.minor}"
        try:  # a card that this build has no kernels for is only found out by using it
            torch.ones(16, device=f"cuda:{index}").sum().item()
            yield say(f"GPU {index}", "ok", detail)
        except RuntimeError as error:
            yield say(f"GPU {index}", "degraded", f"{detail}; {str(error).splitlines()[0]}", TORCH)
    if torch is None or torch.cuda.device_count():
        return
    if torch.backends.mps.is_available():
        yield say("GPU", "ok", "Apple's, through torch's mps")
    elif not any(path.exists() for path in NVIDIA_DRIVER):
        fix = "small models run on the CPU (genprm quickstart); larger ones on a machine with a GPU (--backend server)"
        yield say("GPU", "absent", "none", fix)
    else:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU alone"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = f"{TORCH}, or renew the driver" if hidden is None else f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
        yield say("GPU", "degraded", f"there is an NVIDIA driver, but torch ({build}) sees no card", fix)


def check_sandbox(options: SandboxOptions | None = None) -> Iterator[Finding]:
    """Runs a block of code, and tells which protections hold if it runs here."""
    say, options = partial(Finding, "sandbox"), options or SandboxOptions()
    # With nothing required it starts whatever is missing, so that all of it can be told.
    is_local = options.sandbox == "local"
    sandbox = LocalSandbox(required=(), max_concurrency=1) if is_local else options.open_sandbox()

    async def run() -> tuple[ExecutionResult, dict[str, Protection]]:
        try:
            async with asyncio.timeout(120), sandbox.session() as session:
                await sandbox.check()
                result = await session.run("print(6 + 1)")
                return result, sandbox.protections() if isinstance(sandbox, LocalSandbox) else {}
        finally:
            await sandbox.close()

    try:
        result, protections = asyncio.run(run())
    except ConfigError as error:
        yield say("running code", "failed", str(error), SERVER)
        return
    failed = f"status {result.status}: {result.message or result.output}"
    missing = [name for name in options.required() if name in protections and not protections[name].holds]
    if (result.status, result.output) != ("ok", "7"):
        yield say("running code", "failed", failed, "see --debug")
    elif missing:
        remedy = next(filter(None, map(remedy_for, missing)), SERVER)
        yield say("running code", "failed", f"every command refuses to, without {' and '.join(missing)}", remedy)
    else:
        yield say("running code", "ok", "runs")
    for name, protection in protections.items():
        bad = "failed" if name in options.required() else "degraded" if name in EXPECTED else "absent"
        reason, fix = protection.reason, remedy_for(name)
        yield say(name, "ok", "holds") if protection.holds else say(name, bad, reason, fix)


def check_hub(online: bool) -> Iterator[Finding]:
    """Who one is on the Hub, and room for what it gives; with `online` whether it answers."""
    from huggingface_hub import HfApi, constants, get_token

    say, login = partial(Finding, "hub"), get_token() is not None  # the token itself stays where it is
    there = f"a token for {constants.ENDPOINT}" if login else "no token: public models alone, and no uploads"
    yield say("login", "ok" if login else "absent", there, "" if login else "hf auth login")
    if constants.HF_HUB_OFFLINE:
        yield say("HF_HUB_OFFLINE", "degraded", "is set: nothing is downloaded", "unset HF_HUB_OFFLINE")
    cache = Path(constants.HF_HUB_CACHE).absolute()
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(nearest).free if os.access(nearest, os.W_OK | os.X_OK) else 0
    fix = "" if free >= 20 * 2**30 else "a model of 7B parameters takes 15 GiB: export HF_HOME=/path/with/more/room"
    yield say("cache", "degraded" if fix else "ok", f"{free / 2**30:.1f} GiB to write in {cache}", fix)
    if online:
        asked: Any = HfApi().whoami() if login else next(iter(HfApi().list_models(limit=1)), None)
        yield say("the Hub", "ok", f"answers; logged in as {asked['name']}" if login else "answers")
