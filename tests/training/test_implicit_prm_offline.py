"""Implicit PRMs trained on outcomes: the losses by hand-worked numbers, the rows, and what TRL is relied on for."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from genprm_trl.conversation.settings import frozen_date
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.generation.loading import load_model
from genprm_trl.metrics.processbench import processbench_scores, step_auroc
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.training.implicit_prm import ImplicitPairTrainer, ImplicitPRMConfig, ImplicitPRMTrainer
from genprm_trl.training.implicit_prm.objective import outcome_loss
from genprm_trl.training.implicit_prm.pairs import as_rows, paired, unpaired
from genprm_trl.training.outcomes import load_outcomes, outcome
from genprm_trl.training.ppm import PPMConfig, PPMTrainer
from genprm_trl.training.threshold import choose_threshold
from genprm_trl.verifier import open_verifier
from genprm_trl.verifier.kinds.implicit import ImplicitScorer, step_log_odds
from genprm_trl.verifier.step_tokens import AnswerEncoder
from tests.helpers import chat_templates
from tests.helpers.implicit_prm import LABELS, call, make_prm
from tests.helpers.outcomes import toy_solutions
from tests.helpers.tiny_models import save_tiny, tiny_model, tiny_tokenizer

ENCODE = AnswerEncoder(tiny_tokenizer(), "\n\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


def trainer_of(base: Any, output: Path, loss: str, rows: Any = None, **options: Any) -> Any:
    values = {
        "per_device_train_batch_size": 4, "max_steps": 1, "logging_steps": 1, "learning_rate": 1e-3, "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    args = ImplicitPRMConfig(str(output), loss_type=loss, **{**values, **options})
    kind = ImplicitPairTrainer if loss in ImplicitPairTrainer.losses else ImplicitPRMTrainer
    return kind(base, args=args, train_dataset=toy_solutions(4) if rows is None else rows)


def test_rewards_of_the_steps_by_hand() -> None:
    """Log-ratios (2, -1), (4), (-6, 1) of three steps, beta 0.05."""
    ratios, ends = torch.tensor([2.0, -1, 4, -6, 1]), [1, 2, 4]
    assert step_log_odds(ratios, ends, 0.05).tolist() == pytest.approx([0.05, 0.20, -0.25])
    accumulated = step_log_odds(ratios, ends, 0.05, "accumulated")
    assert accumulated.tolist() == pytest.approx([0.05, 0.25, 0.0])
    assert accumulated.sigmoid().tolist() == pytest.approx([0.5125, 0.5622, 0.5], abs=1e-4)


def test_cross_entropy_by_hand() -> None:
    for log_odds, right, wrong in ((0.0, 0.693147, 0.693147), (0.3, 0.554355, 0.854355)):
        both = [outcome_loss(torch.tensor([log_odds]), torch.tensor([label])).item() for label in (True, False)]
        assert both == pytest.approx([right, wrong], abs=1e-6)


# Of a model that is its own reference all log-ratios are 0.
@pytest.mark.parametrize(
    ("loss", "first"), [("ce", math.log(2)), ("kto", 0.5), ("dpo", math.log(2)), ("nca", 2 * math.log(2))]
)
def test_the_first_loss_is_known_and_the_reference_stays(base: Path, tmp_path: Path, loss: str, first: float) -> None:
    trainer = trainer_of(base, tmp_path, loss, max_steps=4, per_device_train_batch_size=16)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(first, abs=1e-5)
    assert losses[-1] < losses[0] - 0.01
    trainer.save_model()
    assert trainer.settings.reference == str(base.resolve())
    with ImplicitScorer.from_pretrained(tmp_path) as scorer:
        assert (scorer.beta, scorer.step_separator, scorer.threshold) == (0.05, "\n\n", 0.5)
        row = toy_solutions(1, seed=5)[0]
        [verdict] = scorer.score([Solution.from_dict(row)])
    # What is scored is what was trained: the last accumulated log-odds are those of the whole solution.
    tokens = ENCODE(row["problem"], row["steps"])
    inputs, mask = torch.tensor([tokens.input_ids]), torch.ones(1, len(tokens.input_ids), dtype=torch.long)
    completion = mask.clone()
    completion[:, : tokens.prompt_length] = 0
    trainer.calculate_KL = False
    logps = []
    for model in (trainer.model, trainer.ref_model):
        batch = {"input_ids": inputs, "attention_mask": mask, "completion_mask": completion}
        if loss in ("ce", "kto"):
            logps.append(trainer.compute_ref_log_probs(model, batch)[0].item())
        else:
            twice = {name: each.repeat(2, 1) for name, each in batch.items()}
            logps.append(trainer.compute_ref_log_probs(model, twice)[0].item())
    log_odds = sum(math.log(reward / (1 - reward)) for reward in verdict.rewards)
    assert log_odds == pytest.approx(0.05 * (logps[0] - logps[1]), abs=1e-4)


def test_the_online_training_has_the_same_loss() -> None:
    metrics: dict[str, float] = {}
    rewards = call(make_prm(update="after"), log_metric=metrics.__setitem__)
    log_odds = torch.tensor([sum(reward or 0.0 for reward in row) for row in rewards])
    assert metrics["implicit_prm/loss"] == pytest.approx(outcome_loss(log_odds, torch.tensor(LABELS)).item() / 4)


def test_the_loss_of_a_balanced_pair_by_hand() -> None:
    """TRL's `bco_pair` of c = 0.3 and r = -0.2."""
    log_odds, outcomes = torch.tensor([0.3, -0.2]), torch.tensor([1.0, 0.0])
    assert outcome_loss(log_odds, outcomes).item() == pytest.approx(1.152494)
    assert outcome_loss(log_odds, outcomes, torch.tensor([1.0, 3.0])).item() == pytest.approx(2.348772, abs=1e-5)


