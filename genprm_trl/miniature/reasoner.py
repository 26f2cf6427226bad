"""The scripted reasoner: writes rationales for GenPRM's training data, right most of the time.

It stands for the large reasoner (QwQ-32B) of arXiv 2504.00891, section 3.2. What it can see depends on the parts of a
rationale it may use, as in the paper's ablation:

- `full`: words say what the step should compute, code compares that, the step's own expression and the step's result.
- `analysis`: words compare what should be computed with what the step computes. A false result goes unnoticed, except
  where both operands are single digits and anyone knows the result by heart.
- `code_execution`: code recomputes the step's own equation. A true equation that the problem does not ask for passes.
- `direct`: only the verdict, with the judgement of `full`.

Where it cannot see an error its verdict disagrees with the label, and the consensus filter drops the solution; so it
does with the reasoner's occasional mistakes.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.labeling.consensus import disagreement, judged_steps
from genprm_trl.miniature.word_problems import Equation, Problem, read_equation
from genprm_trl.protocol import CodeBlock, Rationale
from genprm_trl.records import RationaleRecord, Solution

REASONER_MODES = ("full", "analysis", "code_execution", "direct")

# The claim comes first and word for word, right after the step it is from: the nearer the source, the sooner a tiny
# model learns to copy.
_CLAIM = ("It says {claim}. ", "Here {claim}. ")
_NEED = ("To find {purpose} we need {expected}", "This should be {purpose}, so {expected}")
_SAME = (", the same.", ", which fits.")
_DIFFERENT = (", which differs.", ", which is not that.")


@dataclass(slots=True)
class Interpreter:
    """Runs the reasoner's own code in this process, in one namespace a solution, with a session's wire format.

    The scripts below wrote the code, so it needs no sandbox. A sandbox session gives the same outputs.
    """

    namespace: dict[str, object] = field(default_factory=dict)

    def run(self, code: str) -> str:
        """What a code block prints, or its error as the sandbox words it."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.namespace)
        except Exception as error:
            return f"Code execute Error: {type(error).__name__}: {error}"
        return printed.getvalue().strip()


@dataclass(frozen=True, slots=True)
class Draft:
    """A rationale before its code has run.

    Attributes:
        step: Number of the paragraph, from 1.
        analysis: Words, None if the mode has none.
        code: Python, None if the mode has none. It prints `True` if the step is right.
        judgement: The verdict if there is no code; otherwise what the code prints decides.
        flipped: Whether the verdict is turned round by mistake.
    """

    step: int
    analysis: str | None
    code: str | None
    judgement: bool
    flipped: bool

    def finish(self, output: str | None) -> Rationale:
        """The rationale, given what the code printed."""
        blocks = () if self.code is None else (CodeBlock(self.code, output),)
        judgement = self.judgement if self.code is None else output == "True"
        return Rationale(step=self.step, judgement=judgement != self.flipped, analysis=self.analysis, blocks=blocks)


def draft_rationale(
    problem: Problem, steps: Sequence[str], index: int, mode: str, rng: random.Random, mistake_rate: float = 0.0
) -> Draft:
    """What the reasoner writes about step `index` (from 0), up to running the code.

    Args:
        problem: The problem with its plan.
        steps: The solution. The step is judged on the ground that those before it are right.
        index: The step.
        mode: One of `REASONER_MODES`.
        rng: Chooses wordings and mistakes.
        mistake_rate: Probability in [0, 1] of a mistake: a misread number, a miscopied one, or a slip in the verdict.

    Raises:
        ConfigError: for a mode it does not write.
    """
    if mode not in REASONER_MODES:
        raise ConfigError(f"the scripted reasoner does not write mode {mode!r}; choose from {REASONER_MODES}")
    claim = read_equation(steps[index])
    expected = problem.plan[index] if index < len(problem.plan) else None
    mistake = rng.choice(("misread", "miscopy", "verdict")) if rng.random() < mistake_rate else None
    if mode == "direct":
        right = claim is not None and expected is not None and _is_right(claim, expected)
        return Draft(index + 1, None, None, right, flipped=mistake is not None)
    names = _names(problem, index)
    if expected is not None and mistake == "misread":
        expected, names = _misread(problem, index, expected, names, rng)
    if claim is not None and mistake == "miscopy":
        claim = Equation(claim.left, claim.operator, claim.right, claim.result + rng.choice((-1, 1)))
    analysis = None
    judgement = False
    if mode in ("full", "analysis"):
        if expected is None:
            analysis = "Nothing is left to compute here.\n"
        elif claim is None:
            analysis = "It says no equation. " + _need(problem, index, expected, rng) + ".\n"
        else:
            same = claim.same_expression(expected)
            found = rng.choice(_SAME if same else _DIFFERENT)
            said = rng.choice(_CLAIM).format(claim=claim.text)
            analysis = said + _need(problem, index, expected, rng) + found + "\n"
            judgement = same and (not _known_by_heart(claim) or claim.holds)
    code = None
    if mode == "full":
        known = "" if expected is None else f"s{index + 1} = {names}\n"
        check = (
            "False" if expected is None or claim is None else f"s{index + 1} == {claim.expression} == {claim.result}"
        )
        code = f"{known}print({check})"
    elif mode == "code_execution":
        code = f"print({'False' if claim is None else f'{claim.expression} == {claim.result}'})"
    return Draft(index + 1, analysis, code, judgement, flipped=mistake == "verdict")


