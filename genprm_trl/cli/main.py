"""The `genprm` command: finds the subcommand, reads its options, runs it, and turns the outcome into an exit code.

A subcommand is a module of `genprm_trl.cli` with a function `run`, whose parameters are annotated with dataclasses of
options (see `options.parser`), and a line in `COMMANDS`. `genprm NAME --help` shows the module's docstring above the
options. Slow imports stand inside `run`, so that help and errors come at once. A command that reads its words itself
has `run_words`, which gets the words, and `option_parser`, which makes their parser.

Exit codes: what `run` returns (None is 0); 2 for a wrong command line or an error that the user can act on
(`GenPRMError`); 1 for a full disk or a missing right, in one line, and for any other exception, with its traceback;
130 after Ctrl-C; 141 if stdout was closed (`| head`); 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import inspect
import os
import platform
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from genprm_trl.cli import console
from genprm_trl.cli.files import run_command
from genprm_trl.errors import GenPRMError, StorageError, is_of_the_machine
from genprm_trl.rows.secrets import mask_text
from genprm_trl.version import __version__


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    Attributes:
        module: The module that holds it, imported only when it is run.
        summary: One line for `genprm --help`.
        help_is_kept: Whether its options are those of a package that takes seconds to import; see `cli.kept_help`.
    """

    module: str
    summary: str
    help_is_kept: bool = False


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "genprm_trl.cli.quickstart", "train a small GenPRM on this machine, measure it, and show the results"
    ),
    "doctor": Command("genprm_trl.cli.doctor", "say what works on this machine, and what to do about what does not"),
    "completion": Command("genprm_trl.cli.completion", "print a script that completes commands in your shell"),
    "recipe": Command("genprm_trl.cli.recipe", "make training data from problems: all of the next four, and a card"),
    "rollout": Command("genprm_trl.cli.rollout", "sample solutions of problems, as many right as wrong ones"),
    "label": Command("genprm_trl.cli.label", "label the steps of solutions by Monte Carlo estimates"),
    "pairs": Command("genprm_trl.cli.pairs", "make pairs of a right and a wrong step, to train a policy on"),
    "rationalize": Command("genprm_trl.cli.rationalize", "let a strong reasoner critique solutions, running its code"),
    "consensus": Command(
        "genprm_trl.cli.consensus", "keep the critiques that agree with the labels, as training data"
    ),
    "decontaminate": Command("genprm_trl.cli.decontaminate", "leave out of training data what a benchmark holds"),
    "grpo": Command("genprm_trl.cli.grpo", "train a policy with rewards for the steps of its solutions", True),
    "sft": Command("genprm_trl.cli.sft", "train a GenPRM on solutions with rationales", True),
    "prm": Command("genprm_trl.cli.prm", "train a discriminative PRM on solutions with step labels", True),
    "implicit": Command("genprm_trl.cli.implicit", "train an implicit PRM on solutions with outcomes alone", True),
    "ppm": Command("genprm_trl.cli.ppm", "train a process preference model on pairs of steps", True),
    "dpo": Command("genprm_trl.cli.dpo", "train a policy on pairs of steps", True),
    "verify": Command("genprm_trl.cli.verify", "judge a file of solutions step by step"),
    "select": Command("genprm_trl.cli.select", "choose one of several solutions of each problem"),
    "refine": Command("genprm_trl.cli.refine", "let a policy refine its answers with a verifier's critique"),
    "search": Command("genprm_trl.cli.search", "solve problems by search over steps with a verifier"),
    "report": Command("genprm_trl.cli.report", "make a page of verdicts to read: solutions, rationales, charts"),
    "compare": Command("genprm_trl.cli.compare", "compare verifiers by their verdicts on the same solutions"),
    "serve": Command("genprm_trl.cli.serve", "offer a GenPRM to other programs over HTTP"),
    "card": Command("genprm_trl.cli.card", "put the numbers that lm_eval has measured into a model's card"),
    "lm-eval": Command("genprm_trl.cli.lm_eval", "run the lm-evaluation-harness with our tasks and our model", True),
}


_EPILOG = """\
`genprm COMMAND --help` explains a command's options.

exit codes: 0 done; 1 failed; 2 wrong options or data; 130 stopped by Ctrl-C; 141 stdout was closed;
143 stopped by SIGTERM"""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. Whatever tidies up after Ctrl-C tidies up after this, too."""


def versions() -> str:
    """The versions that a bug report needs, without importing the packages."""
    from importlib import metadata

    others = []
    for package in ("trl", "transformers", "torch"):
        try:
            others.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            others.append(f"{package} not installed")
    return f"genprm-trl {__version__} ({', '.join(others)}, Python {platform.python_version()})"


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command's words. Imports the command's module.

    Args:
        name: A key of `COMMANDS`.
    """
    module = import_module(COMMANDS[name].module)
    if hasattr(module, "option_parser"):
        return module.option_parser()
    from genprm_trl.options.parser import OptionParser, option_types

    description = inspect.cleandoc(module.__doc__ or "")
    return OptionParser(option_types(module.run), prog=f"genprm {name}", description=description)


