"""Rewards for a verifier in training: does its verdict agree with the label or the others, is its rationale whole?

For `GRPOTrainer` with the rollouts of `training.verifier_rl.VerifierRollout`, which gives them `verdicts`, `statuses`
and `num_steps`. A rollout that the generator or the sandbox failed is not rewarded at all (None).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.rewards.agreement import agreement_shares
from genprm_trl.rewards.groups import reward_groups

Verdicts = Sequence[bool | None]


def verdict_agreement_reward(
    completions: Sequence[Any],
    verdicts: Sequence[Verdicts] | None = None,
    statuses: Sequence[Sequence[str]] | None = None,
    num_steps: Sequence[int] | None = None,
    label: Sequence[int] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """1 where the first step judged wrong is the labelled one, or none is and all were judged; else 0.

    Args:
        completions: Ignored.
        verdicts: One value per judged step: True for Yes, False for No, None for no verdict.
        statuses: One status per judgement; see `records.StepStatus`.
        num_steps: Steps to be judged.
        label: The column `label`: index from 0 of the first wrong step, -1 for none.
        **kwargs: What else a trainer passes; `log_metric` is told the two halves of ProcessBench's score,
            `verifier/error_acc` and `verifier/correct_acc` (here in [0, 1]), and `verifier/judged_steps`.

    Raises:
        ConfigError: The rollouts are not those of `VerifierRollout`, or the dataset has no column `label`.

    Example:
        >>> from genprm_trl.rewards import verdict_agreement_reward
        >>> found, missed = [True, False], [True, True]
        >>> verdict_agreement_reward(["", ""], [found, missed], [["ok", "ok"]] * 2, [2, 2], [1, 1])
        [1.0, 0.0]
    """
    rollouts = _rollouts("verdict_agreement_reward", verdicts, statuses, num_steps, label)
    rewards = [None if failed else float(_agrees(row, steps, first)) for row, failed, steps, first in rollouts]
    if (log_metric := kwargs.get("log_metric")) is not None:
        for name, is_error in (("verifier/error_acc", True), ("verifier/correct_acc", False)):
            for reward, (*_, first) in zip(rewards, rollouts, strict=True):
                if reward is not None and (first >= 0) == is_error:
                    log_metric(name, reward)
        for row, *_ in rollouts:
            log_metric("verifier/judged_steps", float(len(row)))
    return rewards


def verdict_majority_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    verdicts: Sequence[Verdicts] | None = None,
    statuses: Sequence[Sequence[str]] | None = None,
    num_steps: Sequence[int] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """The share of the group's rollouts with the same verdict: no label is needed.

    It is `answer_agreement_reward` for a verifier (EMPO, arXiv 2504.05812). The verdict is the first step judged
    wrong, or that there is none; a rollout without a verdict has 0. That the majority of verdicts teaches a verifier
    anything has not been shown in the literature. Solutions without labels come from
    `verifier_dataset(solutions, labelled=False)`.

    Args:
        completions: Ignored.
        prompts: The prompts; neighbouring rollouts of one prompt are a group.
        verdicts: As for `verdict_agreement_reward`.
        statuses: Likewise.
        num_steps: Likewise.
        **kwargs: What else a trainer passes; `log_metric` is told `verifier/agreement` of each group, the share of its
            most frequent verdict (0 if no rollout has one).

    Raises:
        ConfigError: The rollouts are not those of `VerifierRollout`.

    Example:
        >>> from genprm_trl.rewards import verdict_majority_reward
        >>> found, missed = [True, False], [True, True]
        >>> verdict_majority_reward([""] * 3, ["p"] * 3, [found, found, missed], [["ok", "ok"]] * 3, [2] * 3)
        [0.6666666666666666, 0.6666666666666666, 0.3333333333333333]
    """
    if prompts is None or verdicts is None or statuses is None or num_steps is None:
        raise ConfigError("verdict_majority_reward needs rollout_func=VerifierRollout(...)")

    def reward(group: list[tuple[bool, int | None]]) -> list[float | None]:
        shares = agreement_shares(clusters := [first for failed, first in group if not failed])
        if clusters and (log_metric := kwargs.get("log_metric")) is not None:
            sizes = Counter(first for first in clusters if first is not None)
            log_metric("verifier/agreement", max(sizes.values(), default=0) / len(clusters))
        of_judged = iter(shares)
        return [None if failed else next(of_judged) for failed, _ in group]

    judged = zip(verdicts, statuses, num_steps, strict=True)
    return reward_groups(
        prompts, [("error" in status, _first_wrong(row, steps)) for row, status, steps in judged], reward
    )


def step_agreement_reward(
    completions: Sequence[Any],
    verdicts: Sequence[Verdicts] | None = None,
    statuses: Sequence[Sequence[str]] | None = None,
    num_steps: Sequence[int] | None = None,
    label: Sequence[int] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """The share of steps, up to the first wrong one, that are judged as they are labelled.

    Steps that a rollout did not come to, after a false alarm, count as judged wrongly. Arguments and errors as for
    `verdict_agreement_reward`.

    Example:
        >>> from genprm_trl.rewards import step_agreement_reward
        >>> step_agreement_reward([""], [[True, False]], [["ok", "ok"]], [4], [-1])
        [0.25]
    """
    rollouts = _rollouts("step_agreement_reward", verdicts, statuses, num_steps, label)
    return [
        None
        if failed
        else sum(verdict == (index != first) for index, verdict in enumerate(row) if verdict is not None) / steps
        for row, failed, steps, first in rollouts
    ]


def rationale_format_reward(
    completions: Sequence[Any], statuses: Sequence[Sequence[str]] | None = None, **kwargs: Any
) -> list[float | None]:
    """The share of judged steps whose verdict came of a whole rationale, without a fall-back or a cut.

    Arguments and errors as for `verdict_agreement_reward`; `log_metric` is told the share of each status.
    """
    if statuses is None:
        raise ConfigError("rationale_format_reward needs rollout_func=VerifierRollout(...)")
    if (log_metric := kwargs.get("log_metric")) is not None:
        judged = [status for row in statuses for status in row]
        for status in ("ok", "fallback", "no_verdict", "truncated", "error"):
            log_metric(f"verifier/share_{status}", judged.count(status) / len(judged))
    return [None if "error" in row else sum(status == "ok" for status in row) / len(row) for row in statuses]


def _rollouts(
    name: str,
    verdicts: Sequence[Verdicts] | None,
    statuses: Sequence[Sequence[str]] | None,
    num_steps: Sequence[int] | None,
    label: Sequence[int] | None,
) -> list[tuple[Verdicts, bool, int, int]]:
    """Verdicts, whether the rollout failed, steps and label of each."""
    if verdicts is None or statuses is None or num_steps is None:
        raise ConfigError(f"{name} needs rollout_func=VerifierRollout(...)")
    if label is None:
        raise ConfigError(f"{name} needs a column 'label' in the dataset; make it with verifier_dataset")
    failed = ["error" in row for row in statuses]
    return list(zip(verdicts, failed, num_steps, label, strict=True))


def _agrees(verdicts: Verdicts, num_steps: int, label: int) -> bool:
    return _first_wrong(verdicts, num_steps) == max(label, -1)


def _first_wrong(verdicts: Verdicts, num_steps: int) -> int | None:
    """The first step judged wrong, -1 if all are right; None if that is not known."""
    if False in verdicts:
        return verdicts.index(False)
    return -1 if len(verdicts) == num_steps and None not in verdicts else None