def test_outcomes_are_read_graded_or_inferred() -> None:
    def right(**known: Any) -> bool:
        return outcome(Solution("1", "1 + 1?", ["It is \\boxed{2}."], **known))

    assert right(final_answer_correct=True, label=0, answer="3")
    assert not right(answer="3", label=-1)
    assert right(answer="2")
    assert right(label=-1)
    assert not right(label=0)
    with pytest.raises(DataError, match=r"final_answer_correct.*is missing, and so are answer and label"):
        right()


def test_rows_of_a_file_have_their_place_in_errors(tmp_path: Path) -> None:
    rows = [*toy_solutions(1), {"id": "x", "problem": "1 + 1?", "steps": ["2"]}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows.jsonl, row 5, .*final_answer_correct"):
        load_outcomes(tmp_path / "rows.jsonl")
    read = load_outcomes(tmp_path / "rows.jsonl", skip_bad_rows=True)
    assert read["final_answer_correct"] == [True, False, True, False]


@pytest.mark.parametrize("make", [list, Dataset.from_list])
def test_rows_given_from_python_have_their_place_in_errors(make: Any) -> None:
    good = {"problem": "1 + 1?", "steps": ["2."], "final_answer_correct": True}
    assert as_rows(make([good]), "rows").to_list() == [good]
    for row, message in (
        ({**good, "steps": "It is 2."}, "rows, row 1, field 'steps': must be a list"),
        ({**good, "final_answer_correct": None}, "rows, row 1, field 'final_answer_correct': is missing"),
        ({"problem": "1 + 1?", "final_answer_correct": True}, "rows, row 1, field 'steps': is missing"),
    ):
        with pytest.raises(DataError, match=message):
            as_rows(make([row]), "rows")
    with pytest.raises(DataError, match="rows, row 2, field 'steps': must be a list"):
        as_rows([good, Solution("2", "1 + 1?", "It is 2.", final_answer_correct=True)], "rows")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"rows: must be a `datasets.Dataset` or a list of rows, got dict"):
        as_rows(good, "rows")


