"""The stage of rationales with the scripted reasoner and the real sandbox, for tests to kill."""

from __future__ import annotations

import functools
from typing import Any

from genprm_trl.labeling.rationales import RationaleSettings, Reasoner, open_reasoner, rationalize
from genprm_trl.miniature.reasoner_generator import ScriptedReasoner
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Solution
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.stages.file import Outcome, StageSummary
from genprm_trl.stages.run import Worker, in_this_process, run_stage
from tests.helpers.kills import die_at
from tests.helpers.tiny_models import tiny_tokenizer

SETTINGS = RationaleSettings(samples=2, keep_thinking=True, seed=5)


def open_scripted(**options: Any) -> ScriptedReasoner:
    return ScriptedReasoner(tokenizer=tiny_tokenizer(), mistake_rate=0.2, slip_rate=0.05, **options)


def worker(
    settings: RationaleSettings = SETTINGS, open_generator: Any = open_scripted
) -> Worker[Reasoner, Solution, Outcome]:
    sandbox = functools.partial(LocalSandbox, imports=())
    return Worker(
        functools.partial(open_reasoner, open_generator, sandbox, settings),
        functools.partial(rationalize, source={"reasoner": "scripted"}),
    )


def run(output: str, n: int, **options: Any) -> StageSummary:
    return run_stage(
        options.pop("worker", worker()),
        make_solutions(n, seed=3),
        output,
        {"samples": 2},
        progress=False,
        **{"execute": in_this_process(8), **options},
    )


def run_and_die(output: str, n: int, write: int, torn: bool) -> None:
    """Ends this process by SIGKILL at the `write`-th line."""
    die_at(write, torn=torn)
    run(output, n)
