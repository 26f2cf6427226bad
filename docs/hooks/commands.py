"""Pages of the documentation that are made from the commands' own help: one a command, and a list in commands.md."""

from __future__ import annotations

import os
from typing import Any

from mkdocs.structure.files import File, Files

from genprm_trl.cli.main import COMMANDS, command_parser

MARK = "<!-- commands -->"


def on_files(files: Files, config: Any) -> Files:
    """Adds `commands/NAME.md` for each command."""
    os.environ["COLUMNS"] = "100"  # argparse wraps its help at the terminal's width
    for name, command in COMMANDS.items():
        parser = command_parser(name)
        description, parser.description = parser.description or f"{command.summary}.", None
        content = f"# genprm {name}\n\n{_prose(description)}\n\n```text\n{parser.format_help().rstrip()}\n```\n"
        files.append(File.generated(config, f"commands/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the list of commands in its place."""
    rows = [f"| [`genprm {name}`](commands/{name}.md) | {command.summary} |" for name, command in COMMANDS.items()]
    return markdown.replace(MARK, "\n".join(["| command | |", "| --- | --- |", *rows]))


def _prose(description: str) -> str:
    """A command's description as Markdown: its indented lines are code."""
    return "\n".join(f"  {line}" if line.startswith("  ") else line for line in description.splitlines())
