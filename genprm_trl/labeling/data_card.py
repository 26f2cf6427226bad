"""The card of a training dataset: what is in it, how it was made, and what was spent on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genprm_trl.cards.card import write_card
from genprm_trl.cards.plots import can_plot, plot_bars
from genprm_trl.cards.tables import markdown_table
from genprm_trl.errors import DataError
from genprm_trl.labeling.consensus import left_out_share
from genprm_trl.labeling.monte_carlo import misfit, solved_share
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.stages.file import StageSummary, stage_directory
from genprm_trl.stages.settings import read_settings
from genprm_trl.version import __version__

# The stages of `genprm recipe`, each with the file that it writes.
RECIPE_FILES = {
    "rollout": "rollouts.jsonl",
    "label": "labels.jsonl",
    "rationalize": "critiques.jsonl",
    "consensus": "rationales.jsonl",
}

BINS = 20  # of the histogram of estimates


@dataclass(frozen=True, slots=True)
class StageReport:
    """A finished stage.

    Attributes:
        name: The stage's name.
        model: The model that it used; None if it used none.
        settings: The settings that decide its rows.
        summary: The stage's counts.
    """

    name: str
    model: str | None
    settings: Mapping[str, Any]
    summary: StageSummary


def reports_beside(path: str | Path) -> list[StageReport]:
    """The recipe's finished stages whose files lie beside a stage's output, that stage included.

    Args:
        path: A file that a stage has made. For any other file the list is empty.
    """
    path = Path(path)
    if not (stage_directory(path) / "summary.json").is_file():
        return []
    reports = []
    for name, file in RECIPE_FILES.items():
        beside = path.with_name(file)
        with contextlib.suppress(DataError):
            settings = read_settings(stage_directory(beside) / "settings.json") or {}
            reports.append(StageReport(name, settings.get("model"), settings, StageSummary.load(beside)))
    return reports


def decontamination_path(path: str | Path) -> Path:
    """Where `genprm decontaminate` keeps the counts of what it wrote."""
    return Path(f"{path}.decontamination.json")


def decontamination_of(path: str | Path) -> dict[str, Any] | None:
    """How a file was decontaminated; None of a file that `genprm decontaminate` did not write.

    Args:
        path: The file; also the name of a dataset.
    """
    return read_settings(decontamination_path(path))


def _decontamination(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    numbers = {name: found.get(name, 0) for name in ("rows", "removed_same", "removed_ngram", "benchmark_problems")}
    against = ", ".join(f"`{Path(each).name}`" for each in found.get("against", ()))
    return (
        f"The problems were compared with {numbers['benchmark_problems']:,} problems of benchmarks ({against}). Of "
        f"{numbers['rows']:,} rows, {numbers['removed_same']:,} were left out since they are equal but for digits and "
        f"punctuation, and {numbers['removed_ngram']:,} since they share {found.get('ngram')} words in a row.\n"
    )


def stages_table(stages: Sequence[StageReport]) -> str:
    """The stages with their models and counts, as a Markdown table."""
    rows = []
    for stage in stages:
        summary = stage.summary
        numbers = [summary.items, summary.rows, summary.dropped.total()]
        spent = [
            f"{int(summary.counts[name]):,}" if name in summary.counts else "" for name in ("tokens", "code_blocks")
        ]
        rows.append([stage.name, stage.model or "none", *(f"{number:,}" for number in numbers), *spent])
    return markdown_table(["stage", "model", "took", "gave", "left out", "tokens", "code blocks"], rows)


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
    problems: set[bytes] = field(default_factory=set)

    def add(self, record: RationaleRecord) -> None:
        """Counts a row of the data."""
        self.solutions += 1
        problem = record.solution.problem.encode("utf-8", "surrogatepass")
        self.problems.add(hashlib.blake2b(problem, digest_size=8).digest())
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


def write_data_card(
    directory: str | Path,
    name: str,
    statistics: Statistics,
    stages: Sequence[StageReport],
    *,
    repo_id: str | None = None,
    decontamination: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `README.md` and its pictures into a dataset's directory. Without matplotlib there are no pictures.

    The card does not say where the data files are; `datasets` finds `data/train-*.parquet` by itself. Where a card
    says it, `datasets` (5.2) caches the rows under the directory's name and that pattern alone. It then returns the
    rows of another recipe, or those of an earlier run of the same one.

    Args:
        directory: The directory; it is what the card's example loads.
        name: The dataset's name.
        statistics: What is in it.
        stages: The stages that made it, in order.
        repo_id: The dataset's repository on the Hub; the card's example then loads it from there.
        decontamination: What `decontamination_of` says of the problems.

    Returns:
        The card's path.
    """
    from huggingface_hub import DatasetCardData

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    metadata = DatasetCardData(
        language="en",
        task_categories=["text-generation"],
        pretty_name=name,
        tags=["genprm-trl", "genprm", "process-reward-model", "trl", "synthetic"],
        size_categories=_size_category(statistics.solutions),
    )
    pictures = directory if can_plot() else None
    contents = [_contents(statistics, pictures), _estimates(statistics, stages, pictures)]
    history = [_decontamination(decontamination), stages_table(stages), _consensus(stages, pictures)]
    history += [_details(stage) for stage in stages]
    sections = {"What is in it": "\n\n".join(contents), "How it was made": "\n".join(history)}
    introduction = _introduction(repo_id or str(directory))
    return write_card(directory, metadata, name, introduction, sections, result=True)


