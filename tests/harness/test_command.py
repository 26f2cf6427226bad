"""`genprm lm-eval`: the harness's own command line with our tasks and our model in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from tests.harness.conftest import only
from tests.helpers.judging_generator import Judging

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


def test_the_path_costs_nothing_and_holds_the_tasks(capsys):
    program = (
        "import sys; from genprm_trl.cli.main import main; main(['lm-eval', '--path'])\n"
        "assert not {'lm_eval', 'torch', 'trl'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "processbench" / "_processbench.yaml").is_file()


def test_ls_and_validate_know_the_tasks(capsys):
    assert main(["lm-eval", "ls", "subtasks"]) == 0
    assert "processbench_vote8_gsm8k" in capsys.readouterr().out
    assert main(["lm-eval", "ls", "groups"]) == 0
    assert "processbench_vote8" in capsys.readouterr().out
    assert main(["lm-eval", "validate", "--tasks", "processbench,processbench_vote8"]) == 0
    assert "All tasks found and valid" in capsys.readouterr().out
    assert main(["lm-eval", "validate", "--tasks", "procesbench"]) == 1


def test_help_is_ours_and_the_harnesss(capsys):
    assert main(["lm-eval", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("genprm lm-eval --path") < shown.index("Language Model Evaluation Harness")


def test_a_harness_model_runs_with_the_users_tasks_beside_ours(tiny_dir, processbench_dir, tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text("include: " + str(_tasks() / "processbench_math.yaml") + "\ntask: mine\n")
    config = tmp_path / "config.yaml"
    # JSON is YAML.
    config.write_text(
        json.dumps(
            {
                "model": "hf",
                "model_args": {"pretrained": str(tiny_dir)},
                "tasks": ["processbench_gsm8k"],
                "metadata": {"data_dir": str(processbench_dir)},
                "gen_kwargs": {"max_gen_toks": 4},
                "device": "cpu",
                "limit": 2,
            }
        )
    )
    command = ["lm-eval", "--config", str(config), "--include_path", str(own), "--tasks", "processbench_gsm8k"]
    words = ["--log_samples", "--output_path", str(tmp_path / "out")]
    assert main([*command[:-1], "processbench_gsm8k,mine", *words]) == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"]
    assert {name: result["sample_len"] for name, result in results.items()} == {"processbench_gsm8k": 2, "mine": 2}
    shown = capsys.readouterr().out
    assert "unparsable" in shown
    headings = next(line for line in shown.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in headings.strip("|").split("|")][:5] == [
        "Tasks", "Version", "Filter", "n-shot", "Metric"
    ]  # fmt: skip
    # A critic's answers are no verdicts, of which a page could be made.
    samples = only("samples_processbench_gsm8k_*", tmp_path / "out")
    assert main(["report", str(samples)]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm report: error: {samples}, row 1, field 'resps[0]': is the answer of a critic")
    assert "name the samples of a task that was run with --model genprm" in error


def test_missing_data_are_one_line(tiny_dir, tmp_path, capsys):
    command = ["lm-eval", "--model", "dummy", "--tasks", "processbench_math"]
    assert main([*command, "--metadata", json.dumps({"data_dir": str(tmp_path)})]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("genprm lm-eval: error: ")
    assert "hf download Qwen/ProcessBench" in error


@pytest.mark.parametrize(
    ("task", "metadata", "message"),
    [
        ("processbench_math", '{"data_dir": 5}', "data_dir must be a path, not 5"),
        ("processbench_math", '{"data_dir": ""}', "data_dir must be a path, not ''"),
        ("best_of_n_custom", '{"candidates": {"custom": ["a"]}}', "candidates must be a path, not ['a']"),
        (
            "policy_best_of_n_custom",
            '{"problems": ["a"], "verifier": {"server": "http://127.0.0.1:1"}}',
            "problems must be a path",
        ),
        ("processbench_math", '{"data_dir": ', "Invalid JSON"),
    ],
)
def test_metadata_that_cannot_be_used_are_one_line(task, metadata, message, capsys):
    assert main(["lm-eval", "--model", "dummy", "--tasks", task, "--metadata", metadata]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("genprm lm-eval: error: ")
    assert message in error


def _tasks() -> Path:
    from genprm_trl.harness.tasks import tasks_path

    return tasks_path() / "processbench"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "hf", "--tasks", "processbench_genprm_gsm8k"], "run it with --model genprm, not hf"),
        (["--model", "vllm", "--tasks", "processbench_math,best_of_n"], "the task best_of_n is for verifiers"),
        (["--tasks", "processbench_genprm"], "run it with --model genprm"),
        (["--model", "dummy", "--tasks", "nosuch"], "Tasks not found: nosuch"),
        (["--model", "genprm"], "No tasks specified"),
        (["--model", "nosuch", "--tasks", "processbench_math"], "nosuch"),
    ],
)
def test_wrong_tasks_and_models_are_one_line(processbench_dir, capsys, words, message):
    assert main(["lm-eval", *words, "--metadata", json.dumps({"data_dir": str(processbench_dir)})]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("genprm lm-eval: error: ")
    assert message in error


def test_servers_are_sent_no_empty_list_of_stop_strings(processbench_dir):
    from lm_eval.models.openai_completions import LocalChatCompletion

    from tests.harness.conftest import load_tasks

    names = ["processbench", "processbench_vote8", "processbench_genprm"]
    tasks = load_tasks(names, data_dir=str(processbench_dir))["tasks"]
    api = object.__new__(LocalChatCompletion)
    api._max_gen_toks, api.model, api._eos_string = 8, "m", None
    for task in tasks.values():
        payload = api._create_payload([{}], generate=True, gen_kwargs=dict(task.config.generation_kwargs))
        assert payload["stop"]


def test_rows_of_results_are_named_by_their_tasks(processbench_dir):
    from tests.harness.conftest import load_tasks

    tasks = load_tasks(["processbench", "processbench_vote8", "processbench_genprm"], data_dir=str(processbench_dir))
    shown = [task.config.task_alias or name for name, task in tasks["tasks"].items()]
    assert len(set(shown)) == len(shown)
    assert all(name.startswith("processbench") for name in shown)


class Keyed(Judging):
    """A backend with an option that holds a secret."""

    def __init__(self, model, tokenizer=None, *, hf_token):
        assert hf_token == "s3cr3t"
        super().__init__(model, tokenizer)


def test_results_and_log_hold_no_secret(genprm_dir, processbench_dir, tmp_path, capfd):
    model = {"pretrained": str(genprm_dir), "backend": f"{__name__}:Keyed", "mode": "direct"}
    model["backend_options"] = {"hf_token": "s3cr3t"}
    words = ["lm-eval", "--model", "genprm", "--model_args", json.dumps(model), "--limit", "1"]
    words += ["--tasks", "processbench_genprm_gsm8k", "--metadata", json.dumps({"data_dir": str(processbench_dir)})]
    assert main([*words, "--output_path", str(tmp_path)]) == 0
    results = only("results_*.json", tmp_path).read_text()
    assert json.loads(results)["config"]["model_args"]["pretrained"] == str(genprm_dir)
    assert "s3cr3t" not in results
    assert "s3cr3t" not in "".join(capfd.readouterr())


def test_the_model_is_there_for_the_harness_in_python(genprm_dir, processbench_dir):
    import lm_eval

    from genprm_trl.harness import register, tasks_path
    from tests.helpers.judging_generator import BACKEND

    register()
    manager = lm_eval.tasks.TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata={"data_dir": str(processbench_dir)}
    )
    found = lm_eval.simple_evaluate(
        model="genprm",
        model_args={"pretrained": str(genprm_dir), "backend": BACKEND, "mode": "direct"},
        tasks=["processbench_genprm_gsm8k"],
        task_manager=manager,
        limit=2,
    )
    assert found["results"]["processbench_genprm_gsm8k"]["failed,maj@n"] == 0
