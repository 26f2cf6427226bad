"""What the page holds of each verdict: a short row for the list, and a packed block with everything else.

The block is opened in the browser when its solution is unfolded or searched; the rows alone are read at the start.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from genprm_trl.protocol.genprm import CODE_END, CODE_OUTPUT_START, NO_CODE_FOUND, GenPRMProtocol, split_parts
from genprm_trl.records import CodeRound, Solution, StepJudgement, Verdict, prediction_from_rewards

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
        "unread": verdict.scored_prediction is None,
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
    passages, others = read_rationale(judgement.rationale, judgement.code_rounds)
    return {
        "reward": judgement.reward,
        "status": judgement.status,
        "tokens": judgement.num_tokens,
        "passages": [
            [kind, text, *([ran.status, ran.seconds] if ran is not None else [])] for kind, text, ran in passages
        ],
        "others": [[each.code, each.output, each.status, each.seconds] for each in others],
        "rounds": len(judgement.code_rounds),
    }


class Passage(NamedTuple):
    """A piece of a rationale.

    Attributes:
        kind: `analysis`, `code`, `verdict`, or `text` outside of them; `mark` for tags and fences; `output` for what
            the interpreter answered; `claimed_output` for the same form without a run on record: the model's words.
        text: Its text, unchanged.
        ran: The code round that printed an output. None where the interpreter found no code to run.
    """

    kind: str
    text: str
    ran: CodeRound | None = None


def read_rationale(text: str, code_rounds: Sequence[CodeRound] = ()) -> tuple[list[Passage], list[CodeRound]]:
    """Takes any text apart into the parts that a person reads.

    Returns:
        Passages whose texts join to the rationale, and the rounds whose output does not stand in it, as after a
        fall-back, which drops what the code rounds had added.
    """
    passages: list[Passage] = []
    others: list[CodeRound] = []
    waiting = list(code_rounds)
    segments = GenPRMProtocol().segments(text, [each.output for each in code_rounds])
    for printed, group in itertools.groupby(segments, key=lambda segment: segment.kind == "interpreter"):
        if not printed:
            passages += (Passage(*part) for part in split_parts("".join(segment.text for segment in group)))
            continue
        for segment in group:
            end = CODE_END if segment.text.endswith(CODE_END) else ""
            output = segment.text.removeprefix(CODE_OUTPUT_START).removesuffix(end)
            number = next((i for i, each in enumerate(waiting) if end and each.output == output), None)
            passages.append(Passage("mark", CODE_OUTPUT_START))
            if number is None:
                passages.append(Passage("output" if output == NO_CODE_FOUND else "claimed_output", output))
            else:
                others += waiting[:number]
                passages.append(Passage("output", output, waiting[number]))
                del waiting[: number + 1]
            passages.append(Passage("mark", end))
    return [passage for passage in passages if passage.text or passage.ran], others + waiting
