"""Model cards: what was trained, on what, with which measured scores."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cards.card import CITATION, write_card
from genprm_trl.cards.tables import facts_table, markdown_table
from genprm_trl.errors import ConfigError
from genprm_trl.rows.outputs import replacing
from genprm_trl.rows.secrets import mask
from genprm_trl.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What the cards of all models of a kind share.

    Attributes:
        introduction: What such a model does.
        usage: Python that loads a model and uses it; `{model}` stands where the model's name goes.
        notes: What a user of the model must know, as Markdown below the example.
        pipeline_tag: The Hub's name of the task.
        tags: Tags by which the Hub finds such models.
    """

    introduction: str
    usage: str
    notes: str
    pipeline_tag: str
    tags: tuple[str, ...]


GENERATIVE = ModelKind(
    introduction="""\
A generative process reward model (GenPRM). It judges a mathematical solution step by step: it writes an analysis and \
Python that checks the step, reads what the code printed, and answers Yes or No; the reward of a step is P(Yes).""",
    usage="""\
from genprm_trl import GenPRM
from genprm_trl.records import Solution

with GenPRM.from_pretrained({model}, n=8) as prm:
    solution = Solution("1", "What is 2 * 3 + 1?", ["2 * 3 = 6", "6 + 1 = 8"])
    [verdict] = prm.verify_all([solution])
print(verdict.rewards, verdict.prediction)""",
    notes="""\
The verifier **runs Python that the model writes**. `genprm_trl` does so in its sandbox, in separate processes with \
limits and without a network; `genprm doctor` says which protections hold on a machine. Read the project's notes on \
what they protect from before you point it at models or problems that you do not trust.""",
    pipeline_tag="text-generation",
    tags=("genprm-trl", "genprm", "process-reward-model", "trl", "sft"),
)
THINKING = ModelKind(
    introduction="""\
A generative process reward model that thinks (ThinkPRM, arXiv 2504.16828). It judges all steps of a mathematical \
solution in one chain of thought, without code, and then says whether the solution is correct.""",
    usage="""\
from genprm_trl import open_verifier
from genprm_trl.records import Solution

with open_verifier({model}, n=4) as verifier:
    solution = Solution("1", "What is 2 * 3 + 1?", ["2 * 3 = 6", "6 + 1 = 8"])
    [verdict] = verifier.verify_all([solution])
print(verdict.rewards, verdict.prediction, verdict.solution_reward)""",
    notes="""\
The reward of a step is P(correct) at the word that the model boxes. `genprm.json` beside the weights says how the \
model is asked.""",
    pipeline_tag="text-generation",
    tags=("genprm-trl", "thinkprm", "process-reward-model", "trl", "sft"),
)
DISCRIMINATIVE = ModelKind(
    introduction="""\
A discriminative process reward model. It reads a problem and a solution and gives, at the end of each step, the \
probability that the step is correct.""",
    usage="""\
from genprm_trl.records import Solution
from genprm_trl.training.prm.scorer import PRMScorer

scorer = PRMScorer({model})
solution = Solution("1", "What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 15."])
print(scorer.score([solution])[0].rewards)""",
    notes="""\
A separator follows each step. Its tokens are encoded apart from the step's text, and `PRMScorer` reads it from the \
model's configuration. Label 1 means a correct step.""",
    pipeline_tag="token-classification",
    tags=("genprm-trl", "prm", "process-reward-model", "trl", "generated_from_trainer"),
)
_OPEN_AND_JUDGE = """\
from genprm_trl import open_verifier
from genprm_trl.records import Solution

with open_verifier({model}) as verifier:
    solution = Solution("1", "What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 15."])
    [verdict] = verifier.verify_all([solution])
print(verdict.rewards, verdict.prediction)"""
IMPLICIT = ModelKind(
    introduction="""\
An implicit process reward model. It is a language model that was trained on outcomes of whole solutions. The reward \
of a step is the sigmoid of beta times the log-ratio of the step against the model that training started from.""",
    usage=_OPEN_AND_JUDGE,
    notes="""\
Scoring loads the reference model, too. `step_scorer.json` names it, and holds beta, the step separator and the \
threshold. A reward is the sigmoid of a log-ratio; it is no calibrated probability that the step is correct.""",
    pipeline_tag="text-generation",
    tags=("genprm-trl", "implicit-prm", "process-reward-model", "trl", "generated_from_trainer"),
)