def _introduction(path: str) -> str:
    return f"""\
Training data for a generative process reward model (GenPRM): solutions split into steps, and for each step up to the \
first wrong one a rationale with an analysis, Python code, what the code printed, and a verdict. Made by \
genprm-trl {__version__} after the recipe of [arXiv 2504.00891](https://arxiv.org/abs/2504.00891), section 3.

```python
from datasets import load_dataset

data = load_dataset("{path}", split="train")
print(data[0]["messages"])
```

`genprm sft` and TRL's trainers take it as it is (`messages`). `problem`, `steps` and `label` (the first wrong step \
from 0, -1 for none) are ProcessBench's fields, `labels` tells the judged steps right from wrong, `mc` and \
`initial_mc` are the Monte Carlo estimates that the labels come from, and `provenance` (JSON text) says what the row \
was made from. The same rows as records of genprm-trl are in `rationales.jsonl`.

The rationales hold **Python that a model wrote**. Do not run it outside a sandbox."""


def _contents(statistics: Statistics, pictures: Path | None) -> str:
    steps = statistics.right_steps + statistics.wrong_steps
    text = (
        f"- {statistics.solutions:,} solutions of {len(statistics.problems):,} problems; "
        f"{_share(statistics.with_error, statistics.solutions)} with a wrong step\n"
        f"- {steps:,} judged steps; {_share(statistics.wrong_steps, steps)} wrong\n"
        f"- {statistics.code_blocks:,} code blocks, each with what it printed"
    )
    if pictures is None:
        return text
    last = max(statistics.first_error, default=0)
    plot_bars(
        pictures / "first_error.png",
        ["none", *(str(step) for step in range(1, last + 1))],
        [statistics.first_error[step] for step in range(last + 1)],
        xlabel="first wrong step",
        ylabel="solutions",
    )
    return f"{text}\n\n![Where the first wrong step is](first_error.png)"


def _estimates(statistics: Statistics, stages: Sequence[StageReport], pictures: Path | None) -> str:
    if not statistics.estimates:
        return ""
    parts = []
    if pictures is not None:
        plot_bars(
            pictures / "estimates.png",
            [f"{bin / BINS:.2f}" for bin in range(BINS)],
            [statistics.estimates[bin] for bin in range(BINS)],
            xlabel=f"Monte Carlo estimate after a step (bins of {1 / BINS:g})",
            ylabel="steps",
        )
        parts.append("![Monte Carlo estimates of all labelled steps, kept or not](estimates.png)")
    label = next((stage for stage in stages if stage.name == "label"), None)
    stopping = "none" if label is None else label.settings.get("stopping", "none")
    if label is not None:
        parts += filter(None, [misfit(label.settings.get("rule", ""), label.summary) or _solved(label.summary)])
    if stopping != "none":
        parts.append(
            f"Rollouts ended where the label was decided (`stopping: {stopping}`), so an estimate is from up "
            "to K of them: enough for the label, and coarser than one from all K."
        )
    return "\n\n".join(parts)


def _solved(summary: StageSummary) -> str:
    share = solved_share(summary)
    return "" if share is None else f"The completion model solves {100 * share:.1f} % of the problems at a try."


def _consensus(stages: Sequence[StageReport], pictures: Path | None) -> str:
    stage = next((stage for stage in stages if stage.name == "consensus"), None)
    if stage is None:
        return ""
    text = (
        f"The consensus filter left out {100 * left_out_share(stage.summary):.1f} % of the solutions (the paper: "
        "about 51 %). A solution is kept where the reasoner's verdict on every step up to the first error agrees with "
        "the label.\n"
    )
    if not stage.summary.dropped or pictures is None:
        return text
    reasons = stage.summary.dropped.most_common()
    plot_bars(
        pictures / "left_out.png",
        [reason.replace("_", " ") for reason, _ in reasons],
        [number for _, number in reasons],
        ylabel="solutions",
        horizontal=True,
    )
    return text + "\n![Why solutions were left out](left_out.png)\n"


def _details(stage: StageReport) -> str:
    summary = stage.summary
    rows = [["rows in", f"{summary.items:,}"], ["rows out", f"{summary.rows:,}"]]
    if summary.bad_rows:
        rows.append(["unusable rows of the input", f"{summary.bad_rows:,}"])
    rows += [[f"left out: {reason.replace('_', ' ')}", f"{n:,}"] for reason, n in sorted(summary.dropped.items())]
    rows += [[name.replace("_", " "), _amount(amount)] for name, amount in sorted(summary.counts.items())]
    settings = json.dumps(dict(stage.settings), indent=2, ensure_ascii=False)
    return f"### {stage.name}\n\n{markdown_table(['', 'amount'], rows)}\nSettings:\n\n```json\n{settings}\n```\n"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "none"


def _amount(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{round(number, 4):,}"


def _size_category(rows: int) -> str:
    # The Hub's own names.
    for bound, name in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < bound:
            return name
    return "1M<n<10M"
