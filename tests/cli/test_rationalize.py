"""`genprm rationalize` and `genprm consensus` as a user runs them, with the scripted reasoner and the real sandbox."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.solutions import iter_rationales, iter_records
from genprm_trl.generation.base import GenerationResult
from genprm_trl.labeling.critiques import SampledSolution
from genprm_trl.miniature.reasoner_generator import ScriptedReasoner
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Solution
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.stages.file import stage_directory
from genprm_trl.training.sft.data import load_conversations

REASONER = ["--model", "scripted", "--backend", "genprm_trl.miniature.reasoner_generator:ScriptedReasoner"]
SOLUTIONS = make_solutions(30, seed=4)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Critiques of some solutions, two each, by a reasoner that makes mistakes."""
    directory = tmp_path_factory.mktemp("rationalize")
    write_jsonl(directory / "solutions.jsonl", SOLUTIONS)
    output = directory / "samples.jsonl"
    command = ["rationalize", str(directory / "solutions.jsonl"), *REASONER, "--output", str(output)]
    command += ["--backend_options", '{"mistake_rate": 0.2}', "--samples", "2", "--seed", "3"]
    assert main([*command, "--limit", "10"]) == 0
    assert main(command) == 0  # goes on with the others
    return output


def test_critiques_say_what_they_were_made_from(samples):
    sampled = list(iter_records(samples, SampledSolution))
    assert [item.solution for item in sampled] == SOLUTIONS
    # The settings themselves are beside the file, once for all rows.
    settings = json.loads((stage_directory(samples) / "settings.json").read_text())
    assert sampled[0].source == {"reasoner": "scripted", "seed": 3, "settings": content_digest(settings)}
    assert (settings["samples"], settings["top_k"], settings["backend_options"]) == (2, 40, {"mistake_rate": 0.2})
    assert all(sample.thinking is None for item in sampled for sample in item.samples)


def test_what_the_generator_fails_on_can_be_left_out(samples, tmp_path, capsys, monkeypatch):
    class Failing(ScriptedReasoner):
        async def generate(self, token_ids, params, *, affinity=None):
            if SOLUTIONS[4].problem in self.tokenizer.decode(token_ids):
                return GenerationResult("", [], finish_reason="error", message="too hot")
            return await super().generate(token_ids, params, affinity=affinity)

    monkeypatch.setattr("genprm_trl.miniature.reasoner_generator.ScriptedReasoner", Failing)
    output = tmp_path / "samples.jsonl"
    command = ["rationalize", str(samples.parent / "solutions.jsonl"), *REASONER, "--output", str(output)]
    assert main([*command, "--limit", "8"]) == 2
    assert "'train-4-4': too hot" in capsys.readouterr().err
    assert main([*command, "--limit", "8", "--drop_failed"]) == 0
    out = capsys.readouterr().out
    assert "solutions failed   1, left out" in out
    assert "critiques          7 (complete 7)" in out
    assert len(list(iter_records(output, SampledSolution))) == 7


def test_other_settings_are_refused(samples, capsys):
    command = ["rationalize", str(samples.parent / "solutions.jsonl"), *REASONER, "--output", str(samples)]
    assert main([*command, "--samples", "2", "--seed", "3"]) == 2
    assert "backend_options was {'mistake_rate': 0.2} and is now {}" in capsys.readouterr().err


def test_corrected_labels_reach_critiques_that_are_paid_for(tmp_path):
    data, output = tmp_path / "solutions.jsonl", tmp_path / "samples.jsonl"
    command = ["rationalize", str(data), *REASONER, "--output", str(output)]
    write_jsonl(data, SOLUTIONS[:2])
    assert main(command) == 0
    journal = (stage_directory(output) / "journal.jsonl").read_bytes()
    corrected = [replace(SOLUTIONS[0], label=0, answer="7"), SOLUTIONS[1]]
    write_jsonl(data, corrected)
    assert main(command) == 0
    assert [item.solution for item in iter_records(output, SampledSolution)] == corrected
    assert (stage_directory(output) / "journal.jsonl").read_bytes() == journal


def test_what_agrees_becomes_training_data(samples, tmp_path, capsys):
    output = tmp_path / "rationales.jsonl"
    assert main(["consensus", str(samples), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    records = list(iter_rationales(output))
    assert f"{len(records)} of 30 solutions" in out
    assert "disagrees_before_first_error" in out
    assert 15 < len(records) < 30
    labels = {solution.id: solution.label for solution in SOLUTIONS}
    for record in records:
        assert record.labels == [index != labels[record.solution.id] for index in range(len(record.labels))]
        assert record.source["reasoner"] == "scripted"
    conversations = load_conversations(str(output))
    assert len(conversations) == len(records)
    assert conversations[0]["mode"] == "full"


def test_labels_can_be_changed_without_another_critique(samples, tmp_path, capsys):
    labels = tmp_path / "labels.jsonl"
    # Whatever the first solutions' labels were, now their first step is called wrong; the others are left out.
    write_jsonl(labels, [replace(solution, label=0) for solution in SOLUTIONS[:12]])
    output = tmp_path / "rationales.jsonl"
    assert main(["consensus", str(samples), "--labels", str(labels), "--output", str(output)]) == 0
    assert "of 12 solutions" in capsys.readouterr().out
    assert all(record.labels == [False] for record in iter_rationales(output))
    write_jsonl(labels, [replace(SOLUTIONS[0], problem="Another one?")])
    assert main(["consensus", str(samples), "--labels", str(labels), "--output", str(output), "--overwrite"]) == 2
    assert "is another text than the one that was critiqued" in capsys.readouterr().err


def test_without_agreement_every_readable_critique_is_kept(samples, tmp_path):
    output = tmp_path / "all.jsonl"
    command = ["consensus", str(samples), "--output", str(output), "--no_require_agreement"]
    assert main(command) == 0
    kept = list(iter_rationales(output))
    assert len(kept) == 30
    labels = {solution.id: solution.label for solution in SOLUTIONS}
    wrong = Counter(
        record.labels == [index != labels[record.solution.id] for index in range(len(record.labels))]
        for record in kept
    )
    assert wrong[False] > 0


def test_solutions_without_labels_and_files_of_other_kinds_are_errors(samples, tmp_path, capsys):
    row = json.loads(samples.read_text().splitlines()[0])
    row["solution"]["label"] = None
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text(json.dumps(row) + "\n")
    assert main(["consensus", str(unlabelled), "--output", str(tmp_path / "a.jsonl")]) == 2
    assert f"'{row['id']}' has no label" in capsys.readouterr().err
    assert main(["consensus", str(samples.parent / "solutions.jsonl"), "--output", str(tmp_path / "b.jsonl")]) == 2
    assert "field 'solution'" in capsys.readouterr().err


def test_bad_input_shows_before_the_reasoner_is_opened(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    rows = [Solution("a", "p", ["s"]).to_dict(), {"id": "b", "problem": "p", "steps": []}]
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["rationalize", str(bad), "--model", "m", "--backend", "no.such:Thing", "--output", str(tmp_path / "o")]
    assert main(command) == 2
    assert "row 2, field 'steps'" in capsys.readouterr().err
    assert main([*command, "--skip_bad_rows"]) == 2
    assert "the backend no.such:Thing cannot be imported" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
