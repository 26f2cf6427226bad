"""The script of a reasoner's critique: code rounds, thinking, bounds, and any text that a model may write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.errors import ConfigError
from genprm_trl.protocol.base import Append, Execute, ExpectCode, Generate, OpenTurn, Written
from genprm_trl.protocol.synthesis import Critique, SynthesisProtocol, parse_synthesis, synthesis_prompt

STOP = "\n```\n"


def carry_out(protocol: SynthesisProtocol, texts: list[str], outputs: list[str | None] | None = None, end="stop"):
    """Plays a model that writes `texts` in one stream, cut at the stops asked for; a token is a character."""
    script = protocol.chain("What is 1 + 1?", ["1 + 1 = 2"])
    stream, left = "".join(texts), iter(outputs or [])
    actions, reply, used = [], None, 0
    while True:
        try:
            action = script.send(reply)
        except StopIteration as stop:
            return stop.value, actions
        actions.append(action)
        reply = None
        match action:
            case Generate(stops, bound):
                ends = [stream.find(s) + len(s) for s in stops if s in stream]
                cut = min([*ends, len(stream)])
                reason = "stop" if ends else end
                if cut > bound:
                    cut, reason = bound, "length"
                text, stream = stream[:cut], stream[cut:]
                used += len(text)
                reply = Written(text, reason, turn_tokens=used)
            case Execute():
                reply = next(left, "")
            case Append(text):
                used += len(text)
                reply = used


def executed(actions) -> list[str]:
    return [action.code for action in actions if isinstance(action, Execute)]


ANSWER = "### Paragraph 1\n<analyze>\nfine\n</analyze>\n<verify>\n```python\nprint(1 + 1)\n```\n"
REST = "</verify>\n\n\\boxed{-1}"
WHOLE = ANSWER + "[Code Output]\n\n```\n2\n```\n" + REST


def test_code_runs_and_its_output_stands_after_it():
    critique, actions = carry_out(SynthesisProtocol(), [ANSWER, REST], ["2"])
    assert critique == Critique("complete", WHOLE)
    assert actions[0] == ExpectCode()
    assert actions[1] == OpenTurn(({"role": "user", "content": synthesis_prompt("What is 1 + 1?", ["1 + 1 = 2"])},))
    assert actions[2].stop[0] == STOP
    assert executed(actions) == ["print(1 + 1)"]
    assert actions[4] == Append("[Code Output]\n\n```\n2\n```\n", "interpreter")
    assert parse_synthesis(critique.answer).rationale(0) is not None


@pytest.mark.parametrize("opens", [False, True])
def test_thinking_is_kept_apart_and_its_code_is_not_run(opens):
    thoughts = "\nMaybe\n```python\nprint(0)\n```\nor \\boxed{1}\n</think>\n\n"
    texts = [thoughts if opens else "<think>" + thoughts, ANSWER, REST]
    critique, actions = carry_out(SynthesisProtocol(opens_thinking=opens), texts, ["2"])
    assert critique.status == "complete"
    assert critique.answer.lstrip() == WHOLE
    assert critique.thinking == "Maybe\n```python\nprint(0)\n```\nor \\boxed{1}"
    assert executed(actions) == ["print(1 + 1)"]


def test_thinking_between_the_parts_and_thinking_that_nobody_opened():
    critique, _ = carry_out(SynthesisProtocol(), [ANSWER, "<think>hm</think>", REST], ["2"])
    assert (critique.answer, critique.thinking) == (WHOLE, "hm")
    critique, _ = carry_out(SynthesisProtocol(), ["some thoughts</think>", ANSWER, REST], ["2"])
    assert (critique.answer, critique.thinking) == (WHOLE, "some thoughts")


@pytest.mark.parametrize(
    ("texts", "bounds", "status"),
    [
        (["<think>and so on"], {}, "unfinished_thinking"),  # the model ended its text
        (["<think>" + "and so on " * 50], {"max_tokens": 100}, "unfinished_thinking"),
        ([ANSWER, "and so on " * 50], {"max_tokens": 200}, "out_of_tokens"),
        ([ANSWER * 3, REST], {"max_code_rounds": 2}, "out_of_code_rounds"),
        ([ANSWER * 2, REST], {"max_code_rounds": 2}, "complete"),
        ([ANSWER, REST], {"max_tokens": len(ANSWER)}, "out_of_tokens"),
    ],
)
def test_bounds(texts, bounds, status):
    critique, actions = carry_out(SynthesisProtocol(**bounds), texts)
    assert critique.status == status
    assert len(executed(actions)) <= bounds.get("max_code_rounds", 3)


def test_a_full_context_and_failures():
    assert carry_out(SynthesisProtocol(), [ANSWER, "and so on"], end="context")[0].status == "out_of_tokens"
    assert carry_out(SynthesisProtocol(), [ANSWER], [None])[0].status == "sandbox_failed"
    script = SynthesisProtocol().chain("p", ["s"])
    for action in (ExpectCode, OpenTurn, Generate):
        assert isinstance(next(script), action)
    with pytest.raises(StopIteration) as stop:
        script.send(Written("", "error", message="no server"))
    assert stop.value.value == Critique("generator_failed", "", message="no server")


def test_a_fence_without_python_gets_the_format_error():
    critique, actions = carry_out(SynthesisProtocol(), ["A table:\n```\n1 2\n```\n", "so \\boxed{1}"])
    assert executed(actions) == []
    assert "[Code Output]\n\n```\nCode format error: No code found.\n```\n" in critique.answer


def test_bounds_must_be_positive():
    with pytest.raises(ConfigError, match="max_code_rounds"):
        SynthesisProtocol(max_code_rounds=0)


PIECES = st.sampled_from(
    [STOP, "```python\n", "<think>", "</think>", "### Paragraph 1\n", "<analyze>", "</verify>", "\\boxed{1}", "\n"]
)


@given(
    st.lists(PIECES | st.text(st.characters(codec=None), max_size=5), max_size=30),
    st.integers(1, 200),
    st.booleans(),
)
def test_any_text_ends_in_a_critique(texts, max_tokens, opens):
    protocol = SynthesisProtocol(max_tokens, 4, opens)
    critique, actions = carry_out(protocol, texts, ["1"] * 9)
    assert critique.status in ("complete", "unfinished_thinking", "out_of_tokens", "out_of_code_rounds")
    assert len(executed(actions)) <= 4
    assert "</think>" not in critique.answer
    parse_synthesis(critique.answer)
