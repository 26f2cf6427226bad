"""Process preference models: pairs of steps by hand-worked numbers, the loss, and training."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import Qwen2ForSequenceClassification
from trl import RewardTrainer

from genprm_trl.cli.main import main
from genprm_trl.cli.ppm import PPMOptions
from genprm_trl.cli.training import ModelOptions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.options.parser import OptionParser
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.ppm import PPMConfig, PPMTrainer
from genprm_trl.training.ppm.pairs import Child, chosen_pairs, load_pairs, nodes_of
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.kinds.ppm import PreferenceScorer
from genprm_trl.verifier.opening import find_kind
from tests.helpers.outcomes import toy_solutions
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import save_tiny, tiny_model, tiny_tokenizer

CONFIGS = sorted((ROOT / "examples" / "configs").glob("ppm_*.yaml"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, rows to train on, and rows that are held out."""
    path = tmp_path_factory.mktemp("ppm")
    save_tiny(path / "base")
    write_jsonl(path / "rows.jsonl", toy_solutions(6))
    write_jsonl(path / "held_out.jsonl", toy_solutions(3, name="Bob"))
    return path


def words(directory: Path, output: Path, **options: object) -> list[str]:
    defaults = {
        "model": directory / "base", "output_dir": output, "max_steps": 2, "logging_steps": 1, "save_steps": 1,
        "per_device_train_batch_size": 4, "report_to": "none", "lr_scheduler_type": "constant", "learning_rate": 1e-3,
    }  # fmt: skip
    pairs = [w for name, value in (defaults | options).items() for w in (f"--{name}", str(value))]
    return ["ppm", str(directory / "rows.jsonl"), "--use_cpu", *pairs]


def children(*values: tuple[float, bool]) -> list[Child]:
    return [Child((str(q),), q, right) for q, right in values]


def values(pairs: list[tuple[Child, Child]]) -> list[tuple[float, float]]:
    return [(good.q, bad.q) for good, bad in pairs]


def test_pairs_of_a_node_by_hand() -> None:
    node = [(0.9, True), (0.2, True), (-0.1, True), (0.4, False), (-0.8, False), (-0.9, False)]
    assert values(chosen_pairs(children(*node))) == [(0.9, -0.9), (0.9, -0.8), (0.2, -0.9), (0.2, -0.8)]
    # The negative margin is dropped, the one of exactly 0.5 is kept.
    few = [(0.9, True), (0.2, True), (-0.1, True), (0.4, False), (-0.9, False)]
    assert values(chosen_pairs(children(*few))) == [(0.9, -0.9), (0.9, 0.4), (0.2, -0.9)]
    # Up to four against a single one.
    many = [(0.9, True), (0.8, True), (0.7, True), (0.6, True), (0.5, True), (-0.9, False)]
    assert values(chosen_pairs(children(*many))) == [(q, -0.9) for q in (0.9, 0.8, 0.7, 0.6)]
    assert chosen_pairs(children((0.9, True), (0.2, True))) == []


def test_estimates_labels_and_outcomes_make_the_values() -> None:
    table = [
        solution("1", ["a", "b", "c"], -1, True, [0.75, 0.5, 1.0]),
        solution("2", ["a", "x"], 1, False, [0.25, 0.0]),
        solution("3", ["a", "b", "d"], 2, False),
    ]
    nodes = nodes_of(table)
    assert nodes["p", ()] == [Child(("a",), pytest.approx((0.5 - 0.5 + 1) / 3), True)]
    assert nodes["p", ("a",)] == [Child(("a", "b"), 0.5, True), Child(("a", "x"), -1.0, False)]
    assert nodes["p", ("a", "b")] == [Child(("a", "b", "c"), 1.0, True), Child(("a", "b", "d"), -1.0, False)]
    assert [(child.steps, child.q, child.right) for child in nodes["p", None]] == [
        (("a", "b", "c"), 1.0, True), (("a", "x"), -1.0, False), (("a", "b", "d"), -1.0, False)
    ]  # fmt: skip
    rows = [each.to_dict() for each in table]
    made = [(row["chosen"], row["rejected"]) for row in load_pairs(rows)]
    assert made == [
        (["a", "b", "c"], ["a", "x"]),
        (["a", "b", "c"], ["a", "b", "d"]),  # both as whole solutions and as steps, and there once
        (["a", "b"], ["a", "x"]),
    ]
    with pytest.raises(DataError, match="has no pair: steps are compared where"):
        load_pairs(rows[:1])
    with pytest.raises(DataError, match="field 'label': must be the index of the first wrong step"):
        load_pairs([{**rows[0], "label": None}])