def test_pairs_are_of_one_problem_and_use_no_solution_twice(caplog: pytest.LogCaptureFixture) -> None:
    rows = as_rows([*toy_solutions(3), *toy_solutions(1, name="Bob")[:1]], "rows")
    with caplog.at_level(logging.WARNING):
        pairs = paired(rows, ENCODE, 200, "rows", seed=1)
    assert "rows: 1 of 4 problems left out, all right or all wrong." in caplog.text
    assert len(pairs) == 6
    right = {tuple(ENCODE(row["problem"], row["steps"]).input_ids): row["final_answer_correct"] for row in rows}
    used = [tuple(pair["prompt_ids"] + pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")]
    assert [right[ids] for ids in used] == [True, False] * 6
    assert pairs.to_list() == paired(rows, ENCODE, 200, "rows", seed=1).to_list()
    assert pairs.to_list() != paired(rows, ENCODE, 200, "rows", seed=2).to_list()
    with pytest.raises(DataError, match="has no problem with both a right and a wrong solution"):
        paired(rows.filter(lambda row: row["final_answer_correct"]), ENCODE, 200, "rows", seed=1)


def test_a_solution_that_does_not_fit_is_left_out_whole(caplog: pytest.LogCaptureFixture) -> None:
    long = {"problem": "1 + 1?", "steps": ["egg " * 99], "final_answer_correct": True}
    with caplog.at_level(logging.WARNING):
        kept = unpaired(as_rows([*toy_solutions(1), long], "rows"), ENCODE, 90, "rows", seed=0)
    assert len(kept) == 4
    assert "rows: 1 of 5 left out, over max_length=90." in caplog.text
    with pytest.raises(DataError, match="has no solution within max_length=3"):
        unpaired(as_rows([long], "rows"), ENCODE, 3, "rows", seed=0)


def test_ktos_baseline_is_of_the_neighbours_in_a_batch(base: Path, tmp_path: Path) -> None:
    """A seam of TRL: its trainer reads `KL_completion_ids`, which its own preparation of rows would make."""
    rows = trainer_of(base, tmp_path, "kto").train_dataset
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        neighbours = batch["completion_ids"]
        assert batch["KL_completion_ids"] == [neighbours[-1], *neighbours[:-1]]
    assert "KL_completion_ids" not in trainer_of(base, tmp_path, "ce").train_dataset.column_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ipo"}, "unknown loss_type 'ipo'; choose one of ce, kto, dpo, nca"),
        ({"beta": 0}, "beta must be positive"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"loss_type": "nca", "desirable_weight": 2.0}, "are for ce and kto; pairs are balanced"),
        ({"sync_ref_model": True}, "sync_ref_model moves the reference"),
        ({"loss_type": "kto", "per_device_train_batch_size": 1}, "per_device_train_batch_size must be at least 2"),
        ({"loss_type": "kto", "train_sampling_strategy": "random"}, "kto needs train_sampling_strategy sequential"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImplicitPRMConfig("out", use_cpu=True, **options)


def test_a_trainer_refuses_the_other_ones_loss(base: Path, tmp_path: Path) -> None:
    args = ImplicitPRMConfig(str(tmp_path), loss_type="dpo", use_cpu=True)
    with pytest.raises(ConfigError, match="trains with the losses ce and kto, not dpo"):
        ImplicitPRMTrainer(str(base), args=args, train_dataset=toy_solutions(1))


def peft_model(base: Path, **options: Any) -> Any:
    """The base model with an adapter that is not zero, as a trained one."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, **options)
    return get_peft_model(load_model(base, device="cpu"), config)


@pytest.mark.parametrize("loss", ["ce", "dpo"])
def test_a_trained_adapter_goes_on_from_itself(base: Path, tmp_path: Path, loss: str) -> None:
    start, solutions = peft_model(base), [Solution.from_dict(row) for row in toy_solutions(1, name="Eve")]
    trainer = trainer_of(start, tmp_path / "run", loss, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    assert "| reference | the adapter as it was at the start |" in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "run").rename(tmp_path / "moved")
    reference = peft_model(base).merge_and_unload()
    reference.save_pretrained(tmp_path / "reference")
    for directory in (tmp_path / "moved", tmp_path / "moved" / "checkpoint-1"):
        with (
            ImplicitScorer.from_pretrained(directory) as scorer,
            ImplicitScorer.from_pretrained(directory, reference=tmp_path / "reference") as explicit,
        ):
            found, expected = ([verdict.rewards for verdict in each.score(solutions)] for each in (scorer, explicit))
        assert found == [pytest.approx(each, abs=1e-5) for each in expected]
        assert max(abs(reward - 0.5) for row in found for reward in row) > 1e-4


@pytest.mark.parametrize("kind", [ImplicitPRMTrainer, PPMTrainer])
def test_a_scorer_reads_on_any_day_with_the_day_of_its_training(kind: Any, tmp_path: Path, day: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = chat_templates.DATED
    base, run = save_tiny(tmp_path / "base", tokenizer), tmp_path / "run"
    pair = {"problem": "1 + 1?", "chosen": ["2."], "rejected": ["3."]}
    rows = [pair] if kind is PPMTrainer else toy_solutions(1)

    def trainer(model: Path, output: Path) -> Any:
        config = PPMConfig if kind is PPMTrainer else ImplicitPRMConfig
        args = config(str(output), use_cpu=True, report_to="none", save_steps=1, max_steps=1, disable_tqdm=True)
        return kind(model, args=args, train_dataset=rows)

    def ids(trainer: Any) -> list[int]:
        row = trainer.train_dataset[0]
        return list(row["chosen_ids"] if kind is PPMTrainer else row["prompt_ids"] + row["completion_ids"])

    day("2026-12-01")
    first = trainer(base, run)
    assert "Today: 01 Dec 2026" in tokenizer.decode(ids(first))
    first.train()
    first.save_model()
    day("2027-02-03")
    for model in (run, run / "checkpoint-1"):
        assert frozen_date(chat_templates.DATED, model) == "2026-12-01"  # what a run of a command takes
        with open_verifier(model) as scorer, open_verifier(model, template_date="2027-02-03") as other:
            asked = tokenizer.decode(scorer.encode("1 + 1?", ["2."]).input_ids)  # type: ignore[attr-defined]
            assert "Today: 01 Dec 2026" in asked
            assert "Today: 03 Feb 2027" in tokenizer.decode(other.encode("1 + 1?", ["2."]).input_ids)  # type: ignore[attr-defined]
    # A training that is resumed keeps the day, and one that goes on from the model.
    assert ids(trainer(base, run)) == ids(first)
    assert ids(trainer(run, tmp_path / "further")) == ids(first)


def test_the_reference_must_have_a_name(base: Path, tmp_path: Path) -> None:
    nameless, adapter = tiny_model(seed=5), peft_model(base)
    adapter.save_pretrained(tmp_path / "adapter")
    integrated = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    adapter.add_adapter("other", adapter.peft_config["default"])
    given = {"processing_class": tiny_tokenizer()}
    for model, options, message in (
        (nameless, given, "the model has none: save it"),
        (base, {"ref_model": nameless}, "the model has none: save it"),
        (base, {"ref_model": peft_model(base)}, "ref_model must be a loaded model without an adapter"),
        (base, {"ref_model": str(base)}, "ref_model must be a loaded model without an adapter"),
        (adapter, {}, "has the one adapter 'default'"),
        (integrated, given, "an adapter that transformers has loaded"),
        (tmp_path / "adapter", {}, "is an adapter: merge it into its model"),
    ):
        args = ImplicitPRMConfig(str(tmp_path / "run"), use_cpu=True, report_to="none")
        with pytest.raises(ConfigError, match=message):
            ImplicitPRMTrainer(model, args=args, train_dataset=toy_solutions(1), **options)


def test_an_untrained_model_finds_no_step_wrong(base: Path) -> None:
    with ImplicitScorer.from_pretrained(base, reference=str(base)) as scorer:
        [verdict] = scorer.score([Solution("1", "1 + 1?", ["2.", "3."])])
        assert (verdict.rewards, verdict.prediction) == ([0.5, 0.5], -1)
    with pytest.raises(ConfigError, match="its directory does not name that: give --kind_options"):
        ImplicitScorer.from_pretrained(base)
    with pytest.raises(ConfigError, match=r"the reference of the implicit PRM: .*/gone .*If it is elsewhere, give"):
        ImplicitScorer.from_pretrained(base, reference="/gone")
    for reference in (3, {}):
        with pytest.raises(ConfigError, match="reference must be a model, a directory or a name on the Hub, got"):
            open_verifier(base, "implicit", reference=reference)


def test_outcomes_alone_teach_where_solutions_go_wrong(base: Path, tmp_path: Path) -> None:
    """On problems that it has not seen. The threshold has to be chosen: a right step may lose likelihood, too."""
    trainer = trainer_of(
        base, tmp_path, "ce", toy_solutions(24), max_steps=20, learning_rate=2e-3, per_device_train_batch_size=16
    )
    trainer.train()
    trainer.save_model()
    held_out = [Solution.from_dict(row) for row in toy_solutions(8, seed=9, name="Bob")]
    chosen = choose_threshold(tmp_path, held_out, "held_out", device="cpu")
    assert chosen.threshold_from is not None
    assert chosen.threshold_from["f1"] > 90
    others = [Solution.from_dict(row) for row in toy_solutions(8, seed=8, name="Eve")]
    with ImplicitScorer.from_pretrained(tmp_path) as scorer:
        assert scorer.threshold == chosen.threshold
        found = [verdict.prediction for verdict in scorer.score(others)]
        scores = processbench_scores([solution.label or 0 for solution in others], found)
        assert (scores["f1"] or 0) > 80
        scorer.value = "accumulated"
        outcomes = [verdict.rewards[-1] for verdict in scorer.score(others)]
    auroc = step_auroc([bool(solution.final_answer_correct) for solution in others], outcomes)
    assert auroc is not None
    assert auroc > 0.9


@pytest.mark.parametrize(("loss", "further"), [("ce", "ce"), ("ce", "kto"), ("kto", "ce"), ("dpo", "nca")])
def test_rows_that_another_trainer_has_encoded_stay_as_they_are(
    base: Path, tmp_path: Path, loss: str, further: str
) -> None:
    encoded = trainer_of(base, tmp_path / "a", loss).train_dataset
    trainer = trainer_of(base, tmp_path / "b", further, encoded)
    assert trainer.train_dataset["prompt_ids"] == encoded["prompt_ids"]
    trainer.train()
    trainer.save_model()
    assert f"rows trained on | {len(encoded)}" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize("loss", ["ce", "dpo"])
def test_rows_of_rollouts_with_some_token_ids_are_encoded(base: Path, tmp_path: Path, loss: str) -> None:
    rows = Dataset.from_list(
        [{**row, "prompt_ids": [1], "completion_ids": [1], "chosen_ids": [1]} for row in toy_solutions(4)]
    ).remove_columns("label")
    of_rollouts = trainer_of(base, tmp_path, loss, rows)
    assert list(of_rollouts.train_dataset) == list(trainer_of(base, tmp_path, loss).train_dataset)