PREFERENCE = ModelKind(
    introduction="""\
A process preference model. It reads a problem and a solution and gives one number at the end of each step. It was \
trained on pairs of steps, of which one is better.""",
    usage=_OPEN_AND_JUDGE,
    notes="""\
A reward is the sigmoid of the number. Only differences between steps of one problem were trained, so it ranks \
solutions. It is no probability that a step is correct. `step_scorer.json` holds step separator and threshold.""",
    pipeline_tag="text-classification",
    tags=("genprm-trl", "ppm", "process-reward-model", "trl", "generated_from_trainer"),
)
POLICY = ModelKind(
    introduction="""\
A policy: a language model that solves mathematical problems step by step.""",
    usage="""\
from transformers import pipeline

policy = pipeline("text-generation", {model})
messages = [
    {{"role": "system", "content": "Please reason step by step, and put your final answer within \\\\boxed{{}}."}},
    {{"role": "user", "content": "What is 2 + 3 * 4?"}},
]
print(policy(messages, max_new_tokens=512)[0]["generated_text"][-1]["content"])""",
    notes="""\
It solves problems and judges nothing. It was trained with the system message above, unless the options below name \
another.""",
    pipeline_tag="text-generation",
    tags=("genprm-trl", "step-dpo", "dpo", "trl", "generated_from_trainer"),
)


@dataclass(frozen=True, slots=True)
class MeasuredScore:
    """A number for a card.

    Attributes:
        dataset: What was judged.
        metric: Name of the score.
        value: The score in per cent.
        setting: How it was measured, for example `full, Maj@8`.
        hub_id: The dataset's id on the Hub, or a word for another source.
        split: The split of a dataset on the Hub.
        stderr: The value's standard error, if it is known.
    """

    dataset: str
    metric: str
    value: float
    setting: str
    hub_id: str = "genprm-trl"
    split: str | None = None
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class CardContent:
    """What goes into a model card.

    Attributes:
        name: The model's name.
        description: One or more sentences on what this very model is.
        scores: Measured numbers; they become the card's table and its `model-index`.
        training: Facts of the training, shown as a table.
        data: Facts of the training data, shown as a table.
        recipe: How the data were made, as Markdown.
        arguments: The trainer's options that differ from their defaults, as JSON values.
        base_model: Hub id of the model that training started from; None if it started from random weights.
        datasets: Hub ids of the datasets used.
        tags: Tags besides those of the kind.
        model_id: What users load the model by; its directory if None.
        kind: What the model is.
        citation: BibTeX of the work to cite.
    """

    name: str
    description: str
    scores: Sequence[MeasuredScore]
    training: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    model_id: str | None = None
    kind: ModelKind = GENERATIVE
    citation: str = CITATION


def usage_snippet(model: str, kind: ModelKind = GENERATIVE) -> str:
    """Python that loads the model and judges a solution, or solves a problem if it is a policy."""
    return kind.usage.format(model=json.dumps(model))


def write_model_card(model_dir: str | Path, content: CardContent) -> Path:
    """Writes `README.md` into a model directory.

    Returns:
        The card's path.
    """
    from huggingface_hub import ModelCardData

    kind, base = content.kind, content.base_model
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag=kind.pipeline_tag,
        tags=list(dict.fromkeys([*kind.tags, *content.tags])),
        base_model=base,
        datasets=list(content.datasets) or None,
        model_name=content.name,
        eval_results=[_eval_result(score) for score in content.scores] or None,
    )
    origin = f"Fine-tuned from [{base}](https://huggingface.co/{base})." if base else ""
    usage = usage_snippet(content.model_id or str(model_dir), kind)
    sections = {
        "Use": f"```python\n{usage}\n```\n\n{kind.notes}",
        "Measured": _table(content.scores) if content.scores else _NOTHING_MEASURED,
        "Training data": "\n".join(filter(None, [facts_table(content.data), content.recipe])) or "Not told.",
        "Trained with": facts_table({**content.training, **framework_versions()}) + arguments_block(content.arguments),
    }
    introduction = "\n".join(filter(None, [kind.introduction, content.description, origin]))
    return write_card(model_dir, card_data, content.name, introduction, sections, citation=content.citation)


