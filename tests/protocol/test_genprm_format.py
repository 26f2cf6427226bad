"""GenPRM's conversation as text: byte for byte, and read back whatever it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.errors import ConfigError
from genprm_trl.protocol import MODES, CodeBlock, GenPRMProtocol, Mode, Rationale, last_code_block, parse_rationale
from genprm_trl.protocol.genprm import CODE_END, CODE_OUTPUT_START, VERIFY_PREFIX, argument, read_verdict, split_parts
from tests.helpers.growth import growth

# Typed out from the published format, on purpose not built from the module's constants.
FULL = (
    "<analyze>\n"
    "Let's analyze the Paragraph 3 step by step: It adds 2 and 2.</analyze>\n"
    "<verify>\n"
    "Let's use python code to find any potential error:\n"
    "```python\n"
    "print(2 + 2)\n"
    "```\n"
    "[Code Output]\n"
    "\n"
    "```\n"
    "4\n"
    "```\n"
    "Once more:\n"
    "```python\n"
    "print(4)\n"
    "```\n"
    "[Code Output]\n"
    "\n"
    "```\n"
    "4\n"
    "```\n"
    "So it is right.</verify>\n"
    "<output>\n"
    "**Judgement**: $\\boxed{Yes}$\n"
    "</output>\n"
)
FULL_PARTS = Rationale(
    step=3,
    judgement=True,
    analysis="It adds 2 and 2.",
    blocks=(CodeBlock("print(2 + 2)", "4"), CodeBlock("print(4)", "4", lead="Once more:\n")),
    remark="So it is right.",
)
DELIMITERS = [
    "<analyze>\n",
    "Let's analyze the Paragraph 1 step by step: ",
    "</analyze>\n",
    "<verify>\nLet's use python code to find any potential error:\n```python\n",
    "</verify>\n",
    "```python\n",
    "\n```\n",
    "[Code Output]\n\n```\n",
    "<output>\n**Judgement**: $\\boxed",
    "\\boxed{",
    "{Yes}",
    "{No}$\n",
    "</output>\n",
]

plain = st.text(st.characters(codec="utf-8", exclude_characters="<`[\\"))
hostile = st.lists(st.sampled_from(DELIMITERS) | st.text(max_size=4), max_size=6).map("".join)
anything = st.text(st.characters(codec=None)) | st.lists(
    st.sampled_from(DELIMITERS) | st.text(st.characters(codec=None), max_size=4), max_size=12
).map("".join)


def rationales(text: st.SearchStrategy[str]) -> st.SearchStrategy[Rationale]:
    outputs = st.none() | text
    first = st.builds(CodeBlock, text, outputs)
    later = st.lists(st.builds(CodeBlock, text, outputs, text), max_size=2)
    with_code = st.builds(lambda head, tail: (head, *tail), first, later)
    step, judgement, analysis = st.integers(1, 10**9 - 1), st.none() | st.booleans(), st.none() | text
    return st.builds(Rationale, step, judgement, analysis, with_code, text) | st.builds(
        Rationale, step, judgement, analysis
    )


def test_system_prompts():
    assert GenPRMProtocol().system_prompt == (
        "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
    )
    assert GenPRMProtocol("direct").system_prompt == (
        "You are a math teacher. Your task is to review and critique the paragraphs in solution directly. Output your "
        r"judgement in the format of `\boxed{Yes}` if the paragraph is correct, or `\boxed{No}` if the paragraph is "
        "incorrect."
    )
    for name in set(MODES) - {"direct"}:
        assert GenPRMProtocol(name).system_prompt == GenPRMProtocol().system_prompt


def test_conversation_in_the_evaluations_form():
    conversation = GenPRMProtocol().messages("What is 2 + 2?", ["Add.", "It is 4.", "Done."], ["first", "second"])
    assert conversation == [
        {"role": "system", "content": GenPRMProtocol().system_prompt},
        {"role": "user", "content": "What is 2 + 2?\nAdd."},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "It is 4."},
        {"role": "assistant", "content": "second"},
    ]


def test_conversation_in_the_demonstrations_form():
    protocol = GenPRMProtocol(first_turn="demonstration")
    conversation = protocol.messages("What is 2 + 2?", ["Add.", "It is 4."], ["first", "second"])
    assert [message["content"] for message in conversation if message["role"] == "user"] == [
        "Question: What is 2 + 2?\n\nAdd.",
        "It is 4.",
    ]


def test_rationale_byte_for_byte():
    assert FULL_PARTS.render() == FULL
    parsed = parse_rationale(FULL)
    assert parsed.rationale == FULL_PARTS
    assert parsed.status == "ok"


def test_rationales_of_other_modes():
    assert Rationale(1, False).render() == "<output>\n**Judgement**: $\\boxed{No}$\n</output>\n"
    assert Rationale(2, True, analysis="fine").render() == (
        "<analyze>\nLet's analyze the Paragraph 2 step by step: fine</analyze>\n"
        "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    )
    assert Rationale(1, True, blocks=(CodeBlock("x"),)).render() == (
        "<verify>\nLet's use python code to find any potential error:\n```python\nx\n```\n</verify>\n"
        "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    )


@given(rationales(plain))
def test_parse_is_the_inverse_of_render(rationale):
    parsed = parse_rationale(rationale.render(), rationale.step)
    assert parsed.rationale == rationale
    assert parsed.status == ("no_verdict" if rationale.judgement is None else "ok")


@given(rationales(plain | hostile))
def test_render_refuses_what_cannot_be_read_back(rationale):
    try:
        text = rationale.render()
    except ValueError:
        return
    assert parse_rationale(text, rationale.step).rationale == rationale


@pytest.mark.parametrize(
    "rationale",
    [
        Rationale(1, True, analysis="so</analyze>\nand"),
        Rationale(1, True, blocks=(CodeBlock("a\n```\nb"),)),
        Rationale(1, True, blocks=(CodeBlock("a", "1\n```\n2"),)),
        Rationale(1, True, blocks=(CodeBlock("a"),), remark="x</verify>\n"),
        Rationale(1, True, blocks=(CodeBlock("a"),), remark="```python\n"),
        Rationale(1, True, blocks=(CodeBlock("a"),), remark="[Code Output]\n\n```\n"),
        Rationale(1, True, blocks=(CodeBlock("a", lead="b"),)),  # the first block follows the forced prefix at once
        Rationale(1, True, remark="no block to stand behind"),
        Rationale(-1, True, analysis="no such paragraph"),
    ],
)
def test_render_refuses_delimiters(rationale):
    with pytest.raises(ValueError, match="delimiter"):
        rationale.render()


@given(anything)
def test_any_text_is_read(text):
    assert parse_rationale(text).status in ("ok", "no_verdict", "malformed")
    assert last_code_block(text) is None or isinstance(last_code_block(text), str)


@given(anything, st.sampled_from(sorted(MODES)))
def test_segments_join_to_any_text(text, mode):
    segments = GenPRMProtocol(mode).segments(text)
    assert "".join(segment.text for segment in segments) == text
    assert all(segment.text for segment in segments)


@pytest.mark.parametrize(
    ("text", "judgement", "status"),
    [
        ("", None, "no_verdict"),
        ("gibberish", None, "malformed"),
        ("<output>\n**Judgement**: $\\boxed{yes}$\n</output>\n", True, "malformed"),
        ("<output>\n**Judgement**: $\\boxed{\\text{No}}$\n</output>\n", False, "malformed"),
        ("<output>\n**Judgement**: $\\boxed{Yes}", True, "malformed"),
        ("<output>\n**Judgement**: $\\boxed{Yes}$ or $\\boxed{No}$\n</output>\n", False, "malformed"),
        ("<output>\n**Judgement**: $\\boxed{Yesterday}$\n</output>\n", None, "malformed"),
        (FULL.partition("</analyze>")[0], None, "malformed"),
        (FULL.partition("<output>")[0], None, "no_verdict"),
        (FULL + "more", True, "malformed"),
    ],
)
def test_text_off_the_format(text, judgement, status):
    parsed = parse_rationale(text)
    assert (parsed.rationale.judgement, parsed.status) == (judgement, status)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FULL, "It adds 2 and 2."),
        (Rationale(1, False, None, (CodeBlock("print(1)", "1"),)).render(),
         "```python\nprint(1)\n```\n[Code Output]\n\n```\n1\n```"),
        (Rationale(1, False).render(), ""),
        ("It is wrong.", "It is wrong."),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_said_before_a_verdict(text, said):
    assert argument(text) == said


@given(anything)
def test_parts_join_to_any_text(text):
    assert "".join(part for _, part in split_parts(text)) == text


def test_step_of_a_text_without_analysis():
    verdict = "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    assert parse_rationale(verdict).rationale.step == 1
    assert parse_rationale(verdict, step=7).rationale.step == 7
    assert parse_rationale(FULL, step=7).rationale.step == 3


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```\nand\n```python\n\n  b = 1  \n```\n", "b = 1"),
        ("```python a```", "a"),
        ("```python\nwhile True:\n    pass", None),
        ("```python\na\n```\n```python\nb", "a"),
        ("```\na\n```\n", None),
        ("```python\n\n```\n", ""),
        ("", None),
    ],
)
def test_last_code_block(text, code):
    assert last_code_block(text) == code


def test_segments_of_the_full_mode():
    segments = GenPRMProtocol().segments(FULL)
    assert [(segment.kind, segment.text) for segment in segments] == [
        ("forced", "<analyze>\nLet's analyze the Paragraph 3 step by step: "),
        ("written", "It adds 2 and 2.</analyze>\n"),
        ("forced", "<verify>\nLet's use python code to find any potential error:\n```python\n"),
        ("written", "print(2 + 2)\n```\n"),
        ("interpreter", "[Code Output]\n\n```\n4\n```\n"),
        ("written", "Once more:\n```python\nprint(4)\n```\n"),
        ("interpreter", "[Code Output]\n\n```\n4\n```\n"),
        ("written", "So it is right.</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"),
    ]


def test_segments_end_an_output_where_the_run_says():
    output = "line\n```\nmore"
    text = f"{VERIFY_PREFIX}x{CODE_END}{CODE_OUTPUT_START}{output}{CODE_END}So.\n"
    kinds = [("forced", VERIFY_PREFIX), ("written", f"x{CODE_END}")]
    for outputs in ([output], ["other", output]):
        found = GenPRMProtocol().segments(text, outputs)
        assert [(segment.kind, segment.text) for segment in found] == [
            *kinds, ("interpreter", f"{CODE_OUTPUT_START}{output}{CODE_END}"), ("written", "So.\n")
        ]  # fmt: skip
    found = GenPRMProtocol().segments(text)
    assert [(segment.kind, segment.text) for segment in found][2:] == [
        ("interpreter", f"{CODE_OUTPUT_START}line{CODE_END}"), ("written", f"more{CODE_END}So.\n")
    ]  # fmt: skip


def test_segments_of_other_modes():
    # Without execution the model imagines the output itself.
    kinds = [segment.kind for segment in GenPRMProtocol("analysis_code").segments(FULL)]
    assert kinds == ["forced", "written", "forced", "written"]
    analysis = Rationale(1, True, analysis="fine").render()
    assert [(segment.kind, segment.text) for segment in GenPRMProtocol("analysis").segments(analysis)] == [
        ("forced", "<analyze>\nLet's analyze the Paragraph 1 step by step: "),
        ("written", "fine</analyze>\n"),
        ("forced", "<output>\n**Judgement**: $\\boxed"),
        ("written", "{Yes}$\n</output>\n"),
    ]
    direct = Rationale(1, False).render()
    assert [(segment.kind, segment.text) for segment in GenPRMProtocol("direct").segments(direct)] == [
        ("forced", "<output>\n**Judgement**: $\\boxed"),
        ("written", "{No}$\n</output>\n"),
    ]
    empty_output = "<verify>\nLet's use python code to find any potential error:\n```python\n\n```\n" + (
        "[Code Output]\n\n```\n\n```\n</verify>\n"
    )
    assert [segment.kind for segment in GenPRMProtocol("code_execution").segments(empty_output)] == [
        "forced",
        "written",
        "interpreter",
        "written",
    ]


UNITS = [
    " ",
    "\n",
    "```python",
    "```python" + " " * 100,
    "```python\nx\n```\n",
    "\n```\n[Code Output]\n\n```\n1\n```\n",
    "\n```\n[Code Output]\n\n```\n",
    "\n```\n```python\n",
    "<analyze>\nLet's analyze the Paragraph 1 step by step: ",
    "<verify>\nLet's use python code to find any potential error:\n```python\n",
    "<output>\n**Judgement**: $\\boxed",
    "\\boxed{",
    "\\boxed{" + " " * 100,
    "1",
]
LEADS = [
    "",
    "```python",
    "<analyze>\nLet's analyze the Paragraph ",
    "<analyze>\nLet's analyze the Paragraph 1 step by step: a</analyze>\n"
    "<verify>\nLet's use python code to find any potential error:\n```python\n",
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("lead", LEADS)
def test_time_is_linear(lead, unit):
    from genprm_trl.protocol.base import Written

    text = lead + unit * (100_000 // len(unit))
    for read in (
        parse_rationale,
        last_code_block,
        GenPRMProtocol().segments,
        lambda text: read_verdict("", Written(text)),
        split_parts,
        argument,
    ):
        assert growth(read, text) < 30


def test_modes():
    assert list(MODES) == ["full", "analysis_code", "analysis", "code_execution", "code", "direct"]
    for name, mode in MODES.items():
        assert mode.name == name
        assert Mode.of(name) is mode
        assert Mode.of(mode) is mode
        assert mode.direct == (name == "direct")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fully"}, "unknown mode 'fully'.*full, analysis_code.*direct"),
        ({"first_turn": "exam"}, "unknown first_turn 'exam'; choose one of evaluation, demonstration"),
        ({"max_step_tokens": 0}, "max_step_tokens must be at least 1, got 0"),
        ({"max_code_rounds": 0}, "max_code_rounds"),
        ({"verdict_tokens": -1}, "verdict_tokens"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        GenPRMProtocol(**options)


def test_execution_needs_code():
    with pytest.raises(ConfigError, match="verify=True or execute=False"):
        Mode(verify=False, execute=True)
