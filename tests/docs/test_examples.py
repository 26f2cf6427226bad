"""The examples, in the package's docstrings and in examples/, are real."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import re
import runpy
import textwrap

import pytest
import yaml

from genprm_trl.cli.main import command_parser
from genprm_trl.conversation.settings import ModelSettings, load_settings
from genprm_trl.loading import iter_rationales
from genprm_trl.rows.jsonl import write_jsonl
from tests.helpers.paths import ROOT, SAMPLES
from tests.helpers.sft import records
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def docstring_examples() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "genprm_trl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for code in re.findall(r"```python\n(.*?)```", ast.get_docstring(node) or "", re.DOTALL):
                    name = getattr(node, "name", "module")
                    found.append((f"{path.relative_to(ROOT)}:{name}", textwrap.dedent(code)))
    return found


EXAMPLES = docstring_examples()


def test_there_are_examples() -> None:
    assert {"GenPRMTrainer", "PRMTrainer", "VerificationCallback"} <= {name.split(":")[1] for name, _ in EXAMPLES}


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_an_example_parses_and_what_it_imports_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_the_training_example_runs_on_a_few_rows(tmp_path, monkeypatch) -> None:
    copy.deepcopy(tiny_model()).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    write_jsonl(tmp_path / "rationales.jsonl", records(4))
    words = [tmp_path / "rationales.jsonl", tmp_path / "base", tmp_path / "model"]
    monkeypatch.setattr("sys.argv", ["train_genprm.py", *map(str, words)])
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(ROOT / "examples" / "train_genprm.py"))["trainer"]
    # The paper's batch, and its rows are conversations.
    assert trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps == 64
    assert len(trainer.train_dataset) == 4
    assert load_settings(tmp_path / "model") == ModelSettings()
    assert json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))["model_type"] == "qwen2"
    assert trainer.state.global_step == 1


def test_the_example_of_reinforcement_runs_on_a_few_rows(tmp_path, monkeypatch) -> None:
    # Of a random model that writes until its context is full.
    copy.deepcopy(tiny_model(max_context=256)).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    rows = [{"id": str(n), "problem": "p", "steps": ["a", "b"], "label": n % 3 - 1} for n in range(8)]
    write_jsonl(tmp_path / "solutions.jsonl", rows)
    words = [tmp_path / "solutions.jsonl", tmp_path / "base", tmp_path / "model"]
    monkeypatch.setattr("sys.argv", ["verifier_grpo.py", *map(str, words)])
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(ROOT / "examples" / "verifier_grpo.py"))["trainer"]
    assert trainer.state.global_step == 1
    assert trainer.args.generation_batch_size == 8 * trainer.num_generations
    assert load_settings(tmp_path / "model") == ModelSettings()


SMOLLM2 = ROOT / "examples" / "smollm2"


def test_the_data_of_the_smollm2_example_are_what_it_trains_on(tmp_path, monkeypatch) -> None:
    (tmp_path / "data.yaml").write_text("gsm8k: {n: 3}\nexpressions: {n: 2, seed: 1}\n")
    words = [SAMPLES / "gsm8k_sample.jsonl", tmp_path / "made.jsonl", "--config", tmp_path / "data.yaml"]
    monkeypatch.setattr("sys.argv", ["make_data.py", *map(str, words)])
    runpy.run_path(str(SMOLLM2 / "make_data.py"), run_name="__main__")
    rows = list(iter_rationales(tmp_path / "made.jsonl"))
    assert [row.solution.generator for row in rows] == [*["gsm8k"] * (len(rows) - 2), "expressions", "expressions"]
    assert yaml.safe_load((SMOLLM2 / "data.yaml").read_text(encoding="utf-8")).keys() == {"gsm8k", "expressions"}


@pytest.mark.parametrize(
    "line",
    [
        *("sft d.jsonl genprm.yaml", "sft d.jsonl direct.yaml", "prm d.jsonl discriminative.yaml"),
        *("verify d.jsonl verify.yaml", "select d.jsonl verify.yaml"),
    ],
)
def test_the_configurations_of_the_smollm2_example_are_of_the_commands(line: str) -> None:
    command, data, config = line.split()
    command_parser(command).parse([data, "--config", str(SMOLLM2 / config)])
