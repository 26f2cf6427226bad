"""`genprm grpo`, and the verifier's reward in TRL's own `trl grpo`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, TrlParser
from trl.scripts.grpo import GRPOScriptArguments

from genprm_trl.cli.grpo import GRPOOptions
from genprm_trl.cli.main import main
from genprm_trl.cli.training import ModelOptions
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.options.parser import OptionParser
from genprm_trl.rewards.configured import read_config
from genprm_trl.rewards.verification import GenPRMReward
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.hacking import HackingStop
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

CONFIGS = ROOT / "examples" / "configs"
STEP_CONFIGS = sorted(CONFIGS.glob("step_grpo_*.yaml"))


@pytest.fixture
def work(tmp_path) -> Path:
    """A policy that is a verifier, too; problems; and a configuration of the reward."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    ModelSettings(modes=("direct",)).save(tmp_path / "model")
    write_jsonl(
        tmp_path / "problems.jsonl",
        [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)],
    )
    (tmp_path / "reward.yaml").write_text(f"verifier: {tmp_path / 'model'}\nmax_step_tokens: 8\n", encoding="utf-8")
    return tmp_path


def words(work: Path, *more: str, **options: object) -> list[str]:
    settings = {
        "model": work / "model", "output_dir": work / "out", "max_steps": 2, "num_generations": 2,
        "per_device_train_batch_size": 2, "max_completion_length": 8, "logging_steps": 1, "report_to": "none",
        "save_strategy": "steps", "save_steps": 1, "step_style": "line",
    }  # fmt: skip
    pairs = [w for name, value in (settings | options).items() for w in (f"--{name}", str(value))]
    return ["grpo", str(work / "problems.jsonl"), "--use_cpu", *pairs, *more]


def test_a_policy_is_trained_and_training_goes_on(work, capsys):
    reward = ("--reward_config", str(work / "reward.yaml"))
    assert main(words(work, *reward, format_weight=0.5)) == 0
    printed = capsys.readouterr().out
    assert "answer_reward" in printed
    assert "step_format_reward" in printed
    assert "GenPRMReward" in printed
    assert (work / "out" / "model.safetensors").is_file()
    assert main(words(work, *reward, format_weight=0.5, max_steps=3)) == 0
    assert "resuming from" in capsys.readouterr().err
    state = json.loads((work / "out" / "checkpoint-3" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 3
    for log in state["log_history"]:  # the form has no part in it
        gap = log["rewards/GenPRMReward/mean"] - log["rewards/answer_reward/mean"]
        assert log["process_outcome/gap"] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ((), "--credit min_form needs step rewards: name a verifier with --verifier"),
        (("--credit", "outcome", "--keep_consistent", "2"), "--keep_consistent needs step rewards: name a verifier"),
        (
            ("--verifier", "x", "--keep_consistent", "2", "--answer_weight", "0", "--format_weight", "1"),
            "--keep_consistent chooses by right answers, which --answer_weight 0 leaves out",
        ),
        (
            ("--verifier", "x", "--keep_consistent", "3"),
            "keep_consistent must be from 2 to num_generations (2), got 3",
        ),
        (("--verifier", "x", "--server", "http://127.0.0.1:1"), "give one of --verifier and --server"),
        (("--credit", "sum"), "credit"),
        (("--credit", "outcome", "--reward_weights", "1.0"), "--reward_weights is set by"),
        (("--reward_config", "nowhere.yaml"), "nowhere.yaml"),
        (("--verifier", "x", "--min_form_temperature", "0"), "min_form_temperature"),
        (
            ("--server", "http://127.0.0.1:1", "--allow_weak_sandbox"),
            "the server says where code runs: leave out --allow",
        ),
    ],
)
def test_wrong_options_end_with_code_2(work, capsys, more, what):
    assert main(words(work, *more)) == 2
    assert what in capsys.readouterr().err
    assert not (work / "out").exists()


