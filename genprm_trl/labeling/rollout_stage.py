"""The roll-out stage: opens the policy, and samples solutions of one problem after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from genprm_trl.generation.base import Generator
from genprm_trl.labeling.partial_results import PartialResults
from genprm_trl.labeling.problems import Problem
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.labeling.solver import Solver, SolverSettings
from genprm_trl.labeling.stage import Process
from genprm_trl.labeling.stage_file import Outcome


@dataclass(frozen=True)
class RolloutWorker:
    """The worker of the stage (see `stage`).

    Attributes:
        open_generator: Makes the policy. For work in other processes it must be picklable, as
            `functools.partial(backends.open_generator, ...)` is.
        solver: How it is asked.
        config: How many solutions are sampled and kept.
        source: What every row says of its making; `policy` names the model.
        partial: Keeps finished rounds of problems that are not finished.
    """

    open_generator: Callable[[], Generator]
    solver: SolverSettings
    config: RolloutConfig
    source: dict[str, Any]
    partial: PartialResults = field(default_factory=PartialResults)

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Process[Problem]]:
        async with self.open_generator() as generator:
            solver = Solver(generator, self.solver)

            async def process(problem: Problem) -> Outcome:
                return await roll_out(
                    solver,
                    problem,
                    self.config,
                    self.source,
                    known=self.partial.take(problem.id),
                    keep=lambda record: self.partial.add(problem.id, record),
                )

            yield process
