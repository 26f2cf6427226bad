"""What stands in a model's card, for both kinds of models, and how scores are added to it."""

from __future__ import annotations

import ast

import pytest
from huggingface_hub import ModelCard

from genprm_trl import hub
from genprm_trl.cards.model_card import (
    DISCRIMINATIVE,
    GENERATIVE,
    CardContent,
    MeasuredScore,
    add_scores,
    usage_snippet,
    write_model_card,
)

SCORE = MeasuredScore("ProcessBench (math)", "F1", 61.26, "full, Maj@8", "Qwen/ProcessBench", "math", 1.5)


@pytest.mark.parametrize(
    ("kind", "task", "loads"),
    [
        (GENERATIVE, "text-generation", 'GenPRM.from_pretrained("lab/tiny", n=8)'),
        (DISCRIMINATIVE, "token-classification", 'PRMScorer("lab/tiny")'),
    ],
)
def test_a_card_says_what_the_model_is(tmp_path, kind, task, loads):
    content = CardContent(
        "Tiny",
        "Trained on a few rows.",
        [SCORE],
        {"learning rate": 1e-3},
        {"rows": "12"},
        recipe="Made by hand.",
        arguments={"seed": 7},
        base_model="lab/base",
        datasets=("lab/rows",),
        tags=("extra",),
        model_id="lab/tiny",
        kind=kind,
        citation="@misc{someone}",
    )
    card = ModelCard.load(write_model_card(tmp_path, content))
    assert (card.data.pipeline_tag, card.data.base_model, card.data.datasets) == (task, "lab/base", ["lab/rows"])
    assert card.data.tags == [*kind.tags, "extra"]
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_name, result.metric_value) == (
        "ProcessBench (math)",
        "F1 (full, Maj@8)",
        61.26,
    )
    text = card.text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# Tiny", "## Use", "## Measured", "## Training data", "## Trained with", "## Citation"]
    for said in (
        kind.introduction,
        "Trained on a few rows.",
        "Fine-tuned from [lab/base](https://huggingface.co/lab/base).",
        kind.notes,
        "| ProcessBench (math) | full, Maj@8 | F1 | 61.3 ± 1.5 |",
        "| rows | 12 |",
        "Made by hand.",
        "| learning rate | 0.001 |",
        "| Python | ",
        '"seed": 7',
        "```bibtex\n@misc{someone}\n```",
        loads,
    ):
        assert said in text
    ast.parse(usage_snippet('a "quoted" name', kind))


def test_a_card_says_what_is_not_known(tmp_path):
    text = write_model_card(tmp_path, CardContent("Tiny", "", [], {})).read_text()
    assert "## Measured\n\nNothing yet.\n\n## Training data\n\nNot told.\n" in text
    assert "Fine-tuned" not in text
    assert "2504.00891" in text
    assert f'from_pretrained("{tmp_path}"' in text


def test_added_scores_take_the_place_of_nothing(tmp_path):
    write_model_card(tmp_path, CardContent("Tiny", "", [], {}))
    text = add_scores(tmp_path, [SCORE]).read_text()
    assert "Nothing yet." not in text
    table = "| ProcessBench (math) | full, Maj@8 | F1 | 61.3 ± 1.5 |"
    assert text.count(table) == 1
    assert add_scores(tmp_path, [SCORE]).read_text() == text
    assert text.index(table) < text.index("## Training data")


def test_the_hub_module_exports_the_cards():
    assert hub.write_model_card is write_model_card
    assert {"CardContent", "MeasuredScore", "add_scores", "usage_snippet"} <= set(hub.__all__)
