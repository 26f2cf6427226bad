"""Running the probes: what each one answered, however it ended."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 180.0  # seconds for one probe; importing vllm on a busy machine takes most of a minute


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of a probe.

    Attributes:
        facts: What it learned.
        error: Why it failed, in one line; empty if it did not.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


async def run_probes(names: Sequence[str], *, patience: float = PATIENCE) -> dict[str, ProbeResult]:
    """Tries each name (see `probe`). A probe that ends its process or hangs fails alone; the others are tried anew.

    Args:
        names: The probes, in order.
        patience: Seconds for each.

    Returns:
        A result for every name.
    """
    results: dict[str, ProbeResult] = {}
    waiting = list(dict.fromkeys(names))
    while waiting:
        results |= await _one_process(waiting, patience)
        waiting = [name for name in waiting if name not in results]
    return results


async def _one_process(names: Sequence[str], patience: float) -> dict[str, ProbeResult]:
    """Runs one process until it ends; the result holds one name at least."""
    results: dict[str, ProbeResult] = {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "genprm_trl.doctor.probe", *names),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    current = names[0]
    try:
        while line := await asyncio.wait_for(process.stdout.readline(), patience):
            answer = json.loads(line)
            current = answer["probe"]
            if "facts" in answer or "error" in answer:
                results[current] = ProbeResult(answer.get("facts", {}), answer.get("error", ""))
        code = await asyncio.wait_for(process.wait(), patience)
        ended = f"ended the process ({_how(code)})"
    except TimeoutError:
        ended = f"has not finished after {patience:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if len(results) < len(names) and current not in results:
        results[current] = ProbeResult(error=ended)
    elif not results:
        results[names[0]] = ProbeResult(error=ended)
    return results


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
