"""No command writes to what it reads, and none replaces what somebody else has written."""

from __future__ import annotations

import argparse
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.files import files_of
from genprm_trl.cli.main import COMMANDS, command_parser, main
from genprm_trl.options.parser import option_types
from genprm_trl.rows.outputs import inputs_of
from tests.helpers.recipes import write_config

pytestmark = pytest.mark.usefixtures("offline")
WRITE_NOTHING = {
    "doctor": "prints",
    "completion": "prints",
    "serve": "answers requests",
    "lm-eval": "the harness adds the time to the names of its files, and replaces none",
}
# What each command cannot do without, besides its outputs.
NEEDED: dict[str, list[str]] = {
    "quickstart": [],
    "recipe": ["--problems", "in.jsonl"],
    "rollout": ["in.jsonl", "--model", "m"],
    "label": ["in.jsonl", "--model", "m"],
    "pairs": ["in.jsonl", "--model", "m"],
    "rationalize": ["in.jsonl", "--model", "m"],
    "consensus": ["in.jsonl"],
    "decontaminate": ["in.jsonl", "--against", "a.jsonl"],
    "grpo": ["in.jsonl", "--model", "m", "--use_cpu"],
    "sft": ["in.jsonl", "--model", "m", "--use_cpu"],
    "prm": ["in.jsonl", "--model", "m", "--use_cpu"],
    "implicit": ["in.jsonl", "--model", "m", "--use_cpu"],
    "ppm": ["in.jsonl", "--model", "m", "--use_cpu"],
    "dpo": ["in.jsonl", "--model", "m", "--use_cpu"],
    "verify": ["in.jsonl", "--model", "m"],
    "select": ["in.jsonl", "--verdicts", "v.jsonl"],
    "refine": ["in.jsonl", "--model", "m", "--policy", "p"],
    "search": ["in.jsonl", "--model", "m", "--policy", "p"],
    "report": ["in.jsonl"],
    "compare": ["in.jsonl"],
    "card": ["m", "--results", "r.json"],
}
TRAININGS = ("sft", "prm", "implicit", "ppm", "dpo", "grpo")
WRITERS = [name for name in COMMANDS if name not in WRITE_NOTHING]
WITH_OUTPUT = [name for name in WRITERS if name not in ("quickstart", "recipe", *TRAININGS, "card")]
CONTENT = b'{"id": "mine", "problem": "What?", "steps": ["This."]}\n'


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def actions(name: str) -> dict[str, argparse.Action]:
    return {action.dest: action for action in command_parser(name)._actions}


def readable(name: str) -> list[str]:
    """The options of a command that name what it reads."""
    found: dict[str, None] = {}
    for annotated in option_types(import_module(COMMANDS[name].module).run):
        kind, marks = getattr(annotated, "__origin__", annotated), getattr(annotated, "__metadata__", ())
        for field in getattr(kind, "__dataclass_fields__", {}).values():
            if field.metadata.get("reads"):
                found |= dict.fromkeys([marks[0].name(field.name)] if marks else [field.name])
    return list(found)


def words(name: str, output: Path | str, **options: object) -> list[str]:
    """A command line in which an option has a value, in place of the one that is needed."""
    known, needed = actions(name), list(NEEDED[name])
    line = [name]
    if needed and not needed[0].startswith("--"):
        positional = next(dest for dest, action in known.items() if not action.option_strings)
        line.append(str(options.pop(positional, needed.pop(0))))
    pairs = dict(zip(needed[::2], needed[1::2], strict=False)) if "--use_cpu" not in needed else {"--model": "m"}
    for option, value in options.items():
        pairs["--model" if option == "model_name_or_path" else f"--{option}"] = str(value)
    pairs["--output" if "output" in known else "--output_dir"] = str(output)
    line += [word for pair in pairs.items() for word in pair]
    if "--use_cpu" in needed:
        line += ["--use_cpu", "--bf16", "false"]
    return line


def refused(capsys: pytest.CaptureFixture[str], line: list[str], said: str = "is read by this command") -> None:
    assert main(line) == 2
    error = capsys.readouterr().err
    assert said in error, error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_every_command_says_what_it_reads_and_writes():
    assert NEEDED.keys() == set(WRITERS)
    for name in COMMANDS:
        module = import_module(COMMANDS[name].module)
        speakers = [module, *(option_types(module.run) if hasattr(module, "run") else [])]
        assert any(hasattr(each, "files") for each in speakers) == (name in WRITERS), name


# Options that speak of files and name none that is read.
NO_INPUTS = {
    "output", "output_dir", "overwrite", "split", "eval_split", "verify_split", "format", "limit", "config",
    "skip_bad_rows", "policy_backend", "backend", "help", "retry_errors", "drop_failed", "until", "push_to_hub",
    "against_split", "template_date", "policy_template_date", "kind", "verifier_backend", "verifier_template_date",
    "verifier_kind",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in TRAININGS])
def test_every_option_that_names_a_file_is_marked(name):
    for dest, action in actions(name).items():
        speaks = re.search(r"\b(file|dataset|director|JSONL|YAML|Jinja)", str(action.help))
        if speaks and action.type in (str, None) and dest not in NO_INPUTS and action.nargs != 0:
            assert dest in readable(name) or (name, dest) in {("recipe", "problems"), ("card", "model"),
                                                             ("label", "estimates"), ("select", "verdicts"),
                                                             ("recipe", "name")}, (name, dest)  # fmt: skip


def cases() -> list[Any]:
    return [pytest.param(name, option, id=f"{name}-{option}") for name in WITH_OUTPUT for option in readable(name)]


