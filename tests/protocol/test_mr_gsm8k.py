"""What MR-GSM8K asks, and how answers are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.protocol.mr_gsm8k import (
    explanation_prompt,
    parse_decision,
    parse_solution_critique,
    solution_critique_prompt,
)


def test_the_prompts_hold_what_they_ask_about():
    prompt = solution_critique_prompt("What is {x}?", ["Step 1: {a}", "Step 2: b"])
    assert "Question:\nWhat is {x}?\n\nStudent Solution:\nStep 1: {a}\nStep 2: b\n" in prompt
    prompt = explanation_prompt("What?", ["Step 1: a"], 1, "It is b.", "It should be {b}.")
    assert "- Math Question: What?\n- Incorrect Solution Provided: ['Step 1: a']\n" in prompt
    assert "- First Incorrect Step in the Solution: 1\n- Ground Truth Error Reason: It is b.\n" in prompt
    assert "- Student's Explanation of the Error: It should be {b}.\n" in prompt


@pytest.mark.parametrize(
    ("judgement", "step", "found"),
    [
        ("correct", "N/A", (-1, None)),
        ("Correct.", "N/A", (-1, None)),
        ("wrong", "2", (1, 2)),
        ("incorrect", "Step 3", (2, 3)),
        ("[Incorrect]", "Step 3: the sum", (2, 3)),
        ("not correct", "1.", (0, 1)),
        ("wrong", "N/A", (-2, None)),
        ("wrong", "0", (-2, 0)),
    ],
)
def test_a_critique_is_read(judgement, step, found):
    for mark in ("", "**"):
        text = (
            f"{mark}Step-by-step Evaluation:{mark} Step 1 is correct.\n{mark}Final Judgement:{mark} {judgement}\n"
            f"{mark}First Error Step:{mark} {step}\n\n{mark}Error Analysis:{mark} Because of 5: it is wrong."
        )
        critique = parse_solution_critique(text)
        assert (critique.prediction, critique.first_error_step) == found
        assert critique.reason == "Because of 5: it is wrong."


@pytest.mark.parametrize("text", ["", "It is correct.", "Final Judgement: hard to say\nFirst Error Step: 1"])
def test_what_says_neither_is_not_read(text):
    assert parse_solution_critique(text) is None


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("Final Decision: Correct", True),
        ("3. **Final Decision:** [Correct]", True),
        ("Final Decision:\n- Correct", True),
        ("It is correct.\nFinal Decision: Wrong", False),
        ("Final Decision: Incorrect", False),  # which holds the word correct
        ("Final Decision: not correct", False),
        ("Final Decision: Partially correct", False),
        ("Final Decision: Correct? No.\nFinal Decision: Wrong", False),
        ("The explanation is correct.", None),
        ("Final Decision: perhaps", None),
        ("", None),
    ],
)
def test_a_decision_is_read(text, accepted):
    assert parse_decision(text) is accepted


words = st.sampled_from(
    ["Final Judgement:", "First Error Step:", "Error Analysis:", "Final Decision:", "correct", "incorrect", "**", "7"]
)


@given(st.lists(words | st.text(max_size=4), max_size=12).map(" ".join))
def test_any_text_is_read(text):
    critique = parse_solution_critique(text)
    assert critique is None or critique.prediction >= -2
    assert parse_decision(text) in (True, False, None)
