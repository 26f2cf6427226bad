"""Our trainers in the place of TRL's, in what TRL's own test files check of theirs; `make test-peers` runs it.

TRL's source archives hold no tests, so these are written anew. Each runs with the stock class and with ours. Where
ours differs on purpose, a test says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

EVALUATION_SETS = [
    "dataset",
    "iterable_dataset",
    "dataset_dict",
    "iterable_dataset_dict",
    "dict_of_dataset",
    "dict_of_iterable_dataset",
]
# What all trainings here have in common. A rate high enough that two steps move every weight.
SHORT = {
    "max_steps": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "seed": 7,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peers)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal model with its tokenizer."""
    path = tmp_path_factory.mktemp("peers") / "tiny-model"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def as_evaluation_set(kind: str, rows: list[dict[str, Any]]) -> Any:
    """Rows in one of the forms in which TRL's trainers take evaluation sets."""
    streamed = "iterable" in kind
    part = stream(rows) if streamed else Dataset.from_list(rows)
    if kind in ("dataset", "iterable_dataset"):
        return part
    parts = {"data1": part, "data2": part}
    if kind.startswith("dict_of"):
        return parts
    return IterableDatasetDict(parts) if streamed else DatasetDict(parts)


def stream(rows: list[dict[str, Any]]) -> IterableDataset:
    """Rows that are read one by one, as from a streamed file."""
    return IterableDataset.from_generator(lambda: iter(copy.deepcopy(rows)))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def train(run: Any) -> set[str]:
    """Trains, and returns the names of the weights that changed."""
    before = weights(run.model)
    run.train()
    assert run.state.log_history[-1]["train_loss"] is not None
    return {name for name, weight in weights(run.model).items() if not torch.equal(weight, before[name])}


def trained(run: Any) -> set[str]:
    """Names of the weights that are there to be trained."""
    return {name for name, weight in run.model.named_parameters() if weight.requires_grad}


Make = Callable[..., Any]
