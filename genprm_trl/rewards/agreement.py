"""A reward without labels: how many completions of the group give the same answer?

EMPO (Zhang et al. 2025, arXiv 2504.05812) minimises the entropy of a policy's answers. Answers that are equivalent
form a cluster, and a completion is rewarded by its cluster's share of the group. Where all answers differ there is
nothing to agree with, and nobody is rewarded. (The paper's later code rewards a completion without an answer as a
cluster of its own; here it has 0.)

Agreement is confidence, not truth. A policy can learn to agree on a wrong answer: then `agreement/largest` rises while
`agreement/majority_right` falls.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from genprm_trl.data.pools import vote_groups
from genprm_trl.errors import ConfigError
from genprm_trl.grading.comparison import grade_many
from genprm_trl.grading.extract import extract_answer
from genprm_trl.rewards.groups import reward_groups
from genprm_trl.rewards.texts import completion_text


def agreement_shares(
    clusters: Sequence[Hashable | None], *, least_share: float = 0.0, most_share: float = 1.0
) -> list[float]:
    """The share of its group that each member agrees with.

    Args:
        clusters: The cluster of each member of a group; None for none, which earns 0 and counts as a member.
        least_share: A group whose largest cluster is a smaller share is too uncertain: all have 0.
        most_share: A group whose largest cluster is a larger share is too certain: all have 0.

    Examples:
        >>> agreement_shares(["3", "3", "4", None])
        [0.5, 0.5, 0.25, 0.0]
        >>> agreement_shares(["3", "4", "5"])
        [0.0, 0.0, 0.0]
    """
    sizes = Counter(cluster for cluster in clusters if cluster is not None)
    largest = max(sizes.values(), default=0)
    if largest < 2 or not least_share <= largest / len(clusters) <= most_share:
        return [0.0] * len(clusters)
    return [0.0 if cluster is None else sizes[cluster] / len(clusters) for cluster in clusters]


def answer_agreement_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    answer: Sequence[str | None] | None = None,
    *,
    least_share: float = 0.0,
    most_share: float = 1.0,
    **kwargs: Any,
) -> list[float | None]:
    r"""The share of the group's completions that give an equivalent final answer (EMPO). No reference is needed.

    Neighbouring completions of one prompt are a group, also where several processes hold parts of it.

    Args:
        completions: Texts, or lists of messages.
        prompts: The prompts, by which completions are grouped.
        answer: The column `answer`, if there is one. It is not rewarded; it tells whether the majority is right.
        least_share: Groups whose largest share of equal answers is smaller have no reward. `functools.partial` sets
            it.
        most_share: Likewise if it is larger. The two are the paper's window of entropies.
        **kwargs: What else a trainer passes. `log_metric` is told of each group `agreement/largest` (the share of the
            most frequent answer), `agreement/entropy` (of the answers, in nats; each missing one counts alone), and
            `agreement/majority_right`, where there is a reference.

    Raises:
        ConfigError: The trainer gives no prompts, or the window is empty.

    Example:
        >>> from genprm_trl.rewards import answer_agreement_reward
        >>> answers = ["So it is $\\boxed{1/2}$.", "The answer is 0.5.", "The answer is 3.", "I do not know."]
        >>> answer_agreement_reward(answers, ["What is 1 - 1/2?"] * 4)
        [0.5, 0.5, 0.25, 0.0]
    """
    if prompts is None:
        raise ConfigError("answer_agreement_reward needs the prompts, by which it groups completions")
    if not 0 <= least_share <= most_share:
        raise ConfigError(f"least_share must be from 0 to most_share ({most_share}), got {least_share}")
    log_metric = kwargs.get("log_metric")

    def reward(group: list[tuple[str | None, Any]]) -> list[float]:
        clusters = vote_groups([given for given, _ in group])
        if log_metric is not None:
            for name, value in _figures(clusters, [given for given, _ in group], group[0][1]).items():
                log_metric(name, value)
        return agreement_shares(clusters, least_share=least_share, most_share=most_share)

    references = [None] * len(completions) if answer is None else list(answer)
    given = [extract_answer(completion_text(completion)) for completion in completions]
    return reward_groups(prompts, list(zip(given, references, strict=True)), reward)


def _figures(clusters: Sequence[int | None], answers: Sequence[str | None], reference: Any) -> dict[str, float]:
    sizes = Counter(cluster for cluster in clusters if cluster is not None)
    if not sizes:
        return {"agreement/largest": 0.0}
    shares = [size / len(clusters) for size in [*sizes.values(), *[1] * clusters.count(None)]]
    majority, largest = sizes.most_common(1)[0]
    figures = {
        "agreement/largest": largest / len(clusters),
        "agreement/entropy": -sum(share * math.log(share) for share in shares),
    }
    if reference is not None and str(reference).strip():
        leader = str(answers[clusters.index(majority)])
        figures["agreement/majority_right"] = float(grade_many([(leader, str(reference))])[0].correct)
    return figures
