"""The critic loop: a policy answers, a verifier objects, the policy thinks again (arXiv 2504.00891, section 4.3).

The first wrong step of an answer goes back to the policy with the verifier's analysis, as the next user turn of the
policy's conversation. The loop ends when no step is judged wrong, or when the turns are used up. The last answer
counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genprm_trl import grading
from genprm_trl.data.problems import Problem
from genprm_trl.data.steps import written_steps
from genprm_trl.errors import check_at_least
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.grading.extract import extract_answer
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.protocol.genprm import argument
from genprm_trl.records import Solution, Verdict
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.base import Verifier

if TYPE_CHECKING:
    from genprm_trl.metrics.estimates import ScoreEstimate

# As in the released critic experiments, but for the space before the critique, which their code does not put there.
REFINEMENT_PROMPT = (
    "There might be some problem in this paragraph of your reasoning, please rethink and refine your answer:\n"
    ">{step}\n\n {critique}"
)


@dataclass(frozen=True, slots=True)
class RefinementConfig:
    """How a policy refines its answers: options of `genprm refine`.

    Raises:
        ConfigError: A value is out of range.
    """

    turns: int = field(default=3, metadata={"help": "Maximum critiques handed back to the policy."})
    begun: str = field(
        default="Step 1:",
        metadata={
            "help": "Text that every answer begins with, so that its steps are marked. Empty for models that think "
            "first."
        },
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same rows."})

    def __post_init__(self) -> None:
        check_at_least(1, turns=self.turns)


async def refine(
    models: tuple[Solver, Verifier],
    problem: Problem,
    partial: Partial,
    *,
    config: RefinementConfig,
    source: Mapping[str, Any],
) -> Outcome:
    """Lets a policy answer a problem and refine its answer.

    Args:
        models: The policy, which answers, and the verifier that criticises it. Only the first step it judges wrong
            matters, so `stop="first_error"` is enough.
        problem: The problem with its reference answer; an empty answer is unknown.
        partial: The problem's answers and verdicts so far.
        config: How many turns, and how an answer begins.
        source: Provenance that is written into the row.

    Returns:
        One row: `id`, `problem`, `answer`, `end` and `turns`, one for each answer in order. A turn has `text`,
        `steps`, `final_answer`, `correct` (None where the reference is unknown), `finish_reason`, `num_tokens`, the
        `verdict`, and the `critique` that was handed back for the step of `verdict.prediction`; the last two are null
        where there are none. `end` is

        - `accepted`: no step was judged wrong;
        - `no_verdict`: no step was judged wrong, but one was not judged at all;
        - `turns`: all turns were used; the last answer was not judged;
        - `no_steps`: the policy wrote nothing that can be judged;
        - `context`: the conversation does not fit the policy's context any more.

    Raises:
        ItemFailed: The policy or the verifier failed.
    """
    policy, verifier = models
    paid = {(record["turn"], record["what"]): record for record in partial.known}
    conversation = policy.begin(problem.text)
    turns: list[dict[str, Any]] = []
    counts = {"policy_tokens": 0, "verifier_tokens": 0}
    while True:
        number = len(turns)
        policy.begin_answer(conversation, config.begun)
        written = paid.get((number, "answer"))
        if written is None:
            seed = derive_seed(config.seed, "refine", problem.id, problem.digest, number)
            result = await policy.complete(conversation.token_ids, seed, affinity=problem.id)
            written = {
                "turn": number,
                "what": "answer",
                "text": result.text,
                "token_ids": list(result.token_ids),
                "finish_reason": result.finish_reason,
                "num_tokens": result.num_generated,
            }
            partial.keep(written)
        if written["finish_reason"] == "context" and not written["text"] and turns:
            return _outcome(problem, turns, "context", counts, source)
        conversation.append_ids(written["token_ids"], written["text"])
        counts["policy_tokens"] += written["num_tokens"]
        turn = await _answered(policy, problem, config.begun, written)
        turns.append(turn)
        if number == config.turns:
            return _outcome(problem, turns, "turns", counts, source)
        if not turn["steps"]:
            return _outcome(problem, turns, "no_steps", counts, source)

        record = paid.get((number, "verdict"))
        if record is None:
            verdict = await verifier.verify(Solution(f"{problem.id}/{number}", problem.text, turn["steps"]))
            if verdict.has_failed:
                raise ItemFailed(f"the verifier failed on answer {number}")
            record = {"turn": number, "what": "verdict", "verdict": verdict.to_dict()}
            partial.keep(record)
        verdict = Verdict.from_dict(record["verdict"])
        turn["verdict"] = record["verdict"]
        counts["verifier_tokens"] += verdict.num_tokens
        if verdict.prediction < 0:
            end = "no_verdict" if verdict.scored_prediction is None else "accepted"
            return _outcome(problem, turns, end, counts, source)
        turn["critique"] = critique_of(verdict)
        request = REFINEMENT_PROMPT.format(step=turn["steps"][verdict.prediction], critique=turn["critique"])
        conversation.open_turn([{"role": "user", "content": request}])


def critique_of(verdict: Verdict) -> str:
    """What is said against the first step that was judged wrong: by the rationale that doubts it most.

    That is its analysis; of a rationale without one, its code and what that printed. Empty without rationales.
    """
    step = verdict.prediction
    judgements = [chain[step] for chain in verdict.chains if len(chain) > step and chain[step].rationale]
    if step < 0 or not judgements:
        return ""
    return argument(min(judgements, key=lambda judgement: judgement.reward).rationale)


async def _answered(policy: Solver, problem: Problem, begun: str, written: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as the row shows it, before it is judged."""
    text, reason = written["text"], written["finish_reason"]
    answer = without_thinking(policy.graded_text(begun, text, reason))
    correct = None
    if problem.answer:
        correct = (await asyncio.to_thread(grading.grade, answer, problem.answer)).correct
    return {
        "text": begun + text,
        "steps": [step.text for step in written_steps(policy.text(begun, text, reason))],
        "final_answer": extract_answer(answer),
        "correct": correct,
        "finish_reason": reason,
        "num_tokens": written["num_tokens"],
        "verdict": None,
        "critique": None,
    }


