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
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from genprm_trl.errors import ConfigError, DataError, file_error
from genprm_trl.records import Solution
from genprm_trl.rows.outputs import replacing
from genprm_trl.rows.secrets import mask
from genprm_trl.verdict_report.charts import Chart, draw
from genprm_trl.verdict_report.content import make_entry
from genprm_trl.verdict_report.figures import Judged, measure
from genprm_trl.verdict_report.reading import read_verdicts
from genprm_trl.verifier.summary import VerdictSummary
from genprm_trl.version import __version__


class Table(NamedTuple):
    """A table of texts; its first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


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
    check_output(output, [verdicts])
    by_id = None if solutions is None else {solution.id: solution for solution in solutions}
    settings = _settings(verdicts)
    result = ReportSummary()
    rows: list[dict[str, Any]] = []
    judged: list[Judged] = []
    try:
        with tempfile.TemporaryFile("w+", encoding="ascii") as blocks:  # all but the rows: it may not fit into memory
            for verdict, solution in read_verdicts(verdicts, by_id, follow):
                result.without_solution += by_id is not None and solution is None
                result.verdicts.add(verdict, solution)
                if not verdict.has_failed:
                    judged.append(Judged.of(verdict, None if solution is None else len(solution.steps)))
                entry = make_entry(verdict, solution)
                rows.append(entry.row)
                blocks.write(f"{entry.block}\n")
            if not rows:
                raise DataError("holds no verdicts", file=str(verdicts))
            blocks.seek(0)
            stop = settings.get("stop")
            charts = draw(measure(judged, all_steps=None if stop is None else stop == "never"))
            shown = {"summary": result.verdicts, "charts": charts, "settings": settings}
            write_page(output, verdicts.name, rows, (line.rstrip("\n") for line in blocks), **shown)
    except OSError as error:
        raise file_error(error, "cannot be written", tempfile.gettempdir()) from None
    return result


def check_output(output: Path, verdicts: Sequence[Path]) -> None:
    """Checks where a page goes.

    Raises:
        ConfigError: It is a directory or one of the files of verdicts.
    """
    if output.is_dir():
        raise ConfigError(f"{output} is a directory; name a file")
    if output.exists() and any(path.exists() and output.samefile(path) for path in verdicts):
        raise ConfigError(f"{output} is the file of verdicts itself; name another --output")


def write_page(
    output: Path, name: str, rows: Sequence[Mapping[str, Any]], blocks: Iterable[str], **shown: Any
) -> None:
    """Writes a page as a whole.

    Args:
        output: The HTML file.
        name: The page's title.
        rows: The rows of the list, in order (`Entry.row`).
        blocks: What belongs to each of them (`Entry.block`), read once.
        **shown: What else is on it; see `render`.

    Raises:
        DataError: It cannot be written.
    """
    with replacing(output, result=True) as file:
        for piece in render(name, rows, blocks, **shown):
            file.write(piece.encode("utf-8", "replace"))  # a file's name may hold half a surrogate pair


def _settings(verdicts: Path) -> dict[str, Any]:
    """What the verdicts were made with, if it is kept beside them and can be read: the page does without."""
    try:
        settings = json.loads(verdicts.with_name(verdicts.name + ".settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return mask(settings) if isinstance(settings, dict) else {}


def render(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    blocks: Iterable[str],
    *,
    summary: VerdictSummary | None = None,
    charts: Sequence[Chart] = (),
    settings: Mapping[str, Any] | None = None,
    verifiers: Sequence[str] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
) -> Iterator[str]:
    """The page in pieces.

    Args:
        name: The page's title.
        rows: The rows of the list, in order.
        blocks: What belongs to each of them, read once.
        summary: What was counted, of one verifier.
        charts: What was measured.
        settings: What the verdicts were made with.
        verifiers: Names of the verifiers that are compared.
        tables: What the comparison found.
        notes: What must be known to read the tables.
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
        solutions=len(rows),
        summary=summary,
        scores=None if summary is None else summary.scores(),
        charts=charts,
        settings={key: _shown(value) for key, value in (settings or {}).items() if value is not None},
        verifiers=verifiers,
        tables=tables,
        notes=notes,
        rows=htmlsafe_json_dumps(rows, separators=(",", ":")),
        blocks=blocks,
    )


def _asset(name: str) -> str:
    return files("genprm_trl.verdict_report").joinpath("templates", name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """A content security policy's name for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
