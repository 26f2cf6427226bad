"""What PRMBench asks of critics, and how their scores are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.protocol.prmbench import parse_step_scores, step_scores_prompt


def test_the_prompt_numbers_the_steps_itself():
    prompt = step_scores_prompt("What is {x}?", ["1. It is {a}.", "Step 2. So b.", " 3 + 4 = 7 "])
    assert prompt.startswith("You are a mathematical reasoning evaluator.")
    assert '{"validity": [0.8, -0.5, 1.0], "redundancy": [-1.0, 0.3, 0.7]}' in prompt
    end = "Question: What is {x}?\n\n Solutions: Step 1: It is {a}. \n\nStep 2: So b. \n\nStep 3: 3 + 4 = 7 \n\n"
    assert prompt.endswith(end)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"validity": [0.5, -1], "redundancy": [-1, 0.1]}', ([True, False], [False, True])),
        ('{"validity": [1, 0], "redundancy": []}', ([True, False], None)),
        ('{"validity": [1, 0]}', ([True, False], None)),
        ('{"redundancy": [1, 1], "validity": [1, 1]}', ([True, True], [True, True])),
        (
            'So {5}. ```json\n{ "validity": [1, // fine\n -1], "redundancy": [0, 0] }\n```',
            ([True, False], [False] * 2),
        ),
        ('{"validity": [1]} or {"validity": [1, 1]}', ([True, True], None)),
        ('{"validity": [1, 1, 1]}', None),
        ('{"validity": [true, false]}', None),
        ('{"validity": [1, NaN]}', None),
        ('{"validity": ["1", "0"]}', None),
        ('{"validity": [1, 1', None),
        ("They are all right.", None),
        ("", None),
    ],
)
def test_scores_are_read(text, found):
    assert parse_step_scores(text, 2) == found


@given(st.text(alphabet='{}[]",:"validityredundancy-1.0e \n#/', max_size=80), st.integers(0, 3))
def test_any_text_is_read(text, steps):
    parse_step_scores(text, steps)
    parse_step_scores('{"validity": ' + text, steps)
