"""Search as a stage: opens policy and verifier, and searches one problem after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from genprm_trl.generation.base import Generator
from genprm_trl.labeling.problems import Problem
from genprm_trl.labeling.solver import Solver, SolverSettings
from genprm_trl.labeling.stage import Process
from genprm_trl.labeling.stage_file import Outcome
from genprm_trl.search.search import SearchConfig, search
from genprm_trl.verifier import GenPRM


@dataclass(frozen=True)
class SearchWorker:
    """The worker of the stage (see `labeling.stage`).

    Attributes:
        open_policy, open_verifier: Make the models; picklable for work in other processes.
        solver: How the policy is asked.
        config: How a problem is searched.
        source: What every row says of its making.
    """

    open_policy: Callable[[], Generator]
    open_verifier: Callable[[], GenPRM]
    solver: SolverSettings
    config: SearchConfig
    source: dict[str, Any]

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Process[Problem]]:
        async with self.open_policy() as generator:
            policy = Solver(generator, self.solver)
            async with self.open_verifier() as verifier:

                async def process(problem: Problem) -> Outcome:
                    return await search(policy, verifier, problem, self.config, self.source)

                yield process
