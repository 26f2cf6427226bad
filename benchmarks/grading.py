"""Counts wrong grades of final answers, and answers graded a second, beside math-verify alone.

    python benchmarks/grading.py [--data ../shared/data] [--output benchmarks/results/grading.txt]

Both sides grade the same whole solutions in one run, one after the other:

- hand-made cases with their truth (`faults/grading_cases.json` beside the data);
- solutions of ProcessBench whose reference is known from GSM8K or MATH-500, with `final_answer_correct` as truth;
- the sampled solutions of GSM8K's authors, with their marks as truth.

What is missing is left out. math-verify reads and compares in this process with its default options.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import math_verify

from genprm_trl.grading import grade_many

Case = tuple[str, str, bool]  # prediction, reference, truth


def rows(path: Path) -> list[dict]:
    """The rows of a file, none where it is missing."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def hand_made(data: Path) -> list[Case]:
    return [(row["text"], row["ref"], row["truth"]) for row in rows(data.parent / "faults" / "grading_cases.json")]


def processbench(data: Path) -> list[Case]:
    gsm8k = [*rows(data / "gsm8k/test.jsonl"), *rows(data / "gsm8k/train.jsonl")]
    known = {row["question"].strip(): row["answer"].rpartition("####")[2].strip() for row in gsm8k}
    known |= {row["problem"].strip(): row["answer"] for row in rows(data / "math500/test.jsonl")}
    return [
        ("\n\n".join(row["steps"]), known[row["problem"].strip()], row["final_answer_correct"])
        for split in ("gsm8k", "math")
        for row in rows(data / f"processbench/{split}.json")
        if row["problem"].strip() in known
    ]


def gsm8k_samples(data: Path) -> list[Case]:
    return [
        (sample["solution"], row["ground_truth"], sample["is_correct"])
        for row in rows(data / "gsm8k/model_solutions.jsonl")
        for sample in row.values()
        if isinstance(sample, dict)
    ]


def ours(cases: Sequence[Case]) -> list[bool]:
    return [grade.correct for grade in grade_many([case[:2] for case in cases], timeout=30)]


def alone(cases: Sequence[Case]) -> list[bool]:
    grades = []
    for prediction, reference, _ in cases:
        gold = math_verify.parse(f"\\boxed{{{reference}}}")
        grades.append(bool(math_verify.verify(gold, math_verify.parse(prediction))))
    return grades


def measure(grader: Callable[[Sequence[Case]], list[bool]], cases: Sequence[Case]) -> tuple[int, int, float]:
    """Right graded as wrong, wrong graded as right, answers a second."""
    start = time.perf_counter()
    grades = grader(cases)
    seconds = time.perf_counter() - start
    pairs = [(truth, grade) for (_, _, truth), grade in zip(cases, grades, strict=True)]
    return pairs.count((True, False)), pairs.count((False, True)), len(cases) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GENPRM_SHARED_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    ours([("x + 1", "1 + x", True)])  # starts a process
    lines = [
        f"Grades of final answers, {os.cpu_count()} cores, Python {platform.python_version()}",
        "",
        f"{'answers':28} {'number':>7}   {'grader':12} {'right as wrong':>14} {'wrong as right':>14} {'a second':>9}",
    ]
    sources = {"hand-made cases": hand_made, "ProcessBench": processbench, "samples for GSM8K": gsm8k_samples}
    for name, source in sources.items():
        cases = source(options.data)
        for grader, label in ((ours, "genprm-trl"), (alone, "math-verify")):
            if cases:
                missed, passed, speed = measure(grader, cases)
                lines.append(f"{name:28} {len(cases):7}   {label:12} {missed:14} {passed:14} {speed:9.0f}")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