def _is_right(claim: Equation, expected: Equation) -> bool:
    return claim.same_expression(expected) and claim.result == expected.result


def _known_by_heart(equation: Equation) -> bool:
    return equation.left < 10 and equation.right < 10


def _need(problem: Problem, index: int, expected: Equation, rng: random.Random) -> str:
    return rng.choice(_NEED).format(purpose=problem.purpose(index), expected=expected.expression)


def _names(problem: Problem, index: int) -> str:
    """The plan's expression in code: numbers of the problem, and `s1, s2, …` for results of earlier steps."""
    if index >= len(problem.plan):
        return ""
    left, operator, right = problem.family.plan[index].expression.split()
    return f"{_name(problem, left)} {operator} {_name(problem, right)}"


def _name(problem: Problem, reference: str) -> str:
    number = int(reference[1:])
    return str(problem.quantities[number]) if reference[0] == "q" else f"s{number + 1}"


def _misread(problem: Problem, index: int, expected: Equation, names: str, rng: random.Random) -> tuple[Equation, str]:
    """Takes another number of the problem for the second operand."""
    others = [number for number in problem.quantities if number not in (expected.left, expected.right)]
    number = rng.choice(others)
    left, operator, _ = names.split()
    return Equation(expected.left, expected.operator, number, expected.result), f"{left} {operator} {number}"


def _judged_steps(solution: Solution) -> int:
    """Steps up to and including the first wrong one."""
    if solution.label is None:
        raise DataError(f"solution {solution.id} has no label to hold rationales against", field="label")
    return judged_steps(solution.label, len(solution.steps))


def judge(solution: Solution, mode: str, seed: int = 0, mistake_rate: float = 0.0) -> list[Rationale]:
    """The reasoner's rationales for the steps of a labelled solution up to its first wrong one.

    Args:
        solution: A solution that `world.make_solutions` made.
        mode: One of `REASONER_MODES`.
        seed: Equal arguments give equal rationales.
        mistake_rate: Probability in [0, 1] of a mistake in each rationale.
    """
    problem = Problem.from_extra(solution.extra)
    rng = random.Random(f"reasoner {mode} {seed} {solution.id}")
    interpreter = Interpreter()
    rationales = []
    for index in range(_judged_steps(solution)):
        draft = draft_rationale(problem, solution.steps, index, mode, rng, mistake_rate)
        rationales.append(draft.finish(None if draft.code is None else interpreter.run(draft.code)))
    return rationales


def rationale_records(
    solutions: Sequence[Solution],
    modes: Mapping[str, float],
    seed: int = 0,
    mistake_rate: float = 0.07,
    consensus: bool = True,
) -> tuple[list[RationaleRecord], Counter[str]]:
    """Training data: each solution is judged in one mode, and kept if all verdicts agree with its label.

    Args:
        solutions: Solutions that `world.make_solutions` or `world.as_solution` made.
        modes: Relative frequency of each mode, for example `{"full": 2, "analysis": 1}`.
        seed: Equal arguments give equal records.
        mistake_rate: Probability in [0, 1] of a mistake in each rationale.
        consensus: Whether to drop the solutions where a verdict up to the first error disagrees with the label
            (arXiv 2504.00891, section 3.2). Without, `labels` are the reasoner's verdicts.

    Returns:
        The records, and for each reason how many solutions disagree.
    """
    rng = random.Random(f"reasoner modes {seed}")
    records: list[RationaleRecord] = []
    disagreeing: Counter[str] = Counter()
    for solution in solutions:
        (mode,) = rng.choices(list(modes), list(modes.values()))
        rationales = judge(solution, mode, seed, mistake_rate)
        verdicts = [bool(rationale.judgement) for rationale in rationales]
        assert solution.label is not None  # see `judge`
        reason = disagreement(verdicts, solution.label, len(solution.steps))
        if reason is not None:
            disagreeing[reason] += 1
        if reason is None or not consensus:
            source = {"reasoner": "scripted", "mode": mode, "seed": seed}
            records.append(
                RationaleRecord(solution, [rationale.render() for rationale in rationales], verdicts, source)
            )
    return records, disagreeing
