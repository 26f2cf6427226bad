"""What is left of a text when its thinking is taken off."""

import pytest

from genprm_trl.protocol.thinking import without_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ""),
        ("no thinking \\boxed{1}", "no thinking \\boxed{1}"),
        ("<think>a \\boxed{3}</think>b", "b"),
        ("a \\boxed{3}</think>b", "b"),  # the chat template had opened the block
        ("\n <think>a", ""),  # tokens ran out
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a</think>\n<think>b", ""),
        ("an answer that speaks of <think> tags", "an answer that speaks of <think> tags"),
    ],
)
def test_what_follows_the_last_block(text, answer):
    assert without_thinking(text) == answer
