"""Step-DPO: rows and their token ids, the loss by hand-worked numbers, training, and the command."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import DPOConfig, DPOTrainer

from genprm_trl.cli.dpo import StepDPOOptions
from genprm_trl.cli.main import main
from genprm_trl.cli.training import ModelOptions
from genprm_trl.conversation.settings import frozen_date
from genprm_trl.data.step_pairs import StepPair, load_step_pairs
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.options.parser import OptionParser
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.solving.solver import Solver, SolverSettings
from genprm_trl.training import StepDPOConfig, StepDPOTrainer
from genprm_trl.training.step_dpo.trainer import as_rows
from tests.helpers import chat_templates
from tests.helpers.paths import ROOT
from tests.helpers.scripted_generator import ScriptedGenerator
from tests.helpers.tiny_models import save_tiny, tiny_model, tiny_tokenizer

CONFIGS = sorted((ROOT / "examples" / "configs").glob("step_dpo_*.yaml"))
PAIR = {
    "id": "a",
    "problem": "What is 2 * 3 + 4?",
    "prefix": "Step 1: 2 * 3 = 6\nStep 2:",
    "chosen": " 6 + 4 = 10",
    "rejected": " 6 + 4 = 11, which is all.",
}


def pairs(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Sums, of which the right one is chosen and one with books for eggs is rejected."""
    rows = []
    for number in range(start, start + n):
        a, b = 3 * number % 17 + 2, 5 * number % 13 + 1
        rows.append(
            {
                "id": f"pair-{number}",
                "problem": f"Anna has {a} eggs and buys {b} more.",
                "prefix": f"Step 1: She has {a} eggs.\nStep 2:",
                "chosen": f" She now has {a} + {b} eggs.",
                "rejected": f" She now has {a} + {b} books.",
            }
        )
    return rows


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, pairs to train on, and pairs that are held out."""
    path = tmp_path_factory.mktemp("dpo")
    save_tiny(path / "base")
    write_jsonl(path / "pairs.jsonl", pairs(12))
    write_jsonl(path / "held_out.jsonl", pairs(4, start=50))
    return path


def words(directory: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": directory / "base", "output_dir": output, "max_steps": 2, "logging_steps": 1, "save_steps": 1,
        "per_device_train_batch_size": 4, "report_to": "none", "lr_scheduler_type": "constant", "learning_rate": 1e-3,
    }  # fmt: skip
    given = [w for name, value in (defaults | options).items() for w in (f"--{name}", str(value))]
    return ["dpo", str(directory / "pairs.jsonl"), "--use_cpu", *given]


def trainer_of(directory: Path, output: Path, rows: Any = None, **options: Any) -> StepDPOTrainer:
    args = StepDPOConfig(
        str(output), use_cpu=True, report_to="none", disable_tqdm=True, gradient_checkpointing=False, **options
    )
    return StepDPOTrainer(str(directory / "base"), args=args, train_dataset=[PAIR] if rows is None else rows)


# --- Rows -----------------------------------------------------------------------------------------------------------


def test_a_pair_survives_its_row() -> None:
    pair = StepPair("a", "p", "", "right", "wrong", "3", {"policy": "m"})
    assert StepPair.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair


def test_rows_of_the_published_dataset_are_read(tmp_path: Path) -> None:
    row = {
        "dataset": "d", "prompt": "What is 2 * 3 + 4?", "answer": "10", "full_chosen": "c", "full_rejected": "r",
        "initial_reason_steps": "Let's think step by step.\nStep 1: 2 * 3 = 6.\nStep 2:",
        "chosen": "6 + 4 = 10.", "rejected": " 6 + 4 = 11.",
    }  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", [row])
    [pair] = load_step_pairs(tmp_path / "rows.jsonl")
    # A step follows its heading with a space, in rows that leave it out, too.
    assert (pair.id, pair.problem, pair.answer) == ("rows-1", row["prompt"], "10")
    assert (pair.prefix, pair.chosen, pair.rejected) == (row["initial_reason_steps"], " 6 + 4 = 10.", row["rejected"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": "  "}, "row 2, field 'chosen': must not be empty"),
        ({"rejected": None}, "row 2, field 'rejected': must not be null"),
        ({"prefix": 3}, "row 2, field 'prefix': must be a string, but is the number 3"),
        ({"problem": None}, "row 2, field 'problem': must not be null"),
        ({"rejected": "6 +  4 = 10"}, "row 2, field 'rejected': is the same step as 'chosen'"),
        ({"id": "b"}, "row 2, field 'id'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [PAIR | {"id": "b"}, PAIR | changes])
    with pytest.raises(DataError) as raised:
        load_step_pairs(tmp_path / "rows.jsonl")
    assert message in str(raised.value)
    assert len(load_step_pairs(tmp_path / "rows.jsonl", skip_bad_rows=True)) == 1
    if "id" not in changes:
        with pytest.raises(DataError, match="train_dataset, row 2, field"):
            as_rows([PAIR, PAIR | changes], "train_dataset")


def test_rows_of_another_kind_are_refused() -> None:
    for rows in ("rows.jsonl", PAIR, 3):
        with pytest.raises(DataError, match="or a list of rows, got"):
            as_rows(rows, "train_dataset")
    with pytest.raises(DataError, match="has no rows"):
        as_rows([], "train_dataset")


# --- Token ids ------------------------------------------------------------------------------------------------------


def test_a_step_has_the_ids_in_which_the_policy_is_asked_to_go_on(directory: Path, tmp_path: Path) -> None:
    [row] = trainer_of(directory, tmp_path).train_dataset
    solver = Solver(ScriptedGenerator(str))
    assert row["prompt_ids"] == solver.prompt(PAIR["problem"], PAIR["prefix"])
    for side in ("chosen", "rejected"):
        assert row["prompt_ids"] + row[f"{side}_ids"] == solver.prompt(PAIR["problem"], PAIR["prefix"] + PAIR[side])
        assert row[f"{side}_ids"][-1] != tiny_tokenizer().eos_token_id
    [row] = trainer_of(directory, tmp_path, system_prompt="").train_dataset
    other = Solver(ScriptedGenerator(str), SolverSettings(system_prompt=""))
    assert row["prompt_ids"] == other.prompt(PAIR["problem"], PAIR["prefix"])


def test_the_stock_trainer_ends_the_text_after_a_step(directory: Path, tmp_path: Path) -> None:
    """The reason for the one method of TRL that is overridden."""
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    rows = as_rows([PAIR], "rows").rename_column("problem", "prompt").remove_columns("prefix")
    stock = DPOTrainer(str(directory / "base"), args=args, train_dataset=rows)
    [row] = stock.train_dataset
    assert {row["chosen_ids"][-1], row["rejected_ids"][-1]} == {tiny_tokenizer().eos_token_id}


def test_a_step_cannot_end_its_turn(directory: Path, tmp_path: Path) -> None:
    [row] = trainer_of(directory, tmp_path, [PAIR | {"chosen": " 10<|im_end|>"}]).train_dataset
    assert tiny_tokenizer().eos_token_id not in row["chosen_ids"]


def test_a_first_step_is_no_thought(directory: Path, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
    args = StepDPOConfig(str(tmp_path), use_cpu=True, report_to="none")
    trainer = StepDPOTrainer(
        str(directory / "base"), args=args, train_dataset=[PAIR | {"prefix": ""}], processing_class=tokenizer
    )
    [row] = trainer.train_dataset
    assert tokenizer.decode(row["prompt_ids"]).endswith("<think>\n</think>\n\n")


def test_pairs_that_do_not_fit_are_left_out(directory: Path, tmp_path: Path, caplog: Any) -> None:
    rows = [PAIR, PAIR | {"rejected": " egg" * 99}]
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(directory, tmp_path, rows, max_length=120)
    assert len(trainer.train_dataset) == 1
    assert "1 of 2 pairs left out, over max_length=120." in caplog.text
    with pytest.raises(DataError, match="train: has no pair within max_length=120"):
        trainer_of(directory, tmp_path, rows[1:], max_length=120)


# --- The loss -------------------------------------------------------------------------------------------------------


def logp(model: Any, prompt: list[int], step: list[int]) -> float:
    """The log-probability of a step, computed here."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + step])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) + place - 1, token].item() for place, token in enumerate(step))


