"""Signs that a policy learns to please the verifier instead of solving problems.

A process reward model can be pleased by steps that say nothing or the same again (what policies found is shown in
PURE, arXiv 2504.15275, section 4). The figures here make that visible while training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

from genprm_trl.training.step_grpo.token_steps import CompletionSteps

# `Step 3:` as models dress it up. What follows it stays whole, a sign or a bracket above all.
_HEADING = re.compile(r"^\W*step\s*\d*[\s:.*_#]*", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def idle_steps(steps: Sequence[str]) -> list[bool]:
    """Which steps add nothing: without a word or number beyond their heading, or one said before.

    Steps are compared by what they say, whatever their number, case, spaces and closing punctuation are.

    Example:
        >>> idle_steps(["Step 1: 2 + 2 = 4", "Step 2:", "Step 3: 2 + 2 = 4."])
        [False, True, True]
    """
    seen: set[str] = set()
    idle = []
    for step in steps:
        # Operators count: "2 + 2" and "2 - 2" are different steps.
        body = "".join(_HEADING.sub("", step).casefold().split()).rstrip(".!,;:")
        idle.append(not _WORD.search(body) or body in seen)
        seen.add(body)
    return idle


def step_figures(completions: Sequence[CompletionSteps]) -> dict[str, float]:
    """Counts and lengths of the steps of a batch.

    Returns:
        `steps/count`: steps a completion; `steps/tokens`: tokens a step; `steps/idle`: share of `idle_steps`;
        `steps/none`: share of completions without any.
    """
    figures = {
        "steps/count": fmean(len(completion.steps) for completion in completions),
        "steps/none": fmean(not completion.steps for completion in completions),
    }
    idle = [value for completion in completions for value in idle_steps(completion.steps)]
    if idle:
        tokens = sum(step >= 0 for completion in completions for step in completion.token_steps)
        figures |= {"steps/tokens": tokens / len(idle), "steps/idle": fmean(idle)}
    return figures


def reward_gap(process: Sequence[float], outcome: Sequence[float]) -> dict[str, float]:
    """How far the verifier's rewards and those of the answers are apart, of the same completions.

    Args:
        process: A reward in [0, 1] for each completion, NaN for none.
        outcome: Likewise, the reward of its answer alone; right is one half and more.

    Returns:
        `process_outcome/gap`: mean process reward less mean answer reward, over completions that have both. It grows
        when the policy learns to please the verifier. `process_outcome/wrong_but_liked`: share of the wrong
        completions whose process reward is at least one half. Left out where nothing has both.
    """
    both = [(p, o) for p, o in zip(process, outcome, strict=True) if not (math.isnan(p) or math.isnan(o))]
    if not both:
        return {}
    figures = {"process_outcome/gap": fmean(p - o for p, o in both)}
    wrong = [p for p, o in both if o < 0.5]
    if wrong:
        figures["process_outcome/wrong_but_liked"] = fmean(p >= 0.5 for p in wrong)
    return figures
