"""What a user does with the Hub, in a process whose libraries found the stand-in's address when they were imported.

    python -m tests.helpers.upload_program DIRECTORY

Prints a JSON object of exit codes and of what was printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

from genprm_trl import PRMConfig, PRMTrainer
from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.doctor.checks import check_hub
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training import HackingStop
from tests.helpers.recipes import write_config
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def run(*words: str) -> dict[str, object]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def base(directory: Path) -> Path:
    tiny_model().save_pretrained(directory / "base")
    tiny_tokenizer().save_pretrained(directory / "base")
    return directory / "base"


def results_file(directory: Path, model: Path) -> Path:
    results = {
        "results": {"processbench_math": {"f1,none": 40.0, "f1_stderr,none": 1.5}},
        "configs": {"processbench_math": {"metadata": {}}},
        "n-samples": {"processbench_math": {"original": 1000, "effective": 1000}},
        "config": {"model_args": {"pretrained": str(model)}},
    }
    path = directory / "results_1.json"
    path.write_text(json.dumps(results))
    return path


def executed(card: Path) -> str:
    """What the first Python block of a card prints."""
    out = io.StringIO()
    try:
        code = card.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
        with contextlib.redirect_stdout(out):
            exec(code, {})
    except Exception:
        return traceback.format_exc()
    return out.getvalue()


def stopped(directory: Path) -> dict[str, object]:
    """A training that signs of reward hacking end at its second step: any batch is a sign."""
    HackingStop.__init__.__kwdefaults__.update(window=1, tokens_times=0.01)
    ModelSettings(modes=("direct",)).save(directory / "base")
    problems, reward = directory / "problems.jsonl", directory / "reward.yaml"
    write_jsonl(problems, [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)])
    reward.write_text(f"verifier: {directory / 'base'}\nmax_step_tokens: 8\n", encoding="utf-8")
    settings = {
        "model": directory / "base", "output_dir": directory / "policy", "reward_config": reward, "max_steps": 4,
        "num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": 8, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 1, "step_style": "line", "report_to": "none",
        "hub_model_id": "lab/policy", "hub_always_push": True, "hacking_stop": "stop",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return run("grpo", str(problems), *words, "--push_to_hub", "--use_cpu")


def everything(directory: Path) -> dict[str, object]:
    found: dict[str, object] = {"doctor": [finding.detail for finding in check_hub(online=True)]}
    recipe = write_config(directory, sft=None)
    found["refused"] = run("recipe", "--config", recipe, "--push_to_hub", "others/words")
    found["recipe"] = run("recipe", "--config", recipe, "--name", "Words", "--push_to_hub", "lab/words")
    model = directory / "model"
    sft = [
        *("sft", str(directory / "out" / "rationales.jsonl"), "--model", str(base(directory)), "--mode", "direct"),
        *("--output_dir", str(model), "--max_steps", "1", "--max_length", "1024", "--learning_rate", "1e-3"),
        *("--push_to_hub", "--hub_strategy", "end", "--use_cpu", "--report_to", "none"),
        *("--eval_data", str(directory / "out" / "rationales.jsonl"), "--eval_strategy", "steps", "--eval_steps", "1"),
        *("--verify_data", str(directory / "out" / "labels.jsonl"), "--verify_limit", "4"),
    ]
    found["sft"] = run(*sft, "--hub_model_id", "lab/tiny")
    found["sft_again"] = run(*sft, "--hub_model_id", "lab/again", "--hub_private_repo", "false")
    found["card"] = run(
        *("card", str(model), "--results", str(results_file(directory, model)), "--push_to_hub", "lab/tiny")
    )

    rows = [{"prompt": "1 + 1?", "completions": ["It is 2.", "So 3."], "labels": [True, False]}]
    args = PRMConfig(
        str(directory / "prm"), max_steps=1, use_cpu=True, report_to="none", hub_model_id="lab/prm", save_strategy="no"
    )
    trainer = PRMTrainer(str(directory / "base"), args=args, train_dataset=rows)
    trainer.train()
    found["prm"] = trainer.push_to_hub().commit_url
    found["stopped"] = stopped(directory)

    # The cards' own examples: everything that they name is loaded from the stand-in.
    for name, card in (("model", model), ("data", directory / "out" / "dataset"), ("prm", directory / "prm")):
        found[f"{name}_example"] = executed(card / "README.md")
    return found


if __name__ == "__main__":
    print(json.dumps(everything(Path(sys.argv[1]))))
