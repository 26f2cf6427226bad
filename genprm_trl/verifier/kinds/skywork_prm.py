r"""Skywork-o1-Open-PRM (SkyworkAI/skywork-o1-prm-inference): a causal model with a value head.

Ids are those of begin-of-text, the problem and a line break, then those of each step, encoded alone, with the token
`\n`. The score of a step is the sigmoid of the value at its `\n`. A line break within a step would be read as the end
of a step, so it becomes a space. Those at a step's ends are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.conversation.template import neutralizer, special_tokens
from genprm_trl.verifier.kinds.heads import load_with_head
from genprm_trl.verifier.scorer import StepScorer
from genprm_trl.verifier.step_tokens import StepTokens, single_token

_LINE_BREAKS = re.compile(r"\s*[\r\n]+\s*")


class SkyworkPRM(StepScorer):
    r"""A Skywork-o1-Open-PRM.

    Args:
        model: The trunk with `v_head.summary`, see `load_model`.
        tokenizer: Its tokenizer.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: `\n` is no single token, or an option has no such value.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any):
        super().__init__(model, tokenizer, **options)
        self._neutralize = neutralizer(special_tokens(tokenizer))
        self._mark = single_token(tokenizer, "\n")

    @classmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """See `load_with_head`."""
        return load_with_head(path, "v_head", _ValueHead, device=device, dtype=dtype, kind="skywork_prm")

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """The problem on a line, and each step on one."""
        lines = [_on_one_line(self._neutralize(step)) for step in steps]
        begin = self.tokenizer.bos_token or ""
        texts = [f"{begin}{self._neutralize(problem)}\n", *lines]
        ids, *steps_ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        step_ends = []
        for step_ids in steps_ids:
            ids = [*ids, *step_ids, self._mark]
            step_ends.append(len(ids) - 1)
        return StepTokens(ids, step_ends)

    def scores(self, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The sigmoid of the values, which are any numbers."""
        values: torch.Tensor = self.model(**inputs).logits[rows, columns, 0]
        return values.float().sigmoid()


def _on_one_line(step: str) -> str:
    def between(breaks: re.Match[str]) -> str:
        return " " if breaks.start() > 0 and breaks.end() < len(step) else ""

    return _LINE_BREAKS.sub(between, step)


class _ValueHead(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.summary = nn.Linear(width, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.summary(hidden)
        return values
