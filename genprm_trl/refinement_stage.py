"""The critic loop as a stage: opens policy and verifier, and refines the answers to one problem after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from genprm_trl.generation.base import Generator
from genprm_trl.labeling.partial_results import PartialResults
from genprm_trl.labeling.problems import Problem
from genprm_trl.labeling.solver import Solver, SolverSettings
from genprm_trl.labeling.stage import Process
from genprm_trl.labeling.stage_file import Outcome
from genprm_trl.refinement import RefinementConfig, refine
from genprm_trl.verifier import GenPRM


@dataclass(frozen=True)
class RefinementWorker:
    """The worker of the stage (see `labeling.stage`).

    Attributes:
        open_policy, open_verifier: Make the models; picklable for work in other processes.
        solver: How the policy is asked.
        config: How long it is criticised.
        source: What every row says of its making.
        partial: Keeps what there is of problems that are not finished.
    """

    open_policy: Callable[[], Generator]
    open_verifier: Callable[[], GenPRM]
    solver: SolverSettings
    config: RefinementConfig
    source: dict[str, Any]
    partial: PartialResults = field(default_factory=PartialResults)

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Process[Problem]]:
        async with self.open_policy() as generator:
            policy = Solver(generator, self.solver)
            async with self.open_verifier() as verifier:

                async def process(problem: Problem) -> Outcome:
                    return await refine(
                        policy,
                        verifier,
                        problem,
                        self.config,
                        self.source,
                        known=self.partial.take(problem.id),
                        keep=lambda record: self.partial.add(problem.id, record),
                    )

                yield process
