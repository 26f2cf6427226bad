"""One problem searched by one of the methods, and the row that says how."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from genprm_trl import grading
from genprm_trl.data.problems import Problem
from genprm_trl.data.steps import join_steps
from genprm_trl.errors import ConfigError, check_at_least, check_one_of
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.grading.extract import before_cut, extract_answer
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.selection.aggregates import Aggregate
from genprm_trl.solving.beam import beam_search
from genprm_trl.solving.particles import Annealing, particle_filter
from genprm_trl.solving.paths import Grower, Path
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.verifier.base import Verifier

Method = Literal["beam", "particles", "best_of_n"]


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How a problem is searched: options of `genprm search`.

    Raises:
        ConfigError: A value is out of range.
    """

    method: Method = field(
        default="beam",
        metadata={
            "help": "beam keeps the best paths. particles resamples paths by the reward of their last step. best_of_n "
            "samples whole solutions and takes the best."
        },
    )
    paths: int = field(default=8, metadata={"help": "Paths, particles or solutions at once."})
    width: int = field(
        default=4, metadata={"help": "With beam: next steps sampled of each of the PATHS / WIDTH paths that are kept."}
    )
    score: Aggregate = field(
        default="min",
        metadata={"help": "How step rewards become a path's score, by which beams are kept and solutions chosen."},
    )
    resample_start: float = field(
        default=2.0, metadata={"help": "With particles: temperature of the first resampling; higher is more even."}
    )
    resample_end: float = field(
        default=1.0, metadata={"help": "With particles: temperature when the annealing has ended."}
    )
    anneal_steps: int = field(default=4, metadata={"help": "With particles: resamplings until the annealing ends."})
    max_steps: int = field(default=40, metadata={"help": "A path is cut off after this many steps."})
    seed: int = field(default=0, metadata={"help": "The same seed gives the same rows."})

    def __post_init__(self) -> None:
        check_one_of(get_args(Method), method=self.method)
        check_at_least(1, paths=self.paths, max_steps=self.max_steps)
        if self.method == "beam" and not 1 <= self.width <= self.paths:
            raise ConfigError(f"the width of a beam must be from 1 to paths = {self.paths}, got {self.width}")
        self.annealing()

    def annealing(self) -> Annealing:
        """The temperature of resampling, for particles."""
        return Annealing(self.resample_start, self.resample_end, self.anneal_steps)


async def search(
    models: tuple[Solver, Verifier],
    problem: Problem,
    partial: Partial,
    *,
    config: SearchConfig,
    source: Mapping[str, Any],
) -> Outcome:
    """Searches a solution of a problem.

    Args:
        models: The policy, which writes steps, and the verifier, which judges them.
        problem: The problem with its reference answer; an empty answer is unknown.
        partial: Not used; an unfinished search starts again.
        config: The method and its settings.
        source: Provenance that is written into the row.

    Returns:
        One row: `id`, `problem`, `answer`, `steps`, `final_answer` and `correct` of the chosen path, `chosen` (its
        index), `paths` (each with `steps`, `rewards`, `score`, `end`, `final_answer`, `correct`), `policy_tokens` and
        `verifier_tokens`. The path of the highest score is chosen, among those that the policy ended itself if there
        are any.

    Raises:
        ItemFailed: The policy or the verifier failed.
    """
    policy, verifier = models
    grower = Grower(policy, verifier, problem, config.max_steps, config.seed)
    if config.method == "beam":
        paths = await beam_search(grower, config.paths, config.width, config.score)
    elif config.method == "particles":
        import numpy as np

        seed = derive_seed(config.seed, "resample", problem.id, problem.digest)
        paths = await particle_filter(grower, config.paths, config.annealing(), np.random.default_rng(seed))
    else:
        paths = await grower.complete(config.paths)
    rows = await asyncio.to_thread(lambda: [_path_row(path, problem, config.score) for path in paths])
    finished = [index for index, path in enumerate(paths) if path.end == "stop"] or list(range(len(paths)))
    chosen = max(finished, key=lambda index: rows[index]["score"])
    row = {
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer or None,
        **{name: rows[chosen][name] for name in ("steps", "final_answer", "correct")},
        "chosen": chosen,
        "paths": rows,
        "policy_tokens": grower.policy_tokens,
        "verifier_tokens": grower.verifier_tokens,
        "source": dict(source),
    }
    samples = Sameness()
    for texts in grower.written.values():
        samples.add(texts)
    counts: dict[str, float] = {
        "policy_tokens": grower.policy_tokens,
        "verifier_tokens": grower.verifier_tokens,
        "paths_cut_off": sum(path.end != "stop" for path in paths),
        "paths": len(paths),
        "paths_continued": samples.items,
        "paths_continued_equally": samples.same,
        "paths_judged": grower.rationales.items,
        "paths_judged_equally": grower.rationales.same,
    }
    return Outcome(rows=[row], counts=counts)


def _path_row(path: Path, problem: Problem, score: Aggregate) -> dict[str, Any]:
    text = join_steps(path.steps, "\n")
    if path.end == "steps":  # a heading has ended the last step, and the path
        text = before_cut(f"{text}\n")
    elif path.end != "stop":
        text = before_cut(text)
    return {
        "steps": path.steps,
        "rewards": path.verdict.rewards if path.verdict is not None else [],
        "score": path.score(score),
        "end": path.end,
        "final_answer": extract_answer(text),
        "correct": grading.grade(text, problem.answer).correct if problem.answer else None,
    }
