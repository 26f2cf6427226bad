"""Tokenizers with real chat-template styles, built locally from their wire formats; shared by tests of token ids.

Each style has the special tokens, the markers and the quirks of a family of models; vocabularies are tiny and trained
here. Byte-level BPE encodes any text; the SentencePiece-like one falls back to bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_models import corpus

# Qwen2.5: a default system prompt, every turn in <|im_start|> ... <|im_end|>.
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)

# DeepSeek-R1-Distill: begin-of-text from the template, the system prompt bare, reasoning cut from the history, the
# generation prompt opens the reasoning.
DEEPSEEK = (
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] %}"
    "{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- set content = message['content'] %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{%- endif %}"
)

# Llama 3: header ids, contents trimmed, begin-of-text from the template (and from the tokenizer, too).
LLAMA3 = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)

# Qwen3-like: the last assistant turn gets an empty reasoning block, earlier ones lose theirs.
QWEN3 = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- set content = message['content'].split('</think>')[-1].lstrip('\n') %}"
    "{%- if loop.last %}{%- set content = '<think>\n\n</think>\n\n' + content %}{%- endif %}"
    "{{ '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}"
    "{%- else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)

# Mistral and Gemma: refuses the system role and turns that do not alternate. Begin-of-text is left to the tokenizer.
NO_SYSTEM = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{%- endif %}"
    "{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{%- else %}{{ ' ' + message['content'] + ' ' + eos_token }}{%- endif %}"
    "{%- endfor %}"
)

# Silently leaves the system message out.
DROPS_SYSTEM = CHATML.replace(
    "{%- for message in messages %}", "{%- for message in messages if message['role'] != 'system' %}"
)

# Llama 3.2, gpt-oss and SmolLM3: the day on which the template is rendered.
DATED = "{{- 'Today: ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML

# One-turn models: only the last user message is rendered.
LAST_TURN_ONLY = (
    "{{ '<|im_start|>user\n' + messages[-1]['content'] + '<|im_end|>\n' }}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)

# Keeps assistant turns, and of the user's only the last one.
LAST_USER_ONLY = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' or loop.last %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def _byte_level(special: Sequence[str], texts: Sequence[str], vocab_size: int = 700) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def _wrap(core: Tokenizer, template: str | None, **special: object) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = template
    return tokenizer


def chatml(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Qwen2.5's tokens: no begin-of-text at all."""
    core = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], corpus())
    # Qwen3 has these as plain added tokens.
    core.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return _wrap(core, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def deepseek(template: str = DEEPSEEK) -> PreTrainedTokenizerFast:
    """DeepSeek-R1-Distill's tokens: turn markers and reasoning tags are added tokens, but not special ones."""
    core = _byte_level(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], corpus())
    core.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<｜begin▁of▁sentence｜> $A", special_tokens=[("<｜begin▁of▁sentence｜>", 0)]
    )
    return _wrap(
        core,
        template,
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜end▁of▁sentence｜>",
    )


def llama3(template: str = LLAMA3) -> PreTrainedTokenizerFast:
    """Llama 3's tokens, with a post-processor that adds begin-of-text to everything it encodes."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core = _byte_level(special, corpus())
    core.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return _wrap(core, template, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>")


def sentencepiece(
    template: str = NO_SYSTEM, *, merge_lines: bool = False, words: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Llama 2's and Mistral's kind: a space is put before every text it encodes, and begin-of-text is added.

    With `merge_lines`, runs of line breaks are separate tokens. Each of `words` is one token.
    """
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*special, *fallback], show_progress=False)
    texts = [word for line in corpus() for word in line.replace("\n", " ").split(" ")]
    core.train_from_iterator([*texts, *[*words] * 100, *["\n\n\n\n"] * (100 * merge_lines)], trainer)
    # The byte pieces are ordinary vocabulary, not tokens to look for in a text.
    core = _without_added(core, keep=special)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrap(core, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def _without_added(core: Tokenizer, keep: Sequence[str]) -> Tokenizer:
    state = json.loads(core.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in keep]
    return Tokenizer.from_str(json.dumps(state))


def merging(template: str = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose merges join the ends of steps with the forced prefix, and the prefix with what
    follows: it has tokens such as `.<`, `: L` and `boxed{Yes`."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    joints = [
        ".<analyze>\nLet's",
        ".<",
        " step by step: L",
        " step by step: The",
        ": L",
        "```python\nprint",
        "\\boxed{Yes}",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(joints * 50, trainer)
    return _wrap(core, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


STYLES = {
    "chatml": cache(chatml),
    "deepseek": cache(deepseek),
    "llama3": cache(llama3),
    "qwen3": cache(lambda: chatml(QWEN3)),
    "no_system": cache(lambda: sentencepiece(NO_SYSTEM)),
    "merging": cache(merging),
}
