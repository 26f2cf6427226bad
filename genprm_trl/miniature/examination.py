"""How a policy of the miniature world does on held-out problems while it is trained."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genprm_trl.miniature.policy import sample_solutions
from genprm_trl.miniature.word_problems import Problem

_SEED = 11  # of the samples, the same at each examination, so that two of them differ by the policy alone


class Examination(TrainerCallback):
    """Samples solutions of held-out problems before training and after every few steps, and grades them.

    Args:
        trainer: The trainer of the policy; add the callback to it with `trainer.add_callback`.
        problems: The problems.
        every: Optimiser steps between two examinations.
        samples: Solutions a problem, at temperature 1: a greedy policy of this size changes its mind in jumps.

    Attributes:
        marks: For each examination `step`; `answers`, the share of solutions with the right answer, and `steps_right`,
            of those in which every step is right, too, both in per cent; `step_count`, steps a solution.
    """

    def __init__(self, trainer: Any, problems: Sequence[Problem], every: int, samples: int = 4):
        self.trainer, self.problems, self.every, self.samples = trainer, list(problems), every, samples
        self.marks: list[dict[str, float]] = []

    def examine(self, step: int) -> None:
        """Samples solutions of the problems, and adds their scores to `marks`."""
        from genprm_trl.generation import TransformersGenerator

        generator = TransformersGenerator(self.trainer.model, self.trainer.processing_class)
        solutions = sample_solutions(generator, self.problems, self.samples, seed=_SEED)
        asyncio.run(generator.close())
        self.trainer.model.train()
        right = [bool(solution.final_answer_correct) for solution in solutions]
        whole = [ok and solution.label == -1 for ok, solution in zip(right, solutions, strict=True)]
        self.marks.append(
            {
                "step": step,
                "answers": 100 * statistics.fmean(right),
                "steps_right": 100 * statistics.fmean(whole),
                "step_count": statistics.fmean(len(solution.steps) for solution in solutions),
            }
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Examines the policy as it is before training."""
        self.examine(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Examines the policy after every `every` steps."""
        if state.global_step % self.every == 0:
            self.examine(state.global_step)
