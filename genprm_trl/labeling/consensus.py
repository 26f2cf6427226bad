"""The consensus filter: a solution is kept only where the reasoner's verdicts agree with its label.

arXiv 2504.00891, section 3.2: the verdict on every step up to the first error must agree with the label. Labels and
verdicts come from different sources (rollouts of a policy; analysis and code of a reasoner). An error that both share
is rare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from genprm_trl.errors import DataError, check_share
from genprm_trl.labeling.critiques import RationaleSample, SampledSolution
from genprm_trl.protocol.genprm import CODE_OUTPUT_START, parse_rationale
from genprm_trl.protocol.synthesis import Synthesis, parse_synthesis
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.stages.file import Outcome, StageSummary
from genprm_trl.stages.partial import Partial

# In the order in which a critique is examined. A critique with a later reason came nearer to being kept.
DropReason = Literal[
    "unfinished_thinking",  # these three are the critique's own statuses
    "out_of_tokens",
    "out_of_code_rounds",
    "no_verdict",  # the final verdict is no readable number, or a program printed it
    "verdict_out_of_range",  # it names a paragraph that the solution does not have
    "disagrees_before_first_error",  # it calls a step wrong that the label calls right
    "disagrees_at_first_error",  # it calls the step right that the label calls wrong
    "unparsable",  # a step lacks a critique in the form asked for
    "code_not_run",  # a step has no code, or code that was not run
    "output_altered",  # the output in the text is not what the code printed
    "minority",  # too few of the solution's critiques agree
]
DROP_REASONS: tuple[str, ...] = get_args(DropReason)


def judged_steps(label: int, num_steps: int) -> int:
    """How many steps of a solution are judged: those up to and including the first wrong one."""
    return num_steps if label == -1 else label + 1


def disagreement(verdicts: Sequence[bool | None], label: int, num_steps: int) -> DropReason | None:
    """Where verdicts first disagree with a label.

    Args:
        verdicts: Whether each step is right, from the first on. None is no verdict, and so is a missing end.
        label: Index from 0 of the first wrong step, -1 for none.
        num_steps: Steps of the solution.

    Returns:
        None if the verdicts on every step up to the first error agree with the label; what follows it does not count.

    Examples:
        >>> disagreement([True, False], label=1, num_steps=3)
        >>> disagreement([True, True, True], label=1, num_steps=3)
        'disagrees_at_first_error'
        >>> disagreement([False], label=1, num_steps=3)
        'disagrees_before_first_error'
    """
    for index in range(judged_steps(label, num_steps)):
        verdict = verdicts[index] if index < len(verdicts) else None
        if verdict is None:
            return "no_verdict"
        if verdict != (index != label):
            return "disagrees_at_first_error" if index == label else "disagrees_before_first_error"
    return None


def verdicts_of(first_error: int, num_steps: int) -> list[bool]:
    """The verdicts on single steps that an index of the first wrong step (-1 for none) amounts to."""
    return [True] * num_steps if first_error == -1 else [True] * first_error + [False]


@dataclass(frozen=True, slots=True)
class Examined:
    """One critique, compared with the label.

    Attributes:
        reason: Why the critique is dropped; None if it is usable.
        rationales: The rationale of each judged step, in the form of the verification conversation, if it is usable.
        labels: Whether each judged step is right.
        first_error: The critique's own verdict, if it has a readable one.
    """

    reason: DropReason | None
    rationales: tuple[str, ...] = ()
    labels: tuple[bool, ...] = ()
    first_error: int | None = None


def examine(solution: Solution, sample: RationaleSample, *, require_agreement: bool = True) -> Examined:
    """Compares one critique with the label, and takes the rationales out of it.

    Args:
        solution: The solution with its label.
        sample: The critique.
        require_agreement: False takes the critique's own verdict as the label, to measure what the filter is worth.
    """
    if sample.status != "complete":
        return Examined(sample.status)
    synthesis = parse_synthesis(sample.answer)
    first_error, num_steps = synthesis.first_error, len(solution.steps)
    if first_error is None or any("\\boxed{" in code_round.output for code_round in sample.code_rounds):
        return Examined("no_verdict")
    if first_error >= num_steps:
        return Examined("verdict_out_of_range")
    label = first_error
    if require_agreement:
        assert solution.label is not None  # see `decide`
        label = solution.label
        reason = disagreement(verdicts_of(first_error, num_steps), label, num_steps)
        if reason is not None:
            return Examined(reason, first_error=first_error)
    judged = judged_steps(label, num_steps)
    rationales, reason = _rationales(synthesis, sample, judged)
    labels = tuple(index != label for index in range(judged))
    return Examined(reason, rationales if reason is None else (), labels if reason is None else (), first_error)


def _rationales(
    synthesis: Synthesis, sample: RationaleSample, judged: int
) -> tuple[tuple[str, ...], DropReason | None]:
    """The rationales of the first `judged` steps, or why they cannot be used."""
    numbers = [part.number for part in synthesis.paragraphs]
    # A paragraph that is critiqued twice, or out of order, leaves open which critique is meant.
    if numbers[:judged] != list(range(1, judged + 1)) or any(number <= judged for number in numbers[judged:]):
        return (), "unparsable"
    if any("```python" not in part.verification for part in synthesis.paragraphs[:judged]):
        return (), "code_not_run"
    rationales = []
    ran = [(code_round.code, code_round.output) for code_round in sample.code_rounds]
    for index in range(judged):
        text = synthesis.rationale(index)
        if text is None:
            return (), "unparsable"
        rationale = parse_rationale(text).rationale
        assert rationale.analysis is not None  # `Synthesis.rationale` writes one
        if not rationale.analysis.strip() or CODE_OUTPUT_START in rationale.analysis:
            return (), "unparsable"  # nothing was said, or code was run outside of its place
        for block in rationale.blocks:
            if block.output is None:
                return (), "code_not_run"
            # Blocks were run in the order in which they stand; those of other places are passed over.
            place = next((at for at, (code, _) in enumerate(ran) if code == block.code.strip()), None)
            if place is None:
                return (), "code_not_run"
            if ran[place][1] != block.output:
                return (), "output_altered"
            del ran[: place + 1]
        rationales.append(text)
    return tuple(rationales), None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a solution.

    Attributes:
        record: The solution's training data; None if it was dropped.
        reason: Why it was dropped.
        examined: The solution's critiques, in order.
    """

    record: RationaleRecord | None
    reason: DropReason | None
    examined: tuple[Examined, ...]


