"""Rationales for worked solutions: an analysis, code that compares what a step states, its output, a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from genprm_trl.labeling.consensus import disagreement, judged_steps
from genprm_trl.protocol.genprm import CodeBlock, Rationale
from genprm_trl.records import RationaleRecord
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.smollm2.equations import accepts, check_code
from genprm_trl.smollm2.worked import WorkedSolution, WorkedStep

_NOTHING = "It states no equation between numbers, so there is nothing to compute.\n"


async def rationale_records(
    solutions: Sequence[WorkedSolution], sandbox: Sandbox
) -> tuple[list[RationaleRecord], Counter[str]]:
    """Training data: a rationale for each step up to the first wrong one, with what its code really printed.

    The verdict is what the output says. A solution whose verdicts disagree with its label is left out.

    Args:
        solutions: The solutions.
        sandbox: Runs the code, each solution's in a session.

    Returns:
        The records, and for each reason how many solutions disagree.
    """
    records: list[RationaleRecord] = []
    disagreeing: Counter[str] = Counter()
    for solution in solutions:
        rationales = []
        async with sandbox.session() as session:
            for number, step in enumerate(
                solution.steps[: judged_steps(solution.label, len(solution.steps))], start=1
            ):
                code = check_code(step.equations)
                output = (await session.run(code)).output
                block = CodeBlock(code, output)
                rationales.append(Rationale(number, accepts(output), _analysis(step), (block,)))
        verdicts = [bool(rationale.judgement) for rationale in rationales]
        reason = disagreement(verdicts, solution.label, len(solution.steps))
        if reason is not None:
            disagreeing[reason] += 1
            continue
        texts = [rationale.render() for rationale in rationales]
        source = {"made_by": "annotations", "of": solution.source}
        records.append(RationaleRecord(solution.to_solution(), texts, verdicts, source))
    return records, disagreeing


def _analysis(step: WorkedStep) -> str:
    if not step.equations:
        return _NOTHING
    stated = "; ".join(" = ".join(equation) for equation in step.equations)
    return f"It states {stated}. Python computes whether the sides are the same.\n"
