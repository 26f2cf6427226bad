"""`genprm completion`: the scripts, in the shells that are installed here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shtab

from genprm_trl.cli.completion import completion_parser
from genprm_trl.cli.main import COMMANDS, main

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_genprm genprm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

# Command line (its last word is being typed), and what is offered.
CASES = [
    (["genprm", "ver"], {"verify"}),
    (["genprm", "--ver"], {"--version", "--verbose"}),
    (["genprm", "verify", "--mo"], {"--mode", "--model"}),
    (["genprm", "verify", "sol"], {"solutions.jsonl"}),
    (["genprm", "verify", "--config", "sol"], {"solutions.jsonl"}),
    (["genprm", "verify", "--model", "m", "--adaptive", "e"], {"exact"}),
    (["genprm", "doctor", "--onl"], {"--online"}),
    (["genprm", "completion", "z"], {"zsh"}),
    (["genprm", "sft", "--learning_r"], {"--learning_rate"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, Path]:
    """The scripts by shell, in a directory with a file to complete."""
    directory = tmp_path_factory.mktemp("completion")
    (directory / "solutions.jsonl").touch()
    parser = completion_parser()
    found = {}
    for shell in ("bash", "zsh", "fish"):
        found[shell] = directory / shell
        found[shell].write_text(shtab.complete(parser, shell=shell), encoding="utf-8")
    return found


@pytest.mark.parametrize(("words", "offered"), CASES)
def test_bash(scripts, words, offered):
    script = scripts["bash"]
    command = ["bash", "--norc", "-c", BASH, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=True)
    assert (done.stderr, {*done.stdout.split()}) == ("", offered)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), CASES)
def test_fish(scripts, words, offered):
    script = scripts["fish"]
    command = ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(script), " ".join(words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=True)
    found = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert (done.stderr, {name for name in found if name.startswith(words[-1])}) == ("", offered)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(scripts):
    done = subprocess.run(["zsh", "-n", str(scripts["zsh"])], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_is_in_it(scripts):
    text = scripts["bash"].read_text(encoding="utf-8")
    [commands] = [line for line in text.splitlines() if line.startswith("_shtab_genprm_subparsers=")]
    assert {*commands.split("=", 1)[1].strip("()").replace("'", "").split()} == {*COMMANDS}
    assert "--max-step-tokens" not in text  # each option in one spelling


def test_without_shtab_it_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'genprm-trl[completion]'" in capsys.readouterr().err


def test_an_unknown_shell(capsys):
    assert main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
