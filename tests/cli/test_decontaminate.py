"""`genprm decontaminate`: what is left out, what is written beside, and what the recipe's card says of it."""

import json

from genprm_trl.cli.main import main
from genprm_trl.labeling.data_card import Statistics, decontamination_of, write_data_card
from genprm_trl.rows.jsonl import write_jsonl

TRAIN = [{"problem": "Tom has 14 apples.", "answer": "1"}, {"problem": "Ann runs 3 miles.", "answer": "3"}]


def command(path, **options):
    write_jsonl(path / "train.jsonl", TRAIN)
    write_jsonl(path / "b.jsonl", [{"question": "Tom has 3 apples!", "answer": "#### 3"}])
    write_jsonl(path / "c.jsonl", [{"problem": "Ann sits.", "steps": ["So."]}])
    line = ["decontaminate", path / "train.jsonl", "--against", path / "b.jsonl", path / "c.jsonl"]
    line += ["--output", path / "clean.jsonl", *(word for pair in options.items() for word in pair)]
    return [str(word) for word in line]


def test_rows_of_benchmarks_are_left_out_and_shown(capsys, tmp_path):
    assert main(command(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "1 equal but for digits and punctuation, 0 that share 32 words in a row" in printed
    assert "1 of 2 rows" in printed
    assert [json.loads(line) for line in (tmp_path / "clean.jsonl").open()] == TRAIN[1:]
    [removed] = [json.loads(line) for line in (tmp_path / "clean.jsonl.removed.jsonl").open()]
    assert (removed["row"], removed["problem"], removed["test"]) == (1, "Tom has 14 apples.", "same")
    assert removed["against"] == {"file": str(tmp_path / "b.jsonl"), "row": 1, "problem": "Tom has 3 apples!"}
    counts = decontamination_of(tmp_path / "clean.jsonl")
    assert (counts["rows"], counts["kept"], counts["benchmark_problems"], counts["ngram"]) == (2, 1, 2, 32)
    assert main(command(tmp_path)) == 0  # again: the same files


def test_the_card_of_the_data_has_the_counts(tmp_path):
    assert main(command(tmp_path)) == 0
    card = write_data_card(
        tmp_path / "data", "Data", Statistics(), [], decontamination=decontamination_of(tmp_path / "clean.jsonl")
    ).read_text(encoding="utf-8")
    assert "compared with 2 problems of benchmarks (`b.jsonl`, `c.jsonl`). Of 2 rows, 1 were left out" in card
    assert decontamination_of(tmp_path / "train.jsonl") is None


def test_data_of_which_nothing_is_left_are_an_error(capsys, tmp_path):
    line = command(tmp_path)
    write_jsonl(tmp_path / "c.jsonl", TRAIN)
    assert main(line) == 2
    assert "the benchmarks hold every problem" in capsys.readouterr().err


def test_wrong_input_is_named(capsys, tmp_path):
    assert main(command(tmp_path, **{"--ngram": 0})) == 2
    assert "ngram" in capsys.readouterr().err
    line = command(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [{"id": "no problem"}])
    assert main(line) == 2
    assert "train.jsonl, row 1" in capsys.readouterr().err
