"""An outcome reward: is the final answer right?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.grading.comparison import grade_many
from genprm_trl.rewards.texts import completion_text


def answer_reward(
    completions: Sequence[Any], answer: Sequence[str | None] | None = None, **kwargs: Any
) -> list[float | None]:
    r"""1 where a completion's final answer equals the reference, 0 where not, None where there is no reference.

    Answers are compared as in the rest of the project (`grading.grade`), under a time limit that holds whatever a
    policy writes. What stands in a thinking block is no answer, and a completion that ends in one has none.

    Args:
        completions: Texts, or lists of messages.
        answer: The column `answer` of the dataset: the right answer of each, bare or in a text; None or empty where
            there is none.
        **kwargs: What else a trainer passes; `log_metric` is told the share of completions that give an answer.

    Raises:
        ConfigError: The dataset has no column `answer`.

    Example:
        >>> from genprm_trl.rewards import answer_reward
        >>> answer_reward(["So it is $\\boxed{1/2}$.", "The answer is 3."], answer=["0.5", "4"])
        [1.0, 0.0]
    """
    if answer is None:
        raise ConfigError("answer_reward needs a column 'answer' in the dataset; it has none")
    known = [index for index, reference in enumerate(answer) if reference is not None and str(reference).strip()]
    grades = grade_many((completion_text(completions[index]), str(answer[index])) for index in known)
    rewards: list[float | None] = [None] * len(completions)
    for index, grade in zip(known, grades, strict=True):
        rewards[index] = float(grade.correct)
    if grades and (log_metric := kwargs.get("log_metric")) is not None:
        log_metric("answer/given", sum(grade.status != "no_answer" for grade in grades) / len(grades))
    return rewards


answer_reward.columns = ("answer",)  # type: ignore[attr-defined]  # what the dataset must have; trainers look first
