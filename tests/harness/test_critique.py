"""The scores of the ProcessBench tasks against a separate computation, on thousands of constructed critiques."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter

import numpy as np
import pytest
from lm_eval.api.instance import Instance

from genprm_trl.errors import DataError
from genprm_trl.protocol.critique import critique_prompt
from tests.harness.conftest import SPLITS, load_tasks

BOX = re.compile(r"\\boxed\{([^}]*)\}")


def judged(text: str) -> int | None:
    """The benchmark's rule, from its definition: the last box, an integer, after the thinking."""
    if "</think>" in text:
        text = text.split("</think>")[-1]
    elif text.startswith("<think>"):
        return None
    boxes = BOX.findall(text)
    try:
        return int(boxes[-1].strip()) if boxes else None
    except ValueError:
        return None


def voted(texts: list[str]) -> int | None:
    readable = [index for index in map(judged, texts) if index is not None]
    if not readable:
        return None
    most = max(Counter(readable).values())
    return next(index for index in readable if readable.count(index) == most)


def scores(labels: list[int], predictions: list[int | None]) -> tuple[float, float, float]:
    right = {kind: [] for kind in ("error", "correct")}
    for label, prediction in zip(labels, predictions, strict=True):
        right["correct" if label == -1 else "error"].append(100.0 * (prediction is not None and prediction == label))
    error, correct = (float(np.mean(right[kind])) if right[kind] else math.nan for kind in ("error", "correct"))
    return error, correct, 0.0 if error + correct == 0 else 2 * error * correct / (error + correct)


def a_critique(rng: random.Random, label: int, steps: int) -> str:
    index = label if rng.random() < 0.5 else rng.choice([-1, *range(steps), steps, steps + 3, -2])
    box = f"\\boxed{{{index}}}"
    draft = f"Perhaps \\boxed{{{rng.randrange(-1, steps)}}}?"
    return rng.choice(
        [
            f"The first error is in {box}.",
            f"{draft} No: {box}",
            f"$ \\boxed{{ {index} }} $",
            f"{box} and then \\boxed{{none}}",
            f"{box} \\boxed{{",
            f"It is {index}.",
            "",
            "\\boxed{}",
            f"\\boxed{{\\text{{{index}}}}}",
            f"<think>{draft}</think>{box}",
            f"{draft}</think>\n\n{box}",
            f"<think>{draft}",
            f"<think>{draft}</think>cannot say",
            f"\\boxed{{paragraph {index}}}",
            f"{box}</think>",
        ]
    )


@pytest.fixture(scope="module")
def tasks(processbench_dir):
    return load_tasks(["processbench", "processbench_vote8"], data_dir=str(processbench_dir))["tasks"]


def run(task, rows: list[tuple[int, list[str]]], vote: bool):
    """What the harness does with a task's answers: score each document, then aggregate each metric."""
    values: dict[str, list] = {}
    for label, texts in rows:
        for name, value in task.process_results({"label": label}, [texts] if vote else texts).items():
            values.setdefault(name, []).append(value)
    return {name: task.aggregation()[name](items) for name, items in values.items()}, values


@pytest.mark.parametrize("kind", ["both classes", "errors alone", "correct alone"])
@pytest.mark.parametrize(("name", "samples"), [("processbench_gsm8k", 1), ("processbench_vote8_gsm8k", 8)])
def test_scores_of_thousands_of_critiques(tasks, name, samples, kind):
    rng = random.Random(f"{name} {kind}")
    rows = []
    for _ in range(2_500 if kind == "both classes" else 200):
        steps = rng.randrange(1, 9)
        label = {"errors alone": rng.randrange(steps), "correct alone": -1}.get(kind, rng.randrange(-1, steps))
        rows.append((label, [a_critique(rng, label, steps) for _ in range(samples)]))
    predictions = [voted(texts) for _, texts in rows]
    ties = sum(
        len(best := Counter(i for i in map(judged, texts) if i is not None).most_common(2)) == 2
        and best[0][1] == best[1][1]
        for _, texts in rows
    )
    assert samples == 1 or kind != "both classes" or ties > 100
    got, values = run(tasks[name], rows, vote=samples == 8)
    error, correct, f1 = scores([label for label, _ in rows], predictions)
    assert [got["error_acc"], got["correct_acc"], got["f1"]] == pytest.approx([error, correct, f1], nan_ok=True)
    assert [item["predictions"] for item in values["f1"]] == [[prediction] for prediction in predictions]
    unreadable = [judged(text) is None for _, texts in rows for text in texts]
    assert got["unparsable"] == pytest.approx(100 * np.mean(unreadable))
    assert 10 < got["unparsable"] < 90
    # The errors are those of the bootstrap: near the closed form for a share, and undefined where the score is.
    right = [prediction == label for (label, _), prediction in zip(rows, predictions, strict=True) if label != -1]
    if right:
        share = np.mean(right)
        assert got["error_acc_stderr"] == pytest.approx(100 * math.sqrt(share * (1 - share) / len(right)), rel=0.1)
    assert math.isnan(got["f1_stderr"]) == (kind != "both classes")
    assert math.isnan(got["error_acc_stderr"]) == (kind == "correct alone")


