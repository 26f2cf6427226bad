"""Files of the repository that pages link to, outside of docs/: they become part of the site, under `repository/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to. Its own links to files beside it lead nowhere here, and become text."""
    linked = {
        path
        for file in files.documentation_pages()
        if file.abs_src_path is not None
        for path in OUTSIDE.findall(Path(file.abs_src_path).read_text(encoding="utf-8"))
    }
    for path in sorted(linked):
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            text = LINK.sub(r"\1", text)
        else:
            text = f"# {path}\n\n```text\n{text}\n```\n"
        files.append(File.generated(config, _page(path), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leads the links there."""
    return OUTSIDE.sub(lambda found: f"]({_page(found[1])})", markdown)


def _page(path: str) -> str:
    return f"repository/{path if path.endswith('.md') else f'{path}.md'}"
