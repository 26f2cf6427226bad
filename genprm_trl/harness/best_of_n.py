"""Best-of-N as a task of the lm-evaluation-harness: a document is a problem with its pool of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from genprm_trl.harness.data import encode_solution, read_verdict
from genprm_trl.harness.steps import StepTask
from genprm_trl.selection.accuracies import pool_accuracies, subset_sizes
from genprm_trl.selection.judged_pool import rewards_to_choose_by


class BestOfN(StepTask):
    """Candidates of a file, each judged by one request to the model `genprm`.

    Metrics, in per cent and averaged over the problems: those of `selection.pool_accuracies` for N = 1, 2, 4, ... up
    to the smallest pool. Each is the expectation over all subsets of N of a problem's pool.

    Args:
        config: The task's YAML.
    """

    def __init__(self, config: Mapping[str, Any] | None = None):
        super().__init__(config)
        self.sizes = subset_sizes(self.smallest_pool())

    def smallest_pool(self) -> int:
        """Returns the number of candidates of the problem with the fewest, which bounds N."""
        return min(len(pool) for pool in self.eval_docs["steps"])

    def construct_requests(self, doc: Mapping[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        """One request a candidate."""
        for name in ("apply_chat_template", "chat_template"):
            kwargs.pop(name, None)
        return [
            Instance(
                request_type="generate_until",
                doc=doc,
                arguments=(
                    encode_solution(doc["problem"], steps, identifier),
                    deepcopy(self.config.generation_kwargs),
                ),
                idx=index,
                **kwargs,
            )
            for index, (identifier, steps) in enumerate(zip(doc["ids"], doc["steps"], strict=True))
        ]

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """Returns one problem's metrics from the verdicts on its candidates; none where judging one of them failed."""
        verdicts = [read_verdict(text) for text in results]
        if any(verdict.has_failed for verdict in verdicts):
            return {}
        rewards = [rewards_to_choose_by(verdict) for verdict in verdicts]
        return self.accuracies(doc["votes"], doc["correct"], rewards)

    def accuracies(
        self, votes: Sequence[int | None], correct: Sequence[bool], rewards: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """Measures every way of choosing on one problem's pool.

        Args:
            votes: The answer that each candidate votes for; None for no answer.
            correct: Whether each candidate is right.
            rewards: The step rewards of each candidate.

        Returns:
            The metrics of `pool_accuracies`, in per cent.
        """
        values = pool_accuracies(votes, correct, rewards, self.sizes)
        return {name: 100 * value for name, value in values.items()}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Tells the harness to average every metric over the problems."""
        return dict.fromkeys(self._names(), mean)

    def _names(self) -> list[str]:
        size = self.sizes[-1]
        return list(self.accuracies([0] * size, [True] * size, [[1.0]] * size))