def test_the_request_is_the_benchmarks(tasks):
    task = tasks["processbench_math"]
    doc = task.eval_docs[0]
    assert task.doc_to_text(doc) == critique_prompt(doc["problem"], doc["steps"])
    assert task.config.generation_kwargs == {
        "until": ["<|im_end|>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 8192
    }  # fmt: skip
    vote = tasks["processbench_vote8_math"]
    assert vote.config.repeats == 8
    assert vote.config.generation_kwargs == {
        "until": ["<|im_end|>"], "do_sample": True, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 8192
    }  # fmt: skip


def test_every_split_is_read(tasks):
    for name in ("processbench", "processbench_vote8"):
        docs = [tasks[f"{name}_{split}"].eval_docs for split in SPLITS]
        assert [rows[0]["id"] for rows in docs] == [f"{split}-0" for split in SPLITS]
        assert [len(rows) for rows in docs] == [10, 9, 8, 7]


def answered(task, prompts, resps, doc=None):
    """The task after its requests were answered."""
    task._instances = [
        Instance("generate_until", doc or {"label": 0}, (prompt, {}), index, resps=list(texts))
        for index, (prompt, texts) in enumerate(zip(prompts, resps, strict=True))
    ]
    task.apply_filters()
    return task._instances


def test_equal_samples_are_warned_of(tasks, caplog):
    task = tasks["processbench_vote8_gsm8k"]
    for resps, warned in (([["a"] * 8] * 3, True), ([["a"] * 8, ["a"] * 7 + ["b"]], False)):
        caplog.clear()
        instances = answered(task, ["x"] * len(resps), resps)
        assert [instance.filtered_resps["vote"] for instance in instances] == resps
        assert ("seed=None" in caplog.text) is warned


def test_what_was_done_is_not_advised_once_more(tasks, caplog, monkeypatch):
    task = tasks["processbench_vote8_gsm8k"]
    monkeypatch.setitem(task.config.generation_kwargs, "seed", None)
    answered(task, ["x"], [["a"] * 8])
    assert "All samples of each solution are the same" in caplog.text
    assert "seed=None" not in caplog.text


OPEN = "<|im_start|>assistant\n<think>\n"
CHAT = (('[{"role": "user", "content": "x"}]',),)  # what a server makes a prompt of


@pytest.mark.parametrize(
    ("prompt", "others", "text", "index"),
    [
        (OPEN, [], "maybe \\boxed{3}, cut off", None),
        (OPEN, [], "maybe \\boxed{3}</think>No: \\boxed{1}", 1),
        (OPEN, [], "<think>maybe \\boxed{3}, cut off", None),
        (OPEN, [], "<think>maybe \\boxed{3}</think>\\boxed{1}", 1),
        (OPEN + "\n</think>\n\n", [], "It is \\boxed{3}.", 3),
        ("<|im_start|>assistant\n", [], "It is \\boxed{3}.", 3),
        ("What does <think> mean?\n", [], "It is \\boxed{3}.", 3),
        (CHAT[0], ["so</think>\\boxed{1}"], "maybe \\boxed{3}, cut off", None),
        (CHAT[0], ["<think>so</think>\\boxed{1}"], "It is \\boxed{3}.", 3),
        (CHAT[0], ["\\boxed{1}"], "It is \\boxed{3}.", 3),
    ],
)
@pytest.mark.parametrize("vote", [False, True])
def test_thoughts_that_were_cut_off_are_no_answer(tasks, prompt, others, text, index, vote):
    task = tasks["processbench_vote8_gsm8k" if vote else "processbench_gsm8k"]
    resps = [[text] * 8 if vote else [text], *[[other] for other in others]]
    first = answered(task, [prompt] * len(resps), resps)[0]
    [filtered] = first.filtered_resps.values()
    item = task.process_results({"label": 3}, [filtered])
    assert item["f1"]["predictions"] == [index]
    assert item["unparsable"] == (100 if index is None else 0)


def test_a_model_that_drops_its_thoughts_itself(tasks, monkeypatch):
    task = tasks["processbench_gsm8k"]
    monkeypatch.setitem(task.config.metadata, "think_end_token", "</think>")
    [instance] = answered(task, [OPEN], [["It is \\boxed{3}."]])
    assert task.process_results({"label": 3}, [instance.filtered_resps["none"]])["f1"]["predictions"] == [3]


def test_missing_data_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for metadata in ({}, {"data_dir": str(tmp_path / "none")}, {"data_dir": str(tmp_path)}):
        with pytest.raises(DataError, match="hf download Qwen/ProcessBench") as caught:
            load_tasks(["processbench_gsm8k"], **metadata)
        assert "--metadata" in str(caught.value)


@pytest.mark.parametrize("folder", [".", "processbench"])
def test_the_tasks_whose_data_are_there_are_named(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    row = {"id": "a", "problem": "p", "steps": ["s"], "label": 0}
    for split in ("gsm8k", "omnimath"):
        (tmp_path / folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    for group in ("processbench", "processbench_genprm"):
        named = f"name its tasks in place of the group: --tasks {group}_gsm8k,{group}_omnimath"
        with pytest.raises(DataError, match="no split 'math'.*hf download.*" + named):
            load_tasks([group], data_dir=str(tmp_path))
        load_tasks([f"{group}_gsm8k", f"{group}_omnimath"], data_dir=str(tmp_path))


def test_a_bad_row_is_named(tmp_path):
    row = {"id": "a", "problem": "p", "steps": ["s"], "label": 0}
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b", "label": 3}) + "\n")
    with pytest.raises(DataError, match=r"gsm8k\.jsonl, row 2, field 'label'"):
        load_tasks(["processbench_gsm8k"], data_dir=str(tmp_path))
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({**row, "label": None}) + "\n")
    with pytest.raises(DataError, match=r"row 1, field 'label': is missing"):
        load_tasks(["processbench_gsm8k"], data_dir=str(tmp_path))
