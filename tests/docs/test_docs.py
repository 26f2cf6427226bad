"""Every Bash, Python and YAML block of the README and the documentation is run, or checked against the real thing.

The line above a block's fence says which:

    <!-- run -->                     it is executed, in a directory with tiny inputs under the names that the pages use
    <!-- check -->                   it is only checked: it takes long, needs a server, or changes the machine
    <!-- check: genprm verify F -->  for YAML: it is a `--config` of this command
    <!-- needs a GPU -->             it is checked, and a person with a GPU may run it

Checked means: commands are read by the parsers of the programs that they start, Python parses and what it imports and
names exists, YAML fits the options of its command. Further lines of the comment are run before a Python block.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest
import yaml

from genprm_trl.cli.main import COMMANDS, Command, command_parser, main, top_level_parser
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.rows.outputs import inputs_of
from tests.helpers.judging_model import save_judging_model
from tests.helpers.pages import FENCE, PAGES, Block, blocks_of
from tests.helpers.paths import ROOT
from tests.helpers.solution_rows import row, write_rows
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

# Programs whose words are not ours to check.
OTHERS = {"cd", "curl", "docker", "export", "hf", "mkdir", "ray", "source", "vllm"}


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def each(*languages: str, treatments: tuple[str, ...] | None = None):
    chosen = [b for b in BLOCKS if b.language in languages and (treatments is None or b.treatment in treatments)]
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


def test_every_block_says_how_it_is_tested():
    assert len(BLOCKS) > 30
    assert [block.place for block in BLOCKS if block.treatment is None] == []


# --- Bash -----------------------------------------------------------------------------------------------------------


def commands_of(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, as words: without comments, assignments before them, redirections, and `&`."""
    unfinished = ""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = list(_lexer(unfinished + line))
        except ValueError:  # within quotes
            unfinished += line + "\n"
            continue
        unfinished = ""
        command: list[str] = []
        rest = iter(words)
        for word in rest:
            if word[0] in "<>":
                next(rest)
            elif word[0] in "|&;":
                yield command
                command = []
            elif not (re.fullmatch(r"[A-Z_]+=.*", word) and not command):
                command.append(word)
        yield command
    assert not unfinished


def _lexer(line: str) -> shlex.shlex:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    return lexer


def check_command(words: list[str]) -> None:
    """Hands the words to the parser of the program that they start; it exits where they are wrong."""
    program, *rest = words
    program = Path(program).name
    if program == "genprm":
        check_genprm(rest)
    elif program == "trl":
        check_trl(rest)
    elif program == "lm_eval":
        check_genprm(["lm-eval", *rest])
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert rest[0] == "launch"
        launched = launch_command_parser().parse_args(rest[1:])
        if launched.config_file is not None:
            check_accelerate_config(ROOT / launched.config_file)
        assert launched.module
        assert launched.training_script == "genprm_trl"
        check_genprm(launched.training_script_args)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in rest:
            name, given, value = word.partition("=")
            assert name.isupper() if given else word in targets, f"make knows no {word}"
            assert name != "BENCHMARKS" or (ROOT / value).is_file()
    elif program in ("python", "python3"):
        assert rest[0] in ("-c", "-m") or (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
    elif program in ("pip", "pip3"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for named in re.findall(r"genprm-trl\[([^\]]*)\]", " ".join(rest)):
            assert set(named.split(",")) <= extras.keys()
    else:
        assert program in OTHERS, f"nothing here can check the words of {program}"


def check_genprm(words: list[str]) -> None:
    top = top_level_parser().parse_args(words)
    if top.command is None:
        return
    parser = command_parser(top.command)
    words = list(top.arguments)
    if top.command == "lm-eval":
        # As the harness itself reads them: its first command is `run` unless they name another.
        if words and words[0] not in ("run", "ls", "validate", "--path"):
            words = ["run", *words]
        parser.parse_args(words)
    elif top.command == "doctor":
        parser.parse_args(words)
    else:
        if (parser.get_default("use_cpu")) is not None:
            words += ["--use_cpu"]  # only so that options for a GPU pass the trainer's own look at this machine
            words += ["--bf16", "false"]
        parser.parse(words)


def check_trl(words: list[str]) -> None:
    from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, TrlParser
    from trl.scripts.grpo import GRPOScriptArguments

    assert words[0] == "grpo", "no other command of TRL's is known here"
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))
    parser.parse_args_and_config([*words[1:], "--use_cpu", "true", "--bf16", "false"], fail_with_unknown_args=True)


