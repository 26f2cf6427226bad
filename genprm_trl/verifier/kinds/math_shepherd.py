r"""Math-Shepherd (Wang et al. 2023, arXiv 2312.08935): `peiyi9979/math-shepherd-mistral-7b-prm`.

A causal model reads `{problem} Step 1: … ки\nStep 2: … ки\n` as one text. The score of a step is the softmax over the
tokens `+` and `-` in the logits at its `ки`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.conversation.template import neutralizer, special_tokens
from genprm_trl.errors import ConfigError
from genprm_trl.verifier.kinds.marks import MarkScorer
from genprm_trl.verifier.step_tokens import StepTokens

_TAG = "ки"
# The tag as a word: a part of a Russian word is none.
_TAG_WORD = re.compile(r"(?<!\w)к(?=и(?!\w))")
_HEADING = re.compile(r"Step\s+\d+\s*:", re.IGNORECASE)


class MathShepherd(MarkScorer):
    """A Math-Shepherd verifier.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, a fast one.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: The tag or a mark is no single token, the tokenizer is no fast one, or an option cannot be used.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any):
        super().__init__(model, tokenizer, **options)
        self._neutralize = neutralizer(special_tokens(tokenizer))
        if not self.encode("1 + 1?", ["2."]).step_ends:
            raise ConfigError(f"'{_TAG}' is no single token of this tokenizer; give the model's own")

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """The whole text, with the places of the tags."""
        text, tags = self._safe(problem), []
        for number, step in enumerate(steps, start=1):
            step = self._safe(step).strip()
            heading = "" if _HEADING.match(step) else f"Step {number}: "
            text += f"{' ' if number == 1 else ''}{heading}{step} {_TAG}"
            tags.append(len(text))
            text += "\n"
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        # The token of a tag may begin with the space before it.
        whole = {
            end: place
            for place, (start, end) in enumerate(encoded["offset_mapping"])
            if end - start >= len(_TAG) and not text[start : end - len(_TAG)].strip()
        }
        return StepTokens(encoded["input_ids"], [whole[tag] for tag in tags if tag in whole])

    def _safe(self, text: str) -> str:
        return _TAG_WORD.sub("к\u200b", self._neutralize(text))
