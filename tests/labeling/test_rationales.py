"""Critiques sampled from a reasoner: real chat templates, real code execution, any text, kills."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genprm_trl.conversation.template import ChatFormat
from genprm_trl.data.solutions import iter_records
from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.labeling.consensus import decide
from genprm_trl.labeling.critiques import SAMPLE_STATUSES, SampledSolution
from genprm_trl.labeling.rationales import RationaleSettings, Reasoner
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Solution
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox.base import ExecutionResult
from genprm_trl.stages.file import stage_directory
from tests.helpers.forked import exit_code_of
from tests.helpers.rationale_program import open_scripted, run, run_and_die, worker
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import CHATML_TEMPLATE

SOLUTION = Solution("s1", "What is 2 * 3 + 1?", ["2 * 3 = 6", "6 + 1 = 8"], label=1)
_PROMPT = "<|im_start|>assistant\n"
# As those of QwQ-32B and DeepSeek-R1: the generation prompt opens the thinking block.
THINKING_TEMPLATE = CHATML_TEMPLATE.replace(
    "{% if add_generation_prompt %}{{ '" + _PROMPT, "{% if add_generation_prompt %}{{ '" + _PROMPT + "<think>\n"
)


@pytest.fixture
async def sandbox():
    async with LocalSandbox(imports=()) as sandbox:
        yield sandbox


def critic(prompt: str) -> str:
    """A reasoner that checks both steps, the second with a name that the first defined."""
    turn = prompt.rpartition("<|im_start|>assistant\n")[2]
    blocks = turn.count("[Code Output]")
    parts = [
        "### Paragraph 1\n<analyze>\nA product.\n</analyze>\n<verify>\n```python\na = 2 * 3\nprint(a == 6)\n```\n",
        "</verify>\n\n### Paragraph 2\n<analyze>\nA sum.\n</analyze>\n<verify>\n```python\nprint(a + 1 == 8)\n```\n",
        "So it is 7.\n</verify>\n\nThe first wrong one: \\boxed{2}",
    ]
    return parts[blocks]


def reasoner(script: Any, sandbox: LocalSandbox, template: str | None = None, **changes: Any) -> Reasoner:
    return Reasoner(ScriptedGenerator(script), sandbox, RationaleSettings(**changes), chat_template=template)


async def test_a_critique_runs_its_code_and_becomes_training_data(sandbox):
    sample = await reasoner(critic, sandbox).critique(SOLUTION)
    assert sample.status == "complete"
    assert [(code.code, code.output, code.status) for code in sample.code_rounds] == [
        ("a = 2 * 3\nprint(a == 6)", "True", "ok"),
        ("print(a + 1 == 8)", "False", "ok"),
    ]
    assert sample.num_tokens > 50
    record = decide(SampledSolution(SOLUTION, [sample])).record
    assert record.labels == [True, False]
    assert "[Code Output]\n\n```\nFalse\n```\nSo it is 7.\n</verify>\n" in record.rationales[1]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("opened_by", ["model", "template"])
async def test_thinking_is_no_part_of_the_answer(sandbox, keep, opened_by):
    thoughts = "Is it 8?\n```python\nprint(0)\n```\n\\boxed{1}"

    def thinker(prompt: str) -> str:
        turn = prompt.rpartition("<|im_start|>assistant\n")[2]
        if "</think>" in turn:
            return critic(prompt)
        opening = "" if turn.startswith("<think>") else "<think>"
        return f"{opening}{thoughts}</think>\n\n{critic(prompt)}"

    template = THINKING_TEMPLATE if opened_by == "template" else None
    sample = await reasoner(thinker, sandbox, template, keep_thinking=keep).critique(SOLUTION)
    assert sample.answer.lstrip().startswith("### Paragraph 1\n")
    assert len(sample.code_rounds) == 2
    assert sample.thinking == (thoughts if keep else None)
    record = decide(SampledSolution(SOLUTION, [sample])).record
    plain = await reasoner(critic, sandbox).critique(SOLUTION)
    assert record.rationales == decide(SampledSolution(SOLUTION, [plain])).record.rationales


def test_templates_that_open_a_thinking_block_are_recognised():
    tokenizer = ScriptedGenerator(critic).tokenizer
    assert not ChatFormat(tokenizer).opens_thinking
    assert ChatFormat(tokenizer, chat_template=THINKING_TEMPLATE).opens_thinking


async def test_endless_thinking_is_counted(sandbox):
    sample = await reasoner(lambda prompt: "<think>" + "hm " * 500, sandbox, max_tokens=200).critique(SOLUTION)
    assert sample.status == "unfinished_thinking"
    assert decide(SampledSolution(SOLUTION, [sample])).reason == "unfinished_thinking"


async def test_a_solution_longer_than_the_context_is_counted(sandbox):
    long = Solution("long", "What?", ["word " * 9000], label=0)
    sample = await reasoner(critic, sandbox).critique(long)
    assert (sample.status, sample.num_tokens) == ("out_of_tokens", 0)


async def test_failures_of_generator_and_sandbox_are_not_the_models(sandbox):
    with pytest.raises(GenPRMError, match="out of memory"):
        await reasoner(lambda prompt: Reply("", error="out of memory"), sandbox).critique(SOLUTION)

    class Broken(LocalSandbox):
        def session(self):
            session = super().session()

            async def fail(code: str) -> ExecutionResult:
                return ExecutionResult("the disk is gone", "sandbox_error", 0.0)

            session.run = fail
            return session

    async with Broken(imports=()) as broken:
        with pytest.raises(GenPRMError, match="the disk is gone"):
            await reasoner(critic, broken).critique(SOLUTION)


async def test_samples_differ_and_repeat_with_the_seed(sandbox):
    solution = make_solutions(1, seed=9)[0]

    async def answers(seed: int) -> list[str]:
        settings = RationaleSettings(samples=3, seed=seed)
        return [sample.answer for sample in await Reasoner(open_scripted(), sandbox, settings).critiques(solution)]

    first = await answers(0)
    assert first == await answers(0)
    assert len({*first, *await answers(1)}) == 6


@pytest.mark.parametrize("change", [{"samples": 0}, {"max_tokens": 0}, {"max_code_rounds": 0}, {"temperature": -1}])
def test_settings_are_checked(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        RationaleSettings(**change)


PIECES = [
    *("```python\n", "\n```\n", "print('</verify>')", "x = 1", "<think>", "</think>", "### Paragraph 1\n"),
    *("\\boxed{2}", "<analyze>\n", "\n</analyze>\n<verify>\n", "</verify>\n"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=8).map("".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=8).map("".join), min_size=1, max_size=5)
)
def test_any_text_ends_in_a_counted_outcome(texts):
    async def critique() -> SampledSolution:
        replies = iter(texts)
        async with LocalSandbox(imports=()) as sandbox:
            judge = reasoner(lambda prompt: next(replies, "that is all"), sandbox, max_tokens=300, max_code_rounds=3)
            return SampledSolution(SOLUTION, [await judge.critique(SOLUTION)])

    sampled = asyncio.run(critique())
    assert sampled.samples[0].status in SAMPLE_STATUSES
    decision = decide(sampled)
    assert (decision.record is None) == (decision.reason is not None)


def test_the_stage_counts_and_says_what_rows_were_made_from(tmp_path):
    output = tmp_path / "samples.jsonl"
    summary = run(str(output), 30)
    sampled = list(iter_records(output, SampledSolution))
    assert [item.solution for item in sampled] == make_solutions(30, seed=3)
    assert {len(item.samples) for item in sampled} == {2}
    assert sampled[0].source == {"reasoner": "scripted"}
    samples = [sample for item in sampled for sample in item.samples]
    assert summary.counts["tokens"] == sum(sample.num_tokens for sample in samples)
    assert summary.counts["code_blocks"] == sum(len(sample.code_rounds) for sample in samples)
    statuses = Counter(f"status/{sample.status}" for sample in samples)
    assert {name: count for name, count in summary.counts.items() if name.startswith("status/")} == statuses
    decisions = Counter(decide(item).reason for item in sampled)
    assert decisions[None] > 15
    assert len(decisions) > 2


def test_killed_and_taken_up_it_ends_with_the_same_output(tmp_path):
    reference, output = tmp_path / "reference.jsonl", tmp_path / "killed.jsonl"
    run(str(reference), 24)
    rng = random.Random(7)
    left = 24
    for kill in range(3):
        point = rng.randint(2, 6)
        assert exit_code_of(run_and_die, str(output), 24, point, kill % 2 == 1) == -9
        left -= point - kill % 2
        assert (stage_directory(output) / "journal.jsonl").read_bytes().count(b"\n") == 24 - left
    summary = run(str(output), 24)
    assert output.read_bytes() == reference.read_bytes()
    assert summary.items == 24


def test_a_generator_that_dies_keeps_what_was_finished(tmp_path):
    output, reference = tmp_path / "samples.jsonl", tmp_path / "reference.jsonl"

    class Dying(type(open_scripted())):
        left = 120

        async def generate(self, *words: Any, **options: Any):
            self.left -= 1
            if self.left < 0:
                raise GenPRMError("the engine died")
            return await super().generate(*words, **options)

    def dying() -> Any:
        made = open_scripted()
        made.__class__ = Dying
        return made

    with pytest.raises(GenPRMError, match="the engine died"):
        run(str(output), 24, worker=worker(open_generator=dying))
    kept = (stage_directory(output) / "journal.jsonl").read_bytes().count(b"\n")
    assert 0 < kept < 24
    run(str(output), 24)
    run(str(reference), 24)
    assert output.read_bytes() == reference.read_bytes()
