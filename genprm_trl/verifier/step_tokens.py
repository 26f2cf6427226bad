"""A solution as token ids with the place of every step's end: the one form that training and scoring share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from genprm_trl.conversation.template import ChatFormat, neutralizer, special_tokens
from genprm_trl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_STEP_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Token ids of a prompt and its steps.

    Attributes:
        input_ids: Begin-of-text where the tokenizer has one, the prompt, then each kept step with its separator.
        step_ends: One position in `input_ids` per kept step: the last token of its separator, where the step is
            labelled and scored. It is shorter than the list of steps if not all of them fit.
        prompt_length: Tokens before the first step, where an encoder says it; else 0.
    """

    input_ids: list[int]
    step_ends: list[int]
    prompt_length: int = 0


class AnswerEncoder:
    """Encodes a problem as a user's turn, and its steps as the beginning of the assistant's answer.

    Ids are those of the chat template up to where the answer begins, then those of each step and of the separator,
    encoded apart from each other as in `tokenize_steps`. The turn is not closed, so the last step ends like the
    others, in training as in scoring.

    What looks like a control token or the separator in problem or steps stays text.

    Args:
        tokenizer: Any tokenizer of transformers.
        step_separator: Text that ends every step, the last one too.
        chat_template: A Jinja template that replaces the tokenizer's.
        template_date: The day that the template shows as today's.

    Raises:
        ConfigError: There is no chat template, or the separator encodes to no token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        step_separator: str,
        *,
        chat_template: str | None = None,
        template_date: str | None = None,
    ):
        self.step_separator = step_separator
        self._chat = ChatFormat(tokenizer, chat_template=chat_template, template_date=template_date)
        self._without_separators = neutralizer(_breakable(step_separator))
        self._separator_ids = self._chat.encode(step_separator)
        if not self._separator_ids:
            raise _no_token(step_separator)

    def __call__(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """The ids of all steps, and where each ends."""
        [opening] = self._chat.render([{"role": "user", "content": self._safe(problem)}], open_turn=True)
        input_ids = self._chat.encode_start(opening + self._chat.rest_of_header)
        prompt_length, step_ends = len(input_ids), []
        for step in steps:
            input_ids += self._chat.encode(self._safe(step)) + self._separator_ids
            step_ends.append(len(input_ids) - 1)
        return StepTokens(input_ids, step_ends, prompt_length)

    def _safe(self, text: str) -> str:
        return self._chat.neutralize(self._without_separators(text))


def tokenize_steps(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    steps: Sequence[str],
    step_separator: str = DEFAULT_STEP_SEPARATOR,
    *,
    max_length: int | None = None,
    max_completion_length: int | None = None,
) -> StepTokens:
    r"""Encodes prompt, steps and separator apart from each other and joins their ids.

    A byte-level tokenizer reads `".\n"` as one token, so that a separator encoded together with its step vanishes into
    the step's last word, differently for every ending. Encoded apart it is the same ids after every step.

    What looks like a special token or the separator in prompt or steps stays text, in training as in scoring.

    Args:
        tokenizer: Any tokenizer of transformers.
        prompt: The problem. It may begin with the tokenizer's begin-of-text token, which is then not added again.
        steps: The steps in order, at least one.
        step_separator: Text that ends every step, the last one too.
        max_length: Bound on the tokens of prompt and steps together. None is no bound.
        max_completion_length: Bound on the tokens of the steps, without the prompt. None is no bound.

    Returns:
        The ids up to the last step that fits whole; a step that does not fit ends the sequence before it, so no label
        ever refers to a cut step. With no step that fits, the ids are the prompt's and `step_ends` is empty.

    Raises:
        ConfigError: The separator encodes to no token, which leaves nothing to label.
    """

    def encode(texts: list[str]) -> list[list[int]]:
        # verbose=False: a text over the tokenizer's own model_max_length is expected here and cut below.
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    neutralize = neutralizer(special_tokens(tokenizer) | _breakable(step_separator))
    prompt = neutralize(prompt.removeprefix(tokenizer.bos_token or ""))
    prompt_ids, separator_ids, *steps_ids = encode([prompt, step_separator, *map(neutralize, steps)])
    if not separator_ids:
        raise _no_token(step_separator)
    bos = tokenizer.bos_token_id
    if bos is not None and prompt_ids[:1] != [bos]:  # some tokenizers add it whatever they are told
        prompt_ids = [bos, *prompt_ids]

    # The tighter of the two bounds, as a bound on the whole sequence.
    bounds = [max_length, None if max_completion_length is None else len(prompt_ids) + max_completion_length]
    limit = min((bound for bound in bounds if bound is not None), default=None)
    input_ids, step_ends = list(prompt_ids), []
    for step_ids in steps_ids:
        if limit is not None and len(input_ids) + len(step_ids) + len(separator_ids) > limit:
            break
        input_ids += step_ids + separator_ids
        step_ends.append(len(input_ids) - 1)
    return StepTokens(input_ids, step_ends)


def _breakable(step_separator: str) -> set[str]:
    """The separator, if texts of others can be kept from spelling it.

    A single character cannot be broken, and line breaks are part of many steps.
    """
    return {step_separator} if len(step_separator) > 1 and not step_separator.isspace() else set()


def _no_token(step_separator: str) -> ConfigError:
    return ConfigError(f"step_separator={step_separator!r} encodes to no token; a step is scored at its separator")


def single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        ConfigError: It is several tokens, or none.
    """
    # Without special tokens: the first id would be that of begin-of-text.
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ConfigError(f"{text!r} is no single token of this tokenizer; give the model's own")
    return int(ids[0])


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What pads batches: the tokenizer's padding token, or its end-of-text token, or token 0. The mask hides it."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in candidates if token is not None)


def pad_right(rows: Sequence[Sequence[int] | torch.Tensor], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch of token ids, padded on the right, whatever side the tokenizer pads for generation.

    On the right, padding comes after everything that a causal model looks at, so it changes no step's score, also in
    models with absolute positions.

    Args:
        rows: Token ids.
        pad_token_id: Token to pad with. The attention mask hides it, so any token does.

    Returns:
        `input_ids` and `attention_mask`, LongTensors of shape (rows, longest).
    """
    ids = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


def load_step_tokenizer(path: str, init_kwargs: Any = None) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model.

    Args:
        path: Directory or name on the Hub.
        init_kwargs: Arguments of the model's `from_pretrained`, of which the revision is the tokenizer's, too.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    from genprm_trl.generation.loading import load_tokenizer

    if not path:
        raise ConfigError("The model does not say where its tokenizer is; pass the tokenizer too")
    return load_tokenizer(path, revision=(init_kwargs or {}).get("revision"))
