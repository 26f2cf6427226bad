"""The dataset that comes out: parquet that `datasets` and the trainers read, its card, its pictures."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from genprm_trl.cli.recipe import DATA_FILE
from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import DataError
from genprm_trl.labeling.data_card import BINS, StageReport, Statistics, write_data_card
from genprm_trl.labeling.parquet import write_parquet
from genprm_trl.miniature.reasoner import rationale_records
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.stages.file import StageSummary
from genprm_trl.training.sft.data import load_conversations, read_row

RECORDS, DROPPED = rationale_records(make_solutions(40, seed=8), {"full": 1}, mistake_rate=0.15)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data_set")
    for record in RECORDS:
        record.solution.extra |= {"mc": [0.5, None, 1.0], "initial_mc": 0.25}
    assert write_parquet(path / DATA_FILE, RECORDS) == len(RECORDS)
    stages = [
        StageReport(
            "label", "policy", {"rule": "rpe"}, StageSummary(40, 40, Counter(), {"tokens": 12345, "share": 0.5})
        ),
        StageReport(
            "consensus", None, {}, StageSummary(40, len(RECORDS), DROPPED, {"samples/usable": len(RECORDS)}, 2)
        ),
    ]
    statistics = Statistics.of(RECORDS, [record.solution for record in RECORDS])
    write_data_card(path, "A test", statistics, stages)
    return path


def test_datasets_loads_the_directory(directory):
    data = datasets.load_dataset(str(directory), split="train")
    assert data["id"] == [record.solution.id for record in RECORDS]
    row, record = data[0], RECORDS[0]
    conversation = read_row(record)
    assert row["messages"] == conversation.to_row()["messages"]
    assert (row["mode"], row["labels"], row["label"]) == ("full", record.labels, record.solution.label)
    assert (row["mc"], row["initial_mc"]) == ([0.5, None, 1.0], 0.25)
    provenance = json.loads(row["provenance"])
    assert provenance["source"] == record.source
    assert provenance["extra"]["family"] == record.solution.extra["family"]


def test_datasets_takes_no_data_set_for_another(tmp_path):
    def made(place: str, ids: list[str]) -> list[str]:
        """Writes a dataset, and reads it through the cache that all of them share."""
        records = [RationaleRecord(Solution(id, "p", ["a"]), ["r"], [True]) for id in ids]
        write_parquet(tmp_path / place / "dataset" / DATA_FILE, records)
        write_data_card(tmp_path / place / "dataset", "A test", Statistics.of(records, []), [])
        # What else `genprm recipe` writes there is no part of it.
        write_jsonl(tmp_path / place / "dataset" / "rationales.jsonl", records)
        path, cache = str(tmp_path / place / "dataset"), str(tmp_path / "cache")
        return list(datasets.load_dataset(path, split="train", cache_dir=cache)["id"])

    assert made("one", ["a", "b"]) == ["a", "b"]
    assert made("two", ["c", "d"]) == ["c", "d"]
    assert made("two", ["e", "f"]) == ["e", "f"]  # done again


def test_the_trainers_and_the_verifier_read_it(directory):
    conversations = load_conversations(str(directory))
    assert conversations["messages"] == [read_row(record).to_row()["messages"] for record in RECORDS]
    solutions = load_solutions(str(directory))
    assert [(s.problem, s.steps, s.label) for s in solutions] == [
        (r.solution.problem, r.solution.steps, r.solution.label) for r in RECORDS
    ]


def test_the_card_counts_what_is_there(directory):
    card = DatasetCard.load(directory / "README.md")
    assert card.data.pretty_name == "A test"
    assert card.data.size_categories == "n<1K"
    text = card.text
    wrong = sum(record.labels.count(False) for record in RECORDS)
    steps = sum(len(record.labels) for record in RECORDS)
    assert f"{len(RECORDS)} solutions of {len(RECORDS)} problems; {wrong} ({100 * wrong / len(RECORDS):.1f} %)" in text
    assert f"{steps} judged steps; {wrong} ({100 * wrong / steps:.1f} %) wrong" in text
    assert "| label | policy | 40 | 40 | 0 | 12,345 |  |" in text
    assert f"left out {100 * (40 - len(RECORDS)) / 40:.1f} % of the solutions" in text
    assert "| share | 0.5 |" in text
    assert "| unusable rows of the input | 2 |" in text
    for picture in ("first_error.png", "estimates.png", "left_out.png"):
        assert f"]({picture})" in text
        assert (directory / picture).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_card_has_no_pictures(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    stages = [StageReport("consensus", None, {}, StageSummary(40, len(RECORDS), DROPPED))]
    statistics = Statistics.of(RECORDS, [Solution("s", "p", ["a"], extra={"mc": [0.5]})])
    text = write_data_card(tmp_path, "A test", statistics, stages).read_text()
    assert "![" not in text
    assert "The consensus filter left out" in text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert caplog.text.count("genprm-trl[plots]") == 1


@pytest.mark.parametrize(
    ("counts", "said", "unsaid"),
    [
        (
            {"problems": 20, "problems_solved": 3.0, "problems_with_noisy_labels": 11},
            "The rule rpe does not fit these estimates. The completion model solves 15.0 % of the problems at a try, "
            "and succeeds so seldom on 11 of 20 problems that more than 15 % of the steps that change nothing are "
            "labelled wrong by chance.",
            "from up to K",
        ),
        (
            {"problems": 20, "problems_solved": 17.25, "problems_with_noisy_labels": 10},
            "The completion model solves 86.2 % of the problems at a try.",
            "does not fit",
        ),
        ({"problems": 20}, "### label", "The completion model"),  # labels of an earlier version
    ],
)
def test_the_card_says_whether_the_rule_fits_the_estimates(counts, said, unsaid, tmp_path):
    statistics = Statistics()
    statistics.add_estimates(Solution("s", "p", ["a"], extra={"mc": [0.5]}))
    label = StageReport("label", "policy", {"rule": "rpe"}, StageSummary(20, 40, Counter(), counts))
    card = write_data_card(tmp_path, "A test", statistics, [label]).read_text()
    assert said in card
    assert unsaid not in card


@pytest.mark.parametrize(("stopping", "said"), [("none", False), ("exact", True)])
def test_the_card_says_where_estimates_are_of_fewer_than_k_roll_outs(stopping, said, tmp_path):
    statistics = Statistics()
    statistics.add_estimates(Solution("s", "p", ["a"], extra={"mc": [0.5]}))
    label = StageReport("label", "policy", {"stopping": stopping}, StageSummary())
    card = write_data_card(tmp_path, "A test", statistics, [label]).read_text()
    assert (f"Rollouts ended where the label was decided (`stopping: {stopping}`)" in card) == said


def test_statistics():
    statistics = Statistics()
    for labels in ([True, True], [True, False], [False]):
        statistics.add(RationaleRecord(Solution("s", "p", ["a", "b"]), ["```python\n"] * len(labels), labels))
    assert (statistics.solutions, statistics.with_error, len(statistics.problems)) == (3, 2, 1)
    assert (statistics.right_steps, statistics.wrong_steps, statistics.code_blocks) == (3, 2, 5)
    assert statistics.first_error == {0: 1, 1: 1, 2: 1}
    for estimate in (0.0, 0.049, 0.05, 0.999, 1.0, None):
        statistics.add_estimates(Solution("s", "p", ["a"], extra={"mc": [estimate]}))
    assert statistics.estimates == {0: 2, 1: 1, BINS - 1: 2}
    statistics.add_estimates(Solution("s", "p", ["a"]))
    assert statistics.estimates.total() == 5


def test_any_text_can_be_written(tmp_path):
    record = RationaleRecord(Solution("s\ud800", "p\ud800 🙂", ["a"], extra={"x": "\udfff"}), ["r"], [True])
    path = tmp_path / "a.parquet"
    write_parquet(path, [record])
    [row] = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))
    assert (row["id"], row["problem"], row["mc"]) == ("s\ufffd", "p\ufffd 🙂", None)
    before = path.read_bytes()
    with pytest.raises(DataError, match="cannot be written as parquet"):
        write_parquet(path, [RationaleRecord(Solution("s", "p", ["a"], extra={"mc": "none"}), ["r"], [True])])
    assert path.read_bytes() == before
