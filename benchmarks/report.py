"""Measures how long a page of 2,000 solutions with all their rationales takes to open in Chromium, and to write.

    python benchmarks/report.py [--solutions 2000] [--chromium PATH] [--output benchmarks/results/report.txt]

The verdicts are made up, because only their amount costs time: eight rationales per step, of numbers and of random
words with the frequencies of Zipf's law, as long as a real model's. Each opening uses a fresh profile of a headless
Chromium and reads from a file. Times count from the start of the navigation until

- the list of solutions is on the page;
- a filter, chosen as soon as it is there, has narrowed the list;
- a solution, clicked after that, shows its steps;
- the last byte is read and every solution can be unfolded.

Needs Chromium or Chrome on the PATH, or named by --chromium or the variable GENPRM_CHROMIUM.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import re
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from genprm_trl.protocol import CodeBlock, Rationale
from genprm_trl.records import CodeRound, Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verdict_report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SUMMARIES = ".solution > details > summary"
LIMIT = 2.0  # seconds in which a page is to be open


_letters = random.Random(0)
VOCABULARY = ["".join(_letters.choices("etaoinshrdlucmfwypvbgk", k=_letters.randint(2, 9))) for _ in range(4000)]
# Zipf's law, which texts follow: the k-th word is as frequent as 1/k.
FREQUENCIES = list(itertools.accumulate(1 / rank for rank in range(1, len(VOCABULARY) + 1)))


def words(rng: random.Random, count: int) -> str:
    """Words with a number here and there."""
    drawn = rng.choices(VOCABULARY, cum_weights=FREQUENCIES, k=count)
    return " ".join(str(rng.randrange(10**4)) if rng.random() < 0.15 else word for word in drawn)


def judgement(rng: random.Random, step: int, right: bool) -> StepJudgement:
    reward = min(max(rng.betavariate(8, 1) if right else rng.betavariate(1, 4), 0.0), 1.0)
    code, output = f"x = {rng.randrange(10**6)}\n" + f"print({words(rng, 30)!r})", words(rng, 12)
    text = Rationale(step + 1, reward >= 0.5, words(rng, 240), (CodeBlock(code, output),)).render()
    return StepJudgement(text, reward, "ok", [CodeRound(code, output, "ok", 0.01)], 600)


def made_up(count: int, chains: int, seed: int = 0) -> tuple[list[Solution], list[Verdict]]:
    """Solutions of 3 to 9 steps, half of them with a wrong one, and verdicts on all their steps."""
    rng = random.Random(seed)
    solutions, verdicts = [], []
    for number in range(count):
        steps = [words(rng, 40) for _ in range(rng.randint(3, 9))]
        label = rng.randrange(len(steps)) if rng.random() < 0.5 else -1
        solution = Solution(f"made-up-{number:04}", words(rng, 60), steps, label=label, final_answer_correct=label < 0)
        judged = [[judgement(rng, step, step != label) for step in range(len(steps))] for _ in range(chains)]
        rewards = [statistics.fmean(chain[step].reward for chain in judged) for step in range(len(steps))]
        prediction = prediction_from_rewards(rewards)
        verdicts.append(Verdict(solution.id, rewards, prediction, judged, label, solution_digest=solution.digest))
        solutions.append(solution)
    return solutions, verdicts


def open_once(browser: Browser, page_file: Path) -> dict[str, float]:
    """Seconds from the start of the navigation; of the search, from the first key typed."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.goto(page_file.as_uri(), wait_until="commit")
    # The page is used as soon as it is there, while the rest of the file may still be on its way.
    page.locator("#verdict").select_option("1")
    expect(page.locator("#count")).to_have_text(re.compile(r"^\S+ of \S+ solutions$"))
    filtered = page.evaluate("performance.now()") / 1000
    page.locator(SUMMARIES).first.click()
    page.wait_for_selector(".solution .step")
    unfolded = page.evaluate("performance.now()") / 1000
    page.wait_for_load_state("load")
    times = page.evaluate(
        """() => new Promise((done) => setTimeout(() => done({
            listed: performance.getEntriesByName("solutions-listed")[0].startTime / 1000,
            loaded: performance.getEntriesByType("navigation")[0].loadEventEnd / 1000,
        })))"""
    )
    page.locator("#reset").click()
    started = time.perf_counter()
    page.keyboard.press("/")
    page.keyboard.type("made-up-0017")
    # The page's policy forbids what wait_for_function does.
    expect(page.locator("#count")).to_have_text(re.compile(r"^1 of \S+ solutions$"), timeout=120_000)
    times["searched"] = time.perf_counter() - started
    context.close()
    return {"filtered": filtered, "unfolded": unfolded, **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solutions", type=int, default=2000)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--openings", type=int, default=7)
    parser.add_argument("--chromium", default=None)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()

    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        at_hand = [arguments.chromium, os.environ.get("GENPRM_CHROMIUM"), *map(shutil.which, NAMES)]
        chromium = next(filter(None, at_hand), None)
        if chromium is None:
            parser.error("found no Chromium; name one by --chromium or GENPRM_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=chromium)
        say(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        say(f"Chromium {browser.version}, headless; load average at start {os.getloadavg()[0]:.1f}")
        verdict_file, page_file = Path(directory, "verdicts.jsonl"), Path(directory, "report.html")
        solutions, verdicts = made_up(arguments.solutions, arguments.chains)
        judgements = sum(len(chain) for verdict in verdicts for chain in verdict.chains)
        write_jsonl(verdict_file, verdicts)
        del verdicts
        started = time.perf_counter()
        write_report(verdict_file, page_file, solutions=solutions)
        seconds = time.perf_counter() - started
        say(f"{len(solutions):,} solutions, {arguments.chains} rationales each: {judgements:,} judgements of a step")
        say(
            f"verdicts {verdict_file.stat().st_size / 1e6:.1f} MB, page {page_file.stat().st_size / 1e6:.1f} MB, "
            f"written in {seconds:.1f} s, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        )
        times = [open_once(browser, page_file) for _ in range(arguments.openings)]
        browser.close()
    say("")
    what = {
        "listed": "the list is there",
        "filtered": "the list is filtered",
        "unfolded": "a solution is unfolded",
        "loaded": "the whole file is loaded",
        "searched": "all text is searched",
    }
    for name, meaning in what.items():
        each = [one[name] for one in times]
        median, slowest = statistics.median(each), max(each)
        say(f"{meaning:<26} median {median:6.3f} s, slowest {slowest:6.3f} s  ({len(each)} openings)")
    for name in ("listed", "filtered", "unfolded", "loaded"):
        slowest = max(one[name] for one in times)
        say(f"{what[name] + ' in under ' + format(LIMIT, 'g') + ' s:':<40} {'yes' if slowest < LIMIT else 'NO'}")
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
