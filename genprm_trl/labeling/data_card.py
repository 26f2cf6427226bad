"""The card of a training data set: what is in it, how it was made, and what was spent on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genprm_trl.cards.plots import plot_bars
from genprm_trl.cards.tables import markdown_table
from genprm_trl.errors import DataError
from genprm_trl.labeling.consensus import ConsensusCounts
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.stages.file import StageSummary, stage_directory
from genprm_trl.version import __version__

BINS = 20  # of the histogram of estimates

_BODY = """\
---
{{ card_data }}
---

# {{ name }}

Training data for a generative process reward model (GenPRM): solutions split into steps, and for each step up to the \
first wrong one a rationale with an analysis, Python code, what the code printed, and a verdict. Made by \
genprm-trl {{ version }} after the recipe of [arXiv 2504.00891](https://arxiv.org/abs/2504.00891), section 3.

```python
from datasets import load_dataset

data = load_dataset("{{ path }}", split="train")
print(data[0]["messages"])
```

`genprm sft` and TRL's trainers take it as it is (`messages`). `problem`, `steps` and `label` (the first wrong step \
from 0, -1 for none) are ProcessBench's fields, `labels` tells the judged steps right from wrong, `mc` and \
`initial_mc` are the Monte Carlo estimates that the labels come from, and `provenance` (JSON text) says what the row \
was made from. The same rows as records of genprm-trl are in `rationales.jsonl`.

The rationales hold **Python that a model wrote**. Do not run it outside a sandbox.

## What is in it

{{ contents }}

![Where the first wrong step is](first_error.png)

{{ estimates }}

## How it was made

{{ stages }}

{{ consensus }}

{{ details }}

## Citation

```bibtex
@article{zhao2025genprm,
    title   = {GenPRM: Scaling Test-Time Compute of Process Reward Models via Generative Reasoning},
    author  = {Jian Zhao and Runze Liu and Kaiyan Zhang and Zhimu Zhou and Junqi Gao and Dong Li and Jiafei Lyu and
               Zhouyi Qian and Biqing Qi and Xiu Li and Bowen Zhou},
    journal = {arXiv preprint arXiv:2504.00891},
    year    = {2025}
}
```
"""


@dataclass(frozen=True, slots=True)
class StageReport:
    """A finished stage.

    Attributes:
        name: Its name.
        model: The model that worked in it; None if none did.
        settings: What decided its rows.
        summary: Its counts.
    """

    name: str
    model: str | None
    settings: Mapping[str, Any]
    summary: StageSummary


@dataclass(slots=True)
class Statistics:
    """What is in the data, counted one record at a time.

    Attributes:
        solutions, with_error: Solutions, and those of them with a wrong step.
        right_steps, wrong_steps: Judged steps by label.
        first_error: First wrong step (from 1; 0 for none) to number of solutions.
        code_blocks: Code blocks in the rationales.
        estimates: Monte Carlo estimates of steps of all labelled solutions, kept or not, by bin of width 1 / BINS.
        problems: Hashes of the distinct problems.
    """

    solutions: int = 0
    with_error: int = 0
    right_steps: int = 0
    wrong_steps: int = 0
    code_blocks: int = 0
    first_error: Counter[int] = field(default_factory=Counter)
    estimates: Counter[int] = field(default_factory=Counter)
    problems: set[str] = field(default_factory=set)

    def add(self, record: RationaleRecord) -> None:
        """Counts a row of the data."""
        self.solutions += 1
        self.problems.add(_digest(record.solution.problem))
        right = sum(record.labels)
        self.right_steps += right
        self.wrong_steps += len(record.labels) - right
        self.with_error += right < len(record.labels)
        self.first_error[0 if all(record.labels) else record.labels.index(False) + 1] += 1
        self.code_blocks += sum(text.count("```python\n") for text in record.rationales)

    def add_estimates(self, solution: Solution) -> None:
        """Counts the estimates of a labelled solution (`extra["mc"]`; see `monte_carlo`)."""
        for estimate in solution.extra.get("mc") or ():
            if estimate is not None:
                self.estimates[min(int(estimate * BINS), BINS - 1)] += 1

    @classmethod
    def of(cls, records: Iterable[RationaleRecord], labelled: Iterable[Solution]) -> Statistics:
        """The statistics of the data and of the labelled solutions that it was chosen from."""
        statistics = cls()
        for record in records:
            statistics.add(record)
        for solution in labelled:
            statistics.add_estimates(solution)
        return statistics

    def lines(self) -> list[str]:
        """What is in the data, as a Markdown list."""
        steps = self.right_steps + self.wrong_steps
        return [
            f"- {self.solutions:,} solutions of {len(self.problems):,} problems; "
            f"{_share(self.with_error, self.solutions)} with a wrong step",
            f"- {steps:,} judged steps; {_share(self.wrong_steps, steps)} wrong",
            f"- {self.code_blocks:,} code blocks, each with what it printed",
        ]


def write_data_card(
    directory: str | Path,
    name: str,
    statistics: Statistics,
    stages: Sequence[StageReport],
    *,
    repo_id: str | None = None,
) -> Path:
    """Writes `README.md` and its pictures into a data set's directory.

    The card does not say where the data files are; `datasets` finds `data/train-*.parquet` by itself. For a directory
    whose card says it, `datasets` (5.2) caches the rows under the directory's name and that pattern alone, and gives
    those of another recipe, or of the same one before it was done anew.

    Args:
        directory: The directory; it is what the card's example loads.
        name: The data set's name.
        statistics: What is in it.
        stages: The stages that made it, in order.
        repo_id: Where on the Hub the data set is going to be; the card's example then loads it from there.

    Returns:
        The card's path.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    last = max(statistics.first_error, default=0)
    plot_bars(
        directory / "first_error.png",
        ["none", *(str(step) for step in range(1, last + 1))],
        [statistics.first_error[step] for step in range(last + 1)],
        xlabel="first wrong step",
        ylabel="solutions",
    )
    card_data = DatasetCardData(
        language="en",
        task_categories=["text-generation"],
        pretty_name=name,
        tags=["genprm-trl", "genprm", "process-reward-model", "trl", "synthetic"],
        size_categories=_size_category(statistics.solutions),
    )
    card = DatasetCard.from_template(
        card_data,
        template_str=_BODY,
        name=name,
        path=repo_id or str(directory),
        version=__version__,
        contents="\n".join(statistics.lines()),
        estimates=_estimates(directory, statistics, stages),
        stages=stages_table(stages),
        consensus=_consensus(directory, stages),
        details="\n".join(_details(stage) for stage in stages),
    )
    path = directory / "README.md"
    card.save(path)
    return path


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "none"


def _amount(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:,}"


def _size_category(rows: int) -> str:
    # The Hub's own names.
    for bound, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < bound:
            return name
    return "1M<n<10M"


def _estimates(directory: Path, statistics: Statistics, stages: Sequence[StageReport]) -> str:
    if not statistics.estimates:
        return ""
    plot_bars(
        directory / "estimates.png",
        [f"{bin / BINS:.2f}" for bin in range(BINS)],
        [statistics.estimates[bin] for bin in range(BINS)],
        xlabel=f"Monte Carlo estimate after a step (bins of {1 / BINS:g})",
        ylabel="steps",
    )
    text = "![Monte Carlo estimates of all labelled steps, kept or not](estimates.png)"
    stopping = next((stage.settings.get("stopping", "none") for stage in stages if stage.name == "label"), "none")
    if stopping != "none":
        text += (
            f"\n\nRoll-outs ended where the label was decided (`stopping: {stopping}`), so an estimate is from up "
            "to K of them: enough for the label, and coarser than one from all K."
        )
    return text


def reports_beside(path: str | Path) -> list[StageReport]:
    """The finished stages whose files are in one directory with a stage's output, the outputs' own among them.

    Args:
        path: A file that a stage has made, as `genprm recipe` leaves it; for any other the list is empty.
    """
    path = Path(path)
    if not (stage_directory(path) / "summary.json").is_file():
        return []
    reports = []
    for name, file in RECIPE_FILES.items():
        beside = path.with_name(file)
        with contextlib.suppress(OSError, ValueError, DataError):
            settings = json.loads((stage_directory(beside) / "settings.json").read_text(encoding="utf-8"))
            reports.append(StageReport(name, settings.get("model"), settings, StageSummary.load(beside)))
    return reports


def stages_table(stages: Sequence[StageReport]) -> str:
    """The stages with their models and counts, as a Markdown table."""
    rows = []
    for stage in stages:
        counts = stage.summary.counts
        rows.append(
            [
                stage.name,
                stage.model or "none",
                f"{stage.summary.items:,}",
                f"{stage.summary.rows:,}",
                f"{stage.summary.dropped.total():,}",
                f"{int(counts['tokens']):,}" if "tokens" in counts else "",
                f"{int(counts['code_blocks']):,}" if "code_blocks" in counts else "",
            ]
        )
    return markdown_table(["stage", "model", "took", "gave", "left out", "tokens", "code blocks"], rows)


def _consensus(directory: Path, stages: Sequence[StageReport]) -> str:
    stage = next((stage for stage in stages if stage.name == "consensus"), None)
    if stage is None:
        return ""
    counts = ConsensusCounts.of_stage(stage.summary)
    text = (
        f"The consensus filter left out {100 * counts.discarded_share:.1f} % of the solutions (the paper: about 51 %)."
        " A solution is kept where the reasoner's verdict on every step up to the first error agrees with the label.\n"
    )
    if not counts.dropped:
        return text
    reasons = [reason for reason, _ in counts.dropped.most_common()]
    plot_bars(
        directory / "left_out.png",
        [reason.replace("_", " ") for reason in reasons],
        [counts.dropped[reason] for reason in reasons],
        ylabel="solutions",
        horizontal=True,
    )
    return text + "\n![Why solutions were left out](left_out.png)"


def _details(stage: StageReport) -> str:
    summary = stage.summary
    rows = [["rows in", f"{summary.items:,}"], ["rows out", f"{summary.rows:,}"]]
    if summary.bad_rows:
        rows.append(["unusable rows of the input", f"{summary.bad_rows:,}"])
    rows += [[f"left out: {reason.replace('_', ' ')}", f"{n:,}"] for reason, n in sorted(summary.dropped.items())]
    rows += [[name.replace("_", " "), _amount(amount)] for name, amount in sorted(summary.counts.items())]
    settings = json.dumps(dict(stage.settings), indent=2, ensure_ascii=False)
    return f"### {stage.name}\n\n{markdown_table(['', 'amount'], rows)}\nSettings:\n\n```json\n{settings}\n```\n"


RECIPE_FILES = {
    "rollout": "rollouts.jsonl",
    "label": "labels.jsonl",
    "rationalize": "critiques.jsonl",
    "consensus": "rationales.jsonl",
}
