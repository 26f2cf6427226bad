"""Plain encoding gives what the tokenizer's own `encode` gives, whatever was asked of the tokenizer before."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from genprm_trl.conversation.encoding import PlainEncoder
from genprm_trl.miniature.tokenizer import build_tokenizer
from tests.helpers.chat_templates import STYLES

TEXT = "<|im_start|>user\nSo 2 + 3 = 5.<|im_end|>\n"
TOKENIZERS = STYLES | {"miniature": cache(build_tokenizer)}


@pytest.mark.parametrize("style", sorted(TOKENIZERS))
@settings(deadline=None)  # tokenizers are trained when they are first used
@given(text=st.text() | st.text(alphabet="a 1.\n<|>[]/") | st.just(TEXT))
def test_ids_are_the_tokenizers_own(style, text):
    tokenizer = TOKENIZERS[style]()
    assert PlainEncoder(tokenizer)(text) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True, "max_length": 3},
        {"padding": "max_length", "max_length": 64},
        {"split_special_tokens": True},
        {"add_special_tokens": True},
    ],
)
def test_what_was_asked_of_the_tokenizer_before_does_not_count(options):
    tokenizer = STYLES["chatml"]()
    encode, expected = PlainEncoder(tokenizer), tokenizer.encode(TEXT, add_special_tokens=False)
    tokenizer(TEXT, **options)
    assert encode(TEXT) == expected


def test_a_tokenizer_that_splits_special_tokens():
    tokenizer = STYLES["chatml"]()
    encode = PlainEncoder(tokenizer)
    tokenizer.split_special_tokens = True
    try:
        assert encode(TEXT) == tokenizer.encode(TEXT, add_special_tokens=False)
        assert tokenizer.eos_token_id not in encode(TEXT)
    finally:
        tokenizer.split_special_tokens = False


def test_a_tokenizer_with_a_way_of_its_own_to_encode():
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text, **options):
            return super()._encode_plus(text.upper(), **options)

    tokenizer = Shouting(tokenizer_object=STYLES["chatml"]().backend_tokenizer)
    assert tokenizer.decode(PlainEncoder(tokenizer)("so it is")) == "SO IT IS"
