"""Where a verifier's code runs: the embedded sandbox, tried out, and a SandboxFusion server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from genprm_trl.doctor.finding import Finding
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox.local import EXPECTED, REMEDIES, REQUIRED

AREA = "sandbox"
PATIENCE = 120.0  # seconds


async def local_sandbox() -> AsyncIterator[Finding]:
    """Runs a block of code, and tells which protections hold on this machine."""
    # With nothing required it starts whatever is missing, so that all of it can be told.
    async with asyncio.timeout(PATIENCE), LocalSandbox(required=(), max_concurrency=1) as sandbox:
        async with sandbox.session() as session:
            result = await session.run("from sympy import simplify\nprint(simplify('2*3 + 1'))")
        if (result.status, result.output) == ("ok", "7"):
            yield Finding(AREA, "running code", "ok", f"in {1000 * result.seconds:.0f} ms")
        else:
            detail = f"status {result.status}: {result.message or result.output}"
            yield Finding(AREA, "running code", "failed", detail, "genprm doctor --debug shows more")
        for protection in sandbox.protections().values():
            if protection.holds:
                yield Finding(AREA, protection.name, "ok", "holds")
                continue
            status = (
                "failed" if protection.name in REQUIRED else "degraded" if protection.name in EXPECTED else "absent"
            )
            remedy = REMEDIES.get(protection.name, "")
            yield Finding(AREA, protection.name, status, protection.reason, remedy)  # type: ignore[arg-type]


async def fusion_server() -> AsyncIterator[Finding]:
    """Runs a block of code on the SandboxFusion server that the environment names, if it names one."""
    endpoint = os.environ.get("SANDBOX_FUSION_ENDPOINT")
    if not endpoint:
        return
    from genprm_trl.sandbox import FusionSandbox

    async with asyncio.timeout(PATIENCE), FusionSandbox(attempts=1) as sandbox, sandbox.session() as session:
        result = await session.run("print(6 + 1)")
    if (result.status, result.output) == ("ok", "7"):
        yield Finding(AREA, "SandboxFusion server", "ok", f"{endpoint} answers in {1000 * result.seconds:.0f} ms")
    else:
        detail = f"{endpoint}: {result.message or result.output}"
        yield Finding(AREA, "SandboxFusion server", "degraded", detail, "start it, or correct SANDBOX_FUSION_ENDPOINT")