def _outcome(
    problem: Problem, turns: list[dict[str, Any]], end: str, counts: Mapping[str, float], source: Mapping[str, Any]
) -> Outcome:
    row = {
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer or None,
        "end": end,
        "turns": turns,
        "source": dict(source),
    }
    return Outcome(rows=[row], counts={**counts, "problems": 1, f"end_{end}": 1})


@dataclass(slots=True)
class TurnScores:
    """The answers after a number of critiques; an answer that was accepted before stays.

    Attributes:
        accuracy: Right answers in per cent.
        gain: Difference to the accuracy without critiques, problem by problem.
        fixed: Answers that were wrong without critiques and are right.
        broken: Answers that were right without critiques and are not.
        revised: Answers that this turn has written.
    """

    accuracy: ScoreEstimate
    gain: ScoreEstimate
    fixed: int
    broken: int
    revised: int


@dataclass(slots=True)
class RefinementSummary:
    """What the critic loop did to the answers; those of unknown correctness are in no score.

    Attributes:
        objected_right, objected_wrong: The number of right (wrong) first answers, and the number of them to which the
            verifier objected.
        rationales: Whether the rationales of each answer differ.
    """

    objected_right: tuple[int, int] = (0, 0)
    objected_wrong: tuple[int, int] = (0, 0)
    rationales: Sameness = field(default_factory=Sameness)
    _outcomes: list[list[bool]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of `refine`."""
        turns = row["turns"]
        for turn in turns:
            if turn["verdict"] is not None:
                self.rationales.add_verdict(Verdict.from_dict(turn["verdict"]))
        if turns[0]["correct"] is None:
            return
        self._outcomes.append([bool(turn["correct"]) for turn in turns])
        verdict = turns[0]["verdict"]
        flagged = verdict is not None and verdict["prediction"] >= 0
        if turns[0]["correct"]:
            self.objected_right = (self.objected_right[0] + flagged, self.objected_right[1] + 1)
        else:
            self.objected_wrong = (self.objected_wrong[0] + flagged, self.objected_wrong[1] + 1)

    @property
    def problems(self) -> int:
        """The number of problems added whose answers are known to be right or wrong."""
        return len(self._outcomes)

    def by_turn(self) -> list[TurnScores]:
        """The scores without critiques, after one, and so on; empty if no answer is known to be right or wrong."""
        from genprm_trl.metrics.estimates import mean_estimate

        scores = []
        first = [outcomes[0] for outcomes in self._outcomes]
        for turn in range(max(map(len, self._outcomes), default=0)):
            now = [outcomes[min(turn, len(outcomes) - 1)] for outcomes in self._outcomes]
            changes = [int(a) - int(b) for a, b in zip(now, first, strict=True)]
            scores.append(
                TurnScores(
                    mean_estimate([float(right) for right in now]),
                    mean_estimate([float(change) for change in changes]),
                    changes.count(1),
                    changes.count(-1),
                    sum(len(outcomes) > turn for outcomes in self._outcomes),
                )
            )
        return scores