def check_accelerate_config(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    load_config_from_file(str(path))


def exit_code(words: list[str]) -> int:
    """0, or what a parser exits with."""
    try:
        check_command(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@each("bash")
def test_commands_are_right(block, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    environment = dict(os.environ)
    try:
        for words in commands_of(block.text):
            if words:
                assert exit_code(words) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    finally:
        os.environ.clear()
        os.environ.update(environment)


def test_wrong_commands_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    for text in (
        "genprm verify a.jsonl --modell x",
        "genprm verify a.jsonl",
        "FOO=1 genprm grpo p.jsonl --model x --credit sum | head",
        "accelerate launch --num_proc 2 -m genprm_trl sft d --model x",
        "accelerate launch -m genprm_trl sft d --model x --learning_rat 1",
        "trl grpo --config examples/configs/grpo_genprm_reward.yaml --num_generation 2",
        "genprm lm-eval --model genprm --taskz x",
        "make quickstart fast",
        "pip install 'genprm-trl[vlm]'",
        "python benchmarks/labels.py",
        "gemprm verify",
    ):
        [words, *_] = commands_of(text)
        try:
            code = exit_code(words)
        except (AssertionError, ValueError):
            code = 2
        assert code == 2, text


# --- YAML -----------------------------------------------------------------------------------------------------------


@each("yaml")
def test_yaml_fits_the_options_of_its_command(block, tmp_path, monkeypatch):
    assert block.argument, "say what it configures: <!-- check: genprm COMMAND ... -->"
    path = tmp_path / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert isinstance(yaml.safe_load(block.text), dict)
    if block.argument == "accelerate":
        check_accelerate_config(path)
    else:
        check_command([*shlex.split(block.argument), "--config", str(path)])


# --- Python ---------------------------------------------------------------------------------------------------------


@each("python")
def test_python_parses_and_what_it_imports_exists(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
    assert unknown_names(block) == set()


def unknown_names(block: Block) -> set[str]:
    """Names that a block uses and nobody has defined, neither in it nor in what is run before it."""
    tree = ast.parse(block.before + "\n" + block.text)
    known = set(dir(builtins))
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
    return used - known


# --- Running --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A directory in which the names that the pages use are tiny models and files, in place of the Hub's."""
    directory = tmp_path_factory.mktemp("inputs")
    for name in ("GenPRM/GenPRM-7B", "GenPRM/GenPRM-1.5B", "Qwen/Qwen2.5-1.5B-Instruct"):
        if name.startswith("GenPRM"):
            save_judging_model(directory / name)  # one token a step, instead of thousands
        else:
            tiny_model().save_pretrained(directory / name)
            tiny_tokenizer().save_pretrained(directory / name)
    solution = {"id": "1", "problem": "What is 2 * 3 + 1?", "steps": ["2 * 3 = 6", "6 + 1 = 8"]}
    write_jsonl(directory / "solutions.jsonl", [solution])
    write_jsonl(directory / "labelled.jsonl", [{**solution, "label": 1}])
    return directory


@each("python", treatments=("run",))
def test_python_runs(block, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    names: dict[str, object] = {"__name__": "block"}
    for source in (block.before, block.text):
        code = compile(source, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(FunctionType(code, names)())
        else:
            exec(code, names)


@each("bash", treatments=("run",))
def test_bash_runs(block, inputs, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "genprm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m genprm_trl "$@"\n')
    (programs / "genprm").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    script = "set -euo pipefail\n" + block.text
    done = subprocess.run(
        ["bash", "-c", script], cwd=inputs, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_page_on_extending_is_one(tmp_path, monkeypatch, capsys):
    [block] = [each for each in blocks_of(ROOT / "docs" / "extending.md") if "CountOptions" in each.text]
    (tmp_path / "count_command.py").write_text(block.text)
    check = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*check, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "count", Command("count_command", "count the solutions of a file"))
    solutions = write_rows(tmp_path / "in.jsonl", [row(1), row(2)])
    assert main(["count", str(solutions), "--limit", "1"]) == 0
    assert capsys.readouterr().out == "1\n"
    [options, *_] = command_parser("count").parse([str(solutions)])
    assert [str(each.path) for each in inputs_of(options)] == [str(solutions)]


def test_json_blocks_are_json():
    for page in PAGES:
        for found in FENCE.finditer(page.read_text(encoding="utf-8")):
            if found[2] == "json":
                json.loads(found[3])


# --- Links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)#]+)(?:#[^)]*)?\)", text):
        if not (page.name == "commands.md" and target.startswith("commands/")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    # mkdocs' own tags (of the theme's plugins) are of no interest here.
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(each)

    assert {*pages(settings["nav"])} == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
