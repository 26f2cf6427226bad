"""Token ids of short texts, at little more than the cost of encoding them."""

from __future__ import annotations

from typing import Any


class PlainEncoder:
    """Encodes text as it stands: no special tokens are added, nothing is cut or padded.

    For the few dozen tokens of a step, `tokenizer.encode` takes about half as long again as the encoding itself: it
    decides on truncation and padding, and makes masks and offsets that nobody asked for. So the `tokenizers.Tokenizer`
    beneath is asked where there is one, and where `tokenizer.encode` would do no more than ask it.

    Args:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
    """

    def __init__(self, tokenizer: Any):
        from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

        self._tokenizer = tokenizer
        kind = type(tokenizer)
        # Some models' tokenizers have a way of their own to encode, Code Llama's for one.
        self._is_plain = (
            isinstance(tokenizer, PreTrainedTokenizerFast)
            and kind.encode is PreTrainedTokenizerBase.encode
            and kind._encode_plus is PreTrainedTokenizerFast._encode_plus
        )

    def __call__(self, text: str) -> list[int]:
        """Returns the token ids of a text, equal to those of `tokenizer.encode` without special tokens."""
        if self._is_plain:
            backend = self._tokenizer.backend_tokenizer
            # What others asked of the tokenizer stays switched on in it until its own `encode` switches it off.
            if (
                backend.truncation is None
                and backend.padding is None
                and backend.encode_special_tokens == self._tokenizer.split_special_tokens
            ):
                ids: list[int] = backend.encode(text, add_special_tokens=False).ids
                return ids
        return list(self._tokenizer.encode(text, add_special_tokens=False))
