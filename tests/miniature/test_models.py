"""The miniature tokenizer is lossless and keeps digits and forced texts apart; the models are what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from genprm_trl.miniature.models import MAX_CONTEXT, tiny_causal_lm, tiny_token_classifier
from genprm_trl.miniature.reasoner import REASONER_MODES, rationale_records
from genprm_trl.miniature.tokenizer import FIXED_PHRASES, build_tokenizer
from genprm_trl.miniature.world import make_solutions
from genprm_trl.protocol import GenPRMProtocol

TOKENIZER = build_tokenizer()


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)]


@given(st.text() | st.text("0123456789 =+-*/\n`<>$\\{}YesNo"))
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.integers(0), st.sampled_from(["", " ", "x", "$", "\n", "-"]), st.sampled_from(["", " ", "x", ".", "%"]))
def test_every_digit_is_a_token(number: int, before: str, after: str) -> None:
    found = [piece for piece in pieces(f"{before}{number}{after}") if any(char.isdigit() for char in piece)]
    assert found == list(str(number))


@pytest.mark.parametrize("phrase", FIXED_PHRASES)
def test_fixed_phrases_are_single_tokens(phrase: str) -> None:
    assert pieces(phrase) == [phrase]


@pytest.mark.parametrize("word", ["Yes", "No"])
def test_verdict_is_one_token_in_its_box(word: str) -> None:
    assert pieces(f"**Judgement**: $\\boxed{{{word}}}$\n").count(word) == 1


@pytest.mark.parametrize("mode", REASONER_MODES)
def test_rationales_are_the_same_tokens_whole_and_in_segments(mode: str) -> None:
    records, _ = rationale_records(make_solutions(30, seed=6), {mode: 1})
    for record in records:
        for text in record.rationales:
            apart = [TOKENIZER.encode(segment.text) for segment in GenPRMProtocol(mode).segments(text)]
            assert [token for ids in apart for token in ids] == TOKENIZER.encode(text)
            assert len(TOKENIZER.encode(text)) <= 110


def test_building_again_gives_the_same_tokenizer() -> None:
    assert build_tokenizer().backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_chat_template_has_a_generation_prompt() -> None:
    messages = [{"role": "user", "content": "1 + 1 = 2"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1 + 1 = 2<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.eos_token == "<|im_end|>"


def test_models_have_equal_size_and_weights_from_their_seed() -> None:
    model, again, other = (tiny_causal_lm(TOKENIZER, seed=seed) for seed in (1, 1, 2))
    classifier = tiny_token_classifier(TOKENIZER)
    assert 200_000 < model.num_parameters() < 400_000
    assert classifier.model.num_parameters() == model.model.num_parameters()
    assert classifier.config.num_labels == 2
    assert model.config.max_position_embeddings == MAX_CONTEXT
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_output_embeddings_start_at_the_input_embeddings_and_part_from_them(tmp_path) -> None:
    model = tiny_causal_lm(TOKENIZER)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    ids = torch.tensor([TOKENIZER.encode("Step 1: 14 * 12 = 168")])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight, model.lm_head.weight)


def test_model_and_tokenizer_load_as_any_other(tmp_path) -> None:
    model = tiny_causal_lm(TOKENIZER)
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Step 1: 14 * 12 = 168</analyze>\n"
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.chat_template == TOKENIZER.chat_template
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model.eval()(ids).logits)
