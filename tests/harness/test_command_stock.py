"""The harness's stock command, in a separate process, with a real (tiny, random) model on our tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from tests.harness.conftest import only
from tests.helpers.judging_generator import BACKEND

# The stock command's entry point, without the harness's own tasks: reading them takes twenty seconds.
OUR_TASKS_ALONE = """
import sys
from pathlib import Path
import lm_eval.tasks
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks._index import TaskIndex

read, theirs = TaskIndex._iter_yaml_files, Path(lm_eval.tasks.__file__).parent
TaskIndex._iter_yaml_files = staticmethod(lambda root: iter(()) if Path(root) == theirs else read(root))
sys.exit(cli_evaluate())
"""


@pytest.mark.slow
def test_the_stock_command_runs_the_tasks(tiny_dir, processbench_dir, tmp_path, capsys):
    assert main(["lm-eval", "--path"]) == 0
    path = capsys.readouterr().out.strip()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("lm_eval"),
            *("--include_path", path, "--tasks", "processbench,processbench_vote8_gsm8k"),
            *("--model", "hf", "--model_args", f"pretrained={tiny_dir}", "--device", "cpu", "--batch_size", "8"),
            *("--metadata", json.dumps({"data_dir": str(processbench_dir)}), "--gen_kwargs", "max_gen_toks=8"),
            *("--apply_chat_template", "--limit", "4", "--log_samples", "--output_path", str(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(path).parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(only("results_*.json", tmp_path).read_text())
    # The random model never writes an index.
    assert results["groups"]["processbench"]["f1,none"] == 0
    assert results["groups"]["processbench"]["f1_stderr,none"] == 0
    assert results["groups"]["processbench"]["unparsable,none"] == 100
    assert results["results"]["processbench_vote8_gsm8k"]["unparsable,vote"] == 100
    rows = [json.loads(line) for line in only("samples_processbench_vote8_gsm8k_*", tmp_path).read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        [samples] = row["resps"]
        assert len(samples) == 8
        assert len(set(samples)) > 1  # they are sampled
        assert row["arguments"]["gen_args_0"]["arg_0"].startswith("<|im_start|>user\nThe following is a math problem")


@pytest.mark.slow
def test_the_stock_command_finds_the_model_of_a_task_that_is_given_as_a_file(
    genprm_dir, processbench_dir, tmp_path, capsys
):
    assert main(["lm-eval", "--path"]) == 0
    path = Path(capsys.readouterr().out.strip())
    done = subprocess.run(
        [
            *(sys.executable, "-c", OUR_TASKS_ALONE),
            *("--model", "genprm", "--model_args", f"pretrained={genprm_dir},mode=direct,backend={BACKEND}"),
            *("--tasks", f"{path}/processbench/processbench_genprm_o*.yaml", "--limit", "2"),
            *("--metadata", json.dumps({"data_dir": str(processbench_dir)}), "--output_path", str(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": str(path.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(only("results_*.json", tmp_path).read_text())["results"]
    assert results.keys() == {"processbench_genprm_olympiadbench", "processbench_genprm_omnimath"}
    assert all(result["failed,maj@n"] == 0 for result in results.values())