@pytest.mark.parametrize(("name", "option"), cases())
def test_an_output_that_is_an_input_is_refused(capsys, directory, name, option):
    """By any spelling and any link, with and without --overwrite, before anything is opened."""
    source = directory / "input.jsonl"
    source.write_bytes(CONTENT)
    (directory / "sub").mkdir()
    (directory / "link.jsonl").symlink_to(source)
    os.link(source, directory / "hard.jsonl")
    (directory / "up").symlink_to(directory)
    before = sorted(directory.iterdir())
    for output in (source, "sub/../input.jsonl", directory / "link.jsonl", "hard.jsonl", "up/input.jsonl"):
        line = words(name, output, **{option: source})
        refused(capsys, line)
        refused(capsys, [*line, "--overwrite"])
        refused(capsys, words(name, source, **{option: output}))
    assert source.read_bytes() == CONTENT
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_what_is_written_beside_an_output_is_no_input_either(capsys, directory, name):
    [option, *_] = readable(name)
    module, parser = import_module(COMMANDS[name].module), command_parser(name)
    files = files_of(module, parser.parse(words(name, "out.jsonl")[1:]))
    assert files is not None
    for path in [*files.results, *files.others]:
        path.write_bytes(CONTENT)
        refused(capsys, [*words(name, "out.jsonl", **{option: path}), "--overwrite"])
        assert path.read_bytes() == CONTENT
        path.unlink()


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_the_configuration_file_is_an_input(capsys, directory, name):
    config = directory / "config.jsonl"
    config.write_text("{}\n")
    refused(capsys, [*words(name, config), "--config", str(config), "--overwrite"])
    assert config.read_text() == "{}\n"


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_an_output_in_a_directory_of_rows_or_of_a_model_is_refused_where_it_is_read(capsys, directory, name):
    rows = directory / "rows"
    rows.mkdir()
    (rows / "test.jsonl").write_bytes(CONTENT)
    os.link(rows / "test.jsonl", directory / "elsewhere.jsonl")
    option = readable(name)[0]
    for output in (rows, rows / "test.jsonl", rows / "new.jsonl", "elsewhere.jsonl"):
        is_file = name in ("report", "compare", "select", "decontaminate")
        said = "is a directory" if output is rows and is_file else "is read by this command"
        refused(capsys, [*words(name, output, **{option: rows}), "--overwrite"], said)
    assert sorted(rows.iterdir()) == [rows / "test.jsonl"]
    if "model" in readable(name):
        model = directory / "model"
        model.mkdir()
        (model / "config.json").write_bytes(b"{}")
        if name != "select":  # whose choices have their own name
            refused(capsys, [*words(name, model / "config.json", model=model), "--overwrite"])
        assert (model / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", WITH_OUTPUT)
@pytest.mark.parametrize("content", ["a note", "a\nnote\n", '{"id": "a"}\n', '{"id": "a"}\n{"half'])
def test_what_somebody_else_has_written_stays(capsys, directory, name, content):
    output = directory / "mine.jsonl"
    output.write_text(content)
    (directory / "in.jsonl").write_bytes(CONTENT)
    (directory / "v.jsonl").write_bytes(b"{}\n")
    assert main(words(name, output)) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert output.read_text() == content
    assert sorted(path.name for path in directory.iterdir()) == ["in.jsonl", "mine.jsonl", "v.jsonl"]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_directory_that_is_read_is_not_trained_into(capsys, directory, name):
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (directory / "link").symlink_to(model)
    for output in (model, "link", "model/../model"):
        refused(capsys, words(name, output, model_name_or_path=model))
        refused(capsys, words(name, model, model_name_or_path=output))
    for option, file in (("chat_template_path", "chat_template.jinja"), ("data", "README.md")):
        if option in actions(name):
            (model / file).write_text("mine")
            refused(capsys, words(name, model, **{option: model / file}))
            assert (model / file).read_text() == "mine"


@pytest.mark.parametrize("name", TRAININGS)
def test_a_checkpoint_that_is_read_is_not_removed(capsys, directory, name):
    checkpoint = directory / "out" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    for option, value in (("model_name_or_path", checkpoint), ("data", checkpoint / "config.json")):
        refused(capsys, [*words(name, "out", **{option: value}), "--overwrite"])
    assert (checkpoint / "config.json").read_text() == "{}"


@pytest.mark.parametrize("file", ["labels.jsonl", "rollouts.jsonl", "critiques.jsonl", "rationales.jsonl"])
def test_a_recipe_does_not_write_to_its_problems(capsys, directory, file):
    config = write_config(directory)
    problems = directory / "out" / file
    problems.parent.mkdir()
    problems.write_bytes(CONTENT)
    for more in ([], ["--overwrite_from", "rollout"]):
        refused(capsys, ["recipe", "--config", config, "--problems", str(problems), *more])
    assert problems.read_bytes() == CONTENT


def test_two_outputs_are_two_files(capsys, directory):
    line = words("select", "c.jsonl", model="m")
    line[line.index("--verdicts") + 1] = "c.jsonl"
    refused(capsys, line, "is written twice by this command")


def test_the_results_of_a_quickstart_are_its_own(capsys, directory):
    (directory / "results.md").write_text("mine")
    refused(capsys, ["quickstart", "--output_dir", str(directory)], "choose another --output_dir, or --overwrite")
    assert (directory / "results.md").read_text() == "mine"


def test_marks_are_read_from_options():
    [options, *_] = command_parser("report").parse(["v.jsonl", "--solutions", "s.jsonl"])
    assert [(str(each.path), each.kind) for each in inputs_of(options)] == [("v.jsonl", "rows"), ("s.jsonl", "rows")]