def loss_of(trainer: StepDPOTrainer, **columns: float) -> float:
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    batch |= {name: torch.tensor([value]) for name, value in columns.items()}
    trainer.model.eval()
    return float(trainer.compute_loss(trainer.model, batch).detach())


@pytest.mark.parametrize(("beta", "expected"), [(0.5, 0.533382), (0.1, 0.658760)])
def test_the_loss_by_hand(directory: Path, tmp_path: Path, beta: float, expected: float) -> None:
    """Log-ratios of 0.3 for the chosen step and -0.4 for the rejected one."""
    trainer = trainer_of(directory, tmp_path, beta=beta, precompute_ref_log_probs=True)
    [row] = trainer.train_dataset
    model = tiny_model()
    chosen, rejected = (logp(model, row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected"))
    loss = loss_of(trainer, ref_chosen_logps=chosen - 0.3, ref_rejected_logps=rejected + 0.4)
    assert loss == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "expected"), [("sigmoid", 0.693147), ("nca_pair", 1.386294), ("bco_pair", 1.386294)]
)
def test_the_loss_of_the_first_step_is_that_of_equal_models(
    directory: Path, tmp_path: Path, loss_type: str, expected: float
) -> None:
    assert loss_of(trainer_of(directory, tmp_path, loss_type=[loss_type])) == pytest.approx(expected, abs=1e-5)


