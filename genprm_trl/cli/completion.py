"""Print a script that completes commands and options in your shell.

bash, for your user only (needs the package bash-completion; open a new shell afterwards):

  mkdir -p ~/.local/share/bash-completion/completions
  genprm completion bash > ~/.local/share/bash-completion/completions/genprm

zsh, in a directory that your ~/.zshrc puts on $fpath before compinit:

  genprm completion zsh > ~/.zfunc/_genprm

fish:

  genprm completion fish > ~/.config/fish/completions/genprm.fish

The script holds all commands and options, so nothing is started while you type. Print it again after an update. It
needs the extra `completion`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from genprm_trl.errors import MissingExtraError


@dataclass
class CompletionOptions:
    """Options of `genprm completion`."""

    shell: Literal["bash", "zsh", "fish", "tcsh"] = field(metadata={"help": "Your shell.", "positional": True})


def run(options: CompletionOptions) -> None:
    """Prints the completion script of the shell that the options name."""
    print(_shtab().complete(completion_parser(), shell=options.shell))


def _shtab() -> Any:
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError("shtab", "completion", "genprm completion") from error
    return shtab


def completion_parser() -> argparse.ArgumentParser:
    """A parser of the whole command line: every command with every option, files where any text is taken."""
    from genprm_trl.cli.main import COMMANDS, command_parser, top_level_parser

    parser = top_level_parser(commands=False)
    # `add_parser` wants to make its parsers itself; ours are made already.
    made: dict[str, argparse.ArgumentParser] = {}
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=lambda prog, **_: made[prog])  # type: ignore[call-overload]
    for name, command in COMMANDS.items():
        made[name] = _completing(command_parser(name), _shtab().FILE)
        commands.add_parser(name, prog=name, help=command.summary)
    return parser


def _completing(parser: argparse.ArgumentParser, file: Mapping[str, object]) -> argparse.ArgumentParser:
    """Lets files be completed where any text may stand, and leaves each option one spelling."""
    from genprm_trl.options.parser import shown_names

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _completing(each, file)
            continue
        action.option_strings = shown_names(action)
        if action.choices is None and action.nargs != 0 and action.type in (None, str):
            action.complete = file  # type: ignore[attr-defined]
    return parser
