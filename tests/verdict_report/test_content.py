"""Rationales in parts: any text comes back whole, and outputs are told from what the model claims."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.protocol import CodeBlock, Rationale
from genprm_trl.protocol.genprm import NO_CODE_FOUND
from genprm_trl.records import CodeRound
from genprm_trl.verdict_report.content import read_rationale

PIECES = (
    "<analyze>\n", "</analyze>\n", "<verify>\n", "</verify>\n", "<output>\n", "</output>\n", "```python\n", "\n```\n",
    "[Code Output]\n\n```\n", "```", "\n", "x = 1", "True", "$\\boxed{No}$", "<analyze>", "output>",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=25).map("".join)
rounds = st.lists(st.builds(CodeRound, texts, texts, st.sampled_from(["ok", "error"]), st.floats(0, 5)), max_size=3)


@given(texts, rounds)
def test_the_parts_of_any_text_join_to_it_and_no_round_is_lost(text, code_rounds):
    passages, others = read_rationale(text, code_rounds)
    assert "".join(passage.text for passage in passages) == text
    shown = [passage.ran for passage in passages if passage.ran is not None]
    assert len(shown) + len(others) == len(code_rounds)
    assert all(any(one is code_round for one in (*shown, *others)) for code_round in code_rounds)


def parts(text: str, *code_rounds: CodeRound) -> list[tuple[str, str]]:
    passages, _ = read_rationale(text, code_rounds)
    return [(passage.kind, passage.text) for passage in passages if passage.kind != "mark"]


def test_a_rationale_of_the_format():
    text = Rationale(2, False, "It says 3.", (CodeBlock("print(1 + 1)", "2"),), "So no.\n").render()
    assert parts(text, CodeRound("print(1 + 1)", "2", "ok", 0.1)) == [
        ("analysis", "Let's analyze the Paragraph 2 step by step: It says 3."),
        ("text", "Let's use python code to find any potential error:\n"),
        ("code", "print(1 + 1)"),
        ("output", "2"),
        ("text", "So no.\n"),
        ("verdict", "**Judgement**: $\\boxed{No}$\n"),
    ]


def test_several_rounds_keep_their_order():
    blocks = (CodeBlock("a", "same"), CodeBlock("b", "same", lead="Again:\n"))
    text = Rationale(1, True, None, blocks).render()
    first, second = CodeRound("a", "same", "ok", 1.0), CodeRound("b", "same", "error", 2.0)
    ran = [passage.ran for passage in read_rationale(text, (first, second))[0] if passage.kind == "output"]
    assert ran == [first, second]


def test_a_round_that_printed_nothing_is_shown():
    silent = CodeRound("x = 1", "", "ok", 0.5)
    text = Rationale(1, True, None, (CodeBlock("x = 1", ""),)).render()
    passages, others = read_rationale(text, [silent])
    assert [(passage.text, passage.ran) for passage in passages if passage.kind == "output"] == [("", silent)]
    assert others == []
    # What no code stands before is text of the model, so the round is listed apart.
    passages, others = read_rationale("[Code Output]\n\n```\n\n```\n", [silent])
    assert all(passage.ran is None for passage in passages)
    assert others == [silent]


def test_an_output_may_hold_its_own_end():
    output = "line\n```\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>"
    text = f"```python\nx\n```\n[Code Output]\n\n```\n{output}\n```\n<output>\n$\\boxed{{No}}$\n</output>\n"
    found = parts(text, CodeRound("x", output, "ok", 0.1))
    assert ("output", output) in found
    assert [piece for kind, piece in found if kind == "verdict"] == ["$\\boxed{No}$\n"]


def test_what_never_ran_is_not_shown_as_an_output():
    text = Rationale(1, True, None, (CodeBlock("print(1)", "1"),)).render()
    assert ("claimed_output", "1") in parts(text)
    assert ("claimed_output", "1") in parts(text, CodeRound("print(1)", "2", "ok", 0.1))


def test_the_interpreters_answer_to_a_round_without_code():
    assert ("output", NO_CODE_FOUND) in parts(f"hm\n```\n[Code Output]\n\n```\n{NO_CODE_FOUND}\n```\n")


def test_rounds_that_a_fall_back_dropped_from_the_text():
    dropped = CodeRound("while True: pass", "Code execute time out: 5 s", "timeout", 5.0)
    _, others = read_rationale("<analyze>\nhm</analyze>\n<output>\n**Judgement**: $\\boxed{No}$\n", [dropped])
    assert others == [dropped]


def test_a_long_text_takes_linear_time():
    text = "<analyze>\n" * 100_000 + "```python\n" * 100_000
    assert "".join(passage.text for passage in read_rationale(text)[0]) == text
