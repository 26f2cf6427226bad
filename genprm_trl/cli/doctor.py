"""Say what is installed and works here, and what to do about what does not.

Looks at Python, the packages and their supported ranges, GPUs, memory, the sandbox and each of its protections, the
Hub's login and the room for its cache. Nothing is sent over the network without --online.

With --model, looks at a model instead: what it is, its context, chat template and tokens, and what it can be used for.
No weights are loaded. The small files of a model on the Hub are downloaded. The other options then change nothing.

The exit code is 0 when all that is necessary works, else 1.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.version import __version__


def option_parser() -> argparse.ArgumentParser:
    """The command's own parser: the one of the other commands needs TRL, which may be what is missing."""
    description = inspect.cleandoc(__doc__ or "")
    parser = argparse.ArgumentParser(prog="genprm doctor", description=description, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    parser.add_argument("--online", action="store_true", help="Ask the Hub, too.")
    parser.add_argument("--model", metavar="NAME", help="Say what works with this model, a directory or a Hub id.")
    from genprm_trl.sandbox.options import SandboxOptions

    for each in fields(SandboxOptions):
        kind: dict[str, Any] = {"action": "store_true"} if each.default is False else {}
        if each.name == "sandbox_require":
            kind = {"nargs": "+", "metavar": "NAME"}
        parser.add_argument(f"--{each.name}", default=each.default, help=each.metadata["help"], **kind)
    parser.add_argument("-v", "--verbose", action="store_true", help="Show more of what happens.")
    parser.add_argument("-q", "--quiet", action="store_true", help="Show only what is not as it should be.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    return parser


def run_words(words: Sequence[str]) -> int:
    """Runs the command: its options are few and read without TRL."""
    parser = option_parser()
    options = parser.parse_args(words)
    from genprm_trl.doctor.checks import examine
    from genprm_trl.sandbox.options import SandboxOptions

    try:
        sandbox = SandboxOptions.of(options)
    except ConfigError as error:
        parser.error(str(error))
    if not options.verbose:  # what the sandbox logs at its start is in the report
        logging.getLogger("genprm_trl.sandbox").setLevel(logging.ERROR)
    found = examine(options.online, sandbox)
    if options.model is not None:
        from genprm_trl.doctor.model import examine_model

        found = examine_model(options.model)
    findings, said = [], {""}
    for area, lines in itertools.groupby(found, key=lambda finding: finding.area):
        if not options.json and not options.quiet:
            print(area)
        for finding in lines:
            findings.append(finding)
            if not options.json and not (options.quiet and finding.status in ("ok", "absent")):
                fix = "" if finding.fix in said else f"\n{'':<32} → {finding.fix}"
                said.add(finding.fix)
                print(f"  {finding.status:<10}{finding.name:<20} {finding.detail}{fix}", flush=True)
    n = Counter(finding.status for finding in findings)
    if options.json:
        rows = [finding._asdict() for finding in findings]
        print(json.dumps({"version": __version__, "works": not n["failed"], "findings": rows}, indent=2))
    else:
        print("Something necessary does not work:" if n["failed"] else "Everything necessary works:", end=" ")
        print(f"{n['ok']} ok, {n['failed']} failed, {n['degraded']} degraded, {n['absent']} absent.")
    return 1 if n["failed"] else 0
