"""What the page holds of each verdict: a short row for the list, and a packed block with everything else.

The block is opened in the browser when its solution is unfolded or searched; the rows alone are read at the start.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from genprm_trl.records import CodeRound, Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.verdict_report.passages import read_rationale

_SNIPPET = 240  # characters of a problem that the list can show


@dataclass(frozen=True, slots=True)
class Entry:
    """A verdict on the page.

    Attributes:
        row: The row of the list, as JSON values.
        block: Everything else as JSON, compressed by zlib, as base64. Its alphabet cannot be taken for HTML.
    """

    row: dict[str, Any]
    block: str


def make_entry(verdict: Verdict, solution: Solution | None = None) -> Entry:
    """The entry of a verdict; `solution` is what it judges, if at hand."""
    return Entry(_row(verdict, solution), pack(_details(verdict, solution)))


def pack(value: Any) -> str:
    """JSON, compressed, as base64. Half a surrogate pair stays as it is, as an escape."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode("ascii"), 6)).decode("ascii")


def _row(verdict: Verdict, solution: Solution | None) -> dict[str, Any]:
    statuses = Counter(judgement.status for chain in verdict.chains for judgement in chain)
    row: dict[str, Any] = {
        "id": verdict.id,
        "rewards": [round(reward, 4) for reward in verdict.rewards],
        "prediction": verdict.prediction,
        "label": verdict.label,
        "threshold": verdict.threshold,
        "chains": len(verdict.chains),
        "asked": verdict.n,
        "agree": sum(_own_prediction(chain, verdict) == verdict.prediction for chain in verdict.chains),
        "statuses": dict(statuses),
    }
    if solution is not None:
        row["problem"] = solution.problem[:_SNIPPET]
        row["steps"] = len(solution.steps)
        row["final"] = solution.final_answer_correct
    return row


def _own_prediction(chain: list[StepJudgement], verdict: Verdict) -> int:
    """What the chain alone would have predicted, over the steps that the verdict covers."""
    return prediction_from_rewards([judgement.reward for judgement in chain], verdict.threshold)


def _details(verdict: Verdict, solution: Solution | None) -> dict[str, Any]:
    details: dict[str, Any] = {"chains": [[_judgement(judgement) for judgement in chain] for chain in verdict.chains]}
    if solution is not None:
        details["problem"] = solution.problem
        details["steps"] = solution.steps
        details["answer"] = solution.answer
        details["generator"] = solution.generator
    return details


def _judgement(judgement: StepJudgement) -> dict[str, Any]:
    readable = read_rationale(judgement.rationale, judgement.code_rounds)
    passages = []
    for passage in readable.passages:
        piece: list[Any] = [passage.kind, passage.text]
        if passage.ran is not None:
            piece += [passage.ran.status, passage.ran.seconds]
        passages.append(piece)
    return {
        "reward": judgement.reward,
        "status": judgement.status,
        "tokens": judgement.num_tokens,
        "passages": passages,
        "others": [_round(code_round) for code_round in readable.other_rounds],
        "rounds": len(judgement.code_rounds),
    }


def _round(code_round: CodeRound) -> list[Any]:
    return [code_round.code, code_round.output, code_round.status, code_round.seconds]
