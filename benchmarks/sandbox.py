"""Measures how fast the embedded sandbox is, against common ways to run model-written code without a sandbox.

    python benchmarks/sandbox.py [--seconds 3] [--leak 10000] [--output benchmarks/results/sandbox.txt]

Everything runs on one machine in one run, so the ratios are meaningful. `--leak N` also opens N sessions and compares
descriptors, processes, directories and memory before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from genprm_trl.sandbox import LocalSandbox, Session

ROUNDS = 5
WRITING = 0.5  # seconds between a session's opening and its first block: a model writes it
CODE = "x = 2 + 2\nprint(x == 4)"  # a one-line check, as a verifier writes them


async def time_calls(action: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, called over and over for `seconds`, twice at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        start = time.perf_counter()
        result = action()
        if inspect.isawaitable(result):
            await result
        times.append(time.perf_counter() - start)
    return times


def in_process() -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        exec(CODE, {})


def fresh(code: str) -> None:
    subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True)


async def concurrent(sandbox: LocalSandbox, sessions: int, seconds: float) -> tuple[float, float, float]:
    """Blocks a second over all sessions; p50 and p99 of a block as its caller sees it."""
    times: list[float] = []
    start = time.perf_counter()

    async def client() -> None:
        async with sandbox.session() as session:
            await session.run("x = 1")
            while time.perf_counter() < start + seconds:
                begin = time.perf_counter()
                await session.run(CODE)
                times.append(time.perf_counter() - begin)

    await asyncio.gather(*(client() for _ in range(sessions)))
    elapsed = time.perf_counter() - start
    times.sort()
    return len(times) / elapsed, times[len(times) // 2], times[int(len(times) * 0.99)]


def session_memory(process: psutil.Process) -> list[int]:
    """Proportional set sizes of the sandbox's workers in bytes (those with no children below the zygote)."""
    return [p.memory_full_info().pss for p in process.children(recursive=True) if not p.children()]


def resources(directory: Path) -> dict[str, int]:
    process = psutil.Process()
    return {
        "descriptors": process.num_fds(),
        "processes": len(process.children(recursive=True)),
        "files and directories": len(list(directory.rglob("*"))) if directory.exists() else 0,
        "resident KiB, host": process.memory_info().rss >> 10,
        "resident KiB, zygote": sum(
            p.memory_info().rss >> 10 for p in process.children() for p in p.children() or [p]
        ),
    }


async def first_blocks(sandbox: LocalSandbox, sessions: int) -> list[float]:
    """Seconds that the first blocks of sessions take, which begin together after a model has written for a while."""
    opened = [sandbox.session() for _ in range(sessions)]
    await asyncio.sleep(WRITING)

    async def first(session: Session) -> float:
        start = time.perf_counter()
        assert (await session.run("print(6 * 7)")).output == "42"
        return time.perf_counter() - start

    seconds = await asyncio.gather(*map(first, opened))
    await asyncio.gather(*(session.close() for session in opened))
    return list(seconds)


async def spare_processes() -> list[str]:
    """First blocks in processes made ready while the model writes, and in processes forked for them, in turns."""
    lines = []
    async with LocalSandbox() as ready, LocalSandbox() as forked:
        forked._spares.clear(closed=True)
        for sessions in (1, 8, 64):
            times: dict[str, list[float]] = {"ready": [], "forked": []}
            for _ in range(ROUNDS):
                times["ready"] += await first_blocks(ready, sessions)
                times["forked"] += await first_blocks(forked, sessions)
            p50 = {name: statistics.median(values) * 1e3 for name, values in times.items()}
            lines.append(
                f"{sessions:3d} first blocks at once: "
                + "; ".join(f"{name} p50 {p50[name]:7.2f} ms, max {max(times[name]) * 1e3:7.2f}" for name in times)
                + f"; ratio {p50['forked'] / p50['ready']:.1f} x"
            )
    return lines


