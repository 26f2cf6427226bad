"""Counts over a set of verdicts: how steps were judged, what that cost, and scores if there are labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.records import Solution, Verdict


@dataclass(slots=True)
class VerdictSummary:
    """Counts over verdicts, added one at a time so that verdicts need not be kept.

    Attributes:
        solutions: Verdicts added.
        chains: Chains they hold.
        chains_asked: Chains that were asked for; with adaptive N more than `chains`.
        steps: Judgements by status, over all chains.
        code_blocks: Code blocks run, by how they ended.
        tokens: Tokens the model generated.
        failed: Verdicts with a judgement that the generator or the sandbox failed on. They are in no score: none of
            what follows counts them.
        unread: Verdicts whose prediction rests on a step without a verdict of the model. They count as wrong.
        flagged: Verdicts that name a wrong step.
        solution_scores: Verdicts that say something of the whole solution.
        labels, predictions: Labels and predictions of the verdicts whose solution has a label; see
            `Verdict.scored_prediction`.
        sameness: Whether the chains of each solution differ.
        accepted: How many solutions had no step flagged and how many there are, by correctness of the final answer.
    """

    solutions: int = 0
    chains: int = 0
    chains_asked: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    code_blocks: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    failed: int = 0
    unread: int = 0
    flagged: int = 0
    solution_scores: int = 0
    labels: list[int] = field(default_factory=list)
    predictions: list[int | None] = field(default_factory=list)
    sameness: Sameness = field(default_factory=Sameness)
    accepted: dict[bool, tuple[int, int]] = field(default_factory=dict)

    def add(self, verdict: Verdict, solution: Solution | None = None) -> None:
        """Adds a verdict and, for the final answer's sake, the solution it is about."""
        self.solutions += 1
        self.chains += len(verdict.chains)
        self.chains_asked += verdict.n
        self.sameness.add_verdict(verdict)
        for chain in verdict.chains:
            for judgement in chain:
                self.steps[judgement.status] += 1
                self.tokens += judgement.num_tokens
                self.code_blocks.update(code_round.status for code_round in judgement.code_rounds)
        if verdict.has_failed:
            self.failed += 1
            return
        self.solution_scores += verdict.solution_reward is not None
        prediction = verdict.scored_prediction
        self.unread += prediction is None
        self.flagged += prediction is not None and prediction >= 0
        if verdict.label is not None:
            self.labels.append(verdict.label)
            self.predictions.append(prediction)
        if solution is not None and solution.final_answer_correct is not None:
            accepted, total = self.accepted.get(solution.final_answer_correct, (0, 0))
            self.accepted[solution.final_answer_correct] = (accepted + (prediction == -1), total + 1)

    @property
    def is_failure(self) -> bool:
        """Whether there were judgements, and none of them holds a verdict on its step or on the solution."""
        return self.steps.total() > 0 == self.steps["ok"] + self.steps["fallback"] + self.solution_scores

    def scores(self) -> dict[str, float | None] | None:
        """ProcessBench's scores in per cent (`metrics.processbench_scores`); None without labels."""
        return processbench_scores(self.labels, self.predictions) if self.labels else None

    def lines(self) -> list[str]:
        """The summary for a person to read, a fact a line."""
        lines = [f"solutions judged   {self.solutions} ({self.flagged} with a step judged wrong)"]
        if self.tokens:  # discriminative verifiers write none
            lines.append(f"rationale chains   {_share(self.chains, self.chains_asked)}")
        lines.append(f"step judgements    {_counts(self.steps)}")
        if self.failed:
            lines.append(f"failed             {self.failed} of {self.solutions} solutions, left out of every score")
        if self.unread:
            lines.append(f"without a verdict  {self.unread} of {self.solutions} solutions, counted as wrong")
        if self.code_blocks:
            lines.append(f"code blocks run    {_counts(self.code_blocks)}")
        if self.tokens:
            lines.append(f"tokens generated   {self.tokens:,}")
        for correct, name in ((True, "right"), (False, "wrong")):
            if correct in self.accepted:
                accepted, total = self.accepted[correct]
                lines.append(f"{name} final answer: no step flagged in {accepted} of {total}")
        scores = self.scores()
        if scores is not None:
            shown = "  ".join(
                f"{name} {'undefined' if value is None else f'{value:.1f}'}" for name, value in scores.items()
            )
            lines.append(f"ProcessBench       {shown}  ({len(self.labels)} labelled)")
        return lines


def _share(part: int, whole: int) -> str:
    return f"{part:,}" if part == whole else f"{part:,} of {whole:,} ({100 * part / max(whole, 1):.0f} %)"


def _counts(counter: Counter[str]) -> str:
    kinds = ", ".join(f"{name} {count:,}" for name, count in counter.most_common())
    return f"{counter.total():,} ({kinds})" if kinds else "0"