def decide(sampled: SampledSolution, *, min_agreement: float = 0.0, require_agreement: bool = True) -> Decision:
    """Keeps a solution with one of its critiques, or drops it.

    If several critiques are usable, the one with the fewest failed code blocks is kept, then the one with the fewest
    tokens, then the first. A dropped solution has the reason of the critique that came furthest.

    Args:
        sampled: The solution with its label and its critiques.
        min_agreement: Share, in [0, 1], of the critiques with a readable verdict that must agree with the label. With
            many critiques one can agree with any label by chance.
        require_agreement: False takes each critique's own verdict as the label.

    Raises:
        DataError: The solution has no label, and one is needed.
    """
    check_share(min_agreement=min_agreement)
    solution, samples = sampled.solution, sampled.samples
    if require_agreement and solution.label is None:
        raise DataError(f"solution '{solution.id}' has no label to hold rationales against", field="label")
    examined = tuple(examine(solution, sample, require_agreement=require_agreement) for sample in samples)
    usable = [number for number, result in enumerate(examined) if result.reason is None]
    if not usable:
        reasons = [result.reason for result in examined if result.reason is not None]
        return Decision(None, max(reasons, key=DROP_REASONS.index), examined)
    readable = [result.first_error for result in examined if result.first_error is not None]
    agreeing = sum(first_error == solution.label for first_error in readable)
    if require_agreement and agreeing < min_agreement * len(readable):
        return Decision(None, "minority", examined)

    def rank(number: int) -> tuple[int, int, int]:
        failed = sum(code_round.status != "ok" for code_round in samples[number].code_rounds)
        return failed, samples[number].num_tokens, number

    chosen = min(usable, key=rank)
    source: dict[str, Any] = {
        **sampled.source,
        "mode": "full",
        "sample": chosen,
        "samples": len(samples),
        "agreeing": agreeing if require_agreement else None,
    }
    if not require_agreement:
        # Beside the critique's verdict, the labels of earlier stages would contradict themselves in one row.
        extra = {name: value for name, value in solution.extra.items() if name != "labels"}
        solution = replace(solution, label=examined[chosen].first_error, extra=extra)
    record = RationaleRecord(solution, list(examined[chosen].rationales), list(examined[chosen].labels), source)
    return Decision(record, None, examined)


def relabelled(critiques: Iterable[SampledSolution], solutions: Iterable[Solution]) -> Iterator[SampledSolution]:
    """The critiques with the solutions, and so the labels, of another source.

    Critiques of solutions that are not among them are left out. Little is held in memory where both come in the same
    order.

    Raises:
        DataError: A solution is another text than the one that was critiqued under its id.
    """
    remaining = iter(solutions)
    waiting: dict[str, Solution] = {}
    for sampled in critiques:
        while sampled.id not in waiting and (solution := next(remaining, None)) is not None:
            waiting[solution.id] = solution
        if (found := waiting.pop(sampled.id, None)) is None:
            continue
        if found.digest != sampled.solution.digest:
            raise DataError(f"solution '{found.id}' is another text than the one that was critiqued under this id")
        yield replace(sampled, solution=found)


def left_out_share(summary: StageSummary) -> float:
    """Share of the solutions that the filter left out, in [0, 1]. The paper gives about 0.51."""
    return summary.dropped.total() / max(1, summary.items)


def consensus_lines(summary: StageSummary) -> list[str]:
    """What passed the filter and what did not, for a reader; reasons in the order in which critiques are examined."""
    share = f"{100 * left_out_share(summary):.1f} % dropped"
    lines = [f"kept               {summary.rows} of {summary.items} solutions ({share})"]
    reasons = [reason for reason in (*DROP_REASONS, *sorted(summary.dropped)) if summary.dropped[reason]]
    return lines + [f"  {reason:<32}{summary.dropped[reason]}" for reason in dict.fromkeys(reasons)]


async def filter_solution(
    opened: None, sampled: SampledSolution, partial: Partial, *, min_agreement: float, require_agreement: bool
) -> Outcome:
    """`decide` as the work of a stage, for which nothing is opened and no part is kept."""
    return outcome_of(decide(sampled, min_agreement=min_agreement, require_agreement=require_agreement))


def outcome_of(decision: Decision) -> Outcome:
    """A decision as a stage writes it."""
    counts: Mapping[str, float] = Counter(f"samples/{result.reason or 'usable'}" for result in decision.examined)
    if decision.record is None:
        assert decision.reason is not None
        return Outcome(dropped={decision.reason: 1}, counts=dict(counts))
    return Outcome(rows=[decision.record.to_dict()], counts=dict(counts))
