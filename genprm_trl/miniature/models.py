"""Tiny models of a real architecture (Qwen2), with random weights from a seed."""

from __future__ import annotations

from typing import TypeVar

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

MAX_CONTEXT = 2048

_Model = TypeVar("_Model", bound=PreTrainedModel)


def tiny_config(tokenizer: PreTrainedTokenizerBase, hidden_size: int = 64, num_layers: int = 4) -> Qwen2Config:
    """A Qwen2 configuration for the tokenizer: about 0.2M parameters, a context of 2,048 tokens."""
    # Copying a number is the skill that all else waits for: find a place in the text, read on from there. Four narrow
    # layers learn it within a million tokens; two wide ones do not in four. Attention must become sharp for it, which
    # takes long from weights as small as the default's (0.02 is meant for a hidden size in the thousands) and with
    # positions that turn too slowly to tell neighbours in a short text apart.
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_causal_lm(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen2ForCausalLM:
    """A language model with random weights: the policy, the GenPRM and the direct baseline start from one.

    Its output embeddings start as a copy of the input embeddings and are then trained separately. A copied number is
    therefore near its own token from the start; two random tables must learn that first. Tied tables would push all
    tokens that are read but never written in one direction. Among them are the interpreter's `True` and `False`. In
    trials, most models with tied tables could not tell these two apart and said Yes to everything.
    """
    model = _seeded(Qwen2ForCausalLM, tiny_config(tokenizer), seed)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    return model


def tiny_token_classifier(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen2ForTokenClassification:
    """A token classifier of the same layers with two labels: the discriminative baseline starts from it."""
    config = tiny_config(tokenizer)
    config.num_labels = 2
    return _seeded(Qwen2ForTokenClassification, config, seed)


def _seeded(model_class: type[_Model], config: Qwen2Config, seed: int) -> _Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).to(torch.float32)
    return model
