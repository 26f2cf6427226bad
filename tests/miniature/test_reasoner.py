"""What the scripted reasoner sees in each mode, and what the consensus filter makes of its mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.generation.base import SamplingParams
from genprm_trl.labeling.consensus import decide
from genprm_trl.labeling.critiques import SampledSolution
from genprm_trl.labeling.rationales import Reasoner
from genprm_trl.miniature.families import FAMILIES
from genprm_trl.miniature.planted_errors import ARITHMETIC, STRUCTURAL
from genprm_trl.miniature.reasoner import REASONER_MODES, judge, rationale_records
from genprm_trl.miniature.reasoner_generator import ScriptedReasoner
from genprm_trl.miniature.word_problems import Problem, read_equation
from genprm_trl.miniature.world import as_solution, make_problems, make_solutions
from genprm_trl.protocol import GenPRMProtocol, Mode, Rationale, parse_rationale
from genprm_trl.records import Solution
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox.base import Session
from tests.helpers.tiny_models import tiny_tokenizer

SOLUTIONS = make_solutions(300, seed=21, error_share=0.8)


def right_verdicts(solution: Solution) -> list[bool]:
    judged = len(solution.steps) if solution.label == -1 else solution.label + 1
    return [index != solution.label for index in range(judged)]


def sees(solution: Solution, mode: str) -> bool:
    return [rationale.judgement for rationale in judge(solution, mode)] == right_verdicts(solution)


def by_heart(solution: Solution) -> bool:
    equation = read_equation(solution.steps[solution.label])
    return equation.left < 10 and equation.right < 10


@pytest.mark.parametrize("mode", ["full", "direct"])
def test_without_mistakes_it_agrees_with_the_truth(mode: str) -> None:
    assert all(sees(solution, mode) for solution in SOLUTIONS)


def test_words_see_structure_and_not_arithmetic() -> None:
    for solution in SOLUTIONS:
        blind = solution.extra["error_kind"] in ARITHMETIC and not by_heart(solution)
        assert sees(solution, "analysis") != blind


def test_words_see_arithmetic_that_is_known_by_heart() -> None:
    words = {"name": "Anna", "item": "pens"}
    easy = Problem(FAMILIES[0], (3, 8, 2, 7, 5), telling=0, words=words)
    true = easy.plan[0]
    assert max(true.left, true.right) < 10
    wrong = as_solution(easy, [f"Step 1: {true.expression} = {true.result + 1}"], "easy", "test")
    assert wrong.label == 0
    assert [rationale.judgement for rationale in judge(wrong, "analysis")] == [False]


def test_code_alone_sees_arithmetic_and_not_structure() -> None:
    for solution in SOLUTIONS:
        assert sees(solution, "code_execution") != (solution.extra["error_kind"] in STRUCTURAL)


@pytest.mark.parametrize("mode", REASONER_MODES)
def test_rationales_have_the_parts_of_their_mode(mode: str) -> None:
    parts = Mode.of(mode)
    for solution in SOLUTIONS[:40]:
        for number, rationale in enumerate(judge(solution, mode, mistake_rate=0.3), 1):
            text = rationale.render()
            assert parse_rationale(text).status == "ok"
            assert rationale.step == number
            assert (rationale.analysis is not None) == parts.analyze
            assert bool(rationale.blocks) == parts.verify
            assert "".join(segment.text for segment in GenPRMProtocol(mode).segments(text)) == text


async def outputs_in(session: Session, rationales: Sequence[Rationale]) -> list[str]:
    """What the code blocks of rationales print, run in order in a sandbox session."""
    blocks = [block for rationale in rationales for block in rationale.blocks]
    return [(await session.run(block.code)).output for block in blocks]


@pytest.mark.parametrize("mode", ["full", "code_execution"])
async def test_the_sandbox_prints_what_the_reasoner_was_shown(mode: str) -> None:
    async with LocalSandbox() as sandbox:
        for solution in SOLUTIONS[:12]:
            rationales = judge(solution, mode, seed=5, mistake_rate=0.3)
            shown = [block.output for rationale in rationales for block in rationale.blocks]
            assert shown
            async with sandbox.session() as session:
                assert await outputs_in(session, rationales) == shown


async def test_errors_of_the_code_read_as_in_the_sandbox() -> None:
    problem = make_problems(1, seed=1)[0]
    solution = as_solution(problem, ["Step 1: 3 / 0 = 5"], "zero", "test")
    here = judge(solution, "code_execution")
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        assert await outputs_in(session, here) == [here[0].blocks[0].output]
    assert "ZeroDivisionError" in here[0].blocks[0].output
    assert here[0].judgement is False


def test_unreadable_and_surplus_steps_are_rejected_in_every_mode() -> None:
    problem = make_problems(1, seed=1)[0]
    gold = [f"Step {number}: {equation.text}" for number, equation in enumerate(problem.plan, 1)]
    unreadable = as_solution(problem, ["Step 1: no idea"], "a", "test")
    surplus = as_solution(problem, [*gold, "Step 9: 1 + 1 = 2"], "b", "test")
    for mode in REASONER_MODES:
        assert judge(unreadable, mode)[-1].judgement is False
        if mode != "code_execution":  # whose equation is true
            assert judge(surplus, mode)[-1].judgement is False


def test_code_uses_names_of_earlier_steps() -> None:
    solution = next(s for s in SOLUTIONS if s.extra["family"] == "packing" and s.label == -1)
    codes = [rationale.blocks[0].code for rationale in judge(solution, "full")]
    assert codes[2].startswith("s3 = s1 + s2\n")


def test_consensus_drops_what_disagrees_with_the_label() -> None:
    modes = {"full": 2, "analysis": 1, "code_execution": 1, "direct": 1}
    records, dropped = rationale_records(SOLUTIONS, modes, mistake_rate=0.1)
    assert len(records) + dropped.total() == len(SOLUTIONS)
    assert set(dropped) == {"disagrees_before_first_error", "disagrees_at_first_error"}
    for record in records:
        assert record.labels == right_verdicts(record.solution)
        assert [parse_rationale(text).rationale.judgement for text in record.rationales] == record.labels
    everything, _ = rationale_records(SOLUTIONS, modes, mistake_rate=0.1, consensus=False)
    assert len(everything) == len(SOLUTIONS)
    disagreeing = [record for record in everything if record.labels != right_verdicts(record.solution)]
    assert len(disagreeing) == dropped.total()


def test_mistakes_come_at_their_rate() -> None:
    _, flawless = rationale_records(SOLUTIONS, {"full": 1}, mistake_rate=0)
    _, careless = rationale_records(SOLUTIONS, {"full": 1}, mistake_rate=0.1)
    assert flawless.total() == 0
    # About three rationales a solution: 1 - 0.9 ** 3 is 27 %, less what is right by luck.
    assert 0.12 < careless.total() / len(SOLUTIONS) < 0.35


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="telepathy"):
        rationale_records(SOLUTIONS[:1], {"telepathy": 1})


def test_a_problem_is_read_back_from_its_text() -> None:
    for problem in [*make_problems(200, seed=5), *make_problems(200, seed=6, small_share=1)]:
        read = Problem.from_text(problem.text)
        assert (read.family, read.quantities, read.text) == (problem.family, problem.quantities, problem.text)
    assert Problem.from_text("What is 1 + 1?") is None


@pytest.mark.parametrize("thinking", [False, True])
async def test_as_a_generator_it_agrees_with_the_truth_unless_it_makes_mistakes(thinking: bool) -> None:
    async def agreeing(mistake_rate: float, slip_rate: float) -> int:
        generator = ScriptedReasoner(
            tokenizer=tiny_tokenizer(), mistake_rate=mistake_rate, slip_rate=slip_rate, thinking=thinking
        )
        reasoner = Reasoner(generator, sandbox)
        samples = await asyncio.gather(*(reasoner.critiques(solution) for solution in SOLUTIONS[:80]))
        return sum(
            decide(SampledSolution(solution, made)).record is not None
            for solution, made in zip(SOLUTIONS[:80], samples, strict=True)
        )

    async with LocalSandbox(imports=()) as sandbox:
        assert await agreeing(0.0, 0.0) == 80
        assert 40 < await agreeing(0.1, 0.0) < 80
        assert await agreeing(0.0, 1.0) == 0


async def test_as_a_generator_it_keeps_to_bounds_and_reads_other_prompts() -> None:
    generator = ScriptedReasoner(tokenizer=tiny_tokenizer())
    prompt = generator.tokenizer.encode("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    result = await generator.generate(prompt, SamplingParams(max_new_tokens=3))
    assert (len(result.token_ids), result.finish_reason) == (3, "length")
    full = await generator.generate(prompt, SamplingParams(max_new_tokens=100))
    assert (full.finish_reason, full.text) == ("stop", "I can judge problems of the miniature world alone.")
    await generator.close()
    with pytest.raises(GenPRMError, match="closed"):
        await generator.generate(prompt, SamplingParams())
    with pytest.raises(ConfigError, match="slip_rate"):
        ScriptedReasoner(tokenizer=tiny_tokenizer(), slip_rate=2)
