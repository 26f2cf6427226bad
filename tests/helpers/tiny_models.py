"""A tokenizer and a random model small enough to build inside a test run; shared by every test that needs a real one.

Nothing is downloaded: the tokenizer is trained here on text made here, the model has random weights.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def corpus() -> list[str]:
    """A few hundred lines of English, arithmetic, LaTeX, Python, and the tags of a verification conversation."""
    lines = [
        "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step.",
        "<analyze>\nLet's analyze the Paragraph 1 step by step: the total is right, so this paragraph is correct.",
        "</analyze>\n<verify>\nLet's use python code to find any potential error:\n```python\nprint(1 + 1)\n```\n",
        "[Code Output]\n\n```\n2\n```\nThe code agrees with the paragraph.\n</verify>\n",
        "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n",
        "<output>\n**Judgement**: $\\boxed{No}$\n</output>\n",
        "Code execute Error: NameError: name 'x' is not defined\nCode execute time out: 5 seconds\n",
        "Only words outside ASCII: café, naïve, Ω ≤ √2, 数学, 🙂.",
    ]
    things = ["apples", "books", "coins", "dollars", "eggs", "friends"]
    for i in range(60):
        a, b, thing = 3 * i + 2, 7 * i % 41 + 1, things[i % len(things)]
        lines += [
            f"Step {i + 1}: Anna has {a} {thing} and buys {b} more, so she now has {a} + {b} = {a + b} {thing}.",
            f"total_{i} = {a} * {b}\nif total_{i} != {a * b}:\n    print('wrong', total_{i})\n",
            f"Therefore $x = \\frac{{{a}}}{{{b}}}$ and the answer is $\\boxed{{{a * b}}}$.",
            f"def check(x):\n    return x - {b} == {a}\n\nprint(check({a + b}))\n",
        ]
    return lines


@cache
def tiny_tokenizer(vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for any text in Unicode's composed form, with ChatML's special tokens and template.

    `<|endoftext|>` is beginning of text and padding, `<|im_end|>` ends a turn and is the end-of-text token. Encoding
    adds no special tokens by itself. The object is shared by the whole session: do not change it.

    It is Qwen2's own tokenizer class with a small vocabulary (digits are single tokens). transformers loads the
    tokenizer of any directory that holds a Qwen2 model as that class, whatever was saved there: one with another
    pre-tokenizer would silently encode differently after saving and loading.
    """
    backend = Qwen2Tokenizer().backend_tokenizer
    core = Tokenizer(models.BPE())
    core.normalizer, core.pre_tokenizer, core.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(), trainer)
    trained = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer


def tiny_model(
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    *,
    max_context: int = 2048,
    hidden_size: int = 64,
    num_layers: int = 2,
    **config: Any,
) -> Qwen2ForCausalLM:
    """A Qwen2 model with random weights: 2 layers, hidden size 64, 4 heads (2 key-value heads), float32, in eval mode.

    Args:
        tokenizer: Its vocabulary and special tokens are the model's; `tiny_tokenizer()` if None.
        seed: Of the weights. Equal arguments give the same, shared object; a test that trains it makes a
            `copy.deepcopy` first.
        max_context: `max_position_embeddings`.
        hidden_size: Width of the model.
        num_layers: Number of layers.
        config: Further fields of `Qwen2Config`, hashable values only.
    """
    return _tiny_model(tokenizer or tiny_tokenizer(), seed, max_context, hidden_size, num_layers, **config)


def save_tiny(directory: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Saves `tiny_model()` and a tokenizer, `tiny_tokenizer()` by default, as a model directory."""
    copy.deepcopy(tiny_model()).save_pretrained(directory)  # saving writes into the configuration
    (tokenizer or tiny_tokenizer()).save_pretrained(directory)
    return directory


@cache
def _tiny_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, max_context: int, hidden_size: int, num_layers: int, **config: Any
) -> Qwen2ForCausalLM:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": max_context,
        "tie_word_embeddings": True,
        # The default 0.02 makes a random model nearly uniform; this makes one whose next token matters.
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(Qwen2Config(**settings))
    with torch.no_grad():
        # A small logit: a random model should not end most texts after a few tokens.
        model.lm_head.weight[tokenizer.eos_token_id] *= 0.1
    return model.to(torch.float32).eval()
