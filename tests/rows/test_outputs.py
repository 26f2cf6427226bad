"""Whose file is it? Inputs, results of this program, and everybody else's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.rows.jsonl import JsonlWriter, write_jsonl, write_text
from genprm_trl.rows.outputs import (
    WRITTEN,
    CommandFiles,
    Input,
    command_files,
    is_foreign,
    refuse_foreign,
    replacing,
)


def write(path: Path, text: str, **files: object) -> CommandFiles:
    with command_files(CommandFiles(results=[path], **files)) as running:
        write_text(path, text, result=True)
    return running


def test_a_result_is_written_again_and_stays_untouched_where_it_is_the_same(tmp_path):
    path = tmp_path / "page.html"
    assert write(path, "one").changed == [path]
    before = path.stat()
    assert write(path, "one").kept == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert write(path, "two").changed == [path]
    assert write(path, "one").changed == [path]
    assert path.read_text() == "one"


def test_a_file_of_somebody_else_is_replaced_on_demand(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="did not write it as it is; choose another --output, or --overwrite"):
        write(path, "one")
    assert path.read_text() == "mine"
    write(path, "one", overwrite=True)
    assert path.read_text() == "one"
    write(path, "two")
    # One that appears while the command works stays, too.
    with command_files(CommandFiles(results=[tmp_path / "late.html"])):
        (tmp_path / "late.html").write_text("mine")
        with pytest.raises(ConfigError, match="did not write it"):
            write_text(tmp_path / "late.html", "one", result=True)
    assert (tmp_path / "late.html").read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "late.html", WRITTEN}


def test_a_result_of_another_command_is_somebody_elses(tmp_path):
    path = tmp_path / "page.html"
    write(path, "one", command="report")
    for text in ("one", "two"):
        with pytest.raises(ConfigError, match="did not write it"):
            write(path, text, command="select")
    assert path.read_text() == "one"
    write(path, "two", command="report")


def test_what_is_read_is_not_removed(tmp_path):
    (tmp_path / "checkpoint-2" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "checkpoint-2")
    for read in ("checkpoint-2", "checkpoint-2/model", "link", "link/model"):
        with pytest.raises(ConfigError, match=r"would be removed, and .* is read by this command"):
            CommandFiles([Input(tmp_path / read)], removes=[tmp_path / "checkpoint-2"], overwrite=True).check()
    CommandFiles([Input(tmp_path)], removes=[tmp_path / "checkpoint-2"]).check()


def test_a_result_that_was_edited_stays_as_it_is(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    files = CommandFiles(others=[path])

    def run(*ids: str) -> None:
        with command_files(files):
            write_jsonl(path, [{"id": id} for id in ids], result=True)

    run("a")
    path.write_text('{"id": "a", "label": 1}\n')
    with caplog.at_level(logging.WARNING):
        run("a")
    assert "was changed since it was written; it stays as it is" in caplog.text
    with pytest.raises(ConfigError, match="did not write it"):
        run("a", "b")
    with pytest.raises(ConfigError, match="did not write it"), command_files(files):
        refuse_foreign(path)
    assert path.read_text() == '{"id": "a", "label": 1}\n'


def test_what_is_noted_survives_a_torn_line_and_tells_names_apart(tmp_path):
    path = tmp_path / "page.html"
    write(path, "one")
    with (tmp_path / WRITTEN).open("a") as file:
        file.write('{"file": "pa')
    assert not is_foreign(path, "")
    (tmp_path / "other.html").write_text("one")
    assert is_foreign(tmp_path / "other.html", "")
    assert not is_foreign(tmp_path / "other.html", "", unknown=False)
    (tmp_path / "empty.html").touch()
    assert not is_foreign(tmp_path / "empty.html", "")
    write(path, "two")


def test_without_a_command_files_are_replaced_and_nothing_is_noted(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    write_text(path, "one", result=True)
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["rows", "model", "file"])
def test_nothing_that_a_command_reads_is_opened(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    reads = [Input(path, kind), Input(tmp_path / "nowhere"), Input(Path("owner/name"), kind)]
    with command_files(CommandFiles(reads=reads, overwrite=True)):
        with pytest.raises(ConfigError, match="is read by this command"):
            JsonlWriter(path, overwrite=True)
        with pytest.raises(ConfigError, match="is read by this command"), replacing(path) as file:
            file.write(b"x")
        write_text(tmp_path / "other.jsonl", "x")
        write_text(tmp_path / "nowhere", "made by this command")
    assert path.read_text() == "{}\n"
    JsonlWriter(path, overwrite=True).close()
    assert path.read_bytes() == b""


def test_what_says_how_an_input_was_made_is_read_with_it(tmp_path):
    read = Input(tmp_path / "v.jsonl", "rows")
    read.path.write_text("{}\n")
    (tmp_path / "v.jsonl.stage").mkdir()
    for name in ("v.jsonl.settings.json", "v.jsonl.stage/journal.jsonl"):
        assert not read.is_read(tmp_path / name)
        (tmp_path / name).write_text("{}\n")
        assert read.is_read(tmp_path / name)
    assert not read.is_read(tmp_path / "v.jsonl.md")


def test_what_belongs_to_a_file_of_another_run_is_not_written(tmp_path):
    rows = tmp_path / "v.jsonl"
    write_text(rows, "{}\n")
    write_text(tmp_path / "v.jsonl.settings.json", "{}")
    write_text(tmp_path / "w.jsonl.stage" / "journal.jsonl", "{}")
    for name, owner in (
        ("v.jsonl.settings.json", "v.jsonl"),
        ("v.jsonl.stage/x.jsonl", "v.jsonl"),
        ("w.jsonl.stage/x.jsonl", "w.jsonl"),
    ):
        for files in ({"results": [tmp_path / name]}, {"others": [tmp_path / name]}):
            with pytest.raises(ConfigError, match=rf"belongs to .*{owner}; name another --output"):
                CommandFiles(overwrite=True, **files).check()
    CommandFiles(others=[rows, Path(f"{rows}.settings.json"), Path(f"{rows}.stage")]).check()
    CommandFiles(others=[tmp_path / "new.settings.json"]).check()


def test_a_model_directory_may_hold_verdicts_that_are_resumed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    read = Input(tmp_path, "model")
    for name in ("v.jsonl", "v.jsonl.settings.json", "README.md"):
        assert not read.is_read(tmp_path / name)
        (tmp_path / name).write_text("x")
        assert not read.is_read(tmp_path / name)
    assert read.is_read(tmp_path / "config.json")
    assert not read.is_read(tmp_path / "tokenizer.json")
    assert read.is_read(tmp_path)
    assert not read.is_read(tmp_path.parent / "other")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text("{}")
    assert not read.is_read(tmp_path / "tuned" / "config.json")
