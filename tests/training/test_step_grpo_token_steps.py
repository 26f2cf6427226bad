"""Steps of a completion in its tokens, against a search over the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.data.steps import split_steps
from genprm_trl.generation.tokens import Detokenizer
from genprm_trl.training.step_grpo.token_steps import find_steps
from tests.helpers.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DETOKENIZER = Detokenizer(TOKENIZER)
END = TOKENIZER.eos_token_id


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def text_of(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def slow_token_steps(ids: list[int], style: str) -> list[int]:
    """The definition, with a decoding of the whole prefix for every token."""
    text = text_of(ids)
    split = split_steps(text, style)
    if not split.steps:
        return [-1] * len(ids)
    ends, position = [], len(split.separators[0])
    for step, after in zip(split.steps, split.separators[1:], strict=True):
        position += len(step)
        # the first token after which the step's last character is there, whole
        ends.append(next(at for at in range(len(ids)) if text_of(ids[: at + 1])[:position] == text[:position]))
        position += len(after)
    return [next((k for k, end in enumerate(ends) if end >= at), len(ends) - 1) for at in range(len(ids))]


def test_separators_belong_to_the_step_that_follows_and_the_end_to_the_last():
    pieces = ["Step 1: 2 + 2", " = 4", "\n", "Step 2: so 4", "\n\n"]
    ids = [token for piece in pieces for token in ids_of(piece)] + [END]
    found = find_steps(ids, DETOKENIZER, "step")
    assert found.steps == ["Step 1: 2 + 2 = 4", "Step 2: so 4"]
    first = len(ids_of(pieces[0])) + len(ids_of(pieces[1]))
    assert found.token_steps == [0] * first + [1] * (len(ids) - first)


def test_a_token_across_two_steps_belongs_to_the_earlier_one():
    across = next(token for token in range(len(TOKENIZER)) if DETOKENIZER.token_text(token).strip("\n") == ":" and
                  DETOKENIZER.token_text(token).endswith("\n"))  # fmt: skip
    text = DETOKENIZER.token_text(across)
    ids = [*ids_of("one"), across, *ids_of("two")]
    assert text.startswith(":")
    assert text.endswith("\n")
    found = find_steps(ids, DETOKENIZER, "line")
    assert found.steps == ["one:", "two"]
    assert found.token_steps[ids.index(across)] == 0
    assert found.token_steps[-1] == 1


def test_a_step_may_have_no_token_of_its_own():
    letters = [token for token in range(len(TOKENIZER)) if len(DETOKENIZER.token_text(token).split("\n")) > 1]
    assert letters  # tokens with a line break inside exist
    ids = ids_of("a\nb\nc")
    found = find_steps(ids, DETOKENIZER, "line")
    assert found.token_steps == slow_token_steps(ids, "line")
    assert found.steps == ["a", "b", "c"]


def test_what_tools_wrote_belongs_to_no_step():
    ours, tools, rest = ids_of("Step 1: call"), ids_of("\nStep 2: a tool's words\n"), ids_of("\nStep 2: 4")
    ids = ours + tools + rest
    written = [True] * len(ours) + [False] * len(tools) + [True] * len(rest)
    found = find_steps(ids, DETOKENIZER, "step", written)
    assert found.steps == ["Step 1: call", "Step 2: 4"]
    assert found.token_steps == [0] * len(ours) + [-1] * len(tools) + [1] * len(rest)


@pytest.mark.parametrize("ids", [[], [END], ids_of(" \n\n "), [*ids_of("\n"), END]])
def test_a_completion_without_text_has_no_steps(ids):
    found = find_steps(ids, DETOKENIZER)
    assert found.steps == []
    assert found.token_steps == [-1] * len(ids)


def test_a_truncated_completion_keeps_what_there_is():
    ids = ids_of("Step 1: 2 + 2 = 4\nStep 2: and 🙂")
    for cut in range(len(ids) + 1):
        found = find_steps(ids[:cut], DETOKENIZER, "step")
        assert found.token_steps == slow_token_steps(ids[:cut], "step")


def test_ten_thousand_steps():
    ids = ids_of("x = 1\n" * 10_000)
    found = find_steps(ids, DETOKENIZER, "line")
    assert len(found.steps) == 10_000
    assert found.token_steps[0] == 0
    assert found.token_steps[-1] == 9_999
    assert sorted(found.token_steps) == found.token_steps


@given(
    st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30),
    st.sampled_from(["auto", "line", "blank_line", "step"]),
)
def test_any_tokens_at_all(ids, style):
    found = find_steps(ids, DETOKENIZER, style)
    assert len(found.token_steps) == len(ids)
    assert found.steps == split_steps(found.text, style).steps
    assert all(-1 <= step < len(found.steps) for step in found.token_steps)
    assert sorted(found.token_steps) == found.token_steps


@given(st.text(alphabet="ab1 \nÉ数🙂Step:", max_size=40), st.sampled_from(["auto", "line", "blank_line", "step"]))
def test_any_text_is_found_where_its_characters_are(text, style):
    ids = ids_of(text)
    assert find_steps(ids, DETOKENIZER, style).text == text
    assert find_steps(ids, DETOKENIZER, style).token_steps == slow_token_steps(ids, style)


def test_the_tokens_of_thoughts_belong_to_the_step_that_they_led_to():
    text = "<think>Is it 5?\nNo.</think>\nStep 1: 4\nStep 2: So 4"
    found = find_steps(ids_of(text), DETOKENIZER)
    assert found.steps == ["Step 1: 4", "Step 2: So 4"]
    first = "".join(
        TOKENIZER.decode([id]) for id, step in zip(found.token_ids, found.token_steps, strict=True) if step == 0
    )
    assert first == text[: text.index("\nStep 2")]
    judged = find_steps(found.token_ids, DETOKENIZER, thinking="judge")
    assert judged.steps[0].startswith("<think>Is it 5?")


@pytest.mark.parametrize(("text", "thinking"), [("<think>Step 1: 4", "skip"), ("Step 1: 4", "opened")])
def test_a_completion_that_ends_in_thoughts_is_one_step_without_text(text, thinking):
    found = find_steps(ids_of(text), DETOKENIZER, thinking=thinking)
    assert found.steps == []
    assert found.credited_steps == [0] * len(found.token_ids)
