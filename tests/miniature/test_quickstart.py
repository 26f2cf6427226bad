"""The quickstart, end to end at a size that takes seconds: the models are useless, what is written must be whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genprm_trl import GenPRM
from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import load_settings
from genprm_trl.data.solutions import iter_rationales, iter_verdicts, load_solutions
from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.metrics.estimates import ScoreEstimate
from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.miniature import quickstart
from genprm_trl.miniature.quickstart import (
    QuickstartPlan,
    Row,
    conclusions,
    kinds_table,
    results_table,
    run_quickstart,
)
from genprm_trl.miniature.world import make_solutions
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.sandbox import SandboxOptions
from genprm_trl.training.prm.scorer import PRMScorer
from tests.helpers.scripted_generator import Reply, ScriptedGenerator

PLAN = QuickstartPlan(train_solutions=60, heldout_solutions=8, natural_heldout=3, policy_steps=5, epochs=1.0, chains=2)


pytestmark = pytest.mark.timeout(900)  # four trainings on a busy machine


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("quickstart")
    run_quickstart(path, PLAN, progress=False)
    return path


def test_writes_data_that_can_be_read_back(output):
    heldout = load_solutions(output / "data" / "heldout.jsonl")
    assert len(heldout) == 11
    assert {solution.generator for solution in heldout} == {"planted", "miniature-policy"}
    records = list(iter_rationales(output / "data" / "train_rationales.jsonl"))
    assert 0 < len(records) <= 60
    assert not {r.solution.problem for r in records} & {s.problem for s in heldout}


def test_the_trained_verifier_can_be_loaded_and_judges(output):
    settings = load_settings(output / "genprm")
    assert settings is not None
    assert set(settings.modes) == {"full", "analysis", "code_execution"}
    with GenPRM.from_pretrained(output / "genprm", max_step_tokens=32) as prm:
        [verdict] = prm.verify_all(load_solutions(output / "data" / "heldout.jsonl")[:1], progress=False)
    assert verdict.rewards
    assert PRMScorer(output / "discriminative").score(load_solutions(output / "data" / "heldout.jsonl")[:1])


def test_results_are_those_of_the_saved_verdicts(output):
    results = json.loads((output / "results.json").read_text())
    labels = {solution.id: solution.label for solution in load_solutions(output / "data" / "heldout.jsonl")}
    assert [row["key"] for row in results["rows"]] == [
        "discriminative", "direct", "analysis", "code_execution", "full",
    ]  # fmt: skip
    for row in results["rows"]:
        verdicts = list(iter_verdicts(output / "verdicts" / f"{row['key']}.jsonl"))
        assert {verdict.id for verdict in verdicts} == labels.keys()
        n = len(verdicts[0].chains)
        scores = processbench_scores([labels[v.id] for v in verdicts], [v.scored_prediction for v in verdicts])
        for name, value in scores.items():
            assert row["by_n"][str(n)][name]["value"] == pytest.approx(value)
    text = (output / "results.md").read_text()
    assert "| full | Maj@2 |" in text


def test_model_card_holds_the_measured_numbers(output):
    text = (output / "genprm" / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    [index] = card["model-index"]
    measured = {metric["name"]: metric["value"] for result in index["results"] for metric in result["metrics"]}
    results = json.loads((output / "results.json").read_text())
    full = next(row for row in results["rows"] if row["key"] == "full")
    assert measured["F1 (full, Maj@2)"] == pytest.approx(full["by_n"]["2"]["f1"]["value"], abs=0.01)
    assert "runs Python that the model writes" in text


def test_the_cards_snippet_runs(output):
    text = (output / "genprm" / "README.md").read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    assert str(output / "genprm") in snippet
    ran = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=280, check=True)
    assert "[" in ran.stdout


def test_the_picture_is_a_png(output):
    assert (output / "f1_by_n.png").read_bytes().startswith(b"\x89PNG")


def test_finished_stages_are_not_repeated_and_other_plans_are(output):
    said: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = run_quickstart(output, PLAN, announce=said.append, progress=False)
    assert sum("done before" in sentence for sentence in said) == 4
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert results_table(again) in (output / "results.md").read_text()
    assert kinds_table(again) in (output / "results.md").read_text()
    with pytest.raises(ConfigError, match=r"was made with other settings .*seed was 0 and is now 1.*--overwrite"):
        run_quickstart(output, PLAN, seed=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_directories_of_others_are_not_touched(tmp_path):
    mine = tmp_path / "policy" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    with pytest.raises(ConfigError, match="not made by a quickstart"):
        run_quickstart(tmp_path, PLAN, progress=False)
    assert mine.read_text() == "precious"


def test_command_reaches_the_quickstart(tmp_path, monkeypatch, capsys):
    import genprm_trl.miniature.quickstart as quickstart

    seen: dict[str, object] = {}

    def run(output_dir: str, plan: QuickstartPlan, **options: object) -> list[Row]:
        seen.update(output_dir=output_dir, plan=plan, **options)
        return rows(full=90.0, direct=3.0, discriminative=40.0, first=85.0)

    monkeypatch.setattr(quickstart, "run_quickstart", run)
    assert main(["quickstart", "--fast", "--seed", "5", "--output_dir", str(tmp_path)]) == 0
    assert seen["plan"] == quickstart.FAST_PLAN
    assert seen["seed"] == 5
    assert "| full | Maj@8 |" in capsys.readouterr().out


def rows(full: float, direct: float, discriminative: float, first: float) -> list[Row]:
    def scores(f1: float) -> dict[str, ScoreEstimate]:
        return {name: ScoreEstimate(f1, f1 - 1, f1 + 1, 0.5) for name in ("error_acc", "correct_acc", "f1")}

    return [
        Row("discriminative", "discriminative", {1: scores(discriminative)}, 50.0, {"no error": (1, 2)}),
        Row("direct", "direct", {1: scores(direct)}, 20.0, {"no error": (0, 2)}),
        Row("full", "full", {1: scores(first), 8: scores(full)}, 95.0, {"no error": (2, 2)}),
    ]


def test_conclusions_say_what_was_not_shown():
    good = conclusions(rows(full=90, direct=3, discriminative=40, first=85))
    assert all("NOT" not in line for line in good)
    bad = conclusions(rows(full=50, direct=31, discriminative=40, first=60))
    assert all("NOT shown in this run" in line for line in bad)
    assert "(-10.0)" in bad[-1]
    [nothing] = conclusions(rows(full=0, direct=0, discriminative=0, first=0))
    assert "not trained long enough" in nothing


def test_table_has_a_line_for_one_and_for_most_rationales():
    table = results_table(rows(full=90, direct=3, discriminative=40, first=85))
    assert "| full | 1 | 85.0 | 85.0 | 85.0 | 84.0 to 86.0 |" in table
    assert "| full | Maj@8 | 90.0 |" in table
    assert table.count("| direct |") == 1
    assert "| 20.0 |" in table
    assert "| full | 2 of 2 |" in kinds_table(rows(full=90, direct=3, discriminative=40, first=85))


def test_a_verifier_that_never_judges_has_no_score(tmp_path, monkeypatch):
    def failing(*_, **__):
        return GenPRM(ScriptedGenerator(lambda _: Reply("", error="gone")), None, GenPRMProtocol("analysis"))

    monkeypatch.setattr(GenPRM, "from_pretrained", failing)
    with pytest.raises(GenPRMError, match="all judgements failed"):
        quickstart._verdicts(tmp_path, "analysis", 1, make_solutions(2), 0, False, SandboxOptions())


def test_a_sandbox_that_cannot_run_code_is_found_before_the_trainings(tmp_path):
    said: list[str] = []
    with pytest.raises(ConfigError, match="cannot be used"):
        run_quickstart(tmp_path, PLAN, announce=said.append, sandbox=SandboxOptions(sandbox="http://127.0.0.1:9"))
    assert said == []
