"""Measures what the lm-evaluation-harness adds: verdicts through `genprm lm-eval` and through `genprm verify`.

    python benchmarks/lm_eval_overhead.py [--model outputs/quickstart/genprm] [--solutions 256] [--repeats 3]

Both judge the same solutions with the same model, seeds and options, in turns in one process. Both load the model each
time. The result is the wall-clock time from a file of solutions to scores:

- verify: read, judge, write the file of verdicts;
- the harness: read, build requests, judge, filter, score with bootstrap errors, save results and samples.

Before any run the harness reads the index of its own tasks. That time does not grow with the solutions and is measured
separately.

If there is no model, the benchmark trains one first (`genprm quickstart --fast`). Both must give the same numbers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DISABLE_MULTIPROC", "1")

import argparse
import contextlib
import io
import json
import logging
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from genprm_trl.data.formats import to_processbench
from genprm_trl.data.solutions import load_solutions
from genprm_trl.harness.command import register
from genprm_trl.harness.tasks import tasks_path
from genprm_trl.miniature.world import make_solutions
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.stages.verdict_file import VerdictFile
from genprm_trl.verifier.summary import VerdictSummary

TASK = "processbench_genprm_gsm8k"


def verify(options: VerifierOptions, data: Path, out: Path) -> tuple[float, dict[str, float | None]]:
    """What `genprm verify` does with a file."""
    started = time.perf_counter()
    solutions = load_solutions(data / "gsm8k.jsonl")
    summary = VerdictSummary()
    with VerdictFile(out / "verdicts.jsonl", options.what_decides_verdicts(), solutions) as file:
        with load_verifier(options) as prm:
            for verdict in prm.verify_all(list(file.remaining()), progress=False):
                file.write(verdict)
        for verdict in file.verdicts():
            summary.add(verdict)
    scores = summary.scores()
    assert scores is not None
    return time.perf_counter() - started, scores


def harness(arguments: dict[str, object], manager: TaskManager, out: Path) -> tuple[float, dict[str, float | None]]:
    """What `genprm lm-eval` does, once the index is read."""
    started = time.perf_counter()
    tracker = EvaluationTracker(output_path=str(out))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        results = simple_evaluate(
            model="genprm",
            model_args=dict(arguments),
            tasks=[TASK],
            task_manager=manager,
            evaluation_tracker=tracker,
            log_samples=True,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        tracker.save_results_samples(task_name=TASK, samples=samples[TASK])
    found = results["results"][TASK]
    return time.perf_counter() - started, {name: found[f"{name},maj@n"] for name in ("error_acc", "correct_acc", "f1")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart/genprm", help="directory of a trained GenPRM")
    parser.add_argument("--solutions", type=int, default=256)
    parser.add_argument("--n", type=int, default=1, help="rationales a solution")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs; the median ratio is printed")
    options = parser.parse_args()

    model = Path(options.model)
    if not model.is_dir():
        from genprm_trl.miniature.quickstart import FAST_PLAN, run_quickstart

        run_quickstart("outputs/benchmark", FAST_PLAN, announce=print)
        model = Path("outputs/benchmark/genprm")
    logging.disable(logging.WARNING)
    register()
    settings = VerifierOptions(model=str(model), n=options.n, max_step_tokens=320)
    arguments = {"pretrained": str(model), "n": options.n, "max_step_tokens": 320}
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), transformers {transformers.__version__}"
    )
    print(f"model: {model.name}; {options.solutions} solutions of the miniature world, Maj@{options.n}")

    seconds: dict[str, list[float]] = {"verify": [], "lm_eval": []}
    scores: list[dict[str, float | None]] = []
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "data")
        solutions = make_solutions(options.solutions, seed=1, split="heldout")
        write_jsonl(data / "gsm8k.jsonl", [to_processbench(solution) for solution in solutions])
        started = time.perf_counter()
        TaskManager(include_path=[str(tasks_path())])
        index = time.perf_counter() - started
        manager = TaskManager(
            include_path=[str(tasks_path())], include_defaults=False, metadata={"data_dir": str(data), **arguments}
        )
        warm = Path(directory, "warm")
        write_jsonl(warm / "gsm8k.jsonl", [to_processbench(solution) for solution in solutions[:2]])
        verify(settings, warm, warm)
        for repeat in range(options.repeats):
            # By turns and in changing order, so that whatever else the machine does is spread over both.
            pair = ["verify", "lm_eval"] if repeat % 2 else ["lm_eval", "verify"]
            for name in pair:
                out = Path(directory, f"{name}-{repeat}")
                spent, found = verify(settings, data, out) if name == "verify" else harness(arguments, manager, out)
                scores.append(found)
                seconds[name].append(spent)
    for name, spent_times in seconds.items():
        print(f"{name:8} {statistics.median(spent_times):7.2f} s (of {', '.join(f'{s:.2f}' for s in spent_times)})")
    ratios = [lm / own for lm, own in zip(seconds["lm_eval"], seconds["verify"], strict=True)]
    print(f"lm_eval / verify: {statistics.median(ratios):.3f} (of {', '.join(f'{ratio:.3f}' for ratio in ratios)})")
    print(f"the harness's index of its own tasks, once a run: {index:.1f} s")
    same = all(found == scores[0] for found in scores)
    print(f"scores {'equal in all runs' if same else 'DIFFER'}: {json.dumps(scores[0])}")


if __name__ == "__main__":
    main()
