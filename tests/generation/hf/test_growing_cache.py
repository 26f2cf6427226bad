"""The growing cache holds what transformers' own would hold, and does not copy it at every token."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from genprm_trl.generation.hf.prefix_cache import CACHE_ARGUMENT, GrowingLayer, growing_cache
from tests.helpers.tiny_models import tiny_model


def states(columns: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, columns, 4), torch.randn(rows, 2, columns, 4)


def assert_same(ours: GrowingLayer, theirs: DynamicLayer) -> None:
    assert ours.get_seq_length() == theirs.get_seq_length()
    assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


def test_holds_what_the_layer_of_transformers_holds():
    torch.manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    for columns in (50, *[1] * 200, 300, *[1] * 50):
        added = states(columns)
        for one, other in zip(ours.update(*added), theirs.update(*added), strict=True):
            assert torch.equal(one, other)
    assert_same(ours, theirs)


def test_notices_what_others_do_to_it():
    torch.manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    steps = [
        lambda layer: layer.crop(-7),
        lambda layer: layer.reorder_cache(torch.tensor([2, 0, 2])),
        lambda layer: layer.batch_select_indices(torch.tensor([2, 1])),
        lambda layer: layer.batch_repeat_interleave(2),
    ]
    rows = 3
    for step in steps:
        for _ in range(3):
            added = states(5, rows)
            ours.update(*added)
            theirs.update(*added)
        step(ours)
        step(theirs)
        assert_same(ours, theirs)
        rows = len(ours.keys)
    ours.reset()
    assert ours.get_seq_length() == 0
    added = states(2)
    assert torch.equal(ours.update(*added)[0], added[0])


def test_copies_seldom():
    layer, places = GrowingLayer(), set()
    layer.update(*states(500))
    for _ in range(400):
        layer.update(*states(1))
        places.add(layer.keys.data_ptr())
    assert len(places) <= 7  # at about 560, 630, 710, 800 and 900 columns


@torch.no_grad()
def test_a_model_sees_no_difference():
    model, ids = tiny_model(), torch.arange(40).reshape(2, 20)
    expected = model(ids).logits
    cache, parts = growing_cache(), []
    for part in ids.split([7, 1, 1, 11], dim=1):
        parts.append(model(part, use_cache=True, **{CACHE_ARGUMENT: cache}).logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)
