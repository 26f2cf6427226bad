"""Models with random weights in the shape of a Qwen2, with the miniature world's tokenizer."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.protocol.genprm import ANALYZE_END, CODE_END, OUTPUT_END

# The configuration of Qwen2.5-0.5B, one that keeps a CPU busy, and one that it runs in no time.
SHAPES = {
    "0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
    },
    "5m": {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32_768,
    },
    "tiny": {
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
    },
}


# How often the ends of a rationale's parts come, in tokens: parts as long as those of a trained model, about.
TOKENS_TO_END = {ANALYZE_END: 200, CODE_END: 100, OUTPUT_END: 200}


def make_random_model(path: Path, size: str) -> None:
    """Saves a model that writes the tokenizer's tokens at random, and the ends of a rationale's parts now and then.

    Its vocabulary is as large as that of the original, since it takes a good part of the time. Tokens that the
    tokenizer does not have are all but impossible.
    """
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        **SHAPES[size],
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        # Logits of about 0 for its own tokens and far less for others: the last layer's norm puts out a constant in
        # one place, where the head weighs it.
        norm, head = model.model.norm.weight, model.lm_head.weight
        head *= 0.1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.model.embed_tokens.weight[:, 0] = 1.0
        norm[0] = 1.0
        head[:, 0] = 0
        head[len(tokenizer) :, 0] = -1000.0
        some = torch.randint(len(tokenizer), (8, 64))
        constant = model.model(some).last_hidden_state[..., 0].mean().item()
        others = len(tokenizer) / (1 - sum(1 / tokens for tokens in TOKENS_TO_END.values()))
        for end, tokens in TOKENS_TO_END.items():
            [token] = tokenizer.encode(end)
            head[token, 0] = math.log(others / tokens) / constant
    model.to(torch.bfloat16 if size == "0.5b" else torch.float32).save_pretrained(path)
    tokenizer.save_pretrained(path)
    ModelSettings(modes=("full",)).save(path)
