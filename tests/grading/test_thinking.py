"""What is left of a text when its thinking is taken off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.grading.comparison import grade
from genprm_trl.grading.thinking import is_still_thinking, opens_thinking, without_thinking
from tests.helpers.growth import growth


@pytest.mark.parametrize(
    ("text", "answer", "unfinished"),
    [
        ("", "", False),
        ("no thinking \\boxed{1}", "no thinking \\boxed{1}", False),
        ("<think>a \\boxed{3}</think>b", "b", False),
        ("a \\boxed{3}</think>b", "b", False),  # the chat template had opened the block
        ("\n <think>a", "\n ", True),  # tokens ran out
        ("Well. <think>a \\boxed{5}", "Well. ", True),
        ("<think>a</think>b<think>c</think>d", "b\nd", False),
        ("Step 1: a\n\n<think>c</think>Step 2: b", "Step 1: a\n\nStep 2: b", False),
        ("The answer is 5.<think>It is.</think>", "The answer is 5.", False),
        ("<think>a</think>\n<think>b", "\n", True),
        ("<think>of <think> tags</think>b", "b", False),
        ("a</think>b</think>c", "c", False),
        ("<thinking>a</thinking>b", "b", False),
        ("[THINK]a[/THINK]b", "b", False),
        ("<think>of [THINK] and [/THINK]", "", True),
        ("<think>a <reasoning>b</reasoning> c</think>d", "d", False),
        ("<think>a[/THINK]b", "b", False),  # a template may open a block with another tag than was known
        ("a `<think>` tag is used", "a `<think>` tag is used", False),
        ("a <think> tag is used", "a <think> tag is used", False),
        ('print("<think>") 5', 'print("<think>") 5', False),
        ("<think>I end with `</think>`, so", "", True),
        ("x<think and 5", "x<think and 5", False),
        ("I think 5 < 6 > 4", "I think 5 < 6 > 4", False),
    ],
)
def test_what_is_outside_of_blocks(text, answer, unfinished):
    assert without_thinking(text) == answer
    assert is_still_thinking(text) is unfinished


TAGS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<think >", "</think >"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]


@pytest.mark.parametrize(("start", "end"), TAGS)
def test_tags_of_all_models(start, end):
    assert without_thinking(f"{start}a{end}b") == "b"
    assert without_thinking(f"a{end}b") == "b"
    assert is_still_thinking(f"{start}It is \\boxed{{5}}.")
    assert opens_thinking(f"A question\n{start}\n")
    assert grade(f"{start}It is \\boxed{{5}}.", "5").status == "no_answer"
    assert not grade(f"{start}It is \\boxed{{5}}.{end}The answer is 6.", "5").correct
    assert grade(f"{start}It is \\boxed{{5}}.{end}The answer is 6.", "6").correct


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n"])).map("".join))
def test_no_tag_is_left_and_nothing_comes_to_it(text):
    left = without_thinking(text)
    assert "think>" not in left
    assert left.count("a") <= text.count("a")
    assert without_thinking(left) == left


@pytest.mark.parametrize(
    "text", ["<think>" * 50_000, "</think>" * 50_000, "<" * 300_000, "<think>a</think>b" * 20_000]
)
def test_time_is_linear(text):
    assert growth(without_thinking, text) < 30
