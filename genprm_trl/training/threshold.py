"""Choosing the threshold of a verifier on held-out solutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genprm_trl.cards.model_card import replace_fact
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.metrics.processbench import best_threshold
from genprm_trl.records import Solution
from genprm_trl.verifier.opening import open_verifier
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.scorer_settings import STEP_SCORER_FILE, StepScorerSettings, load_scorer_settings


def check_held_out(solutions: Sequence[Solution], trained: Iterable[str], name: str) -> None:
    """Checks that a threshold can be chosen on solutions, and that training has not seen their problems.

    Args:
        solutions: The solutions.
        trained: The problems of the training data.
        name: What errors call the solutions.

    Raises:
        DataError: A solution has no label, a class of labels is empty, or a problem is also trained on.
    """
    unlabelled = next((each for each in solutions if each.label is None), None)
    if unlabelled is not None:
        raise DataError(f"is missing in solution '{unlabelled.id}': a threshold needs it", file=name, field="label")
    if len({each.label == -1 for each in solutions}) < 2:
        raise DataError("needs solutions with a wrong step and without one, to choose a threshold", file=name)
    shared = {each.problem for each in solutions} & {*trained}
    if shared:
        raise DataError(
            f"has {len(shared)} problems that are trained on; a threshold is chosen on problems that are held out",
            file=name,
        )


def choose_threshold(
    model_dir: str | Path, solutions: Sequence[Solution], name: str, *, device: Any = None, batch_size: int = 16
) -> StepScorerSettings:
    """Chooses the threshold of a trained verifier: the one with the highest F1 of ProcessBench on some solutions.

    The verifier is loaded as those who judge with it load it. What a training computes with gives other rewards:
    autocast, or an adapter on a base model in another precision.

    Args:
        model_dir: The directory of what `genprm implicit` or `genprm ppm` trains. Its `step_scorer.json` and its card
            get the threshold.
        solutions: Solutions with labels that `check_held_out` accepts.
        name: What they are called.
        device: Where the model goes. None is the first accelerator, else the CPU.
        batch_size: Solutions in one forward pass.

    Returns:
        The settings with the threshold.

    Raises:
        ConfigError: There is no `step_scorer.json`, or the verifier cannot be loaded.
    """
    settings = load_scorer_settings(model_dir)
    if settings is None:
        raise ConfigError(f"{model_dir} has no {STEP_SCORER_FILE}, which holds the threshold of a scorer of steps")
    loading = {"device": device, "max_batch_size": batch_size}
    with open_verifier(model_dir, settings.kind, generator_kwargs=loading) as scorer:
        assert isinstance(scorer, StepScorer)  # what has such settings
        rewards = [verdict.read_rewards for verdict in scorer.score(solutions)]
    threshold, f1 = best_threshold([-1 if each.label is None else each.label for each in solutions], rewards)
    # It may lie one step of floating point above the highest reward, which is 1 at most.
    threshold = min(threshold, 1.0) if math.isfinite(threshold) else 0.5
    how = {"data": name, "solutions": len(solutions), "f1": round(f1, 2)}
    settings = replace(settings, threshold=threshold, threshold_from=how)
    settings.save(model_dir)
    replace_fact(model_dir, "threshold", settings.described_threshold())
    return settings
