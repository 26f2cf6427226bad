"""Rewards of agreement: numbers worked by hand from the papers' formulas, groups in several processes, a training."""

from __future__ import annotations

import copy
import itertools
import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from genprm_trl.data.pools import vote_groups
from genprm_trl.errors import ConfigError
from genprm_trl.grading.extract import extract_answer
from genprm_trl.rewards import answer_agreement_reward, groups, verdict_majority_reward
from genprm_trl.rewards.agreement import agreement_shares
from genprm_trl.rewards.groups import reward_groups
from tests.helpers.paths import shared_data
from tests.helpers.step_grpo import Watch, options, scripted
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

YES, NO = True, False


def in_clusters(*sizes: int) -> list[int]:
    return [cluster for cluster, size in enumerate(sizes) for _ in range(size)]


def advantages(rewards: list[float]) -> list[float]:
    """GRPO's."""
    values = torch.tensor(rewards, dtype=torch.float64)
    return ((values - values.mean()) / (values.std() + 1e-4)).tolist()


@pytest.mark.parametrize(
    ("sizes", "rewards", "expected"),
    [
        ((4, 2, 1, 1), [0.5] * 4 + [0.25] * 2 + [0.125] * 2, [0.8996] * 4 + [-0.5398] * 2 + [-1.2594] * 2),
        ((7, 1), [0.875] * 7 + [0.125], [0.3534] * 7 + [-2.4739]),
        ((8,), [1.0] * 8, [0.0] * 8),
        ((1,) * 8, [0.0] * 8, [0.0] * 8),
        ((4, 4), [0.5] * 8, [0.0] * 8),  # nothing is learned from a tie
    ],
)
def test_shares_and_their_advantages(sizes, rewards, expected):
    shares = agreement_shares(in_clusters(*sizes))
    assert shares == rewards
    assert advantages(shares) == pytest.approx(expected, abs=2e-4)


def test_a_completion_without_an_answer_earns_nothing_and_counts():
    assert agreement_shares([*in_clusters(5, 2), None]) == [0.625] * 5 + [0.25] * 2 + [0.0]


def test_groups_outside_of_the_window_earn_nothing():
    clusters = in_clusters(4, 2, 1, 1)
    assert agreement_shares(clusters, least_share=0.5, most_share=0.5)[0] == 0.5
    assert agreement_shares(clusters, least_share=0.6) == agreement_shares(clusters, most_share=0.4) == [0.0] * 8
    with pytest.raises(ConfigError, match="least_share"):
        answer_agreement_reward(["5"], ["?"], least_share=0.9, most_share=0.5)
    with pytest.raises(ConfigError, match="needs the prompts"):
        answer_agreement_reward(["5"])


def test_equivalent_answers_agree_and_the_figures_tell_the_majority():
    logged: dict[str, list[float]] = {}
    texts = [r"It is $\boxed{1/2}$.", "The answer is 0.5.", "The answer is 3.", "<think>The answer is 0.5."]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    others = ["The answer is 7.", "The answer is 7."]
    rewards = answer_agreement_reward(
        [*chats, *others], ["a"] * 4 + ["b"] * 2, ["0.5"] * 4 + ["8"] * 2,
        log_metric=lambda name, value: logged.setdefault(name, []).append(value),
    )  # fmt: skip
    assert rewards == [0.5, 0.5, 0.25, 0.0, 1.0, 1.0]
    assert logged["agreement/largest"] == [0.5, 1.0]
    assert logged["agreement/entropy"] == pytest.approx([1.5 * math.log(2), 0.0])
    assert logged["agreement/majority_right"] == [1.0, 0.0]