# --- Training -------------------------------------------------------------------------------------------------------


def test_the_right_step_becomes_more_probable_on_pairs_that_were_not_seen(directory: Path, tmp_path: Path) -> None:
    args = StepDPOConfig(
        str(tmp_path), per_device_train_batch_size=12, max_steps=15, learning_rate=1e-3, use_cpu=True, beta=0.5,
        report_to="none", save_strategy="no", gradient_checkpointing=False, lr_scheduler_type="constant",
        disable_tqdm=True,
    )  # fmt: skip
    model, before = copy.deepcopy(tiny_model()), tiny_model()
    held_out = pairs(4, start=50)
    trainer = StepDPOTrainer(
        model, ref_model=before, args=args, train_dataset=[StepPair.from_dict(row) for row in pairs(12)],
        eval_dataset=held_out, processing_class=tiny_tokenizer(),
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] == 1
    assert trainer.evaluate({"same": held_out})["eval_same_loss"] < 0.1
    solver = Solver(ScriptedGenerator(str))
    for row in held_out:
        prompt = solver.prompt(row["problem"], row["prefix"])
        margins = [
            logp(each.eval(), prompt, solver.following(row["chosen"]))
            - logp(each, prompt, solver.following(row["rejected"]))
            for each in (before, trainer.model)
        ]
        assert margins[1] > margins[0] + 1


