"""The miniature world's tokenizer: byte-level BPE in which every digit is a token and every fixed phrase is one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from genprm_trl.miniature.families import FAMILIES, NAMES
from genprm_trl.miniature.reasoner import REASONER_MODES, rationale_records
from genprm_trl.miniature.world import make_solutions
from genprm_trl.protocol import genprm

VOCAB_SIZE = 768
# Spaces join the word after them, digits stand alone, as do punctuation marks and line breaks.
_WORDS = r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\n|\s"

# Phrases that the protocol writes again and again. As single tokens they cost a tiny model one position each instead
# of a dozen, and no text before or after them can merge with their edges.
_ANALYZE_START, _ANALYZE_MIDDLE = genprm.ANALYZE_PREFIX.split("{n}")
FIXED_PHRASES = (
    genprm.SYSTEM_PROMPT,
    genprm.DIRECT_SYSTEM_PROMPT,
    _ANALYZE_START,
    _ANALYZE_MIDDLE,
    genprm.ANALYZE_END,
    genprm.VERIFY_PREFIX,
    genprm.VERIFY_END,
    genprm.CODE_END,
    genprm.CODE_OUTPUT_START,
    genprm.OUTPUT_PREFIX,
    genprm.OUTPUT_END,
)
CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the world's text. Always the same one; encodes any text without loss.

    ChatML's `<|im_start|>` and `<|im_end|>` are special tokens, the latter ends a text; `<|endoftext|>` pads. `Yes`
    and `No` are single tokens within a box.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(FIXED_PHRASES),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.add_tokens([AddedToken(phrase, normalized=False) for phrase in FIXED_PHRASES])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus() -> Iterator[str]:
    """Text of the world without its numbers and fixed phrases, which never take part in merges."""
    yield from ("system\nuser\nassistant\n{Yes}$\n{No}$\nTrue\nFalse\n" * 200 for _ in range(1))
    for family in FAMILIES:  # each rare word as well
        for choices in family.words.values():
            yield from (f" {word}" for word in choices for _ in range(5))
    yield from (f" {name} \n{name} " for name in NAMES for _ in range(20))
    fixed = re.compile("|".join(map(re.escape, sorted(FIXED_PHRASES, key=len, reverse=True))))
    solutions = make_solutions(600, seed=0, split="train")
    records, _ = rationale_records(solutions, dict.fromkeys(REASONER_MODES, 1), consensus=False)
    for record in records:
        solution = record.solution
        for text in (solution.problem, *solution.steps, *record.rationales):
            yield from fixed.split(text)
