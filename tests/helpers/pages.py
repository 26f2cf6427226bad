"""The README and the pages of the documentation, and the fenced blocks of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"bash": "bash", "sh": "bash", "shell": "bash", "console": "bash", "python": "python", "py": "python"}
LANGUAGES |= {"yaml": "yaml", "yml": "yaml"}
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!-- *(run|check|needs a GPU)(?:: ([^\n]+?))? *(?:\n(.*))?-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: Page and line, as in `docs/rl.md:12`.
        language: `bash`, `python` or `yaml`.
        text: What it holds.
        treatment: `run`, `check`, `needs a GPU`; None if the page does not say.
        argument: What the comment says after a colon.
        before: Python to run before it.
    """

    place: str
    language: str
    text: str
    treatment: str | None
    argument: str | None
    before: str


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if (language := LANGUAGES.get(found[2])) is None:
            continue
        above = text[: found.start()].rstrip()
        comment = COMMENT.fullmatch(above[above.rfind("<!--") :]) if "<!--" in above else None
        treatment, argument, before = comment.groups() if comment else (None, None, None)
        line = text.count("\n", 0, found.start()) + 1
        lines = [each.removeprefix(found[1]) for each in found[3].splitlines()]
        place = f"{page.relative_to(ROOT)}:{line}"
        yield Block(place, language, "\n".join(lines) + "\n", treatment, argument, before or "")
