"""ImplicitPRM on tiny models: completions, outcomes, and how it is called on them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import PartialState

from genprm_trl.training.implicit_prm.model import ImplicitPRM
from tests.helpers.step_grpo import TOKENIZER
from tests.helpers.tiny_models import tiny_model

PROMPT_IDS = [TOKENIZER.encode(text) for text in ("What is 2 + 3?", "4?", "What is 7 - 1, and why?", "8 / 2")]
COMPLETION_IDS = [TOKENIZER.encode(text) for text in ("Five.\nIt is 5.", "A dollar", "6", "Step 1: 8\nStep 2: 4")]
# The step of each token; the second completion's last token is a tool's.
TOKEN_STEPS = [[min(at // 3, 1) for at in range(len(ids))] for ids in COMPLETION_IDS]
TOKEN_STEPS[1][-1] = -1
STEPS = [["s"] * (max(row) + 1) for row in TOKEN_STEPS]
LABELS = [1.0, 0.0, 0.25, 1.0]
BETA = 0.3


def two_models(**config: Any) -> tuple[Any, Any]:
    return copy.deepcopy(tiny_model(seed=1, **config)), copy.deepcopy(tiny_model(seed=2, **config))


def labels_of(labels: list[float | None]) -> Any:
    return lambda **columns: labels


def make_prm(model: Any = None, labels: Any = LABELS, **options: Any) -> ImplicitPRM:
    if model is None:
        model, options["ref_model"] = two_models()
    return ImplicitPRM(model, labels_of(labels), **{"beta": BETA, "learning_rate": 1e-3, **options})


def call(prm: ImplicitPRM, **changes: Any) -> list[list[float | None]]:
    arguments = {
        "prompts": ["p"] * 4, "completions": ["c"] * 4, "steps": STEPS, "prompt_ids": PROMPT_IDS,
        "completion_ids": COMPLETION_IDS, "token_steps": TOKEN_STEPS, **changes,
    }  # fmt: skip
    return prm(**arguments)


def learn(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Two batches, of which each process has its share; the second process has one completion without an outcome."""
    model, reference = two_models()
    if rank:
        with torch.no_grad():
            model.lm_head.weight.add_(1.0)  # the first process's weights are what counts
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    prm = make_prm(model, ref_model=reference, labels=[1.0, 0.0, None, 1.0][share])
    metrics: dict[str, float] = {}
    for _ in range(2):
        call(
            prm, prompts=["p"] * (4 // world), completions=["c"] * (4 // world), steps=STEPS[share],
            prompt_ids=PROMPT_IDS[share], completion_ids=COMPLETION_IDS[share], token_steps=TOKEN_STEPS[share],
            log_metric=metrics.__setitem__,
        )  # fmt: skip
    return {**model.state_dict(), **{name: torch.tensor(value) for name, value in metrics.items()}}


def learn_as_rank() -> dict[str, Any]:
    """What this process of one or two learns, as lists."""
    state = PartialState(cpu=True)
    return {name: value.tolist() for name, value in learn(state.process_index, state.num_processes).items()}