async def leak(count: int, at_once: int = 8) -> list[str]:
    """Opens `count` sessions, `at_once` at a time. What is there after the first hundred must be there at the end."""
    lines: list[str] = []
    async with LocalSandbox() as sandbox:
        directory = Path(sandbox._start().directory)
        remaining = iter(range(count))

        async def client() -> None:
            for number in remaining:
                async with sandbox.session() as session:
                    result = await session.run(f"open('f', 'w').write('x'); print({number})")
                    assert result.output == str(number), result
                if number == 100:
                    await asyncio.sleep(0.5)
                    states.append(resources(directory))

        states: list[dict[str, int]] = []
        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        elapsed = time.perf_counter() - start
        await asyncio.sleep(0.5)
        states.append(resources(directory))
        lines.append(f"{count} sessions in {elapsed:.1f} s ({count / elapsed:.0f} a second)")
        lines += [f"  {name}: {states[0][name]} after 100, {states[1][name]} after {count}" for name in states[0]]
    await asyncio.sleep(0.2)
    assert not directory.exists()  # noqa: ASYNC240
    lines.append(
        "  after closing: " + ", ".join(f"{n} {v}" for n, v in resources(directory).items() if "KiB" not in n)
    )
    return lines


async def measure(seconds: float, leak_sessions: int) -> list[str]:
    lines = [
        f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        f"load average at start {os.getloadavg()[0]:.1f}, user id {os.geteuid()}",
    ]
    async with LocalSandbox() as sandbox:
        held = sandbox.protections()
        lines.append("protections in force: " + ", ".join(n for n, p in held.items() if p.holds))
        lacking = [f"{n} ({p.reason})" for n, p in held.items() if not p.holds]
        lines.append("not in force: " + ("; ".join(lacking) or "none"))

        async with sandbox.session() as session:
            await session.run("x = 1")

            async def new_session() -> None:
                async with sandbox.session() as opened:
                    await opened.run("sympy = __import__('sympy')\n" + CODE)

            ways: dict[str, Callable[[], object]] = {
                "in-process exec (no isolation)": in_process,
                "fresh python -I -c": lambda: fresh(CODE),
                "fresh python importing sympy": lambda: fresh("import sympy\n" + CODE),
                "warm block in a session": lambda: session.run(CODE),
                "new session, sympy at hand": new_session,
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            # In turns, so that whatever else the machine does falls on all of them alike.
            for _ in range(ROUNDS):
                for name, action in ways.items():
                    times[name] += await time_calls(action, seconds / ROUNDS)
        rates = {name: len(values) / sum(values) for name, values in times.items()}
        medians = {name: statistics.median(values) for name, values in times.items()}
        _, bare_rate, sympy_rate, warm_rate, new_rate = rates.values()
        exec_median, _, _, warm_median, _ = medians.values()
        rows = [(name, rates[name], medians[name]) for name in ways]
        lines.append("")
        lines += [f"{name:34s} {rate:10.1f} a second, median {median * 1e3:8.3f} ms" for name, rate, median in rows]
        lines += [
            "",
            f"warm block / fresh python:           {warm_rate / bare_rate:6.1f} x",
            f"warm block - in-process, medians:    {(warm_median - exec_median) * 1e3:6.3f} ms",
            f"new session / fresh with sympy:      {new_rate / sympy_rate:6.1f} x",
            "",
        ]
        for sessions in (2, 8, 64):
            rate, p50, p99 = await concurrent(sandbox, sessions, seconds)
            lines.append(
                f"{sessions:3d} sessions at once: {rate:8.0f} blocks a second, "
                f"p50 {p50 * 1e3:7.2f} ms, p99 {p99 * 1e3:7.2f} ms"
            )
        sessions_open = [sandbox.session() for _ in range(16)]
        for session in sessions_open:
            await session.run("import sympy; y = sympy.expand((sympy.Symbol('x') + 1) ** 3); " + "print(y)")
        memory = session_memory(psutil.Process())
        lines.append(
            f"memory a session with sympy in use (proportional set size): {max(memory) / 2**20:.1f} MiB at most"
        )
        for session in sessions_open:
            await session.close()
    lines += ["", *await spare_processes()]
    if leak_sessions:
        lines += ["", *await leak(leak_sessions)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each thing is measured")
    parser.add_argument("--leak", type=int, default=0, help="sessions of the leak test; 0 leaves it out")
    parser.add_argument("--output", type=Path, help="file that gets what is printed")
    options = parser.parse_args()
    text = "\n".join(asyncio.run(measure(options.seconds, options.leak))) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
