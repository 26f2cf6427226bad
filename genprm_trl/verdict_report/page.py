"""The page: reads verdicts, measures them, and writes one HTML file that needs nothing else.

Three things keep text of a model from being more than text:

- Jinja escapes what the template shows.
- The rest is in data blocks (JSON with `<`, `>` and `&` escaped, and base64). The script inserts only text nodes.
- A content security policy allows only the page's own script and style, by their hashes, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from genprm_trl.data.solutions import iter_judged
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.outputs import replacing
from genprm_trl.rows.secrets import mask
from genprm_trl.verdict_report.charts import Chart, draw
from genprm_trl.verdict_report.content import Entry, make_entry
from genprm_trl.verdict_report.figures import Judged, measure
from genprm_trl.verifier.summary import VerdictSummary
from genprm_trl.version import __version__


@dataclass(slots=True)
class ReportSummary:
    """What a page holds.

    Attributes:
        verdicts: Counts over all verdicts.
        without_solution: Verdicts whose problem and steps are not on the page, though solutions were given.
    """

    verdicts: VerdictSummary = field(default_factory=VerdictSummary)
    without_solution: int = 0


def write_report(
    verdicts: str | Path,
    output: str | Path,
    *,
    solutions: Iterable[Solution] | None = None,
    follow: Any = iter,
) -> ReportSummary:
    """Writes a file of verdicts as a page.

    Args:
        verdicts: The JSON Lines file that `genprm verify` wrote. Settings kept beside it are shown. Or samples that
            the lm-evaluation-harness has logged of the model `genprm`; they hold the solutions, too.
        output: The HTML file, replaced as a whole if it exists.
        solutions: The judged solutions. They hold the texts of problems and steps, which a verdict does not. Their
            labels count in place of those of the verdicts.
        follow: Wraps the iterator over verdicts, to show progress.

    Raises:
        DataError: The verdicts cannot be read, a row is bad (file, row and field are named), there is none, or one is
            about another text than the solution of its id; or the page cannot be written.
        ConfigError: `output` is a directory or the file of verdicts itself.
    """
    verdicts, output = Path(verdicts), Path(output)
    if output.is_dir():
        raise ConfigError(f"{output} is a directory; name a file")
    if output.exists() and verdicts.exists() and output.samefile(verdicts):
        raise ConfigError(f"{output} is the file of verdicts itself; name another --output")
    by_id = None if solutions is None else {solution.id: solution for solution in solutions}
    settings = _settings(verdicts)
    result = ReportSummary()
    entries: list[Entry] = []
    judged: list[Judged] = []
    for verdict, judged_with_it in follow(iter_judged(verdicts)):
        solution = _solution_of(verdict, by_id, verdicts) or judged_with_it
        result.without_solution += by_id is not None and solution is None
        if solution is not None:
            verdict.label = solution.label  # it may have been corrected since the solution was judged
        result.verdicts.add(verdict, solution)
        if not verdict.has_failed:
            judged.append(Judged.of(verdict, None if solution is None else len(solution.steps)))
        entries.append(make_entry(verdict, solution))
    if not entries:
        raise DataError("holds no verdicts", file=str(verdicts))
    stop = settings.get("stop")
    charts = draw(measure(judged, all_steps=None if stop is None else stop == "never"))
    with replacing(output, result=True) as file:
        for piece in render(verdicts.name, result.verdicts, charts, entries, settings):
            file.write(piece.encode("utf-8", "replace"))  # a file's name may hold half a surrogate pair
    return result


def _solution_of(verdict: Verdict, by_id: Mapping[str, Solution] | None, path: Path) -> Solution | None:
    solution = None if by_id is None else by_id.get(verdict.id)
    if solution is None:
        return None
    if verdict.solution_digest not in ("", solution.digest) or len(verdict.rewards) > len(solution.steps):
        raise DataError(
            f"holds a verdict of '{verdict.id}' about another text than the solution of that id; name the file that "
            "was judged",
            file=str(path),
        )
    return solution


def _settings(verdicts: Path) -> dict[str, Any]:
    """What the verdicts were made with, if it is kept beside them and can be read: the page does without."""
    try:
        settings = json.loads(verdicts.with_name(verdicts.name + ".settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return mask(settings) if isinstance(settings, dict) else {}


def render(
    name: str,
    summary: VerdictSummary,
    charts: Sequence[Chart],
    entries: Sequence[Entry],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    """The page in pieces.

    Args:
        name: The file's name, for the title.
        summary: What was counted.
        charts: What was measured.
        entries: The verdicts in order.
        settings: What they were made with; may be empty.
    """
    environment = Environment(
        loader=PackageLoader("genprm_trl.verdict_report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _asset("page.css"), _asset("page.js")
    template = environment.get_template("page.html.jinja")
    yield from template.generate(
        name=name,
        version=__version__,
        style=style,
        script=script,
        policy="; ".join(
            (
                "default-src 'none'",
                f"script-src {_source(script)}",
                f"style-src {_source(style)}",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        summary=summary,
        scores=summary.scores(),
        charts=charts,
        settings={key: _shown(value) for key, value in settings.items() if value is not None},
        rows=htmlsafe_json_dumps([entry.row for entry in entries], separators=(",", ":")),
        blocks=(entry.block for entry in entries),
    )


def _asset(name: str) -> str:
    return files("genprm_trl.verdict_report").joinpath("templates", name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """A content security policy's name for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
