"""Model cards: what a model is, how to use it, and the numbers that were measured with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from genprm_trl.version import __version__

_CITATION = """\
@article{zhao2025genprm,
    title   = {GenPRM: Scaling Test-Time Compute of Process Reward Models via Generative Reasoning},
    author  = {Jian Zhao and Runze Liu and Kaiyan Zhang and Zhimu Zhou and Junqi Gao and Dong Li and Jiafei Lyu and
               Zhouyi Qian and Biqing Qi and Xiu Li and Bowen Zhou},
    journal = {arXiv preprint arXiv:2504.00891},
    year    = {2025}
}"""

_BODY = """\
---
{{ card_data }}
---

# {{ name }}

A generative process reward model (GenPRM). It judges a mathematical solution step by step: it writes an analysis and \
Python that checks the step, reads what the code printed, and answers Yes or No; the reward of a step is P(Yes).
{{ description }}

## Use

```python
{{ usage }}
```

The verifier **runs Python that the model writes**. `genprm_trl` does so in its sandbox; read the project's notes on \
what that protects from before you point it at models or problems that you do not trust.

## Measured

{{ results }}

## Trained with

{{ training }}

## Citation

```bibtex
{{ citation }}
```
"""


@dataclass(frozen=True, slots=True)
class MeasuredScore:
    """A number for a card.

    Attributes:
        dataset: What was judged.
        metric: Name of the score.
        value: Its value in per cent.
        setting: How it was measured, such as `full, Maj@8`.
    """

    dataset: str
    metric: str
    value: float
    setting: str


@dataclass(frozen=True, slots=True)
class CardContent:
    """What goes into a model card.

    Attributes:
        name: The model's name.
        description: One or more sentences on what this very model is.
        scores: Measured numbers; they become the card's table and its `model-index`.
        training: Facts of the training, shown as a table.
        base_model: Hub id of the model that training started from; None if it started from random weights.
        datasets: Hub ids of the data sets used.
        tags: Tags besides the usual ones.
        model_id: What users load the model by; its directory if None.
    """

    name: str
    description: str
    scores: Sequence[MeasuredScore]
    training: Mapping[str, Any]
    base_model: str | None = None
    datasets: Sequence[str] = field(default_factory=tuple)
    tags: Sequence[str] = ()
    model_id: str | None = None


def usage_snippet(model: str) -> str:
    """Python that loads the model and judges a solution."""
    return (
        "from genprm_trl import GenPRM\n"
        "from genprm_trl.records import Solution\n\n"
        f'with GenPRM.from_pretrained("{model}", n=8) as prm:\n'
        '    solution = Solution("1", "What is 2 * 3 + 1?", ["2 * 3 = 6", "6 + 1 = 8"])\n'
        "    [verdict] = prm.verify_all([solution])\n"
        "print(verdict.rewards, verdict.prediction)"
    )


def write_model_card(model_dir: str | Path, content: CardContent) -> Path:
    """Writes `README.md` into a model directory.

    Returns:
        The card's path.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    from genprm_trl.report import markdown_table

    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Step verification",
            dataset_type="genprm-trl",
            dataset_name=score.dataset,
            metric_type=score.metric.casefold().replace(" ", "_"),
            metric_name=f"{score.metric} ({score.setting})",
            metric_value=round(score.value, 2),
        )
        for score in content.scores
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["genprm-trl", "genprm", "process-reward-model", "trl", "sft", *content.tags],
        base_model=content.base_model,
        datasets=list(content.datasets) or None,
        model_name=content.name,
        eval_results=results or None,
    )
    versions = {name: metadata.version(name) for name in ("trl", "transformers", "torch", "datasets")}
    facts = {**content.training, "genprm-trl": __version__, **versions}
    measured = markdown_table(
        ["data", "setting", "score", "value"],
        [[score.dataset, score.setting, score.metric, f"{score.value:.1f}"] for score in content.scores],
    )
    card = ModelCard.from_template(
        card_data,
        template_str=_BODY,
        name=content.name,
        description=content.description,
        usage=usage_snippet(content.model_id or str(model_dir)),
        results=measured if content.scores else "Nothing yet.",
        training=markdown_table(["", "value"], [[key, str(value)] for key, value in facts.items()]),
        citation=_CITATION,
    )
    path = Path(model_dir) / "README.md"
    card.save(path)
    return path
