"""A random model whose verdicts hang on what it judges."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import Qwen2ForCausalLM

from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.protocol.genprm import OUTPUT_PREFIX, GenPRMProtocol
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def save_judging_model(directory: Path) -> None:
    """Saves it as a verifier that judges without an analysis."""
    judging_model().save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    ModelSettings("generation_prompt", modes=("direct",)).save(directory)


@torch.no_grad()
def judging_model() -> Qwen2ForCausalLM:
    """A random model that says Yes or No after the prefix of a verdict, with a probability that hangs on the step."""
    tokenizer = tiny_tokenizer()
    model = copy.deepcopy(tiny_model(seed=1, tie_word_embeddings=False, initializer_range=0.1))
    chat, protocol = ChatFormat(tokenizer, "generation_prompt"), GenPRMProtocol("direct")
    states = []
    for step in ("It is 12.", "So x = 3", "What?", "Therefore, the books", "\\frac{3}{4}", "No!"):
        conversation = Conversation(chat)
        conversation.open_turn(protocol.opening_messages("What is 2 + 3?", [step], 0))
        conversation.append(OUTPUT_PREFIX, "forced")
        states.append(model.model(torch.tensor([conversation.token_ids])).last_hidden_state[0, -1])
    place, hangs = torch.stack(states).mean(dim=0), states[0] - states[1]
    place, hangs = place / place.norm(), hangs / hangs.norm()
    for word, sign in (("{Yes", 1), ("{No", -1)):
        [token] = tokenizer.encode(word)
        model.lm_head.weight[token] = 3 * place + sign * hangs
    return model
