"""`genprm select` as a user runs it: verdicts at hand, a real (tiny, random) model, sampled candidates, bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.data.solutions import iter_verdicts, load_solutions
from genprm_trl.records import StepJudgement, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from tests.helpers.judging_model import judging_model
from tests.helpers.paths import ROOT, SAMPLES
from tests.helpers.tiny_models import tiny_tokenizer

GSM8K = SAMPLES / "gsm8k_solutions_sample.jsonl"
SHORT = ["--max_step_tokens", "24"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny-genprm"
    judging_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    ModelSettings(modes=("analysis",)).save(path)
    return path


@pytest.fixture
def oracle(tmp_path) -> Path:
    """Verdicts that know the answer, with two rationales a solution."""
    path = tmp_path / "oracle.jsonl"
    verdicts = []
    for solution in load_solutions(GSM8K, limit=24):
        reward = 0.9 if solution.final_answer_correct else 0.2
        rewards = [reward] * len(solution.steps)
        chains = [[StepJudgement("", value, "ok", num_tokens=5) for value in rewards] for _ in range(2)]
        verdicts.append(Verdict(solution.id, rewards, -1, chains, solution_digest=solution.digest))
    write_jsonl(path, verdicts)
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("rule", ["best", "weighted", "pessimistic"])
def test_verdicts_at_hand(oracle, tmp_path, capsys, rule):
    output = tmp_path / "out" / "chosen.jsonl"
    command = ["select", str(GSM8K), "--verdicts", str(oracle), "--rule", rule, "--output", str(output)]
    command += ["--limit", "6"]
    assert main(command) == 0
    out = capsys.readouterr().out
    rows = read(output)
    assert len(rows) == 6
    for row in rows:
        if any(candidate["correct"] for candidate in row["candidates"]):
            assert row["correct"] or rule == "weighted"  # three wrong votes may outweigh a right one
    # The oracle's own choice is worth what pass@4 is.
    numbers = json.loads(output.with_suffix(".json").read_text())
    assert numbers["accuracy"]["best_min"]["4"] == numbers["accuracy"]["pass"]["4"]
    assert {(row["candidates"], row["verifications_each"]) for row in numbers["pessimistic_by_budget"]} == {
        (n, m) for n in (1, 2, 4) for m in (1, 2)
    }
    assert "oracle (pass@N)" in out
    assert "N candidates times M verifications" in out
    assert output.with_suffix(".md").read_text() in out
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    first = output.read_bytes()
    assert main(command) == 0
    assert output.read_bytes() == first


def test_majority_needs_no_verdicts(tmp_path, capsys):
    output = tmp_path / "m.jsonl"
    assert main(["select", str(GSM8K), "--rule", "majority", "--limit", "6", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "verifications" not in out
    assert "| majority vote |" in out
    assert "best" not in json.loads(output.with_suffix(".json").read_text())["accuracy"]
    assert all(row["candidates"][0]["score"] is None for row in read(output))


def test_without_matplotlib_there_is_no_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    output = tmp_path / "m.jsonl"
    assert main(["select", str(GSM8K), "--rule", "majority", "--limit", "6", "--output", str(output)]) == 0
    printed = capsys.readouterr()
    assert f"table              {tmp_path / 'm.md'}\n" in printed.out
    assert printed.err.count("pip install 'genprm-trl[plots]'") == 1
    assert output.with_suffix(".json").exists()
    assert not output.with_suffix(".png").exists()


def test_a_verifier_judges_each_candidate_once(model_dir, tmp_path, capsys):
    output, verdicts = tmp_path / "c.jsonl", tmp_path / "c.verdicts.jsonl"
    command = ["select", str(GSM8K), "--model", str(model_dir), "--output", str(output), *SHORT]
    assert main([*command, "--limit", "1"]) == 0
    first = verdicts.read_bytes()
    assert len(list(iter_verdicts(verdicts))) == 4
    assert main([*command, "--limit", "2"]) == 0
    second = verdicts.read_bytes()
    assert second.startswith(first)
    assert len(list(iter_verdicts(verdicts))) == 8
    chosen = output.read_bytes()
    # Another rule, and nothing is judged; nor is it where only the verdicts are named.
    capsys.readouterr()
    assert main([*command, "--limit", "2", "--rule", "pessimistic"]) == 0
    assert "Verifying" not in capsys.readouterr().err
    assert verdicts.read_bytes() == second
    words = ["--verdicts", str(verdicts), "--limit", "2", "--output", str(output)]
    assert main(["select", str(GSM8K), *words]) == 0
    assert output.read_bytes() == chosen
    # Verdicts of other settings are not taken.
    assert main([*command, "--n", "2"]) == 2
    assert "n was 1 and is now 2" in capsys.readouterr().err


def test_rules_share_verdicts_by_default(model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["select", str(GSM8K), "--model", str(model_dir), "--limit", "1", *SHORT]
    for rule in ("best", "weighted"):
        assert main([*command, "--rule", rule]) == 0
    names = sorted(path.name for path in Path("outputs", "select").glob("*.jsonl"))
    stem = "gsm8k_solutions_sample"
    assert names == [f"{stem}-best.jsonl", f"{stem}-tiny-genprm.verdicts.jsonl", f"{stem}-weighted.jsonl"]


def test_what_verify_has_judged_is_not_judged_again(model_dir, tmp_path, capsys):
    verdicts = tmp_path / "v.jsonl"
    words = ["--limit", "4", "--output", str(verdicts)]
    assert main(["verify", str(GSM8K), "--model", str(model_dir), *words, *SHORT]) == 0
    before = verdicts.read_bytes()
    words = ["--limit", "1", "--verdicts", str(verdicts), "--output", str(tmp_path / "c.jsonl")]
    assert main(["select", str(GSM8K), "--model", str(model_dir), *words, *SHORT]) == 0
    assert verdicts.read_bytes() == before


def test_without_answers_there_are_choices_and_no_accuracies(tmp_path, capsys):
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"problem": "1 + 1?", "candidates": ["The answer is 2.", "#### 3", "#### 2"]}\n')
    output = tmp_path / "c.jsonl"
    assert main(["select", str(pool), "--rule", "majority", "--output", str(output)]) == 0
    [row] = read(output)
    assert (row["chosen"], row["chosen_answer"], row["correct"]) == ("pool-1-0", "2", None)
    assert row["answers"] == [{"answer": "2", "value": 2.0}, {"answer": "3", "value": 1.0}]
    assert not output.with_suffix(".json").exists()
    assert "right" not in capsys.readouterr().out


@pytest.mark.parametrize(("problems", "claims"), [(1, False), (19, False), (20, True)])
def test_few_problems_make_no_claim(tmp_path, capsys, problems, claims):
    """Of problems with one and the same outcome the bootstrap's interval has no width."""
    answers = ["The answer is 2.", "#### 2", "#### 3"]
    rows = [
        {"problem": f"{number} - {number - 2}?", "answer": "2", "candidates": answers} for number in range(problems)
    ]
    pool, output = tmp_path / "pool.jsonl", tmp_path / "c.jsonl"
    write_jsonl(pool, rows)
    assert main(["select", str(pool), "--rule", "majority", "--output", str(output)]) == 0
    for text in (capsys.readouterr().out, output.with_suffix(".md").read_text()):
        assert ("is above chance: +33.3 points" in text) is claims
        assert (f"Too few problems to say which way is better: {problems}, and it takes 20." in text) is not claims
        assert claims or not re.search("above|below|told apart|points", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--rule best needs verdicts: name a file of them with --verdicts, or a verifier with --model"),
        (["--verdicts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--rule", "majority", "--limit", "0"], "limit must be at least 1"),
        (["--rule", "majority", "--output", "chosen.md"], "must end in .jsonl"),
        (["--rule", "majority", "--output", "."], "is a directory"),
        (["--rule", "pessimistic", "--verdicts", "v", "--alpha", "-1"], "alpha must be at least 0"),
        (["--model", "/nowhere/at/all"], "does not exist"),
        (["--rule", "borda"], "invalid choice: 'borda'"),
    ],
)
def test_unusable_options(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["select", str(GSM8K), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.jsonl"))


def test_single_solutions_are_nothing_to_choose_from(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"problem": "1 + 1?", "steps": ["2"]}\n{"problem": "1 + 2?", "steps": ["3"]}\n')
    assert main(["select", str(rows), "--rule", "majority", "--output", str(tmp_path / "c.jsonl")]) == 2
    assert f"{rows}: each problem has one solution, so there is nothing to choose" in capsys.readouterr().err


def test_nothing_is_chosen_without_any_verdict(tmp_path, capsys):
    """As `genprm verify` ends then, and before a choice by chance is written."""
    verdicts, output = tmp_path / "mute.jsonl", tmp_path / "c.jsonl"
    chain = [StepJudgement("", 0.5, "no_verdict")]
    solutions = load_solutions(GSM8K, limit=24)
    rows = [Verdict(each.id, [0.5], -1, [chain], solution_digest=each.digest) for each in solutions]
    write_jsonl(verdicts, rows)
    command = ["select", str(GSM8K), "--verdicts", str(verdicts), "--limit", "6", "--output", str(output)]
    assert main(command) == 2
    assert "no judgement holds a verdict, so nothing can be chosen by them" in capsys.readouterr().err
    assert not output.exists()


def test_a_score_of_whole_solutions_needs_a_verifier_that_gives_it(oracle, tmp_path, capsys):
    words = ["--limit", "6", "--verdicts", str(oracle), "--output", str(tmp_path / "c.jsonl")]
    assert main(["select", str(GSM8K), *words, "--score", "solution"]) == 2
    assert "--score solution needs verdicts on whole solutions" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl").exists()


def test_a_verifier_without_a_score_of_whole_solutions_judges_nothing_for_one(model_dir, tmp_path, capsys):
    output = tmp_path / "c.jsonl"
    command = ["select", str(GSM8K), "--model", str(model_dir), "--limit", "1", "--output", str(output)]
    assert main([*command, "--score", "solution"]) == 2
    assert f"{model_dir} is of the kind genprm" in capsys.readouterr().err
    members = {"first": {"kind": "thinkprm"}, "members": [{"model": "other/PRM", "kind": "qwen_prm"}]}
    of_several = ["--kind", "ensemble", "--kind_options", json.dumps(members)]
    assert main([*command, "--score", "solution", *of_several]) == 2
    assert "other/PRM is of the kind qwen_prm" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_scores_of_whole_solutions_are_enough_to_choose_by_them(tmp_path, capsys):
    verdicts, output = tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    solutions = load_solutions(GSM8K, limit=24)
    rows = []
    for place, each in enumerate(solutions):
        chain = [StepJudgement("", 0.5, "no_verdict", solution_reward=place % 4 / 4)]
        rows.append(Verdict(each.id, [0.5], -1, [chain], solution_digest=each.digest))
    write_jsonl(verdicts, rows)
    words = ["--verdicts", str(verdicts), "--limit", "6", "--output", str(output)]
    assert main(["select", str(GSM8K), *words, "--score", "solution"]) == 0
    assert len(read(output)) == 6
    assert main(["select", str(GSM8K), *words]) == 2
    assert "no judgement holds a verdict" in capsys.readouterr().err


def test_missing_verdicts_are_counted(oracle, tmp_path, capsys):
    some = tmp_path / "some.jsonl"
    some.write_bytes(b"".join(oracle.read_bytes().splitlines(keepends=True)[:5]))
    words = ["--limit", "6", "--output", str(tmp_path / "c.jsonl")]
    assert main(["select", str(GSM8K), "--verdicts", str(some), *words]) == 2
    assert "has no verdict of 19 of the 24 candidates" in capsys.readouterr().err


DOCS = ROOT / "docs" / "selection.md"


def test_the_documented_python_runs(oracle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = GSM8K.read_bytes().splitlines(keepends=True)[:6]
    (tmp_path / "POOL.jsonl").write_bytes(b"".join(lines))
    oracle.rename(tmp_path / "verdicts.jsonl")
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_documented_figures_are_those_of_the_committed_run():
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    result = (DOCS.parent.parent / "benchmarks" / "results" / "select_gsm8k_majority.md").read_text(encoding="utf-8")
    table = {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for row in (line.strip("| ").split("|") for line in result.splitlines() if line.startswith("|"))
    }
    chance, (*_, majority, interval), oracle = table["chance"], table["majority vote"], table["oracle (pass@N)"]
    assert f"| a random candidate | {chance[2]} |" in text
    assert f"| majority vote | {majority} ({interval}) |" in text
    assert f"| oracle | {oracle[2]} |" in text
