"""RLHFlow's verifiers (Dong et al. 2024, RLHFlow/RLHF-Reward-Modeling): `RLHFlow/Llama3.1-8B-PRM-*-Data`.

A causal model reads a conversation: the user says `{problem} {step 1}`, the assistant `+`, the user `{step 2}`, the
assistant `+`, and so on. Every earlier step counts as right, whatever was judged, so one pass scores all of them. The
score of a step is the softmax over the tokens `+` and `-` in the logits at the token before its `+`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError
from genprm_trl.verifier.kinds.marks import MarkScorer
from genprm_trl.verifier.step_tokens import StepTokens


class RLHFlowPRM(MarkScorer):
    """A verifier of RLHFlow.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, a fast one.
        chat_template: A Jinja template that replaces the tokenizer's.
        template_date: The day that the template shows as today's.
        **options: Options of `StepScorer`.

    Raises:
        ConfigError: There is no chat template, a mark is no token of its own in it, the tokenizer is no fast one, or
            an option cannot be used.
    """

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
        probe = self.encode("1 + 1?", ["2.", "So 2."])
        if [probe.input_ids[end + 1] for end in probe.step_ends] != self.marks[:1] * 2:
            raise ConfigError("'+' is no token of its own in a turn of this chat template; give the model's own")

    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """The rendered conversation, with the place before each `+`."""
        said = [self._chat.neutralize(step) for step in steps]
        said[0] = f"{self._chat.neutralize(problem)} {said[0]}"
        messages = [message for text in said for message in ({"role": "user", "content": text}, {"role": "assistant"})]
        first, *others = self._chat.render(messages, open_turn=False)
        text, starts = first, []
        for piece in others:
            starts.append(len(text))
            text += f"+{piece}"
        ids, ends = self._chat.spans(text)
        # A token ends where the mark begins, and the next one is the mark alone.
        places = {end: place for place, end in enumerate(ends)}
        step_ends = [places[s] for s in starts if s in places and ends[places[s] + 1] == s + 1]
        return StepTokens(ids, step_ends)
