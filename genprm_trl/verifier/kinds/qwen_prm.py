r"""Qwen2.5-Math-PRM (Zhang et al. 2025, arXiv 2501.07301), and Qwen2.5-Math-7B-PRM800K of ProcessBench.

A trunk with a head of two layers and two labels. The conversation is rendered whole: the system prompt, the problem as
the user's text, and the steps as the assistant's, each followed by the token `<extra_0>`. The score of a step is the
softmax over the labels at its `<extra_0>`, label 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.conversation.template import ChatFormat, neutralizer
from genprm_trl.verifier.kinds.heads import load_with_head
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.step_tokens import StepTokens, single_token

_SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
_MARK = "<extra_0>"


class QwenPRM(StepScorer):
    """A Qwen2.5-Math-PRM, whose own class is remote code: its weights are loaded into a head of ours.

    Args:
        model: The trunk with `score`, see `load_model`.
        tokenizer: Its tokenizer.
        chat_template: A Jinja template that replaces the tokenizer's.
        template_date: The day that the template shows as today's.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: There is no chat template, `<extra_0>` is no single token, or an option has no such value.
    """

    pooled = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        template_date: str | None = None,
        **options: Any,
    ):
        super().__init__(model, tokenizer, **options)
        self._chat = ChatFormat(tokenizer, chat_template=chat_template, template_date=template_date)
        self._without_marks = neutralizer([_MARK])
        self._mark = single_token(tokenizer, _MARK)

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `load_with_head`."""

        def head(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

        return load_with_head(path, "score", head, device=device, dtype=dtype, kind="qwen_prm")

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """The rendered conversation."""
        messages = [
            {"role": "system", "content": _SYSTEM_PROMPT},
            {"role": "user", "content": self._safe(problem)},
            {"role": "assistant"},
        ]
        before, after = self._chat.render(messages, open_turn=False)
        text = before + "".join(self._safe(step) + _MARK for step in steps) + after
        ids = self._chat.encode_start(text)
        return StepTokens(ids, [place for place, token in enumerate(ids) if token == self._mark])

    def _safe(self, text: str) -> str:
        return self._chat.neutralize(self._without_marks(text))
