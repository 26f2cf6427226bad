"""Measures how long commands and imports take to start, in multiples of the interpreter's own start.

    python benchmarks/start.py [--runs 7] [--output benchmarks/results/start.txt]

Each round starts every program once, so that a busy machine slows all of them alike. Processor time counts (user and
system), since what else runs changes it least. One round before them compiles the package and keeps the help texts
that are kept. The exit code is 1 if a median is above its bound.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from genprm_trl.cli.main import COMMANDS

BARE = "python -c pass"
IMPORT, HELP, COMMAND_HELP = 4, 6, 12  # bounds, in starts of the interpreter


def programs() -> dict[str, tuple[list[str], int]]:
    """The words of each program, and its bound."""
    genprm = [sys.executable, "-m", "genprm_trl"]
    return {
        BARE: ([sys.executable, "-c", "pass"], 1),
        "import genprm_trl": ([sys.executable, "-c", "import genprm_trl"], IMPORT),
        "genprm --help": ([*genprm, "--help"], HELP),
        **{f"genprm {name} --help": ([*genprm, name, "--help"], COMMAND_HELP) for name in COMMANDS},
    }


def processor_time(words: list[str], environment: dict[str, str]) -> float:
    """Seconds of the processor that a program takes, with those of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="rounds that count")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    say(f"{arguments.runs} runs of each; load average at start {os.getloadavg()[0]:.1f}")
    say("")
    times: dict[str, list[float]] = {name: [] for name in programs()}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for counted in [False, *[True] * arguments.runs]:
            for name, (words, _) in programs().items():
                seconds = processor_time(words, environment)
                if counted:
                    times[name].append(seconds)
    bare = statistics.median(times[BARE])
    above = 0
    for name, (_, bound) in programs().items():
        median = statistics.median(times[name])
        above += median > bound * bare
        judged = "" if name == BARE else f"at most {bound:2}: {'yes' if median <= bound * bare else 'NO'}"
        say(f"{name:<28}{median * 1000:7.0f} ms  {median / bare:5.1f}  {judged}".rstrip())
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
