"""Reading solutions from every kind of source, and what bad sources say."""

import csv
import gzip
import io
import json
import os
import shutil

import pytest

from genprm_trl.data.solutions import iter_solutions, load_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution
from tests.helpers.paths import SAMPLES

DATA = SAMPLES
SAMPLE = DATA / "processbench_sample.jsonl"
ROWS = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
EXPECTED = [Solution.from_dict(row) for row in ROWS]


@pytest.fixture(autouse=True)
def _datasets_stay_in_the_test(monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def row(name="a", **change):
    return {"id": name, "problem": "p", "steps": ["s", "t"], **change}


# ---------------------------------------------------------------------------------------------------------------------
# Sources


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(*ROWS)),
        ("a.ndjson", lines(*ROWS)),
        ("a.JSONL", lines(*ROWS)),
        ("a.txt", lines(*ROWS)),
        ("a.json", lines(*ROWS)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\n " + json.dumps(ROWS, indent=2)),
        ("a.jsonl", "\ufeff" + lines(*ROWS)),
        ("a.json", "\ufeff" + json.dumps(ROWS)),
        ("a.jsonl", lines(*ROWS).replace("\n", "\r\n\r\n").rstrip()),
        ("a.jsonl.gz", gzip.compress(lines(*ROWS).encode())),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_text_files(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert load_solutions(path) == load_solutions(str(path)) == EXPECTED


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=3)
    assert load_solutions(path) == EXPECTED
    # Columns that only some rows fill do not change the format or become fields.
    mixed = [{**ROWS[0], "question": None, "answer": None}, {**ROWS[1], "answer": "31"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(mixed), path)
    assert [solution.answer for solution in load_solutions(path)] == [None, "31"]
    assert [solution.extra for solution in load_solutions(path)] == [{}, {}]


def test_datasets_in_memory_and_streaming():
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    assert load_solutions(dataset) == EXPECTED
    assert load_solutions(dataset.with_format("numpy")) == EXPECTED
    shouted = dataset.with_transform(lambda rows: {**rows, "problem": [text.upper() for text in rows["problem"]]})
    assert [each.problem for each in load_solutions(shouted)] == [each.problem.upper() for each in EXPECTED]
    assert load_solutions(dataset.to_iterable_dataset()) == EXPECTED
    assert load_solutions(datasets.DatasetDict(test=dataset)) == EXPECTED
    both = datasets.DatasetDict(train=dataset.select([0]), test=dataset)
    assert load_solutions(both, split="test") == EXPECTED
    with pytest.raises(DataError, match="several splits, name one of: train, test"):
        load_solutions(both)
    with pytest.raises(DataError, match="no split 'dev'; it has: train, test"):
        load_solutions(both, split="dev")


def test_rows_in_memory():
    assert load_solutions(ROWS) == EXPECTED
    assert load_solutions(iter(ROWS)) == EXPECTED
    with pytest.raises(DataError, match="dataset, row 2: must be a JSON object, but is null"):
        load_solutions([ROWS[0], None])
    for nonsense in (5, None, b"a.jsonl"):
        with pytest.raises(DataError, match="cannot be read from a"):
            load_solutions(nonsense)


def test_directories_saved_by_datasets(tmp_path):
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    assert load_solutions(tmp_path / "one") == EXPECTED
    datasets.DatasetDict(train=dataset.select([0]), test=dataset).save_to_disk(tmp_path / "two")
    assert load_solutions(tmp_path / "two", split="test") == EXPECTED
    with pytest.raises(DataError, match="two: the dataset has several splits"):
        load_solutions(tmp_path / "two")
    (tmp_path / "one" / "dataset_info.json").unlink()
    shutil.rmtree(tmp_path / "two" / "train")
    for broken in ("one", "two"):
        with pytest.raises(DataError, match="cannot be read as a saved dataset"):
            load_solutions(tmp_path / broken, split="test")


def test_directories_with_a_file_for_each_split(tmp_path):
    """The layout of ProcessBench's repository."""
    write(tmp_path / "README.md", "# ProcessBench")
    write(tmp_path / "gsm8k.json", json.dumps(ROWS))
    assert load_solutions(tmp_path) == EXPECTED
    write(tmp_path / "math.json", json.dumps(ROWS[:1]))
    assert load_solutions(tmp_path, split="gsm8k") == EXPECTED
    with pytest.raises(DataError, match="several splits, name one of: gsm8k, math"):
        load_solutions(tmp_path)
    with pytest.raises(DataError, match="no split 'dev'"):
        load_solutions(tmp_path, split="dev")
    write(tmp_path / "math.jsonl", lines(*ROWS))
    with pytest.raises(DataError, match=r"both math\.json and math\.jsonl are split 'math'"):
        load_solutions(tmp_path, split="math")


def test_directories_laid_out_as_a_repository(tmp_path):
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    for shard in range(2):
        path = tmp_path / "data" / f"test-{shard:05d}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        dataset.shard(2, shard, contiguous=True).to_parquet(path)
    assert load_solutions(tmp_path, split="test") == EXPECTED
    assert load_solutions(tmp_path) == EXPECTED
    with pytest.raises(DataError, match="cannot be read as a dataset"):
        load_solutions(tmp_path, split="train")


def test_hub_names_without_a_network():
    with pytest.raises(
        DataError, match=r"^no-such-owner/no-such-data: there is no such file, and loading it from the Hub"
    ):
        load_solutions("no-such-owner/no-such-data")


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n \n", "is empty"),
        ("a.json", "", "is empty"),
        ("a.json", "[]", "is empty"),
        ("a.jsonl", lines(row("a")) + '{"id": "b"', "row 2: is not valid JSON"),
        ("a.jsonl", lines(row("a"), "oops", row("c")), "row 2: is not valid JSON: Expecting value (column 1)"),
        ("a.jsonl", lines(row("a"), "[1]"), "row 2: must be a JSON object, but is a list of 1"),
        ("a.jsonl", lines(row("a"), "null"), "row 2: must be a JSON object, but is null"),
        ("a.jsonl", lines(row("a"), "[" * 100_000), "row 2: is not usable JSON: nested too deeply"),
        ("a.jsonl", lines(row("a"), '{"x": ' + "9" * 10_000 + "}"), "row 2: is not usable JSON"),
        ("a.jsonl", lines(row("a")).encode() + b'{"id": "\xe9"}\n', "row 2: is not UTF-8 text (byte 9 of the row)"),
        ("a.jsonl", lines(row("a")).encode("utf-16"), "row 1: is not UTF-8 text"),
        ("a.json", b'[\n{"id": "\xe9"}]', "is not UTF-8 text (line 2)"),
        ("a.json", '[{"id": "a"},\n}', "is not valid JSON: Expecting value (line 2, column 1)"),
        ("a.json", json.dumps([row("a"), 5]), "row 2: must be a JSON object, but is the number 5"),
        ("a.jsonl.gz", b"not gzip", "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(lines(*ROWS).encode())[:-20], "cannot be unpacked"),
        ("a.parquet", b"not parquet", "is not a readable parquet file"),
        ("a.jsonl", lines(row("a"), {"id": "b", "problem": "p"}), "row 2, field 'steps': is missing"),
        ("a.jsonl", lines({"id": "b", "problem": "p"}), "row 1, field 'steps': is missing"),
        ("a.jsonl", lines(row("a"), row("b", steps=[])), "row 2, field 'steps': must hold at least one step"),
        ("a.jsonl", lines(row("a"), row("b", steps=["", "t"])), "row 2, field 'steps[0]': must not be empty"),
        ("a.jsonl", lines(row("a"), row("b", steps=["s", 3])), "row 2, field 'steps[1]': must be a string"),
        (
            "a.jsonl",
            lines(row("a"), row("b", label=float("nan"))),
            "row 2, field 'label': must be an integer, but is the number nan",
        ),
        ("a.jsonl", lines(row("a"), row("b", label=2)), "row 2, field 'label': must be from -1 to 1"),
        ("a.jsonl", lines(row("a"), "", row("a")), "row 3, field 'id': 'a' is the id of row 1 already"),
        ("a.jsonl", lines({"id": "a", "steps": ["s"]}), "row 1, field 'problem': is missing"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load_solutions(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert caught.value.file == str(path)


def test_missing_and_unreadable_files(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "other" / "notes.txt", "no data")
    for path, message in [
        (tmp_path / "none.jsonl", "cannot be read: No such file or directory"),
        ("none.jsonl", "cannot be read: No such file or directory"),
        ("data/none.jsonl", "cannot be read: No such file or directory"),
        (write(tmp_path / "file.jsonl", "") / "below.jsonl", f"cannot be read: {tmp_path / 'file.jsonl'} is a file"),
        (tmp_path / "empty", "the directory is not a dataset"),
        (tmp_path / "other", "the directory is not a dataset"),
    ]:
        with pytest.raises(DataError) as caught:
            load_solutions(path)
        assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(row()))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_solutions(path)


def test_bad_rows_can_be_skipped_and_are_reported(tmp_path, caplog):
    path = write(
        tmp_path / "a.jsonl",
        lines(row("a"), "oops", row("b", steps=[]), row("a"), row("c")).encode()
        + b"\xff\n"
        + lines(row("d")).encode(),
    )
    errors = []
    solutions = load_solutions(path, skip_bad_rows=True, on_bad_row=errors.append)
    assert [solution.id for solution in solutions] == ["a", "c", "d"]
    assert [(error.row, error.field) for error in errors] == [(2, None), (3, "steps"), (4, "id"), (6, None)]
    assert all(error.file == str(path) for error in errors)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert f"{path}, row 3, field 'steps'" in caplog.text
    with pytest.raises(DataError, match="row 2"):
        load_solutions(path)


def test_a_file_of_bad_rows_only_is_an_error_all_the_same(tmp_path):
    with pytest.raises(DataError, match="has no usable row"):
        load_solutions(write(tmp_path / "a.jsonl", lines("oops", "[]")), skip_bad_rows=True)
    with pytest.raises(DataError, match="is empty"):
        load_solutions(write(tmp_path / "b.jsonl", ""), skip_bad_rows=True)


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_limit_counts_solutions_and_stops_reading(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(row("a"), row("b"), "oops"))
    assert [solution.id for solution in load_solutions(path, limit=2)] == ["a", "b"]
    assert len(load_solutions(DATA / "gsm8k_solutions_sample.jsonl", limit=6)) == 6
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        load_solutions(path, limit=0)


def test_iteration_is_lazy(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(row("a"), "oops"))
    solutions = iter_solutions(path)
    assert next(solutions).id == "a"
    with pytest.raises(DataError, match="row 2"):
        next(solutions)
    with pytest.raises(ConfigError, match="unknown format 'csv'"):
        iter_solutions(path, format="csv")  # at once, not at the first row


def test_format_can_be_named(tmp_path):
    both = {"question": "q", "answer": "s\n#### 1", "problem": "p", "steps": ["s"]}
    path = write(tmp_path / "a.jsonl", lines(both))
    assert load_solutions(path)[0].problem == "p"
    assert load_solutions(path, format="gsm8k")[0].problem == "q"


def test_format_is_that_of_the_first_known_row(tmp_path):
    """So a row that lacks a field is told what it lacks, and not taken for another format."""
    path = write(tmp_path / "a.jsonl", lines(row("a"), {"id": "b", "problem": "p", "solution": "s"}))
    with pytest.raises(DataError, match="row 2, field 'steps': is missing"):
        load_solutions(path)


def test_rows_without_ids_get_lasting_ones(tmp_path):
    rows = [{"problem": "p", "steps": ["s"]}, "", {"problem": "p", "steps": ["s"], "id": None}, row("own")]
    path = write(tmp_path / "some.rows.jsonl.gz", gzip.compress(lines(*rows).encode()))
    assert [solution.id for solution in load_solutions(path)] == ["some.rows-1", "some.rows-3", "own"]


def test_long_solutions_are_fine(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(row("a", steps=["s"] * 500), row("b", steps=["x" * 100_000])))
    assert [len(solution.steps) for solution in load_solutions(path)] == [500, 1]


# ---------------------------------------------------------------------------------------------------------------------
# Tables, other packing, other kinds of files


def zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


def table(delimiter: str, *rows: dict) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    for each in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in each.items()})
    return file.getvalue().encode()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.zst", "a.CSV"])
def test_tables(tmp_path, name):
    content = table("\t" if ".tsv" in name else ",", *ROWS)
    content = gzip.compress(content) if name.endswith(".gz") else zstd(content) if name.endswith(".zst") else content
    read = load_solutions(write(tmp_path / name, content))
    assert [(s.problem, s.steps, s.label) for s in read] == [(s.problem, s.steps, s.label) for s in EXPECTED]


def test_cells_of_tables(tmp_path):
    text = 'id,problem,solution,answer,label\n007,"What is\n5*3?","5*3=15\nSo 15.",15,\n8,1+1?,2,2.50,-1.0\n'
    first, second = load_solutions(write(tmp_path / "a.csv", text))
    assert (first.id, first.problem, first.steps) == ("007", "What is\n5*3?", ["5*3=15", "So 15."])
    assert (first.answer, first.label) == ("15", None)
    assert (second.answer, second.label) == ("2.50", -1)  # an answer stays the text that it is
    # What pandas writes for lists and for booleans beside a null.
    text = "problem,steps,final_answer_correct\np,\"['a', 'b']\",True\nq,\"['c']\",\n"
    first, second = load_solutions(write(tmp_path / "b.csv", text))
    assert (first.steps, first.final_answer_correct, second.final_answer_correct) == (["a", "b"], True, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,id\n1,2\n", "row 1, field 'id': is given twice"),
        ("a.csv", "problem;solution\np;s\n", "row 1: its columns are separated by ';', not by ','"),
        ("a.tsv", "problem,solution\np,s\n", r"row 1: its columns are separated by ',', not by '\\t'"),
        ("a.csv", "problem,solution\np\n", "row 2: has 1 cells below 2 names"),
        ("a.csv", "problem,steps\np,s\n", r"row 2, field 'steps': must be a list, but is a string"),
        ("a.csv", b"problem,solution\n\xff,s\n", "is not UTF-8 text"),
        ("a.csv", 'problem,solution\n"p,s\n', "is not a table"),
        ("a.csv", "", "is empty"),
        ("a.yaml", "- problem: p\n", r"what is read is \.jsonl, .*\.csv, .*\.parquet"),
        ("a.txt", "What is 5*3?", r"what is read is \.jsonl"),
        ("a.xlsx", b"PK\x03\x04", r"what is read is \.jsonl"),
        ("a.jsonl.zst", b"nonsense", "cannot be read"),
        ("a.jsonl", '{"id": "a", "problem": "p", "problem": "q"}', "row 1, field 'problem': is given twice"),
        ("a.json", '[{"problem": "p", "steps": ["a"], "extra": {"k": 1, "k": 2}}]', "field 'k': is given twice"),
    ],
)
def test_files_that_are_none_of_rows(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load_solutions(write(tmp_path / name, content))


def test_rows_of_json_are_read_whatever_the_file_is_called(tmp_path):
    named = load_solutions(write(tmp_path / "rows.txt", lines(*ROWS)))
    assert [solution.steps for solution in named] == [solution.steps for solution in EXPECTED]
    assert load_solutions(write(tmp_path / "a.jsonl.zst", zstd(lines(*ROWS).encode()))) == EXPECTED