def arguments_block(arguments: Mapping[str, Any]) -> str:
    """A trainer's options as a folded block of JSON; empty if there are none."""
    if not arguments:
        return ""
    text = json.dumps(mask(dict(arguments)), indent=2, sort_keys=True, default=lambda value: mask(str(value)))
    summary = "<summary>Options that are not the trainer's defaults</summary>"
    return f"\n<details>\n{summary}\n\n```json\n{text}\n```\n\n</details>"


def framework_versions() -> dict[str, str]:
    """The versions of this package and of those that it trains with."""
    versions = {"genprm-trl": __version__}
    for name in ("trl", "transformers", "accelerate", "peft", "torch", "datasets"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions | {"Python": platform.python_version()}


_NOTHING_MEASURED = "Nothing yet."
_BEGIN, _END = "<!-- measured with lm_eval -->", "<!-- /measured with lm_eval -->"


def add_scores(model_dir: str | Path, scores: Sequence[MeasuredScore]) -> Path:
    """Puts scores into the card of a model directory: its table and its `model-index`. Makes a card if there is none.

    Scores of the same data, setting and metric take the place of earlier ones; everything else stays.

    Returns:
        The card's path.

    Raises:
        ConfigError: The card that is there cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    path = Path(model_dir) / "README.md"
    if path.exists():
        try:
            card = ModelCard.load(path)
        except Exception as error:  # whatever a broken header makes of YAML and the Hub's checks
            raise ConfigError(f"{path} cannot be read as a model card: {error}") from error
    else:
        data = ModelCardData(library_name="transformers", model_name=Path(model_dir).resolve().name)
        card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {data.model_name}\n")
    card.data.model_name = card.data.model_name or Path(model_dir).resolve().name
    new = [_eval_result(score) for score in scores]
    replaced = {(result.dataset_name, result.metric_name) for result in new}
    kept = [old for old in card.data.eval_results or [] if (old.dataset_name, old.metric_name) not in replaced]
    card.data.eval_results = [*kept, *new]
    before, _, rest = card.text.partition(_BEGIN)
    earlier, _, after = rest.partition(_END)
    names = {(score.dataset, score.setting, score.metric) for score in scores}
    rows = [row for row in _table_rows(earlier) if tuple(row[:3]) not in names]
    block = f"{_BEGIN}\n{_table(scores, rows)}{_END}"
    if rest:
        card.text = f"{before}{block}{after}"
    elif "\n## Measured\n" in before:
        head, tail = before.split("\n## Measured\n", 1)
        tail = tail.lstrip().removeprefix(_NOTHING_MEASURED).lstrip()
        card.text = f"{head}\n## Measured\n\n{block}\n\n{tail}"
    else:
        card.text = f"{before.rstrip()}\n\n## Measured\n\n{block}\n"
    with replacing(path) as file:  # everything else in it stays, whoever wrote it
        file.write(str(card).encode())
    return path


def replace_fact(model_dir: str | Path, name: str, value: str) -> None:
    """Puts another value into a row of the tables of a model directory's card. A card without the row stays as it is.

    Args:
        model_dir: The directory.
        name: What the row is called.
        value: The new value.
    """
    path = Path(model_dir) / "README.md"
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    changed = [f"| {name} | {value} |" if line.startswith(f"| {name} | ") else line for line in lines]
    with replacing(path) as file:  # everything else in it stays, whoever wrote it
        file.write("\n".join(changed).encode())


def _eval_result(score: MeasuredScore) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        task_name="Step verification",
        dataset_type=score.hub_id,
        dataset_name=score.dataset,
        # The Hub's library puts results under one heading by type, configuration and split, not by name.
        dataset_config=score.dataset if score.split is None else None,
        dataset_split=score.split,
        metric_type=score.metric.casefold().replace(" ", "_"),
        metric_name=f"{score.metric} ({score.setting})",
        metric_value=round(score.value, 2),
    )


def _table(scores: Sequence[MeasuredScore], rows: Sequence[Sequence[str]] = ()) -> str:
    """A table of scores after rows that are there already."""
    new = [
        [
            score.dataset,
            score.setting,
            score.metric,
            f"{score.value:.1f}" + (f" ± {score.stderr:.1f}" if score.stderr is not None else ""),
        ]
        for score in scores
    ]
    return markdown_table(["data", "setting", "score", "value"], [*rows, *new])


def _table_rows(table: str) -> list[list[str]]:
    """The rows of a table that `_table` made."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]
