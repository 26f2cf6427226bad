"""Say what is installed and works here, and what to do about what does not.

Looks at Python, the packages and their supported ranges, GPUs, memory, the sandbox and each of its protections, the
Hub's login and the room for its cache. Packages are tried out in processes of their own. Nothing is sent over the
network without --online. The exit code is 0 when all that is necessary works, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import inspect
import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genprm_trl.version import __version__

if TYPE_CHECKING:
    from genprm_trl.doctor.finding import Finding

_MARKS = {"ok": "ok", "absent": "-", "degraded": "warning", "failed": "FAILED"}
_STYLES = {"ok": "green", "absent": "dim", "degraded": "yellow", "failed": "bold red"}


def option_parser() -> argparse.ArgumentParser:
    """The command's own parser: the one of the other commands needs TRL, which may be what is missing."""
    parser = argparse.ArgumentParser(
        prog="genprm doctor",
        description=inspect.cleandoc(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    parser.add_argument("--online", action="store_true", help="Ask the Hub and the SandboxFusion server, too.")
    parser.add_argument("-v", "--verbose", action="store_true", help="Show more of what happens.")
    parser.add_argument("-q", "--quiet", action="store_true", help="Show what is not as it should be alone.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    return parser


def run_words(words: Sequence[str]) -> int:
    """Runs the command: its options are few and read without TRL."""
    options = option_parser().parse_args(words)
    if not options.verbose:  # what the sandbox logs at its start is in the report
        logging.getLogger("genprm_trl.sandbox").setLevel(logging.ERROR)
    findings = asyncio.run(_report(options))
    healthy = all(finding.status != "failed" for finding in findings)
    if options.json:
        report = {
            "version": __version__,
            "works": healthy,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        print(json.dumps(report, indent=2))
    else:
        counts = Counter(finding.status for finding in findings)
        verdict = "Everything necessary works" if healthy else "Something necessary does not work"
        ok, failed, degraded, absent = (counts[status] for status in ("ok", "failed", "degraded", "absent"))
        print(f"\n{verdict}: {ok} ok, {failed} failed, {degraded} warnings, {absent} not there.")
    return 0 if healthy else 1


async def _report(options: argparse.Namespace) -> list[Finding]:
    """Examines the machine, and prints each finding as it comes unless JSON is asked for."""
    from rich.console import Console
    from rich.text import Text

    from genprm_trl.doctor.checkup import examine

    console = Console(soft_wrap=True, highlight=False)
    findings: list[Finding] = []
    area = None
    if not options.json:
        console.print(f"genprm-trl {__version__}")
    async for finding in examine(online=options.online):
        findings.append(finding)
        if options.json or (options.quiet and finding.status in ("ok", "absent")):
            continue
        if finding.area != area:
            area = finding.area
            console.print(Text(f"\n{area}", style="bold"))
        mark = Text(f"  {_MARKS[finding.status]:<8}", style=_STYLES[finding.status])
        console.print(mark + Text(f"{finding.name:<20} {finding.detail}"))
        if finding.fix:
            console.print(Text(f"{'':<10}{'':<20} → {finding.fix}"))
    return findings
