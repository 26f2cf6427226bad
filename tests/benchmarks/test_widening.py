"""Wider heads compute what the narrow ones did."""

import copy

import pytest
import torch

from benchmarks._widening import widen_heads
from genprm_trl.miniature.models import tiny_causal_lm
from genprm_trl.miniature.tokenizer import build_tokenizer
from tests.helpers.tiny_models import tiny_model


@pytest.mark.parametrize("head_dim", [16, 32, 64])
@torch.no_grad()
def test_logits_are_the_same(head_dim: int) -> None:
    # Of grouped-query attention and tied embeddings, and of the miniature's own rotary base and separate embeddings.
    torch.manual_seed(0)
    for original in (tiny_model(), tiny_causal_lm(build_tokenizer())):
        model = copy.deepcopy(original)
        for name, parameter in model.named_parameters():
            # At their start they are all 0 or 1, or equal to the input embeddings, which hides mistakes.
            if name.endswith(("bias", "norm.weight", "lm_head.weight")):
                parameter += torch.randn_like(parameter) / 4
        wide = widen_heads(model, head_dim)
        assert wide.config.hidden_size // wide.config.num_attention_heads == head_dim
        ids = torch.randint(10, 100, (2, 300))
        torch.testing.assert_close(wide(ids).logits, model(ids).logits, atol=2e-4, rtol=1e-4)


def test_not_every_size_is_possible() -> None:
    with pytest.raises(ValueError, match="24 is no multiple of the model's head size 16"):
        widen_heads(tiny_model(), 24)
