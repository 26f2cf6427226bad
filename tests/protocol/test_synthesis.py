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
        ParagraphCritique(1, "a\n### Paragraph 2\n", "b"),
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