def test_the_verdicts_of_a_group_agree():
    found, missed, mute, early = [YES, NO], [YES, YES], [YES, None], [NO]
    verdicts = [found, found, missed, mute, found, early]
    statuses = [["ok"] * 2] * 3 + [["ok", "truncated"]] + [["ok", "error"]] + [["ok"]]
    logged: list[tuple[str, float]] = []
    rewards = verdict_majority_reward(
        [""] * 6, ["p"] * 6, verdicts, statuses, [2] * 6, log_metric=lambda *pair: logged.append(pair)
    )
    assert rewards == pytest.approx([0.4, 0.4, 0.2, 0.0, None, 0.2])  # the one that failed is no member
    assert logged == [("verifier/agreement", 0.4)]
    for judged, agreement in ((1, 0.25), (0, 0.0)):  # a missing verdict agrees with nothing
        rows = [missed] * judged + [mute] * (4 - judged)
        rewards = verdict_majority_reward(
            [""] * 4, ["p"] * 4, rows, [["ok"] * 2] * 4, [2] * 4, log_metric=lambda *pair: logged.append(pair)
        )
        assert rewards == [0.0] * 4
        assert logged[-1] == ("verifier/agreement", agreement)
    with pytest.raises(ConfigError, match="verdict_majority_reward needs rollout_func"):
        verdict_majority_reward([""], ["p"])


@pytest.mark.parametrize("cuts", [(3,), (1, 4), (2, 2)])
def test_groups_that_processes_share_are_rewarded_as_a_whole(cuts, monkeypatch):
    """What `gather_object` hands to each process is put together here, since there is one."""
    prompts, values = ["a"] * 4 + ["b"] * 3, [3, 1, 4, 1, 5, 9, 2]
    bounds = [0, *cuts, len(prompts)]
    parts = [
        list(zip(prompts[start:stop], values[start:stop], strict=True)) for start, stop in itertools.pairwise(bounds)
    ]
    monkeypatch.setattr(groups, "gather_object", lambda own: parts)
    rewards: list[float | None] = []
    for place, part in enumerate(parts):
        monkeypatch.setattr(groups, "_process_index", lambda place=place: place)
        rewards += reward_groups(
            [prompt for prompt, _ in part], [value for _, value in part], lambda group: [sum(group)] * len(group)
        )
    assert rewards == [9] * 4 + [16] * 3


def test_a_policy_is_trained_on_the_agreement_of_its_groups(tmp_path):
    watch = Watch()
    trainer = GRPOTrainer(
        copy.deepcopy(tiny_model()),
        reward_funcs=[partial(answer_agreement_reward, most_share=0.9)],
        args=GRPOConfig(**options(tmp_path, max_steps=1)),
        train_dataset=Dataset.from_dict({"prompt": ["What is 2 + 3?"] * 2}),
        processing_class=tiny_tokenizer(),
        rollout_func=answers,
        callbacks=[watch],
    )
    trainer.train()
    assert watch.values("reward") == [0.3125]
    assert watch.values("agreement/largest") == [0.5]


def answers(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Four answers: 5, 5, 6, and none."""
    tokenizer = tiny_tokenizer()
    output = scripted(prompts, trainer)
    texts = [f"The answer is {answer}." for answer in "556"] + ["nothing"]
    ids = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in texts]
    return output | {"completion_ids": ids, "logprobs": [[-1.0] * len(row) for row in ids]}


def test_the_more_answers_agree_the_likelier_they_are_right():
    """The premise, on real answers: the four of each problem of GSM8K that docs/rl.md speaks of."""
    given, right = [0] * 5, [0] * 5
    for line in shared_data("gsm8k/model_solutions.jsonl").open(encoding="utf-8"):
        solutions = [value for value in json.loads(line).values() if isinstance(value, dict)]
        clusters = vote_groups([extract_answer(solution["solution"]) for solution in solutions])
        for cluster, solution in zip(clusters, solutions, strict=True):
            size = 0 if cluster is None else clusters.count(cluster)
            given[size] += 1
            right[size] += solution["is_correct"]
    assert given == [8, 1469, 448, 363, 352]
    shares = [100 * sure / number for sure, number in zip(right[1:], given[1:], strict=True)]
    assert shares == pytest.approx([10.6, 47.3, 76.9, 96.6], abs=0.05)
