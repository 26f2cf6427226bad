"""The one-turn critique of ProcessBench: its prompt byte for byte, its answer, the vote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.protocol import critique_prompt, parse_critique, vote
from genprm_trl.protocol.critique import tag_paragraphs
from tests.helpers.growth import growth

EXPECTED = r"""The following is a math problem and a solution (split into paragraphs, enclosed with tags and indexed from 0):

[Math Problem]

What is {1, 2}? {problem}

[Solution]

<paragraph_0>
It is a set.
</paragraph_0>

<paragraph_1>
So \boxed{2}.
</paragraph_1>

Your task is to review and critique the solution paragraph by paragraph. Once you identify an error in a paragraph, return the index of the paragraph where the earliest error occurs. Otherwise, return the index of -1 (which typically denotes "not found").

Please put your final answer (i.e., the index) in \boxed{}."""  # noqa: E501


def test_prompt_is_the_benchmarks():
    prompt = critique_prompt("What is {1, 2}? {problem}", ["It is a set.", r"So \boxed{2}."])
    assert prompt == EXPECTED


def test_paragraphs_can_be_numbered_from_one():
    assert tag_paragraphs(["a"], first=1) == "<paragraph_1>\na\n</paragraph_1>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"The answer is \boxed{3}.", 3),
        (r"\boxed{-1}", -1),
        (r"First \boxed{0}, no: \boxed{ 12 }", 12),
        (r"\boxed{2} and then \boxed{none}", None),  # the last box counts, readable or not
        (r"\boxed{\boxed{3}}", None),  # the benchmark's pattern finds `\boxed{3`
        (r"\boxed{3} then \boxed{4", 3),  # a box that never closes is none
        (r"\boxed{}", None),
        (r"\boxed{1.0}", None),
        (r"\boxed{" + "9" * 5000 + "}", None),
        ("3", None),
        ("", None),
    ],
)
def test_answer(text, expected):
    assert parse_critique(text) == expected


@pytest.mark.parametrize(("index", "expected"), [(-2, None), (-1, -1), (0, 0), (1, 1), (2, None)])
def test_answer_within_the_solution(index, expected):
    assert parse_critique(f"\\boxed{{{index}}}", num_steps=2) == expected


@given(st.lists(st.sampled_from(["\\boxed{", "}", "1", "-"]) | st.text(st.characters(codec=None))).map("".join))
def test_any_text_is_read(text):
    answer = parse_critique(text)
    assert answer is None or isinstance(answer, int)


@pytest.mark.parametrize("text", ["\\boxed{" * 15_000, ("\\boxed{" + " " * 100) * 1000, "\\boxed{" + "1" * 100_000])
def test_time_is_linear(text):
    assert parse_critique(text) is None
    assert growth(parse_critique, text) < 30


def test_vote():
    assert vote([None, 2, 1, 2, None, None]) == 2
    assert vote([3, 1, 1, 3]) == 3  # a tie goes to the one seen first
    assert vote([-1, None]) == -1
    assert vote([None, None]) is None
    assert vote([]) is None
