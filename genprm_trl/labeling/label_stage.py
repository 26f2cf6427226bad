"""The labelling stage: opens the completion model, and labels the solutions of one problem after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from genprm_trl.generation.base import Generator
from genprm_trl.labeling.earlier_rollouts import EarlierRollouts
from genprm_trl.labeling.monte_carlo import LabelingConfig, label_group
from genprm_trl.labeling.partial_results import PartialResults
from genprm_trl.labeling.rollout_tree import RolloutTree
from genprm_trl.labeling.solution_groups import SolutionGroup
from genprm_trl.labeling.solver import Solver, SolverSettings
from genprm_trl.labeling.stage import Process
from genprm_trl.labeling.stage_file import Outcome


@dataclass(frozen=True)
class LabelWorker:
    """The worker of the stage (see `stage`).

    Attributes:
        open_generator: Makes the completion model. For work in other processes it must be picklable, as
            `functools.partial(backends.open_generator, ...)` is.
        solver: How it is asked.
        config: How solutions are labelled.
        source: What every row says of its making.
        partial: Keeps roll-outs of problems that are not finished.
        earlier: Roll-outs of an earlier labelling, which are not paid for again.
    """

    open_generator: Callable[[], Generator]
    solver: SolverSettings
    config: LabelingConfig
    source: dict[str, Any]
    partial: PartialResults = field(default_factory=PartialResults)
    earlier: EarlierRollouts | None = None

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Process[SolutionGroup]]:
        async with self.open_generator() as generator:
            solver = Solver(generator, self.solver)

            async def process(group: SolutionGroup) -> Outcome:
                tree = RolloutTree(
                    solver,
                    group.problem,
                    group.answer,
                    seed=self.config.seed,
                    keep=lambda record: self.partial.add(group.id, record),
                    reused=self.earlier.of(group.problem, group.answer) if self.earlier is not None else None,
                )
                tree.restore(self.partial.take(group.id))
                return await label_group(tree, group, self.config, self.source)

            yield process
