"""The critique that a strong reasoner writes of a whole solution: prompt, parsing, rendering, what SFT gets of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.protocol import Synthesis, parse_rationale, parse_synthesis, synthesis_prompt
from genprm_trl.protocol.synthesis import SYNTHESIS_STOP, ParagraphCritique
from tests.helpers.growth import growth

TAGS = [
    "```python\n",
    "<analyze>",
    "</analyze>",
    "<verify>",
    "</verify>",
    "### Paragraph 2\n",
    "\\boxed{1}",
    "</think>",
    "\n",
    "```",
]

plain = st.text(st.characters(codec="utf-8", exclude_characters="<#\\"))
hostile = st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=8).map("".join)


def critiques(text: st.SearchStrategy[str]) -> st.SearchStrategy[Synthesis]:
    paragraph = st.builds(ParagraphCritique, st.integers(0, 10**6 - 1), text, text)
    return st.builds(Synthesis, st.lists(paragraph, max_size=4).map(tuple), st.none() | st.integers(-1, 500))


ANSWER = r"""I will check.
### Paragraph 1
<analyze>
It says 1 + 1 = 2, \boxed{2}.
</analyze>
<verify>
Let me check:
```python
print(1 + 1)
```
[Code Output]

```
2
```
It holds.
</verify>

### Paragraph 2
<analyze>
It says 2 + 2 = 5.
</analyze>
<verify>
```python
print(2 + 2)
```
[Code Output]

```
4
```
</verify>