def solution(name: str, steps: list[str], label: int, right: bool, mc: list[Any] | None = None) -> Solution:
    return Solution(name, "p", steps, label=label, final_answer_correct=right, extra={"mc": mc} if mc else {})


def test_estimates_say_before_labels_which_steps_are_right() -> None:
    """A person finds a step wrong from which rollouts reach the right answer, and the other way round."""
    nodes = nodes_of([solution("1", ["a"], 0, True, [0.75]), solution("2", ["b"], -1, False, [0.0])])
    assert nodes["p", ()] == [Child(("a",), 0.5, True), Child(("b",), -1.0, False)]


def test_pairs_that_contradict_each_other_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """By their labels the one is better, by their outcomes the other."""
    table = [solution("1", ["a"], -1, False), solution("2", ["b"], 0, True), solution("3", ["a", "c"], 1, False)]
    with caplog.at_level(logging.WARNING):
        made = [(row["chosen"], row["rejected"]) for row in load_pairs([each.to_dict() for each in table])]
    assert made == [(["b"], ["a", "c"])]
    assert "2 pairs left out: steps and outcomes contradict each other" in caplog.text


def test_bad_estimates_are_errors_of_their_row(tmp_path: Path) -> None:
    rows = [
        *toy_solutions(1),
        solution("x", ["a", "b"], -1, True, [0.5, 3]).to_dict(),
        solution("y", ["a"], -1, True, [0.5, 0.5]).to_dict(),
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows.jsonl, row 5, field 'mc\[1\]': must be"):
        load_pairs(tmp_path / "rows.jsonl")
    assert len(load_pairs(tmp_path / "rows.jsonl", skip_bad_rows=True)) == len(load_pairs(rows[:-2]))


@pytest.mark.parametrize("make", [list, Dataset.from_list])
def test_rows_given_from_python_have_their_place_in_errors(directory: Path, tmp_path: Path, make: Any) -> None:
    good = {"problem": "1 + 1?", "chosen": ["2."], "rejected": ["3."]}
    args = PPMConfig(str(tmp_path), use_cpu=True, report_to="none")
    for row, message in (
        ({**good, "chosen": "It is 2."}, "train_dataset, row 1, field 'chosen': must be a list"),
        ({**good, "rejected": []}, "train_dataset, row 1, field 'rejected': must hold at least one step"),
        ({"problem": "1 + 1?", "chosen": ["2."]}, "train_dataset, row 1, field 'rejected': is missing"),
    ):
        with pytest.raises(DataError, match=message):
            PPMTrainer(directory / "base", args=args, train_dataset=make([row]))


def test_the_padding_token_is_no_separator(directory: Path, tmp_path: Path) -> None:
    """TRL's head is read at the last token that is no padding: before the separator."""
    rows = [{"problem": "1 + 1?", "chosen": ["2."], "rejected": ["3."]}]
    end = tiny_tokenizer().pad_token
    options = {"use_cpu": True, "report_to": "none", "step_separator": end}
    with pytest.raises(ConfigError, match="ends in the token that pads batches"):
        PPMTrainer(directory / "base", args=PPMConfig(str(tmp_path), **options), train_dataset=rows)
    args = PPMConfig(str(tmp_path), **options, pad_token="<|im_start|>")
    trainer = PPMTrainer(directory / "base", args=args, train_dataset=rows)
    assert trainer.train_dataset[0]["chosen_ids"][-1] == tiny_tokenizer().pad_token_id


def test_several_evaluation_sets(directory: Path, tmp_path: Path) -> None:
    args = PPMConfig(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    rows = [{"problem": "1 + 1?", "chosen": ["2."], "rejected": ["3."]}]
    several = {"some": rows, "others": [{**rows[0], "problem": "2 - 0?"}]}
    trainer = PPMTrainer(directory / "base", args=args, train_dataset=rows, eval_dataset=several)
    found = trainer.evaluate()
    assert {"eval_some_loss", "eval_others_loss"} <= found.keys()
    given = trainer.evaluate(several)
    assert given["eval_some_loss"] == pytest.approx(found["eval_some_loss"], abs=1e-6)
    with pytest.raises(DataError, match=r"eval_dataset\['bad'\], row 1, field 'chosen': must be a list"):
        trainer.evaluate({"bad": [{**rows[0], "chosen": "2."}]})


def test_the_loss_by_hand(directory: Path, tmp_path: Path) -> None:
    """A seam of TRL: the loss is the mean over the pairs of a batch, the better ones first. No token is added."""
    args = PPMConfig(str(tmp_path), use_cpu=True, report_to="none")
    rows = [{"problem": "1 + 1?", "chosen": ["2."], "rejected": ["It is 3.", "So 3."]}]
    trainer = PPMTrainer(str(directory / "base"), args=args, train_dataset=rows)
    [row] = trainer.train_dataset
    assert not {tiny_tokenizer().eos_token_id} & {row["chosen_ids"][-1], row["rejected_ids"][-1]}

    class Fixed(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            class Output:
                logits = torch.tensor([1.2, 1.2, 0.4, 0.4, 0.1, -0.5, 0.1, -0.5])[:, None]

            return Output

    loss = RewardTrainer.compute_loss(trainer, Fixed(), {"attention_mask": torch.ones(8, 3)})
    assert loss.item() == pytest.approx(0.337658, abs=1e-6)
    each = [-math.log(1 / (1 + math.exp(-d))) for d in (1.1, 1.7, 0.3, 0.9)]
    assert each == pytest.approx([0.287335, 0.167786, 0.554355, 0.341154], abs=1e-6)


def test_a_file_becomes_a_verifier_and_a_longer_run_goes_on(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, held_out = tmp_path / "model", directory / "held_out.jsonl"
    options = {"eval_data": held_out, "eval_strategy": "steps", "eval_steps": 1, "threshold_data": held_out}
    assert main(words(directory, output, **options)) == 0
    shown = capsys.readouterr().out
    for name in ("format", "threshold", "train loss", "eval loss", "pairs told"):
        assert name in shown
    card = (output / "README.md").read_text(encoding="utf-8")
    for said in ("process preference model", "of held_out.jsonl, F1", "SHA-256 of the rows", "pairs trained on"):
        assert said in card
    assert main(words(directory, output, **options)) == 0
    assert "this training is finished" in capsys.readouterr().err
    assert main(words(directory, output, max_steps=3, **options)) == 0
    saved = json.loads((output / "step_scorer.json").read_text(encoding="utf-8"))
    assert (saved["kind"], find_kind(output)) == ("ppm", "ppm")
    with open_verifier(output) as scorer:
        assert isinstance(scorer, PreferenceScorer)
        assert scorer.threshold == saved["threshold"]
        solution = Solution("1", "Anna has 3 apples.", ["She buys 2 books.", "She buys 4 eggs."])
        [verdict] = scorer.score([solution])
    # As the model itself reads a text.
    tokens = scorer.encode(solution.problem, solution.steps)
    model = Qwen2ForSequenceClassification.from_pretrained(output).eval()
    with torch.no_grad():
        expected = [model(torch.tensor([tokens.input_ids[: end + 1]])).logits.item() for end in tokens.step_ends]
    assert verdict.rewards == pytest.approx([1 / (1 + math.exp(-each)) for each in expected], abs=1e-5)


def test_an_adapter_is_trained_with_the_head(directory: Path, tmp_path: Path) -> None:
    line = words(directory, tmp_path, use_peft="true", lora_r=2, lora_target_modules="all-linear")
    assert main([*line, "--threshold_data", str(directory / "held_out.jsonl")]) == 0
    assert any("score" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert find_kind(tmp_path) == "ppm"
    with open_verifier(tmp_path) as scorer:
        [verdict] = scorer.score([Solution("1", "Anna", ["a", "b"])])  # type: ignore[attr-defined]
        assert {judgement.status for judgement in verdict.chains[0]} == {"ok"}


def test_other_heads_are_refused(tmp_path: Path, directory: Path) -> None:
    config = tiny_model().config.to_dict() | {"architectures": None}
    wide = Qwen2ForSequenceClassification(type(tiny_model().config)(**config, num_labels=2))
    wide.save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    for path, message in (
        (tmp_path / "wide", r"has 2 labels: give another --kind"),
        (directory / "base", r"no trained process preference model: it has no weights for score.weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_verifier(path, "ppm")


def test_pairs_that_do_not_fit_are_left_out(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"problem": "1 + 1?", "chosen": ["2."], "rejected": [text]} for text in ("3.", "egg " * 99)]
    args = PPMConfig(str(tmp_path), use_cpu=True, report_to="none", max_length=60)
    with caplog.at_level(logging.WARNING):
        trainer = PPMTrainer(str(directory / "base"), args=args, train_dataset=rows)
    assert len(trainer.train_dataset) == 1
    assert "1 of 2 pairs left out, over max_length=60." in caplog.text
    with pytest.raises(DataError, match="has no pair within max_length=60"):
        PPMTrainer(str(directory / "base"), args=args, train_dataset=rows[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none does not exist"),
        ({"eval_strategy": "steps"}, "evaluation needs both --eval_data and --eval_strategy"),
        ({"load_in_4bit": "true"}, "the new head would be quantized"),
        ({"pair_margin": -1}, "pair_margin must be at least 0"),
        ({"pair_margin": 3}, "has no pair: steps are compared"),
        ({"max_length": 0}, "max_length must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    assert main(words(directory, tmp_path / "model", **{"model": directory / "none", **options})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_example_configuration_can_be_read(config: Path) -> None:
    parser = OptionParser([PPMOptions, PPMConfig, ModelOptions], prog="genprm ppm")
    parsed = parser.parse(["rows.jsonl", "--config", str(config), "--bf16", "false", "--use_cpu"])
    assert parsed[1].learning_rate == 7e-6


def test_pairs_teach_which_step_is_better(directory: Path, tmp_path: Path) -> None:
    """On problems that it has not seen."""
    args = PPMConfig(
        str(tmp_path), per_device_train_batch_size=16, max_steps=20, learning_rate=2e-3, use_cpu=True,
        report_to="none", save_strategy="no", gradient_checkpointing=False, lr_scheduler_type="constant",
        disable_tqdm=True,
    )  # fmt: skip
    held_out = load_pairs(toy_solutions(8, seed=9, name="Bob"))
    trainer = PPMTrainer(
        str(directory / "base"), args=args, train_dataset=load_pairs(toy_solutions(24)), eval_dataset=held_out
    )
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] > 0.9


def test_pairs_are_encoded_once_and_only_if_both_sides_are(directory: Path, tmp_path: Path) -> None:
    args = PPMConfig(str(tmp_path), use_cpu=True, report_to="none", gradient_checkpointing=False)
    rows = load_pairs(directory / "rows.jsonl")
    encoded = PPMTrainer(str(directory / "base"), args=args, train_dataset=rows).train_dataset
    again = PPMTrainer(str(directory / "base"), args=args, train_dataset=encoded)
    assert list(again.train_dataset) == list(encoded)
    assert again.card_data() == {"pairs": str(len(rows)), "pairs trained on": str(len(rows))}
    foreign = rows.add_column("chosen_ids", [[1]] * len(rows))
    assert list(PPMTrainer(str(directory / "base"), args=args, train_dataset=foreign).train_dataset) == list(encoded)
