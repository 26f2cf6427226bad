"""Verdicts and pages for the tests of the report, and a reader of pages that is no browser."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from genprm_trl.protocol import CodeBlock, Rationale
from genprm_trl.records import CodeRound, Solution, StepJudgement, StepStatus, Verdict, prediction_from_rewards
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verdict_report import write_report
from genprm_trl.verifier.summary import VerdictSummary

# What a model might write to break out of wherever its text is put.
HOSTILE = (
    "</script><script>window.hacked = 1</script><!-- <script> --><img src=x onerror='window.hacked = 1'>"
    "</textarea></style><svg onload='window.hacked = 1'>&lt;b&gt; ${1} {{ 7 * 7 }} {% raw %} \u2028 \u202e \x00 ]]>"
)


def judgement(step: int, reward: float, status: StepStatus = "ok", analysis: str = "It adds up.") -> StepJudgement:
    """A judgement with a rationale in the protocol's format, whose code ran."""
    code = f"print({step} + 1)"
    text = Rationale(step + 1, reward >= 0.5, analysis, (CodeBlock(code, str(step + 1)),)).render()
    return StepJudgement(text, reward, status, [CodeRound(code, str(step + 1), "ok", 0.002)], 40)


def verdict(
    id: str, chains: Sequence[Sequence[float]], label: int | None = None, threshold: float = 0.5, **fields: Any
) -> Verdict:
    """A verdict over chains of rewards."""
    rewards = [sum(column) / len(column) for column in zip(*chains, strict=True)]
    judged = [[judgement(step, reward) for step, reward in enumerate(chain)] for chain in chains]
    prediction = prediction_from_rewards(rewards, threshold)
    return Verdict(id, rewards, prediction, judged, label, threshold, **fields)


def solution_of(verdict: Verdict, problem: str = "What is 1 + 1?", **fields: Any) -> Solution:
    """A solution with as many steps as the verdict judges; the verdict is made one about it."""
    steps = [f"Step {step + 1}: it is {step + 1}." for step in range(max(len(verdict.rewards), 1))]
    solution = Solution(verdict.id, problem, steps, label=verdict.label, **fields)
    verdict.solution_digest = solution.digest
    return solution


def make_page(directory: Path, verdicts: Sequence[Verdict], solutions: Sequence[Solution] | None = None) -> Path:
    """The page of verdicts."""
    write_jsonl(directory / "verdicts.jsonl", verdicts)
    write_report(directory / "verdicts.jsonl", directory / "report.html", solutions=solutions)
    return directory / "report.html"


@dataclass
class ReadPage:
    """What an HTML parser finds in a page.

    Attributes:
        tags: Every start tag with its attributes.
        scripts: Text of each script element, with its attributes.
        templates: Text of each template element, by its id.
        style: The style sheet's text.
        text: All other text.
    """

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    templates: dict[str | None, str] = field(default_factory=dict)
    style: str = ""
    text: str = ""

    @property
    def rows(self) -> Any:
        """The rows of the list."""
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "rows"))

    def block(self, index: int) -> Any:
        """The packed details of a verdict."""
        packed = self.templates[f"block-{index}"]
        return json.loads(zlib.decompress(base64.b64decode(packed, validate=True)))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = ReadPage()
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "template"):
            self._inside = tag
            if tag == "script":
                self.page.scripts.append((dict(attrs), ""))
            elif tag == "template":
                self.page.templates[dict(attrs).get("id")] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.page.scripts[-1]
            self.page.scripts[-1] = attributes, text + data
        elif self._inside == "style":
            self.page.style += data
        elif self._inside == "template":
            self.page.templates[next(reversed(self.page.templates))] += data
        else:
            self.page.text += data


def read_page(path: Path) -> ReadPage:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader.page


def summary_of(verdicts: Iterable[Verdict]) -> VerdictSummary:
    summary = VerdictSummary()
    for verdict in verdicts:
        summary.add(verdict)
    return summary
