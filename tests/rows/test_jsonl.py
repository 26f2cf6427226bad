"""JSON Lines files that are written line by line, killed, and taken up again."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from genprm_trl.data.solutions import iter_rationales, iter_records, iter_verdicts
from genprm_trl.errors import DataError
from genprm_trl.records import CodeRound, RationaleRecord, Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import JsonlWriter, encode_line, iter_written_rows, write_jsonl
from genprm_trl.rows.outputs import replacing


def a_verdict(name, rounds=1, label=None):
    code_rounds = [CodeRound("print(1)", "1", "ok", 0.25)] * rounds
    return Verdict(name, [0.75], -1, [[StepJudgement("Über ∑ \n\u2028\x00", 0.75, "ok", code_rounds, 7)]], label=label)


def rows_of(path):
    return [row for _, row in iter_written_rows(path)]


def ids_of(path):
    return [row["id"] for row in rows_of(path)]


def test_appends_complete_lines_and_resumes(tmp_path):
    path = tmp_path / "new" / "directory" / "verdicts.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(a_verdict("a"))
        assert ids_of(path) == ["a"]  # visible at once
        writer.write(a_verdict("b", rounds=0, label=2))
    with JsonlWriter(path) as writer:
        writer.write(a_verdict("c"))
    assert ids_of(path) == ["a", "b", "c"]
    assert list(iter_verdicts(path)) == [a_verdict("a"), a_verdict("b", rounds=0, label=2), a_verdict("c")]
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write({"id": "d"})


@pytest.mark.parametrize("cut", range(1, len(encode_line({"id": "ö", "x": [1.5, "}"]}))))
def test_a_line_torn_at_any_byte_is_left_out_and_removed(tmp_path, cut):
    whole, last = encode_line({"id": "a"}), encode_line({"id": "ö", "x": [1.5, "}"]})
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole + last[:cut])
    complete = cut == len(last) - 1  # only the newline is missing
    ids = ["a", "ö"] if complete else ["a"]
    assert ids_of(path) == ids
    with JsonlWriter(path) as writer:
        writer.write({"id": "b"})
    assert path.read_bytes() == whole + (last if complete else b"") + encode_line({"id": "b"})
    assert ids_of(path) == [*ids, "b"]


def test_a_torn_line_longer_than_the_block_is_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "' + b"x" * 300_000)
    JsonlWriter(path).close()
    assert path.read_bytes() == b'{"id": "a"}\n'
    path.write_bytes(b'{"id": "' + b"x" * 300_000)
    JsonlWriter(path).close()
    assert path.read_bytes() == b""


def test_survives_being_killed(tmp_path):
    """A process is killed while it writes large lines as fast as it can; a second one takes up after it."""
    path = tmp_path / "rows.jsonl"
    script = textwrap.dedent(
        f"""
        import os
        from genprm_trl.rows.jsonl import JsonlWriter, iter_written_rows
        path = {str(path)!r}
        start = len(list(iter_written_rows(path))) if os.path.exists(path) else 0
        with JsonlWriter(path) as writer:
            for k in range(start, 10**9):
                writer.write({{"id": str(k), "text": "\\u00e4" * 100_000}})
                print(k, flush=True)
        """
    )
    acknowledged = -1
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(5):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines()
            acknowledged = max([acknowledged, *(int(line) for line in rest if line)])
        rows = rows_of(path)
        assert [row["id"] for row in rows] == [str(k) for k in range(len(rows))]  # nothing lost, nothing twice
        assert len(rows) > acknowledged
        assert all(row["text"] == "ä" * 100_000 for row in rows)


def test_threads_share_a_writer(tmp_path):
    path = tmp_path / "rows.jsonl"
    with JsonlWriter(path) as writer:
        threads = [
            threading.Thread(target=lambda t=t: [writer.write({"id": f"{t}-{k}", "x": "y" * 5000}) for k in range(50)])
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ids_of(path)) == sorted(f"{t}-{k}" for t in range(4) for k in range(50))


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    with JsonlWriter(path), pytest.raises(DataError, match=r"rows\.jsonl: another process is writing to it"):
        JsonlWriter(path)
    JsonlWriter(path).close()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_non_finite_numbers_are_refused_and_leave_no_trace(tmp_path, number):
    path = tmp_path / "rows.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"id": "a"})
        with pytest.raises(DataError, match=r"rows\.jsonl, field 'x\[1\]\.y': cannot be written as JSON: the number"):
            writer.write({"id": "b", "x": [0, {"y": number}]})
        bad = a_verdict("c")
        bad.rewards[0] = number
        with pytest.raises(DataError, match=r"field 'rewards\[0\]'"):
            writer.write(bad)
        writer.write({"id": "d"})
    assert [row["id"] for row in rows_of(path)] == ["a", "d"]


def test_values_without_a_form_in_json_are_refused():
    with pytest.raises(DataError, match=r"field 'x\.y': cannot be written as JSON: a set"):
        encode_line({"x": {"y": {1}}})
    loop = []
    loop.append(loop)
    with pytest.raises(DataError, match="nested too deeply"):
        encode_line({"x": loop})


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    assert json.loads(encode_line({"x": "a\ud83db", "y": "\U0001f600"})) == {"x": "a\ufffdb", "y": "\U0001f600"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_full_disk_is_one_clear_error(tmp_path):
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with JsonlWriter(tmp_path / "full.jsonl") as writer, pytest.raises(DataError, match="No space left on device"):
        writer.write({"id": "a"})


def test_unwritable_places_are_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "rows.jsonl"):
        with pytest.raises(DataError, match="cannot be written"):
            JsonlWriter(path)
        with pytest.raises(DataError, match="cannot be written"):
            write_jsonl(path, [{"id": "a"}])
    with pytest.raises(DataError, match=r"cannot be written: .*/file is a file, not a directory"):
        JsonlWriter(tmp_path / "file" / "rows.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "a"}\n{"id": \n{"id": "c"}\n', "row 2: is not valid JSON"),
        (b'{"id": "a"}\n[]\n', "row 2: must be a JSON object"),
        (b'{"id": "\xff"}\n', "row 1: is not UTF-8 text"),
        (b'{"id": %s}\n' % (b"9" * 5000), "row 1: is not usable JSON: it holds an integer of more than 4300 digits"),
    ],
)
def test_a_broken_complete_line_is_an_error(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        ids_of(path)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_records_are_checked_on_reading(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    write_jsonl(path, [a_verdict("a"), {**a_verdict("b").to_dict(), "rewards": [2]}])
    with pytest.raises(DataError, match=r"verdicts\.jsonl, row 2, field 'rewards\[0\]'"):
        list(iter_verdicts(path))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(iter_verdicts(tmp_path / "nothing.jsonl"))


def test_whole_files_are_written_or_not_at_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, ({"id": str(k)} for k in range(3))) == 3
    before = path.read_bytes()
    with pytest.raises(DataError, match="row 2, field 'x'"):
        write_jsonl(path, [{"id": "new"}, {"id": "bad", "x": math.nan}])

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_gzip_is_written_and_is_reproducible(tmp_path):
    paths = [tmp_path / "a" / "rows.jsonl.gz", tmp_path / "b" / "rows.jsonl.gz"]
    for path in paths:
        write_jsonl(path, [{"id": "a"}, {"id": "b"}])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert gzip.decompress(paths[0].read_bytes()) == b'{"id": "a"}\n{"id": "b"}\n'


def test_packed_files_are_read_back(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    write_jsonl(path, [{"id": "a"}, {"id": "b"}])
    assert list(iter_written_rows(path)) == [(1, {"id": "a"}), (2, {"id": "b"})]
    packed = path.read_bytes()
    for broken in (packed[:-9], b"not packed"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="cannot be unpacked"):
            list(iter_written_rows(path))


def test_files_are_readable_by_datasets(tmp_path):
    """Rows with and without labels, code rounds and extra fields have one Arrow schema."""
    import datasets

    solutions = [
        Solution("a", "p", ["s"], extra={"level": 3}),
        Solution("b", "p", ["s", "t"], "4", True, -1, "model"),
    ]
    files = {
        "verdicts": [a_verdict("a", rounds=0), a_verdict("b", label=3)],
        "solutions": solutions,
        "rationales": [RationaleRecord(solution, ["r"], [True]) for solution in solutions],
    }
    readers = {"verdicts": iter_verdicts, "rationales": iter_rationales}
    for name, records in files.items():
        path = tmp_path / f"{name}.jsonl"
        with JsonlWriter(path) as writer:
            for record in records:
                writer.write(record)
        loaded = datasets.load_dataset(
            "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"), keep_in_memory=True
        )
        assert len(loaded) == 2
        read = readers.get(name, lambda p: iter_records(p, Solution))
        assert list(read(path)) == records
        if name == "verdicts":
            assert [Verdict.from_dict(row) for row in loaded] == records