The first wrong paragraph: $\boxed{2}$"""


def test_prompt_tags_paragraphs_from_one():
    prompt = synthesis_prompt("What is {x}?", ["x = 1", "so \\boxed{1}"])
    assert "What is {x}?" in prompt
    assert "<paragraph_1>\nx = 1\n</paragraph_1>\n\n<paragraph_2>\nso \\boxed{1}\n</paragraph_2>" in prompt
    for expected in ("### Paragraph {ID}\n<analyze>\n", "</analyze>\n<verify>\n", "```python", "\\boxed{}", "-1"):
        assert expected in prompt


def test_generation_stops_at_the_end_of_a_code_block():
    assert SYNTHESIS_STOP == "\n```\n"


def test_answer_is_taken_apart():
    synthesis = parse_synthesis(ANSWER)
    assert synthesis.first_error == 1
    assert [part.number for part in synthesis.paragraphs] == [1, 2]
    assert synthesis.paragraphs[0].analysis == r"It says 1 + 1 = 2, \boxed{2}."
    assert synthesis.paragraphs[1].verification == "```python\nprint(2 + 2)\n```\n[Code Output]\n\n```\n4\n```"


def test_rationale_has_the_form_of_the_verification_conversation():
    synthesis = parse_synthesis(ANSWER)
    assert synthesis.rationale(0) == (
        "<analyze>\nLet's analyze the Paragraph 1 step by step: It says 1 + 1 = 2, \\boxed{2}.\nLet me check:\n"
        "</analyze>\n"
        "<verify>\nLet's use python code to find any potential error:\n```python\nprint(1 + 1)\n```\n"
        "[Code Output]\n\n```\n2\n```\nIt holds.\n</verify>\n"
        "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    )
    second = synthesis.rationale(1)
    assert second is not None
    assert second.endswith("```\n4\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n")
    parsed = parse_rationale(second)
    assert parsed.status == "ok"
    assert parsed.rationale.step == 2
    assert parsed.rationale.judgement is False
    assert parsed.rationale.blocks[0].output == "4"
    assert synthesis.rationale(2) is None


def test_no_rationale_after_the_first_error_or_without_code_or_verdict():
    code = "```python\nprint(1)\n```"
    parts = tuple(ParagraphCritique(number, "fine", code) for number in (1, 2, 3))
    assert [Synthesis(parts, 1).rationale(index) is None for index in range(3)] == [False, False, True]
    assert [Synthesis(parts, -1).rationale(index) is None for index in range(3)] == [False, False, False]
    assert Synthesis(parts, None).rationale(0) is None
    for verification in ("no code", "```python\nprint(1)", "```python\nprint(1)```", f"{code}\n```python\nprint(2)"):
        assert Synthesis((ParagraphCritique(1, "fine", verification),), -1).rationale(0) is None


def test_thinking_is_left_out():
    text = "<think>### Paragraph 1\n<analyze>draft</analyze> \\boxed{9}</think>\n" + ANSWER
    assert parse_synthesis(text) == parse_synthesis(ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no verdict",
        "\\boxed{0}",  # paragraphs are numbered from 1
        "\\boxed{-2}",
        "\\boxed{one}",
        "### Paragraph 1\n<analyze>\na \\boxed{1}\n</analyze>\n<verify>\n\\boxed{1}\n</verify>\n",
        "### Paragraph 1\n<analyze>\na\n</analyze>\n<verify>\nb\n</verify>\n### Paragraph 2\n<analyze>\n\\boxed{2}",
        "### Paragraph 1\n<analyze>\na\n</analyze>\n<verify>\n```python\nprint('\\boxed{1}')",
    ],
)
def test_no_verdict(text):
    assert parse_synthesis(text).first_error is None


PARTS = "<analyze>\nfine\n</analyze>\n<verify>\n```python\nprint(1)\n```\n[Code Output]\n\n```\n1\n```\n</verify>\n\n"


@pytest.mark.parametrize(
    "heading",
    [
        "### Paragraph 1\n",
        "### Paragraph 1\n\n",
        "### Paragraph 1:\n",
        "### Paragraph 1: Setting up\n",
        "**### Paragraph 1**\n",
        "### **Paragraph 1**\n",
        "### **Paragraph 1: Setting up**\n",
        "#### Paragraph 1\n",
        "## Paragraph 1\n",
        "# Paragraph 1.\n",
        "  ### Paragraph 1\n",
        "### Paragraph {1}\n",
        "### Paragraph_1\n",
        "### <paragraph_1>\n",
        "### paragraph 1\n",
        "### PARAGRAPH [1] - check\n",
        "### Paragraph 1 ",
        "### Paragraph 1:",
        "**Paragraph 1**\n",
        "Paragraph 1:\n\n",
        "### Paragraph: 1\n",
        "### Paragraph No. 1\n",
        "### Paragraph number 1\n",
        "### Paragraph `1`\n",
        "### Paragraph **1**\n",
        "### Paragraph $1$\n",
        "### Paragraph \\#1\n",
        "### Paragraph\u00a01\n",
        "### 1. Paragraph 1\n",
        "### Analysis of Paragraph 1\n",
        "**Analysis of Paragraph 1:**\n",
        "### Paragraph 1: x<3\n",
        "### Paragraph 1\n### Paragraph 1\n",
        "### Paragraph 1\n**Paragraph 1**\n",
        "### Paragraph 1\nThis is easy.\n",
        "# Paragraph 1 to 9\n\n#### Paragraph 1\n",
    ],
)
def test_headings_are_read_as_models_dress_them_up(heading):
    critique = parse_synthesis(f"Here it is.\n\n{heading}{PARTS}{heading.replace('1', '2')}{PARTS}\\boxed{{2}}")
    assert [(part.number, part.analysis) for part in critique.paragraphs] == [(1, "fine"), (2, "fine")]
    assert critique.first_error == 1
    assert parse_synthesis(f"{heading}{PARTS}\\boxed{{-1}}").first_error == -1
    assert parse_rationale(critique.rationale(0)).status == parse_rationale(critique.rationale(1)).status == "ok"


@pytest.mark.parametrize(
    "line",
    ["Paragraph 2 says so.", "**Paragraph 2** is right.", "### Paragraphs 1 and 2", "### Paragraph two", "2"],
)
def test_sentences_about_paragraphs_are_no_headings(line):
    critique = parse_synthesis(f"### Paragraph 1\n{PARTS.replace('fine', line)}\\boxed{{-1}}")
    assert [(part.number, part.analysis) for part in critique.paragraphs] == [(1, line)]


@pytest.mark.parametrize(
    "line",
    [
        "#### Paragraph 1 gave 4.\nSo this follows.",
        "### Paragraph 1\nsays so",
        "# Paragraph 1 verified",
        "**Paragraph 1** is right.",
        "## Paragraph 7",
    ],
)
@pytest.mark.parametrize("headings", ["### Paragraph {}", "#### **Paragraph {}**", "Paragraph {}:"])
@pytest.mark.parametrize("place", ["analysis", "verification", "before", "between", "after"])
def test_lines_that_name_a_paragraph_cost_no_critique(place, headings, line):
    texts = dict.fromkeys(("analysis", "verification", "before", "between", "after"), "") | {place: f"{line}\n"}
    parts = [
        f"{headings.format(number)}\n<analyze>\nfine\n{texts['analysis']}</analyze>\n"
        f"<verify>\n{texts['verification']}```python\nprint(1)\n```\n</verify>\n\n"
        for number in (1, 2)
    ]
    text = f"{texts['before']}{parts[0]}{texts['between']}{parts[1]}{texts['after']}\\boxed{{-1}}"
    critique = parse_synthesis(text)
    assert [part.number for part in critique.paragraphs] == [1, 2]
    assert critique.rationale(0) is not None is not critique.rationale(1)


def test_a_summary_after_the_parts_is_no_critique():
    parts = f"### Paragraph 1\n{PARTS}### Paragraph 2\n{PARTS}"
    for summary in (
        "### Summary\n#### Paragraph 1: correct\n#### Paragraph 2: correct\n",
        "## Paragraph 2 is right, too.\n",
        "### Paragraph 1\nis right.\n### Paragraph 2\nis right.\n",
    ):
        assert parse_synthesis(f"{parts}{summary}\\boxed{{-1}}") == parse_synthesis(f"{parts}\\boxed{{-1}}")


@pytest.mark.parametrize("heading", ["### Paragraph 2", "#### Paragraph 2:", "Paragraph 2"])
@pytest.mark.parametrize("missing", ["</analyze>\n", "</verify>\n"])
def test_a_part_that_is_not_closed_does_not_take_in_the_next_paragraph(heading, missing):
    text = f"### Paragraph 1\n{PARTS.replace(missing, '')}{heading}\n{PARTS}\\boxed{{-1}}"
    critique = parse_synthesis(text)
    assert [part.number for part in critique.paragraphs] == [1, 2]
    assert all("<analyze>" not in part.analysis + part.verification for part in critique.paragraphs)
    assert critique.rationale(1) is not None
    critique = parse_synthesis(text.replace(f"{heading}\n", ""))
    assert critique.rationale(0) is None
    assert critique.rationale(1) is None


def test_comments_in_code_and_its_output_are_no_headings():
    parts = PARTS.replace("print(1)", "# Paragraph 1: add\n## Paragraph 2\nprint(1)").replace(
        "\n1\n", "\n#### Paragraph 3\n"
    )
    critique = parse_synthesis(f"### Paragraph 1\n{parts}\\boxed{{-1}}")
    assert [part.number for part in critique.paragraphs] == [1]
    assert critique.rationale(0) is not None


def test_a_space_behind_the_fences_language_does_no_harm():
    spaced = PARTS.replace("```python\n", "```python \t\n")
    critiques = [parse_synthesis(f"### Paragraph 1\n{parts}\\boxed{{-1}}") for parts in (PARTS, spaced)]
    assert critiques[0].rationale(0) == critiques[1].rationale(0) is not None


@pytest.mark.parametrize(
    "box",
    [
        "$\\boxed{2}$", "\\boxed{ 2 }", "\\boxed{\\text{2}}", "\\boxed{paragraph 2}", "\\boxed{2.}",
        "\\boxed{Paragraph_2}",
        "\\boxed{\\text{Paragraph } 2}", "\\boxed{\\textbf{\\text{Step }2}}", "\\boxed{(2)}", "\\boxed{[2]}",
        "\\boxed{\\#2}", "\\boxed{**2**}", "\\boxed{2:}", "\\boxed{2,}", "\\boxed{Step 2}", "\\boxed{\\,2\\,}",
        "\\boxed{\\text{Paragraph 2}}", "\\boxed{\\mathbf{2}}", "\\boxed{{2}}", "\\boxed{+2}", "**\\boxed{$2$}**.",
    ],
)  # fmt: skip
def test_verdicts_are_read_as_models_dress_them_up(box):
    assert parse_synthesis(f"### Paragraph 1\n{PARTS}{box}").first_error == 1
    assert parse_synthesis(f"### Paragraph 1\n{PARTS}{box.replace('+', '').replace('2', '-1')}").first_error == -1


@pytest.mark.parametrize("box", ["- 1", "\u22121", "$\u2212 1$", "-\\text{1}", "(-1)", "-1."])
def test_a_minus_is_read_as_models_write_it(box):
    assert parse_synthesis(f"### Paragraph 1\n{PARTS}\\boxed{{{box}}}").first_error == -1


@pytest.mark.parametrize("box", ["Paragraph-1", "Paragraph - 1", "Step-1", "(2, 3)", "(2)(3)", "2*3", "\\frac{4}{2}"])
def test_boxes_that_may_mean_two_things_are_no_verdicts(box):
    assert parse_synthesis(f"### Paragraph 1\n{PARTS}\\boxed{{{box}}}").first_error is None


@pytest.mark.parametrize("box", ["2.5", "2 3", "2_3", "2, 3", "2 or 3", "none", "", "\\text{two}", "2..", "--1"])
def test_other_boxes_are_no_verdicts(box):
    assert parse_synthesis(f"### Paragraph 1\n{PARTS}\\boxed{{{box}}}").first_error is None


@given(critiques(plain))
def test_parse_is_the_inverse_of_render(synthesis):
    assert parse_synthesis(synthesis.render()) == synthesis


@given(critiques(plain | hostile))
def test_render_refuses_what_cannot_be_read_back(synthesis):
    try:
        text = synthesis.render()
    except ValueError:
        return
    assert parse_synthesis(text) == synthesis


@pytest.mark.parametrize(
    "part",
    [
        ParagraphCritique(1, "a</analyze>", "b"),
        ParagraphCritique(1, "a", "b</verify>"),
        ParagraphCritique(1, "a</think>", "b"),
        ParagraphCritique(1, "a\n### Paragraph 2\n<analyze>\n", "b"),
        ParagraphCritique(-1, "a", "b"),
    ],
)
def test_render_refuses_delimiters(part):
    with pytest.raises(ValueError, match="delimiter"):
        Synthesis((part,), -1).render()


@given(st.text(st.characters(codec=None)) | hostile)
def test_any_text_is_read(text):
    synthesis = parse_synthesis(text)
    for index in range(-1, 3):
        rationale = synthesis.rationale(index)
        assert rationale is None or parse_rationale(rationale).status == "ok"


@pytest.mark.parametrize(
    "unit",
    [
        "\n",
        "<analyze>\n",
        "### Paragraph 1\n<analyze>",
        "\n</verify>",
        "</think>",
        "\\boxed{",
        "<analyze>x</analyze>\n",
    ],
)
@pytest.mark.parametrize("lead", ["", "### Paragraph 1\n"])
def test_time_is_linear(lead, unit):
    assert growth(parse_synthesis, lead + unit * (100_000 // len(unit))) < 30
