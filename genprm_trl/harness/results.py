"""The harness's results file as numbers for a model card."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genprm_trl.cards.model_card import MeasuredScore
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.harness.data import PRMBENCH, PROCESSBENCH
from genprm_trl.metrics.processbench import SCORES
from genprm_trl.rows.jsonl import parse_json
from genprm_trl.stages.fingerprint import model_fingerprint

_POOLS = ("best_of_n", "policy_best_of_n")


class _Benchmark(NamedTuple):
    """A benchmark of steps: its id on the Hub or another short name, its name, and the metrics that are compared."""

    id: str
    title: str
    metrics: tuple[str, ...]


# Of a benchmark what is compared; a threshold is no score.
_BENCHMARKS = {
    "processbench": _Benchmark(PROCESSBENCH, "ProcessBench", SCORES),
    "bigbench_mistake": _Benchmark("bigbench_mistake", "BIG-Bench Mistake", ("accuracy", *SCORES)),
    "mr_gsm8k": _Benchmark(
        "mr_gsm8k", "MR-GSM8K", ("mcc", "step_accuracy", "reason_accuracy", "mr_score", "mr_score_without_reason")
    ),
    "explanations": _Benchmark("mr_gsm8k", "explanations of MR-GSM8K", ("accuracy", "kappa")),
    "prmbench": _Benchmark(PRMBENCH, "PRMBench", ("prmscore", "f1", "negative_f1")),
}
_FAMILIES = (*_BENCHMARKS, *_POOLS)


def read_scores(results: str | Path, model: str | Path) -> list[MeasuredScore]:
    """The numbers that a run of the harness measured on this project's tasks.

    Args:
        results: A `results_*.json` of `--output_path`, or a directory; the newest such file below it is taken.
        model: The directory of the card's model.

    Returns:
        Of a benchmark of steps its scores, for ProcessBench error_acc, correct_acc and F1 of each split and of their
        average; for Best-of-N every choice at the largest N, and chance. What is undefined (NaN) is left out.

    Raises:
        DataError: There is no such file, or it holds no result of these tasks.
        ConfigError: The results are another model's, or those of an ensemble.
    """
    path = _newest(Path(results))
    loaded = parse_json(path.read_text(encoding="utf-8"), file=str(path))
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("results"), Mapping):
        raise DataError("is no results file of lm_eval: it has no 'results'", file=str(path))
    config = loaded.get("config") or {}
    _check_model(config, Path(model), path)
    scores = [score for name in loaded["results"] for score in _scores(name, loaded, config)]
    if not scores:
        raise DataError(f"holds no result of {', '.join(_FAMILIES)}", file=str(path))
    return scores


def _newest(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.rglob("results_*.json"), key=lambda item: item.stat().st_mtime) if path.is_dir() else []
    if not found:
        raise DataError("is no results file of lm_eval, and no directory with one (results_*.json)", file=str(path))
    return found[-1]


def _check_model(config: Mapping[str, Any], model: Path, path: Path) -> None:
    settings, arguments = config.get("genprm") or {}, config.get("model_args") or {}
    if settings.get("kind") == "ensemble":
        raise ConfigError(f"{path} holds results of an ensemble, which are no single model's")
    measured = settings.get("model_files")
    if measured is not None:
        same = measured == model_fingerprint(model)
    else:
        named = arguments.get("pretrained") if isinstance(arguments, Mapping) else None
        same = isinstance(named, str) and Path(named).resolve() == model.resolve()
    if not same:
        raise ConfigError(
            f"{path} holds results of another model than the one in {model} (or of an earlier one there)"
        )


def _scores(name: str, loaded: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[MeasuredScore]:
    family = next((family for family in _FAMILIES if name == family or name.startswith(f"{family}_")), None)
    if family is None:
        return
    values = loaded["results"][name]
    children = (loaded.get("group_subtasks") or {}).get(name, [])
    metadata = (loaded["configs"].get(children[0] if children else name) or {}).get("metadata") or {}
    sizes = [int(key.partition(",")[0].rpartition("@")[2]) for key in values if "@" in key.partition(",")[0]]
    for key, value in values.items():
        metric, _, pipeline = key.partition(",")
        if not pipeline or metric.endswith("_stderr") or isinstance(value, str) or math.isnan(value):
            continue
        if pipeline == "pass@1" and (config.get("genprm") or {}).get("n", 1) == 1:
            continue  # one rationale: these are the numbers of maj@n once more
        if family in _BENCHMARKS:
            wanted = metric in _BENCHMARKS[family].metrics
        else:
            wanted = metric == "random" or metric.endswith(f"@{max(sizes)}")
        if not wanted:
            continue
        stderr = values.get(f"{metric}_stderr,{pipeline}")
        part = "average" if children else re.sub(f"^{family}_?(genprm|vote8)?_?", "", name)
        hub_id, dataset = _dataset(part, family, metadata)
        yield MeasuredScore(
            dataset=dataset,
            metric="F1" if metric == "f1" else metric,
            value=float(value),
            setting=_setting(pipeline, loaded, config, children or [name]),
            hub_id=hub_id,
            split=part if hub_id == PROCESSBENCH else None,
            stderr=float(stderr) if isinstance(stderr, int | float) and not math.isnan(stderr) else None,
        )


def _dataset(part: str, family: str, metadata: Mapping[str, Any]) -> tuple[str, str]:
    """The dataset's id on the Hub (or `local`) and its name. A user's own rows must not pass for the benchmark."""
    if family in _BENCHMARKS:
        of_part = f" ({part})" if part else ""
        if metadata.get("data_dir"):
            return "local", f"rows in {Path(metadata['data_dir']).name}{of_part}"
        return _BENCHMARKS[family].id, f"{_BENCHMARKS[family].title}{of_part}"
    source = metadata.get("candidates" if family == "best_of_n" else "problems")
    source = source.get(part) if isinstance(source, Mapping) else source
    return "local", f"{family} ({part}{f', {Path(source).name}' if source else ''})"


def _setting(pipeline: str, loaded: Mapping[str, Any], config: Mapping[str, Any], tasks: list[str]) -> str:
    settings = config.get("genprm") or {}
    n = settings.get("n", 1)
    kind = {"maj@n": f"Maj@{n}" if n > 1 else "Pass@1", "pass@1": f"Pass@1, mean of {n}" if n > 1 else "Pass@1"}
    parts = [settings["mode"]] if settings.get("mode") else []
    parts.append(kind.get(pipeline) or {"none": "greedy", "vote": "vote of 8"}.get(pipeline, pipeline))
    if "genprm" in config and pipeline == "none":
        parts[-1] = f"Maj@{n}" if n > 1 else "Pass@1"
    counts = [loaded.get("n-samples", {}).get(task) for task in tasks]
    if any(count and count["effective"] < count["original"] for count in counts):
        parts.append(f"{sum(count['effective'] for count in counts if count)} documents alone")
    return ", ".join(parts)
