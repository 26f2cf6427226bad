"""Splitting text into steps and joining it again."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genprm_trl.data.steps import join_steps, split_steps, written_steps
from genprm_trl.grading.thinking import is_still_thinking, without_thinking
from tests.helpers.growth import growth

STYLES = ["auto", "step", "blank_line", "line"]

# Text made of what the splitter looks at, beside arbitrary text.
pieces = st.lists(
    st.sampled_from(
        ["Step 1:", "Step 12: ", "**Step 2:** ", "## Step 3.", "\n", "\n\n", " ", "\t", "\r\n", "\u2028", "a", "step"]
    )
    | st.text(max_size=5)
).map("".join)


@settings(deadline=None)
@given(text=st.text() | pieces, style=st.sampled_from(STYLES))
@example(text="", style="auto")
@example(text=" \n \n", style="blank_line")
@example(text="\x00\x1c\x85", style="line")
def test_nothing_is_lost_and_no_step_is_empty(text, style):
    split = split_steps(text, style)
    assert split.join() == text
    assert join_steps(split.steps, split.separators) == text
    assert all(step and step == step.strip() for step in split.steps)
    assert all(not separator.strip() for separator in split.separators)
    assert bool(split.steps) == bool(text.strip())


@settings(deadline=None)
@given(steps=st.lists(st.text("abc 1:", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_joined_steps_split_as_they_were(steps):
    assert split_steps(join_steps(steps), "blank_line").steps == steps
    assert split_steps(join_steps(steps, "\n"), "line").steps == steps
    numbered = [f"Step {k}: {step}" for k, step in enumerate(steps, start=1)]
    assert split_steps(join_steps(numbered, "\n"), "auto").steps == numbered


@pytest.mark.parametrize(
    ("text", "style", "steps"),
    [
        ("Step 1: add.\nThen more.\nStep 2: stop.", "step", ["Step 1: add.\nThen more.", "Step 2: stop."]),
        ("Sure.\n\nStep 1: a\n\nStep 2: b", "step", ["Sure.", "Step 1: a", "Step 2: b"]),
        ("**Step 1: Add**\n2+2\n### Step 2. b", "step", ["**Step 1: Add**\n2+2", "### Step 2. b"]),
        ("As Step 1: shows, it is 4.", "step", ["As Step 1: shows, it is 4."]),
        ("a\nb\n\n\n  \n  c\n", "blank_line", ["a\nb", "c"]),
        ("a\r\n\r\nb\r\n", "blank_line", ["a", "b"]),
        ("a\n\n```python\nx = 1\n\ny = 2\n```\n\nb", "blank_line", ["a", "```python\nx = 1\n\ny = 2\n```", "b"]),
        ("```\r\nx\r\n\r\ny\r\n```\r\n\r\nb", "blank_line", ["```\r\nx\r\n\r\ny\r\n```", "b"]),
        ("a\n~~~\nx\n```\n\ny\n~~~~ \nb", "line", ["a", "~~~\nx\n```\n\ny\n~~~~", "b"]),
        ("Step 1: a\n```\n# Step 2: b\n```\nStep 2: c", "step", ["Step 1: a\n```\n# Step 2: b\n```", "Step 2: c"]),
        ("a\n\n```python\nx = 1\n\nb", "blank_line", ["a", "```python\nx = 1", "b"]),  # never closed
        ("a\n\n b \nc", "line", ["a", "b", "c"]),
        (" \n ", "line", []),
    ],
)
def test_styles(text, style, steps):
    assert split_steps(text, style).steps == steps


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Step 1 - add", "Step 2 - stop"),
        ("Step 1 \u2013 add", "Step 2 \u2014 stop"),
        ("Step 1 -- add", "Step 2 -"),
        ("Step one: add", "Step two: stop"),
        ("STEP ELEVEN. add", "**Step Twelve - stop**"),
        ("Step 1) add", "step 2) stop"),
        ("Step #1: add", "Step1: add"),
        ("Step 1\nadd", "Step 2\r\nstop"),
        ("## Step 1\nadd", "**Step 2**\nstop"),
        ("***Step 1:*** add", "*Step 2:* stop"),
        (r"\textbf{Step 1:} add", r"\textbf{Step 2}: stop"),
        ("Step 1\uff1aadd", "**Step 2\uff1a** stop"),
        ("Step 1 \u2212 add", "Step 2 \u2212 stop"),
        ("Step\u00a01: add", "Step 2\u00a0: stop"),
        ("Step 1 (setup): add", "**Step 2 (the end)** - stop"),
        ("Step 1 (setup)\nadd", "### Step 2 (the end)\nstop"),
        ("Step 1/3: add", "Step 2 / 3. stop"),
        ("Step 1 of 3: add", "**Step 2 of 3**\nstop"),
        ("Step [1]: add", "Step [2] - stop"),
        ("[Step 1] add", "**[Step 2: stop]**"),
        ("- Step 1: add", "* **Step 2:** stop"),
        ("> Step 1: add", "> > **Step 2**: stop"),
        ("<b>Step 1</b>: add", "<strong>Step 2: stop</strong>"),
        ("<h3>Step 1</h3>\nadd", "<b>Step 2.</b> stop"),
        ("Step 1 - 2 apples", "Step 2: 2 = 2"),
    ],
)
@pytest.mark.parametrize("joint", ["\n", "\n\n"])
def test_headings(first, second, joint):
    split = split_steps(first + joint + second)
    assert split.style == "step"
    assert split.steps == [first, second]


@pytest.mark.parametrize(
    "line",
    [
        "Step 1, we add.",
        "Step 1 we add.",
        "Step by step, it grows.",
        "Step one we add.",
        "Step onerous: no",
        "Step 1 -2 = x",
        "Step 2.5 is half",
        "Step 1 - 2 = -1 shows",
        "Step 1 \u2212 2 = \u22121 shows",
        "Step 1 - 2.5 < 0",
        "Step 1 (see above) gives 4.",
        "Step 1 (see above). Then add",
        "Step 1/3 of it",
        "Step 1 of the proof: add",
        "Step 1] add",
        "[Step 1 of the proof] add",
        "-Step 1: add",
        "Step 1's result",
        "Step: add",
        "Step 12345: add",
        "Steps 1: add",
        "A Step 1: add",
        "Step - one",
    ],
)
def test_lines_that_are_no_headings(line):
    assert split_steps(f"a\n{line}", "step").steps == [f"a\n{line}"]


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("Step 1: one step only\n\nwith a paragraph", "step"),
        ("\n Step 1: after white space", "step"),
        ("Intro\nStep 1: a\nStep 2: b", "step"),
        ("See\nStep 2: of the guide\n\nfor more", "blank_line"),
        ("a\nb\n\nc", "blank_line"),
        ("a\nb", "line"),
        ("", "line"),
    ],
)
def test_auto_takes_the_most_telling_style(text, style):
    split = split_steps(text, "auto")
    assert split.style == style
    assert split == split_steps(text, style)


def test_errors():
    with pytest.raises(ValueError, match="unknown step style 'paragraph'"):
        split_steps("a", "paragraph")
    with pytest.raises(ValueError, match="2 steps need 3 separators, not 1"):
        join_steps(["a", "b"], ["\n"])


@pytest.mark.parametrize(
    "text", [" " * 300_000, "\n" * 300_000, ("step 1" + " " * 1000) * 300, "> " * 150_000, "Step 1:\n" * 40_000]
)
def test_time_is_linear(text):
    for style in STYLES:
        assert split_steps(text, style).join() == text
        assert growth(lambda part, style=style: split_steps(part, style).join(), text) < 30


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("<think>Is it 5? No.</think>Step 1: 2+2=4\nStep 2: So 4.", ["Step 1: 2+2=4", "Step 2: So 4."]),
        ("Is it 5? No.\n</think>\n\nFour.\n\nYes.", ["Four.", "Yes."]),
        ("<think>a\n\nb</think>\n\n<think>c</think>\n\nFour.", ["Four."]),
        ("Step 1: a <think>b\nStep 7: c</think> d\nStep 2: e", ["Step 1: a  d", "Step 2: e"]),
        ("So<think>hm</think>Step 1: a\nStep 2: b", ["So", "Step 1: a", "Step 2: b"]),
        ("<THINKING>a</THINKING>\nb", ["b"]),
        ("<think>Is it 5? Let me", []),
        ("Four.\n<think>Or is it", []),
        ("<think>a</think>", []),
        ("", []),
        ("Four.\nYes.", ["Four.", "Yes."]),
    ],
)
def test_thoughts_are_no_steps(text, steps):
    written = written_steps(text)
    assert [step.text for step in written] == steps
    for step in written:  # each ends where its last character is
        assert text[: step.end].endswith(step.text[-1])
        assert text[step.end : step.end + 1].strip() == "" or text[step.end :].startswith("<")


def test_a_block_that_the_template_opened_hides_all_that_does_not_end_it():
    assert written_steps("2+2=4\nSo 4.", thinking="opened") == []
    assert [step.text for step in written_steps("Hm.</think>2+2=4\nSo 4.", thinking="opened")] == ["2+2=4", "So 4."]
    assert written_steps("Hm.</think>4 <think>or", thinking="opened") == []


def test_thoughts_are_steps_where_that_is_asked_for():
    text = "<think>Is it 5?\nNo.</think>\nFour."
    assert [step.text for step in written_steps(text, thinking="judge")] == split_steps(text).steps


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "Step 1: a", "Step 2: b", "c", " ", "\n", "\n\n"])))
def test_steps_are_those_of_the_text_without_its_thoughts(pieces):
    text = "".join(pieces)
    written = written_steps(text)
    if is_still_thinking(text):
        assert written == []
        return
    assert [step.text for step in written] == split_steps(without_thinking(text)).steps
    assert [step.end for step in written] == sorted({step.end for step in written})