def top_level_parser(*, commands: bool = True) -> argparse.ArgumentParser:
    """The parser of what stands before a command.

    Args:
        commands: Whether it also takes the command and, unread, the command's words.
    """
    width = max(map(len, COMMANDS), default=0)
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="genprm",
        usage="genprm [-h] [--version] [-v | -q] [--debug] COMMAND ...",
        description="Train and use generative process reward models.",
        epilog="\n".join(["commands:", *lines, "", _EPILOG]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="show versions and exit")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="show more of what happens")
    volume.add_argument("-q", "--quiet", action="store_true", help="show only errors and results")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (or set GENPRM_DEBUG=1)")
    if commands:
        parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The words after `genprm`; those of the process by default.

    Returns:
        The exit code, as the module's docstring lists them.
    """
    try:
        try:
            with _terminating():
                code = _dispatch(argv)
        except SystemExit as stop:  # from argparse: usage errors, --help and --version
            if isinstance(stop.code, str):  # what the interpreter would do with it
                print(stop.code, file=sys.stderr)
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        return code
    except OSError as error:
        # stdout cannot be written. Files that a command writes are reported where the command is run.
        closed = isinstance(error, BrokenPipeError) and _stdout_is_closed()
        if not closed and error.errno != errno.ENOSPC:
            raise
        _drop_stdout()
        if closed:
            return 141
        print(f"genprm: error: stdout: {error.strerror}", file=sys.stderr)
        return 1


def _dispatch(argv: Sequence[str] | None) -> int:
    parser = top_level_parser()
    top = parser.parse_args(argv)
    if top.version:
        print(versions())
        return 0
    if top.command is None:
        parser.print_help()
        return 0
    if top.command not in COMMANDS:
        from genprm_trl.options.parser import suggestion

        parser.error(f"unknown command '{top.command}'{suggestion(top.command, COMMANDS)}")
    prog = f"genprm {top.command}"

    # These three are read before the command's options, and before anything slow is imported: libraries read their
    # settings from the environment once, and an error while reading options can have a traceback.
    verbose = top.verbose or _given(top.arguments, "-v", "--verbose")
    quiet = top.quiet or _given(top.arguments, "-q", "--quiet")
    debug = top.debug or _given(top.arguments, "--debug") or os.environ.get("GENPRM_DEBUG", "0") not in ("", "0")
    console.configure(-1 if quiet else int(verbose))
    console.set_kept(None)
    try:
        if COMMANDS[top.command].help_is_kept and top.arguments in (["-h"], ["--help"]):
            from genprm_trl.cli.kept_help import print_kept_help

            print_kept_help(top.command, lambda: _run(top.command, top.arguments))
            return 0
        return _run(top.command, top.arguments)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        print(f"\n{prog}: {'terminated' if terminated else 'interrupted'}{_and_kept()}", file=sys.stderr)
        return 143 if terminated else 130
    except Exception as error:
        refused = _refused_by_the_machine(error)
        if refused is None and not isinstance(error, GenPRMError):
            raise  # it may be a bug, and a bug has a traceback
        if debug:
            print(mask_text(traceback.format_exc()), end="", file=sys.stderr)
        message = mask_text(str(error)) if refused is None else refused + _and_kept()
        print(f"{prog}: error: {message}", file=sys.stderr)
        return 2 if refused is None else 1


def _run(command: str, words: Sequence[str]) -> int:
    module = import_module(COMMANDS[command].module)
    if hasattr(module, "run_words"):
        return module.run_words(words) or 0
    parser = command_parser(command)
    options = parser.parse(words)  # type: ignore[attr-defined]
    return run_command(module, options, config_file=parser.config_file)  # type: ignore[attr-defined]


def _refused_by_the_machine(error: BaseException) -> str | None:
    """What to say of a full disk or a missing right; None for any other error."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError) and is_of_the_machine(error):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
    # Libraries that save models report a full disk in other errors.
    cause: BaseException | None = error
    while cause is not None:
        if (isinstance(cause, OSError) and cause.errno == errno.ENOSPC) or f"os error {errno.ENOSPC}" in str(cause):
            return os.strerror(errno.ENOSPC)
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Lets SIGTERM end the command as Ctrl-C does. A second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:  # a process that was forked from this one
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _and_kept() -> str:
    kept = console.kept()
    return f"; {kept}" if kept else ""


def _given(words: Sequence[str], *names: str) -> bool:
    """Whether one of the names is among the words before a `--`."""
    options = list(words)[: words.index("--")] if "--" in words else words
    return any(name in options for name in names)


def _stdout_is_closed() -> bool:
    """Tells stdout's broken pipe from one inside the program, for example of a worker process that died."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file
        return False
    poll = select.poll()
    poll.register(output, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_stdout() -> None:
    """Lets what stdout still holds go nowhere: the interpreter flushes it once more at exit."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)


if __name__ == "__main__":
    raise SystemExit(main())
