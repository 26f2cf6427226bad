"""Problems of benchmarks are found in training data, worked out by hand."""

import json

import pytest

from genprm_trl.data.contamination import Benchmarks, Decontamination, problem_text, read_benchmarks
from genprm_trl.data.formats import FORMATS, to_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import RationaleRecord, Solution
from tests.helpers.paths import SAMPLES, shared_data


def benchmarks(*problems: str, ngram: int = 32) -> Benchmarks:
    made = Benchmarks(ngram)
    for row, problem in enumerate(problems, start=1):
        made.add(problem, file="b.jsonl", row=row)
    return made


def test_other_numbers_and_other_punctuation_make_no_other_problem():
    match = benchmarks("Ann has 2 pears.", "Tom has 3 apples!").match("tom HAS 14 apples.")
    assert (match.test, match.file, match.row, match.problem) == ("same", "b.jsonl", 2, "Tom has 3 apples!")
    assert benchmarks("Tom has 3 apples!").match("Tim has 3 apples!") is None
    assert benchmarks("Wie heißt er?").match("WIE HEISST ER?").test == "same"


def test_a_problem_without_letters_is_compared_as_it_stands():
    """Else all arithmetic expressions were one."""
    expressions = benchmarks("(3 + 4) * 5 =", "2 - -7 =")
    assert expressions.match("(3 + 4) * 6 =") is None
    assert expressions.match("2 - 7 =") is None
    assert expressions.match("(3+4)*5 =").row == 1


def test_a_run_of_words_is_found_wherever_it_stands():
    run = [f"w{number}" for number in range(32)]
    known = benchmarks(" ".join(["before", *run, "after"]))
    match = known.match("Else: " + ", ".join(run).upper() + "! Then?")
    assert (match.test, match.shared) == ("ngram", " ".join(run))
    assert known.match(" ".join(run[1:])) is None
    # 33 words shared but for the 17th: no 32 in a row.
    shared = [f"w{number}" for number in range(33)]
    assert benchmarks(" ".join(shared)).match(" ".join([*shared[:16], "other", *shared[17:]])) is None
    assert benchmarks("a b c", ngram=2).match("x b c").shared == "b c"
    with pytest.raises(ConfigError, match="ngram"):
        Benchmarks(0)


def test_a_problem_with_other_numbers_is_no_second_problem_but_adds_its_words():
    known = benchmarks("Tom has 3", "Tom has 3", "Tom has 4 and 5.", "Tom has 6 and 7.", ngram=3)
    assert known.match("he has 6 and").row == 4
    assert len(known) == 3


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("candidates", "text")])
def test_every_format_has_its_problem(name):
    for line in (SAMPLES / f"{name}_sample.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for solution in to_solutions(row, "row", name):
            assert problem_text(row) == solution.problem


def test_rows_of_other_kinds_have_their_problem():
    record = RationaleRecord(Solution("1", "What is 2 + 3?", ["5"], label=-1), ["r"], [True])
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "What is 2 + 3?"}]
    rows = [
        record.to_dict(),
        {"messages": messages},
        {"prompt": messages, "answer": "5"},
        {"prompt": "What is 2 + 3?"},
        {"problem": "What is 2 + 3?", "candidates": ["5"]},
        {"question": "What is 2 + 3?", "response": "5", "problem": None},
    ]
    assert {problem_text(row) for row in rows} == {"What is 2 + 3?"}
    for row, field in (
        ({"messages": messages[:1]}, "messages"),
        ({"id": "a"}, "steps"),
        ({"problem": " "}, "problem"),
        ({"prompt": 3}, "prompt"),
    ):
        with pytest.raises(DataError) as caught:
            problem_text(row)
        assert caught.value.field == field


def test_rows_are_counted_and_kept_as_they_are():
    train = [
        {"problem": "Tom has 14 apples.", "mine": 1},
        {"question": "Ann runs.", "answer": "5", "extra": {"a": None}},
        {"problem": "He then counts 1 2 3 4 of them"},
    ]
    data = Decontamination(read_benchmarks([[{"problem": "Tom has 3 apples"}], [{"prompt": "1 2 3 4"}]], ngram=4))
    found = []
    kept = list(data.clean(train, on_match=lambda row, problem, match: found.append((row, match.test))))
    assert kept == [train[1]]
    assert found == [(1, "same"), (3, "ngram")]
    assert data.counts() == {
        "rows": 3,
        "benchmark_problems": 2,
        "removed_same": 1,
        "removed_ngram": 1,
        "kept": 1,
    }


def test_bad_rows_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"problem": "P"}\n{"id": 3}\n')
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl, row 2, field 'steps'"):
        read_benchmarks([tmp_path / "a.jsonl"])
    with pytest.raises(DataError, match=r"empty\.jsonl: is empty"):
        read_benchmarks([tmp_path / "empty.jsonl"])
    with pytest.raises(DataError, match=r"a\.jsonl, row 2, field 'steps'"):
        list(Decontamination(Benchmarks()).clean(tmp_path / "a.jsonl"))


def test_the_training_problems_of_gsm8k_are_not_in_its_test_set():
    data = Decontamination(read_benchmarks([shared_data("gsm8k/test.jsonl")]))
    assert len(list(data.clean(shared_data("gsm8k/train.jsonl")))) == 7473
    # ProcessBench's problems are from the test set.
    data = Decontamination(data.benchmarks)
    assert list(data.clean(shared_data("processbench/gsm8k.json"))) == []
