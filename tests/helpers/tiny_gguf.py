"""The tiny model as a GGUF file, for servers that take no other, with tokens that such servers can name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from tests.helpers.tiny_models import CHATML_TEMPLATE, tiny_model, tiny_tokenizer


@cache
def ascii_tokenizer() -> PreTrainedTokenizerFast:
    """`tiny_tokenizer()` with other names for the tokens that are no ASCII text.

    A random model writes the bytes of characters in any order. A server that names whole characters alone cannot say
    which. A text in ASCII has the same ids in both tokenizers.
    """
    base = tiny_tokenizer()
    trained = json.loads(base.backend_tokenizer.to_str())["model"]
    vocab: dict[str, int] = trained["vocab"]
    others = {name for name, i in vocab.items() if not base.decode([i]).isascii()}
    merges = [tuple(pair) for pair in trained["merges"] if others.isdisjoint((*pair, "".join(pair)))]
    tokenizer = Qwen2Tokenizer(
        vocab={f"Ġ{i}th" if name in others else name: i for name, i in vocab.items()},
        merges=merges,
        bos_token=base.bos_token,
        eos_token=base.eos_token,
        pad_token=base.pad_token,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer


def write_tiny_gguf(path: Path) -> Path:
    """`tiny_model()` with `ascii_tokenizer()`, in 32 bits."""
    import gguf

    model, tokenizer = tiny_model(), ascii_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    special = frozenset(tokenizer.all_special_ids)
    ids = range(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(ids))
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in ids])
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":  # is that of the embedding
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), value.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
