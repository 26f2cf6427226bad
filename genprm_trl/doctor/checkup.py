"""All checks, in order. One that fails itself is a finding, too: the report always comes."""

from __future__ import annotations

import inspect
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata

from genprm_trl.doctor import code_execution, hardware, hub_access, requirements
from genprm_trl.doctor.finding import Finding, Status
from genprm_trl.doctor.probing import ProbeResult, run_probes

Findings = Iterator[Finding] | AsyncIterator[Finding]


async def examine(*, online: bool = False) -> AsyncIterator[Finding]:
    """Looks at this machine.

    Args:
        online: Ask the Hub, and the SandboxFusion server that the environment names. Otherwise nothing is sent.

    Yields:
        What was found, in the order of the report, as soon as it is known.
    """
    yield _python()
    packages: list[requirements.Needed] = []
    try:
        packages = requirements.needed_packages()
    except metadata.PackageNotFoundError:
        detail = "not installed as a package, so what it needs is not known"
        yield Finding(
            requirements.LIBRARIES, requirements.DISTRIBUTION, "degraded", detail, "pip install --editable ."
        )
    names = [package.module for package in packages if package.version is not None]
    names += ["torch", "huggingface_hub", "trainers", "grading", *(["hub_answers"] if online else [])]
    probes = await _probed(names)

    for package in (package for package in packages if package.extra is None):
        async for finding in _guarded(package.requirement.name, requirements.judge, package, probes):
            yield finding
    good = "the trainers (GenPRM, PRM, step GRPO) can be loaded"
    yield _outcome(requirements.LIBRARIES, "trainers", probes["trainers"], good)
    yield _outcome(requirements.LIBRARIES, "grading", probes["grading"], "answers are compared")
    for package in (package for package in packages if package.extra is not None):
        async for finding in _guarded(package.requirement.name, requirements.judge, package, probes):
            yield finding
    checks: list[tuple[str, Callable[..., Findings], tuple[ProbeResult, ...]]] = [
        ("processors and memory", hardware.processors_and_memory, ()),
        ("accelerators", hardware.accelerators, (probes["torch"],)),
        ("running code", code_execution.local_sandbox, ()),
        ("login and cache", hub_access.login_and_cache, (probes["huggingface_hub"],)),
    ]
    if online:
        checks.append(("SandboxFusion server", code_execution.fusion_server, ()))
        checks.append(("the Hub", hub_access.answers, (probes["hub_answers"],)))
    for name, check, arguments in checks:
        async for finding in _guarded(name, check, *arguments):
            yield finding


async def _probed(names: list[str]) -> dict[str, ProbeResult]:
    try:
        return await run_probes(names)
    except Exception as error:  # such as no memory for another process
        return dict.fromkeys(names, ProbeResult(error=f"could not be tried: {type(error).__name__}: {error}"))


async def _guarded(name: str, check: Callable[..., Findings], *arguments: object) -> AsyncIterator[Finding]:
    """The findings of a check, and one more if it breaks off."""
    area = getattr(inspect.getmodule(check), "AREA", requirements.LIBRARIES)
    # Without a sandbox no verifier can run code; everything else that may break here can be done without.
    status: Status = "failed" if area == code_execution.AREA else "degraded"
    try:
        findings = check(*arguments)
        if isinstance(findings, AsyncIterator):
            async for finding in findings:
                yield finding
        else:
            for finding in findings:
                yield finding
    except Exception as error:
        yield Finding(area, name, status, f"could not be examined: {type(error).__name__}: {error}", "")


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.release()}"
    if not sys.platform.startswith("linux"):
        fix = "use Linux for untrusted models, or a SandboxFusion server"
        return Finding("python", "Python", "degraded", f"{found}; the sandbox is weaker than on Linux", fix)
    return Finding("python", "Python", "ok", found)


def _outcome(area: str, name: str, probe: ProbeResult, good: str) -> Finding:
    if probe.error:
        return Finding(
            area, name, "failed", probe.error, "install what is named above, or all again: pip install -U genprm-trl"
        )
    return Finding(area, name, "ok", good)