def test_a_bad_row_is_named(work, capsys):
    with (work / "problems.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"problem": "What?"}\n')
    assert main(words(work, "--credit", "outcome")) == 2
    assert "row 7" in capsys.readouterr().err


def test_problems_without_an_answer_are_rewarded_for_their_steps(work, capsys):
    reward = ("--reward_config", str(work / "reward.yaml"))
    problems = [{"problem": f"What is {n} + 1?", "answer": None} for n in range(4)]
    write_jsonl(work / "problems.jsonl", problems)
    assert main(words(work, *reward)) == 2
    assert "has an answer; to reward steps alone, set --answer_weight 0" in capsys.readouterr().err
    assert main(words(work, *reward, answer_weight=0, max_steps=1)) == 0
    write_jsonl(work / "problems.jsonl", [{"problem": "What is 2 + 3?", "answer": "5"}, *problems])
    assert main(words(work, *reward, max_steps=1, output_dir=work / "mixed")) == 0


def test_signs_of_hacking_stop_a_training_that_goes_on_at_the_same_command(work, capsys, caplog, monkeypatch):
    # The second batch shows a sign, whatever it holds: a training of 40 steps would take too long here.
    for name, value in {"window": 1, "tokens_times": 0.01}.items():
        monkeypatch.setitem(HackingStop.__init__.__kwdefaults__, name, value)
    line = words(work, "--reward_config", str(work / "reward.yaml"), lr_scheduler_type="constant", max_steps=3)
    assert main([*line, "--hacking_stop", "stop"]) == 1
    [said] = [message for message in caplog.messages if message.startswith("Reward hacking?")]
    assert "steps/tokens went from" in said
    assert "checkpoint-1 is from before. Training stops." in said
    printed = capsys.readouterr().out
    assert f"{'stopped':<22}at step 2, by signs of reward hacking; these weights are of that step" in printed
    assert f"{'from before':<22}{work / 'out' / 'checkpoint-1'}\n" in printed
    assert (work / "out" / "checkpoint-2").is_dir()
    assert not (work / "out" / "checkpoint-3").exists()
    assert json.loads((work / "out" / "genprm-grpo.json").read_text(encoding="utf-8"))["finished"] is None
    caplog.clear()
    assert main(line) == 0  # warns alone; it is the same run
    goes_on = capsys.readouterr()
    assert "resuming from" in goes_on.err
    assert "from before" not in goes_on.out
    assert "Reward hacking? steps/tokens went" in caplog.text
    assert (work / "out" / "checkpoint-3").is_dir()
    caplog.clear()
    assert main([*line, "--hacking_stop", "off", "--overwrite"]) == 0
    assert "Reward hacking?" not in caplog.text


def files_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_is_left_as_it_is_and_another_one_is_refused(work, capsys):
    reward, output = ("--reward_config", str(work / "reward.yaml")), work / "out"
    line = words(work, *reward, lr_scheduler_type="constant", max_steps=1)
    assert main(line) == 0
    before = files_of(output)
    capsys.readouterr()
    assert main([*line, "--logging_steps", "3", "--log_completions"]) == 0
    printed = capsys.readouterr()
    assert "this training is finished" in printed.err
    assert printed.out == f"{'model':<22}{output}\n"
    for more, said in (
        (["--learning_rate", "0.5"], "learning_rate was 1e-06 and is now 0.5"),
        (["--credit", "process"], "credit was 'min_form' and is now 'process'"),
        (["--temperature", "0.3"], "temperature was 1.0 and is now 0.3"),
        (["--beta", "0.1"], "beta was 0.0 and is now 0.1"),
        (["--answer_weight", "2"], "answer_weight was 1.0 and is now 2.0"),
        (["--system_prompt", "Be brief."], "system_prompt was"),
        (["--limit", "3"], "have changed"),
    ):
        assert main([*line, *more]) == 2
        error = capsys.readouterr().err
        assert "holds checkpoints of another run" in error
        assert said in error, error
        assert "--overwrite" in error
    (work / "reward.yaml").write_text(f"verifier: {work / 'model'}\nmax_step_tokens: 9\n", encoding="utf-8")
    assert main(line) == 2
    assert "reward_max_step_tokens was 8 and is now 9" in capsys.readouterr().err
    (work / "reward.yaml").write_text(f"verifier: {work / 'model'}\nmax_step_tokens: 8\n", encoding="utf-8")
    rows = [{"problem": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(6)]
    write_jsonl(work / "problems.jsonl", rows)
    assert main(line) == 2
    assert "the rows of" in capsys.readouterr().err
    assert files_of(output) == before
    assert main([*line, "--overwrite"]) == 0
    assert files_of(output).keys() == before.keys()


@pytest.mark.slow
def test_trl_takes_the_reward_by_its_path(work):
    """`trl grpo --reward_funcs genprm_trl.rewards.genprm_reward`, as its script runs it."""
    data = work / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", [{"prompt": "What is 2 + 3?"}, {"prompt": "What is 1 + 1?"}])
    (work / "grpo.yaml").write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": str(work / "model"),
                "dataset_name": str(data),
                "output_dir": str(work / "out"),
                "reward_funcs": ["genprm_trl.rewards.genprm_reward"],
                "max_steps": 1,
                "num_generations": 2,
                "per_device_train_batch_size": 2,
                "max_completion_length": 8,
                "logging_steps": 1,
                "report_to": "none",
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
            }
        ),
        encoding="utf-8",
    )
    environment = os.environ | {
        "GENPRM_REWARD_CONFIG": str(work / "reward.yaml"), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "trl.scripts.grpo", "--config", str(work / "grpo.yaml")],
        env=environment, capture_output=True, text=True, timeout=240, cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rewards/genprm_reward/mean" in done.stdout
    assert "genprm/share_" in done.stdout