def test_a_file_becomes_a_policy_and_a_longer_run_goes_on(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    options = {"eval_data": directory / "held_out.jsonl", "eval_strategy": "steps", "eval_steps": 1}
    assert main(words(directory, output, **options)) == 0
    shown = capsys.readouterr().out
    for name in ("train loss", "eval loss", "pairs told", "pairs told, held-out"):
        assert name in shown
    card = (output / "README.md").read_text(encoding="utf-8")
    for said in ("A policy", "| pairs of steps | 12 |", "| loss | sigmoid |", "2406.18629", "SHA-256 of the rows",
                 "genprm_trl.StepDPOTrainer", "\\boxed{}"):  # fmt: skip
        assert said in card
    assert "\\\\boxed" in card  # in Python's spelling
    assert main(words(directory, output, **options)) == 0
    assert "this training is finished" in capsys.readouterr().err
    assert main(words(directory, output, beta=0.1, **options)) == 2
    assert "beta was 0.5 and is now 0.1" in capsys.readouterr().err
    assert main(words(directory, output, system_prompt="Think.", **options)) == 2
    assert "system_prompt was None and is now 'Think.'" in capsys.readouterr().err
    assert main(words(directory, output, max_steps=3, **options)) == 0
    assert json.loads((output / "genprm-dpo.json").read_text(encoding="utf-8"))["continued_at"] == [2]


def test_an_adapter_is_trained_against_the_model_without_it(directory: Path, tmp_path: Path) -> None:
    line = words(directory, tmp_path, use_peft="true", lora_r=2, lora_target_modules="all-linear")
    assert main([*line, "--loss_type", "nca_pair"]) == 0
    assert any(weight.abs().max() > 0 for name, weight in load_file(tmp_path / "adapter_model.safetensors").items()
               if "lora_B" in name)  # fmt: skip
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| reference | the model without its adapter |" in card
    assert "| loss | nca_pair |" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none does not exist"),
        ({"eval_strategy": "steps"}, "evaluation needs both --eval_data and --eval_strategy"),
        ({"beta": 0}, "beta must be positive"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"split": "nosuch"}, "split"),
        ({"eval_strategy": "steps", "eval_data": "nosuch.jsonl"}, "nosuch.jsonl"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    assert main(words(directory, tmp_path / "model", **{"model": directory / "none", **options})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_bad_row_ends_the_command_or_is_skipped(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [*pairs(4), PAIR | {"chosen": ""}])
    line = words(directory, tmp_path / "model", max_steps=1)
    line[1] = str(tmp_path / "rows.jsonl")
    assert main(line) == 2
    assert "rows.jsonl, row 5, field 'chosen': must not be empty" in capsys.readouterr().err
    assert main([*line, "--skip_bad_rows"]) == 0


def test_options_of_another_trainer_are_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="args must be a StepDPOConfig"):
        StepDPOTrainer(str(directory / "base"), args=object(), train_dataset=[PAIR])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`train_dataset` is required"):
        StepDPOTrainer(str(directory / "base"), args=StepDPOConfig(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_example_configuration_can_be_read(config: Path) -> None:
    parser = OptionParser([StepDPOOptions, StepDPOConfig, ModelOptions], prog="genprm dpo")
    parsed = parser.parse(["pairs.jsonl", "--config", str(config), "--bf16", "false", "--use_cpu"])
    assert (parsed[1].beta, parsed[1].loss_type, parsed[1].learning_rate) == (0.5, ["sigmoid"], 5e-7)


def test_pairs_are_encoded_once_and_only_if_all_parts_are(directory: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list(pairs(3))
    encoded = trainer_of(directory, tmp_path, rows).train_dataset
    again = trainer_of(directory, tmp_path, encoded)
    assert list(again.train_dataset) == list(encoded)
    assert again.card_data() == {"pairs of steps": "3", "pairs trained on": "3"}
    foreign = rows.add_column("chosen_ids", [[1]] * 3)
    assert list(trainer_of(directory, tmp_path, foreign).train_dataset) == list(encoded)


def test_the_day_of_a_dated_template_stays(directory: Path, tmp_path: Path, day: Callable[[str], None]) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = chat_templates.DATED
    base, run = save_tiny(tmp_path / "base"), tmp_path / "run"
    tokenizer.save_pretrained(base)

    def trainer(model: Path, output: Path) -> StepDPOTrainer:
        args = StepDPOConfig(
            str(output), use_cpu=True, report_to="none", disable_tqdm=True, gradient_checkpointing=False, max_steps=1,
            save_steps=1,
        )  # fmt: skip
        return StepDPOTrainer(str(model), args=args, train_dataset=[PAIR])

    day("2026-12-01")
    first = trainer(base, run)
    assert "Today: 01 Dec 2026" in tokenizer.decode(first.train_dataset[0]["prompt_ids"])
    first.train()
    first.save_model()
    day("2027-02-03")
    # A training that is resumed keeps the day, and one that goes on from the policy.
    assert list(trainer(base, run).train_dataset) == list(first.train_dataset)
    assert list(trainer(run, tmp_path / "further").train_dataset) == list(first.train_dataset)
    for policy in (run, run / "checkpoint-1"):
        assert frozen_date(chat_templates.DATED, policy) == "2026-12-01"  # in which a command asks it
    (run / "policy.json").write_text('{"template_date": "yesterday"}')
    with pytest.raises(ConfigError, match=r"policy\.json: not the settings of a policy"):
        frozen_date(chat_templates.DATED, run)
    trainer_of(directory, tmp_path / "undated").save_model()
    assert not (tmp_path / "undated" / "policy.json").exists()
