"""Solve problems by search over steps: a policy writes them, a verifier says which beginnings to go on with.

FILE holds problems, with their answers where they are known: GSM8K, MATH, ProcessBench rows and the other known
formats, or rows with `problem` and `answer`. --method beam keeps the best beginnings, particles resamples them by the
reward of their last step, best_of_n samples whole solutions and takes the best, which is what a search has to beat at
equal tokens. A run that was stopped goes on where it was when started again with the same words.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Literal

from genprm_trl.cli.stages import StageOptions
from genprm_trl.errors import ConfigError
from genprm_trl.options.policy import PolicyOptions
from genprm_trl.options.problems import ProblemOptions
from genprm_trl.options.verifier import VerifierOptions, load_verifier


@dataclass
class SearchOptions:
    """Options of `genprm search`."""

    method: Literal["beam", "particles", "best_of_n"] = field(default="beam", metadata={"help": "How to search."})
    paths: int = field(default=8, metadata={"help": "Beginnings, particles or solutions at once."})
    width: int = field(
        default=4, metadata={"help": "Of beam: next steps sampled of each of the PATHS / WIDTH that are kept."}
    )
    score: Literal["min", "mean", "last", "product"] = field(
        default="min",
        metadata={"help": "From the rewards of steps to the score that beams are kept and solutions chosen by."},
    )
    resample_start: float = field(
        default=2.0, metadata={"help": "Of particles: temperature of the first resampling; higher is more even."}
    )
    resample_end: float = field(
        default=1.0, metadata={"help": "Of particles: temperature at the end of the annealing."}
    )
    anneal_steps: int = field(default=4, metadata={"help": "Of particles: resamplings from start to end."})
    max_steps: int = field(default=40, metadata={"help": "A solution is cut off after so many steps."})


def run(
    problems: ProblemOptions,
    options: SearchOptions,
    verifier: VerifierOptions,
    policy: PolicyOptions,
    stage: StageOptions,
) -> int:
    from genprm_trl.metrics.estimates import mean_estimate
    from genprm_trl.rows.jsonl import iter_written_rows
    from genprm_trl.solving.particles import Annealing
    from genprm_trl.solving.search import SearchConfig, search
    from genprm_trl.solving.solver import open_solver_and_verifier
    from genprm_trl.stages.run import Worker
    from genprm_trl.stages.settings import settings_digest

    for name, only in (("stop", "never"), ("adaptive", "off")):
        if getattr(verifier, name) != only:
            raise ConfigError(f"a search needs every chain's reward of each step: leave out --{name}")
    config = SearchConfig(
        method=options.method,
        n=options.paths,
        width=options.width,
        score=options.score,
        annealing=Annealing(options.resample_start, options.resample_end, options.anneal_steps),
        max_steps=options.max_steps,
        seed=verifier.seed,
    )
    searched = {f"search_{name}": value for name, value in asdict(config).items()}
    settings = {**verifier.what_decides_verdicts(), **policy.what_decides_text(), **searched}
    source = {
        "policy": policy.policy,
        "verifier": verifier.model,
        "method": options.method,
        "settings": settings_digest(settings),
    }
    stream = problems.read(need_answers=False)
    worker = Worker(
        functools.partial(
            open_solver_and_verifier, policy.opener(), policy.settings(), functools.partial(load_verifier, verifier)
        ),
        functools.partial(search, config=config, source=source),
    )
    summary = stage.run(
        worker,
        stream,
        settings,
        bad_rows=lambda: stream.bad_rows,
        reads=[problems.file],
        desc="Searching",
        unit="problem",
    )
    right, any_right = [], []
    for _, row in iter_written_rows(stage.output):
        if row["correct"] is not None:
            right.append(float(row["correct"]))
            any_right.append(float(any(path["correct"] for path in row["paths"])))
    counts = {name: int(count) for name, count in summary.counts.items()}
    each = max(summary.rows, 1)
    written, judged = counts.get("policy_tokens", 0), counts.get("verifier_tokens", 0)
    print(f"problems           {summary.items}, by {options.method} with {options.paths} paths")
    if right:
        accuracy, oracle = mean_estimate(right), mean_estimate(any_right)
        print(
            f"right              {accuracy.value:.1f} % ({accuracy.low:.1f} to {accuracy.high:.1f}); "
            f"{oracle.value:.1f} % have a right one among the last paths"
        )
    print(
        f"tokens a problem   {written / each:,.0f} by the policy, {judged / each:,.0f} by the verifier, "
        f"{(written + judged) / each:,.0f} together"
    )
    if counts.get("paths_cut_off"):
        print(f"paths cut off      {counts['paths_cut_off']} of {counts['paths']}, by a bound on tokens or steps")
    if summary.bad_rows:
        print(f"rows skipped       {summary.bad_rows} that could not be used (named above)")
    if summary.dropped["failed"]:
        print(f"problems failed    {summary.dropped['failed']}, left out (named above)")
    print(f"solutions          {stage.output}")
    return 0