# The configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STEP_CONFIGS, ids=lambda path: path.stem)
def test_step_configurations_are_valid(path):
    parser = OptionParser([GRPOOptions, StepGRPOConfig, ModelOptions], prog="genprm grpo")
    # What needs a GPU is left to one; everything else is read as the command reads it.
    options, args, model = parser.parse(["problems.jsonl", "--config", str(path), "--use_cpu", "--bf16", "false"])
    assert model.model_name_or_path == "Qwen/Qwen2.5-7B-Instruct"
    assert bool(options.server) != bool(options.verifier)
    assert args.credit == "min_form"
    assert args.generation_batch_size % args.num_generations == 0
    assert args.use_vllm


def test_the_configuration_of_t1_is_valid():
    parser = OptionParser([GRPOOptions, StepGRPOConfig, ModelOptions], prog="genprm grpo")
    path = CONFIGS / "grpo_t1_7b.yaml"
    options, args, _ = parser.parse(["problems.jsonl", "--config", str(path), "--use_cpu", "--bf16", "false"])
    assert (args.credit, options.degenerate_weight, options.verifier) == ("outcome", 1.0, None)
    assert 8 * args.per_device_train_batch_size * args.gradient_accumulation_steps == 32 * args.num_generations
    assert args.sync_ref_model
    assert args.beta > 0  # without it there is no reference to follow the policy


def test_a_policy_is_trained_without_answers_or_a_verifier(work, capsys):
    write_jsonl(work / "problems.jsonl", [{"problem": f"What is {n} + 1?", "answer": None} for n in range(4)])
    rewards = ("--credit", "outcome", "--answer_weight", "0", "--agreement_weight", "1", "--degenerate_weight", "0.5")
    assert main(words(work, *rewards, max_steps=1)) == 0
    printed = capsys.readouterr().out
    assert "answer_agreement_reward" in printed
    assert "degenerate_text_penalty" in printed


def test_there_are_configurations_for_one_four_and_eight_gpus():
    assert {path.stem for path in STEP_CONFIGS} == {f"step_grpo_7b_{gpus}gpu" for gpus in (1, 4, 8)}


def test_the_configuration_for_trl_has_keys_of_trl():
    path = CONFIGS / "grpo_genprm_reward.yaml"
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))
    script, args, model, _ = parser.parse_args_and_config(
        ["--config", str(path), "--use_cpu", "true", "--bf16", "false"], fail_with_unknown_args=True
    )
    assert script.reward_funcs == ["genprm_trl.rewards.genprm_reward"]
    assert args.num_generations == 8
    assert model.model_name_or_path == "Qwen/Qwen2.5-1.5B-Instruct"
    known = {field.name for kind in (GRPOScriptArguments, GRPOConfig, ModelConfig) for field in fields(kind)}
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= known


def test_the_configuration_of_the_reward_makes_one():
    reward = GenPRMReward(**read_config(CONFIGS / "genprm_reward.yaml"))
    assert reward.aggregate == "min"


def test_the_configuration_of_accelerate_is_one():
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / "accelerate_zero3.yaml"))
    assert config.deepspeed_config["zero_stage"] == 3
