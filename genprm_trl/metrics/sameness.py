"""Samples that should differ and do not: a mistake that passes for a low score of the vote."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from genprm_trl.protocol.genprm import split_parts
from genprm_trl.records import StepJudgement, Verdict

logger = logging.getLogger(__name__)

_CAUSES = "Does the server make one sample of all seeds, or is the temperature 0?"


@dataclass(slots=True)
class Sameness:
    """Counts items of which several samples were drawn, and those whose samples are all the same.

    Attributes:
        items: Items with several samples.
        same: Items with several samples that are all the same.
    """

    items: int = 0
    same: int = 0

    def add(self, samples: Iterable[Hashable]) -> None:
        """Adds the samples of one item."""
        drawn = list(samples)
        if len(drawn) > 1:
            self.items += 1
            self.same += len(set(drawn)) == 1

    def add_verdict(self, verdict: Verdict) -> None:
        """Adds the chains of a verdict, as far as they hold rationales: bare verdicts may well be equal."""
        if verdict.chains and any(map(_is_sample, verdict.chains[0])):
            self.add(tuple(map(_content, chain)) for chain in verdict.chains)

    @property
    def is_total(self) -> bool:
        """Whether no item has two samples that differ, though several were drawn."""
        return 0 < self.items == self.same

    def warn(self, samples: str, remedy: str = _CAUSES) -> None:
        """Logs a warning if no item has two samples that differ.

        Args:
            samples: What was drawn, such as `rationales of each solution`.
            remedy: What to do about it, or to look at.
        """
        if self.is_total:
            logger.warning("All %s are the same, so several of them say no more than one. %s", samples, remedy)


def _is_sample(judgement: StepJudgement) -> bool:
    if judgement.status in ("error", "truncated"):
        return False
    # Without its text, the number of tokens says whether there was a rationale before the verdict.
    text = judgement.rationale
    if not text:
        return judgement.num_tokens > 20
    return any(part and kind not in ("mark", "verdict") for kind, part in split_parts(text))


def _content(judgement: StepJudgement) -> Hashable:
    return judgement.rationale, judgement.status, judgement.reward, judgement.num_tokens
