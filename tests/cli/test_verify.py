"""`genprm verify` as a user runs it: a real (tiny, random) model, the real sandbox, bad input, kill and resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.data.solutions import iter_verdicts, load_solutions
from genprm_trl.generation.hf.generator import TransformersGenerator
from genprm_trl.rows.jsonl import JsonlWriter, write_jsonl
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.base import LOOK_AHEAD
from tests.helpers.chat_templates import DATED
from tests.helpers.judging_model import judging_model
from tests.helpers.paths import SAMPLES
from tests.helpers.solution_rows import row, write_rows
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.tiny_verifiers import CHECKPOINTS

GSM8K = SAMPLES / "gsm8k_solutions_sample.jsonl"
PROCESSBENCH = SAMPLES / "processbench_sample.jsonl"
SHORT = ["--max_step_tokens", "24", "--temperature", "0"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny-genprm"
    judging_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    ModelSettings(modes=("full",)).save(path)
    return path


def test_judges_sampled_solutions_and_goes_on_with_more(model_dir, tmp_path, capsys):
    output = tmp_path / "deep" / "verdicts.jsonl"
    command = ["verify", str(GSM8K), "--model", str(model_dir), "--output", str(output), *SHORT]
    assert main([*command, "--limit", "2"]) == 0
    first = output.read_bytes()
    assert "solutions judged   2" in capsys.readouterr().out
    assert main([*command, "--limit", "4"]) == 0
    assert output.read_bytes().startswith(first)
    verdicts = list(iter_verdicts(output))
    assert len({verdict.id for verdict in verdicts}) == len(verdicts) == 4
    out = capsys.readouterr().out
    assert "solutions judged   4" in out
    assert "final answer" in out


def test_judges_with_a_verifier_of_another_kind(tmp_path, capsys):
    """A discriminative one is found by its files. It resumes, and refuses what only a GenPRM has."""
    CHECKPOINTS["qwen_prm"].save(tmp_path / "prm")
    output = tmp_path / "v.jsonl"
    command = ["verify", str(GSM8K), "--model", str(tmp_path / "prm"), "--output", str(output), "--batch_size", "2"]
    assert main([*command, "--limit", "2"]) == 0
    first = output.read_bytes()
    assert main([*command, "--kind", "qwen_prm", "--limit", "4"]) == 0
    assert output.read_bytes().startswith(first)
    with open_verifier(tmp_path / "prm") as scorer:
        alone = {verdict.id: verdict for verdict in scorer.verify_all(load_solutions(GSM8K)[:4], progress=False)}
    for verdict in iter_verdicts(output):
        assert verdict.rewards == pytest.approx(alone[verdict.id].rewards, abs=1e-5)
        assert verdict.solution_digest == alone[verdict.id].solution_digest
    assert json.loads(Path(f"{output}.settings.json").read_text())["kind"] == "qwen_prm"
    capsys.readouterr()
    assert main([*command, "--n", "8"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "verifiers of the kind qwen_prm have no option 'n'; leave it out" in line


def test_scores_labelled_solutions(model_dir, tmp_path, capsys):
    output = tmp_path / "v.jsonl"
    assert main(["verify", str(PROCESSBENCH), "--model", str(model_dir), "--output", str(output), *SHORT]) == 0
    assert "ProcessBench" in capsys.readouterr().out
    labels = [json.loads(line)["label"] for line in PROCESSBENCH.read_text().splitlines()]
    assert sorted(verdict.label for verdict in iter_verdicts(output)) == sorted(labels)


def test_repeats_with_the_seed(model_dir, tmp_path):
    def rationales(name: str, seed: str) -> dict[str, list[list[str]]]:
        output = tmp_path / name
        words = ["--output", str(output), "--seed", seed, "--n", "2", "--max_step_tokens", "24", "--limit", "3"]
        assert main(["verify", str(GSM8K), "--model", str(model_dir), *words]) == 0
        return {
            verdict.id: [[judgement.rationale for judgement in chain] for chain in verdict.chains]
            for verdict in iter_verdicts(output)
        }

    first = rationales("a", "3")
    assert first == rationales("b", "3")
    assert first != rationales("c", "4")
    assert all(one != two for one, two in first.values())


@pytest.mark.slow
def test_kill_and_resume_loses_and_repeats_nothing(model_dir, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", [row(number) for number in range(60)])
    output = tmp_path / "v.jsonl"
    command = [sys.executable, "-m", "genprm_trl", "verify", str(data), "--model", str(model_dir)]
    command += ["--output", str(output), *SHORT, "--max_chains", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (not output.exists() or output.read_bytes().count(b"\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = output.read_bytes()
    written = kept.count(b"\n")
    assert 5 <= written < 60
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert output.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    ids = [verdict.id for verdict in iter_verdicts(output)]
    assert sorted(ids) == sorted(f"s{number}" for number in range(60))


def test_a_run_resumed_on_another_day_asks_as_it_did(model_dir, tmp_path, monkeypatch, day):
    """A dated template, and a model that does not say on which day it was trained."""
    prompts: list[list[int]] = []
    ask = TransformersGenerator.generate

    async def generate(self, token_ids, params, **others):
        prompts.append(token_ids)
        return await ask(self, token_ids, params, **others)

    monkeypatch.setattr(TransformersGenerator, "generate", generate)
    template = tmp_path / "dated.jinja"
    template.write_text(DATED, encoding="utf-8")
    data = write_rows(tmp_path / "two.jsonl", [row(1), row(2)])
    output = tmp_path / "v.jsonl"
    command = ["verify", str(data), "--model", str(model_dir), "--output", str(output), *SHORT, "--mode", "direct"]
    command += ["--chat_template_path", str(template)]

    def days() -> list[str]:
        shown = {tiny_tokenizer().decode(ids).split("\n")[0] for ids in prompts}
        prompts.clear()
        return sorted(shown)

    day("2026-12-01")
    assert main([*command, "--limit", "1"]) == 0
    assert days() == ["Today: 01 Dec 2026"]
    day("2026-12-02")
    assert main(command) == 0
    assert days() == ["Today: 01 Dec 2026"]
    assert json.loads(Path(f"{output}.settings.json").read_text())["template_date"] == "2026-12-01"
    assert main([*command, "--overwrite"]) == 0
    assert days() == ["Today: 02 Dec 2026"]
    assert main([*command, "--overwrite", "--template_date", "2026-12-01"]) == 0
    assert days() == ["Today: 01 Dec 2026"]
    # The model's own day comes first.
    dated = tmp_path / "dated"
    shutil.copytree(model_dir, dated)
    ModelSettings(modes=("direct",), template_date="2026-11-30").save(dated)
    command[command.index(str(model_dir))] = str(dated)
    assert main([*command, "--overwrite"]) == 0
    assert days() == ["Today: 30 Nov 2026"]


def test_settings_are_not_mixed_in_one_file(model_dir, tmp_path, capsys):
    output = tmp_path / "v.jsonl"
    data = write_rows(tmp_path / "one.jsonl", [row(1)])
    command = ["verify", str(data), "--model", str(model_dir), "--output", str(output), *SHORT]
    assert main(command) == 0
    before = output.read_bytes()
    assert main([*command, "--n", "2"]) == 2
    assert "n was 1 and is now 2" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([*command, "--n", "2", "--overwrite"]) == 0
    [verdict] = iter_verdicts(output)
    assert len(verdict.chains) == 2


def test_verdicts_of_another_model_in_the_same_directory_are_not_mixed(model_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    output = tmp_path / "v.jsonl"
    data = write_rows(tmp_path / "one.jsonl", [row(1), row(2)])
    command = ["verify", str(data), "--model", str(model), "--output", str(output), *SHORT]
    assert main([*command, "--limit", "1"]) == 0
    (model / "trainer_state.json").write_text("{}")  # decides nothing
    weights = bytearray((model / "model.safetensors").read_bytes())
    os.utime(model / "model.safetensors")  # the same model, copied
    assert main(command) == 0
    weights[-5] ^= 64
    (model / "model.safetensors").write_bytes(weights)
    before = output.read_bytes()
    assert main(command) == 2
    assert "made with other settings (model_files was" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_verdicts_of_other_texts_under_the_same_ids_are_refused(model_dir, tmp_path, capsys):
    output = tmp_path / "v.jsonl"
    data = write_rows(tmp_path / "one.jsonl", [row(1), row(2)])
    command = ["verify", str(data), "--model", str(model_dir), "--output", str(output), *SHORT]
    assert main(command) == 0
    before = output.read_bytes()
    write_rows(data, [row(1), row(2, steps=["2 + 2 = 5."]), row(3)])
    assert main(command) == 2
    assert "verdicts of 's2' about another text" in capsys.readouterr().err
    assert output.read_bytes() == before
    write_rows(data, [row(1), row(2), row(3)])  # rows that were added are simply judged
    assert main(command) == 0
    assert sorted(verdict.id for verdict in iter_verdicts(output)) == ["s1", "s2", "s3"]


def test_a_file_that_another_run_writes_is_left_alone(model_dir, tmp_path, capsys):
    output = tmp_path / "v.jsonl"
    data = write_rows(tmp_path / "one.jsonl", [row(1)])
    with JsonlWriter(output) as writer:
        writer.write({"id": "theirs"})
        words = ["--model", str(model_dir), "--output", str(output), "--overwrite", *SHORT]
        assert main(["verify", str(data), *words]) == 2
    assert "another process is writing" in capsys.readouterr().err
    assert output.read_text() == '{"id": "theirs"}\n'


def test_a_model_that_gives_no_verdicts_has_no_score(tmp_path, capsys):
    model = tmp_path / "random"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    data = write_rows(tmp_path / "one.jsonl", [row(1, label=-1), row(2, label=-1)])
    words = ["--model", str(model), "--output", str(tmp_path / "v.jsonl"), *SHORT]
    assert main(["verify", str(data), *words]) == 2
    captured = capsys.readouterr()
    assert "correct_acc 0.0" in captured.out
    assert "none of the judgements holds a verdict (no_verdict 2)" in captured.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b'{"id": "a", "problem": "p"}\n', "row 1, field 'steps'"),
        (b'{"id": "a", "problem": "p", "steps": []}\n', "row 1, field 'steps'"),
        (b'{"id": "a", "problem": "p", "steps": null}\n', "row 1, field 'steps': is null"),
        (b'{"id": "a", "problem": "p", "steps": ["x"], "label": NaN}\n', "row 1, field 'label'"),
        (b'{"id": "a", "problem": "\xff", "steps": ["x"]}\n', "row 1: is not UTF-8"),
        (b'{"id": "a", "problem": "p", "steps": ["x"]}\n{"id": "b"}\n', "row 2, field 'steps'"),
    ],
)
def test_bad_files_stop_before_any_work(model_dir, tmp_path, capsys, content, message):
    data = tmp_path / "rows.jsonl"
    if content is not None:
        data.write_bytes(content)
    output = tmp_path / "v.jsonl"
    assert main(["verify", str(data), "--model", str(model_dir), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(data) in error
    assert "Traceback" not in error
    assert not output.exists()


def test_bad_rows_are_skipped_on_demand(model_dir, tmp_path, capsys):
    data = write_rows(tmp_path / "rows.jsonl", [row(1), {"id": "b", "problem": "p"}, row(3)])
    output = tmp_path / "v.jsonl"
    command = ["verify", str(data), "--model", str(model_dir), "--output", str(output), *SHORT, "--skip_bad_rows"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "rows skipped       1" in captured.out
    assert captured.err.count("row 2, field 'steps'") == 1  # however often the file is read
    assert sorted(verdict.id for verdict in iter_verdicts(output)) == ["s1", "s3"]


def test_solutions_do_not_stay_in_memory(tmp_path):
    def peak(n: int) -> int:
        """Bytes that Python allocated at most, with a problem of 8 KB in each row."""
        data, output = tmp_path / f"{n}.jsonl", tmp_path / f"v{n}.jsonl"
        write_jsonl(
            data, ({"id": f"s{i}", "problem": f"{i} " * 2000, "steps": ["so"], "label": i % 2 - 1} for i in range(n))
        )
        words = ["verify", str(data), "--model", str(tmp_path), "--output", str(output), "-q"]
        tracemalloc.start()
        assert main([*words, "--kind", "tests.helpers.instant_verifier:InstantVerifier"]) == 0
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [verdict.label for verdict in iter_verdicts(output)].count(-1) == n // 2
        return found

    peak(10)  # imports
    ahead = LOOK_AHEAD * 12_000
    few, many = peak(1500), peak(6000)
    assert many - few < 4500 * 1000
    assert few < 2 * ahead


def test_huge_solutions_end_in_statuses(model_dir, tmp_path):
    data = write_rows(
        tmp_path / "rows.jsonl",
        [row(1, steps=["1 + 1 = 2 " * 10_000]), row(2, steps=[f"{n} + 1 = {n + 1}." for n in range(500)]), row(3)],
    )
    output = tmp_path / "v.jsonl"
    assert main(["verify", str(data), "--model", str(model_dir), "--output", str(output), *SHORT]) == 0
    verdicts = {verdict.id: verdict for verdict in iter_verdicts(output)}
    assert [judgement.status for judgement in verdicts["s1"].chains[0]] == ["truncated"]
    assert len(verdicts["s2"].rewards) == 500
    assert verdicts["s2"].chains[0][-1].status == "truncated"
    assert verdicts["s3"].chains[0][0].status != "truncated"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "does not exist"),
        ("no tokenizer", "holds no tokenizer"),
        ("no template", "no chat template"),
        ("settings", "genprm.json"),
    ],
)
def test_unusable_model_directories(model_dir, tmp_path, capsys, damage, message):
    data = write_rows(tmp_path / "rows.jsonl", [row(1)])
    broken = tmp_path / "model"
    if damage != "missing":
        broken.mkdir()
        for file in model_dir.iterdir():
            if damage == "no tokenizer" and file.name.startswith(("tokenizer", "chat_template")):
                continue
            if damage == "no template" and file.name.startswith("chat_template"):
                continue
            broken.joinpath(file.name).write_bytes(file.read_bytes())
        if damage == "settings":
            broken.joinpath("genprm.json").write_text('{"modes": ["thorough"]}')
    output = tmp_path / "v.jsonl"
    assert main(["verify", str(data), "--model", str(broken), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "thorough"], "unknown mode 'thorough'; choose one of full"),
        (["--n", "0"], "n must be at least 1"),
        (["--threshold", "2"], "threshold must be within [0, 1]"),
        (["--max_step_tokens", "0"], "max_step_tokens must be at least 1"),
        (["--max_chains", "0"], "max_chains must be at least 1"),
        (["--first_turn", "exam"], "first_turn"),
        (["--split", "test"], "no split 'test'"),
        (["--n", "1000000000"], "surely a mistake"),
        (["--format", "csv"], "unknown format 'csv'; choose one of auto"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--chat_template_path", "nowhere.jinja"], "nowhere.jinja"),
        (["--turn_opening", "politely"], "turn_opening"),
        (["--output", "."], "is a directory"),
        (["--max_items", "0"], "max_items must be at least 1"),
    ],
)
def test_unusable_options(model_dir, tmp_path, capsys, words, message):
    data = write_rows(tmp_path / "rows.jsonl", [row(1)])
    command = ["verify", str(data), "--model", str(model_dir), "--output", str(tmp_path / "v.jsonl"), *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Loading weights" not in error
    assert "Traceback" not in error
