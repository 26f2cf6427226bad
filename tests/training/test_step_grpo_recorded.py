"""StepGRPOTrainer on fixed batches: advantages and losses stay what they were when they were recorded.

The numbers are in `step_grpo_recorded.json`. Record them again only when a change of them is meant:

    python -m tests.training.test_step_grpo_recorded
"""

from __future__ import annotations

import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.step_grpo import TEXTS, TOKENIZER, make

RECORDED = Path(__file__).with_name("step_grpo_recorded.json")
# Two groups of four: a completion that was cut, steps without content, a blank completion, a long one.
COMPLETIONS = [
    *TEXTS,
    "Step 1: so!\nStep 2: so!\nStep 3:",
    " \n",
    "Step 1: one\nStep 2: two!\nStep 3: three!\nStep 4: four is 2 + 2!\nStep 5: five",
    "Step 1: a wrong turn",
]
CUT = 3  # this completion has no end-of-text token
OUTCOMES: list[float | None] = [1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0]
OTHER_OUTCOMES: list[float | None] = [0.2, 0.9, 0.4, 0.4, 0.0, 0.3, None, 0.1]


def outcome(completions: list[str], **kwargs: Any) -> list[float | None]:
    return OUTCOMES[: len(completions)]


def other_outcome(completions: list[str], **kwargs: Any) -> list[float | None]:
    return OTHER_OUTCOMES[: len(completions)]


def outcome_of_some(completions: list[str], **kwargs: Any) -> list[float | None]:
    return [None if place in (1, 4, 5, 6) else reward for place, reward in enumerate(outcome(completions))]


def all_steps(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float | None]]:
    return [[sum(map(ord, step)) % 11 / 10 for step in row] for row in steps]


def some_steps(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float | None]]:
    """None for a step here and there, and for every step of the second completion."""
    rewards = all_steps(prompts, completions, steps)
    return [
        [
            None if place == 1 or sum(map(ord, step)) % 5 == 0 else reward
            for step, reward in zip(row, given, strict=True)
        ]
        for place, (row, given) in enumerate(zip(steps, rewards, strict=True))
    ]


async def some_steps_async(
    prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any
) -> list[list[float | None]]:
    return some_steps(prompts, completions, steps)


def rewarded_blanks(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float | None]]:
    return [row or [0.3] for row in all_steps(prompts, completions, steps)]


def completion_ids() -> list[list[int]]:
    return [
        TOKENIZER.encode(text, add_special_tokens=False) + [TOKENIZER.eos_token_id] * (place != CUT)
        for place, text in enumerate(COMPLETIONS)
    ]


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    ids = completion_ids()[: len(prompts)]
    return {
        "prompt_ids": [TOKENIZER.encode(prompt, add_special_tokens=False) for prompt in prompts],
        "completion_ids": ids,
        "logprobs": [[-1.0] * len(row) for row in ids],
    }


def rollout_with_tools(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """After every other completion a tool says something, and the policy one step more."""
    said = TOKENIZER.encode("\nStep 8: said a tool!", add_special_tokens=False)
    more = [*TOKENIZER.encode("\nStep 9: so it is!", add_special_tokens=False), TOKENIZER.eos_token_id]
    output = rollout(prompts, trainer)
    ids, mask = [], []
    for place, row in enumerate(output["completion_ids"]):
        tool, again = (said, more) if place % 2 else ([], [])
        ids.append([*row, *tool, *again])
        mask.append([1] * len(row) + [0] * len(tool) + [1] * len(again))
    return output | {"completion_ids": ids, "env_mask": mask, "logprobs": [[-1.0] * len(row) for row in ids]}


RULES = [
    {"credit": credit, "step_baseline": baseline, "scale_step_rewards": scale}
    for credit, baselines in (
        ("process", ["step"]),
        ("min_form", ["step", "token"]),
        ("discounted", ["step", "token"]),
    )
    for baseline in baselines
    for scale in ("group", "batch", "none")
]
SHORT = [{"credit": credit, "step_baseline": "step"} for credit in ("process", "min_form", "discounted")]
OUTCOME, SOME = {"reward_funcs": [outcome]}, {"step_reward_func": some_steps}
CASES: list[dict[str, Any]] = [
    *({**rule, **OUTCOME, **SOME, "step_discount": 0.8} for rule in RULES),
    *({**rule, **SOME} for rule in SHORT),
    *({**rule, "step_reward_func": some_steps_async} for rule in SHORT),
    *({**rule, **OUTCOME, "step_reward_func": all_steps} for rule in SHORT),
    *({**rule, "reward_funcs": [outcome_of_some], **SOME} for rule in SHORT),
    *({**rule, **OUTCOME, **SOME, "num_generations": 2} for rule in SHORT),
    *({**rule, **OUTCOME, **SOME, "step_style": "auto"} for rule in SHORT),
    *({"credit": "outcome", "reward_funcs": [func], **SOME} for func in (outcome, outcome_of_some)),
    {"credit": "outcome", "reward_funcs": [outcome_of_some]},
    *({"credit": "process", "scale_rewards": scale, **OUTCOME, **SOME} for scale in ("batch", "none")),
    *(
        {
            "credit": "process", "multi_objective_aggregation": rule, "reward_weights": [1.0, 0.5],
            "reward_funcs": [outcome_of_some, other_outcome], **SOME,
        }
        for rule in ("sum_then_normalize", "normalize_then_sum")
    ),
    {"credit": "process", "step_reward_weight": 0.5, "idle_step_penalty": 0.25, **OUTCOME, **SOME},
    {"credit": "process", "signed_step_rewards": True, "scale_step_rewards": "none", **SOME},
    {"credit": "min_form", "step_baseline": "step", "signed_step_rewards": False, "min_form_temperature": 0.5, **SOME},
    {"credit": "discounted", "step_baseline": "step", "step_discount": 0.0, "step_reward_func": rewarded_blanks},
    {"credit": "process", "loss_type": "grpo", **OUTCOME, **SOME},
    *({**rule, "step_baseline": "token", "mask_truncated_completions": True, **OUTCOME, **SOME} for rule in SHORT),
    *({**rule, "step_baseline": "token", "rollout_func": rollout_with_tools, **OUTCOME, **SOME} for rule in SHORT),
    {"credit": "process", "pad_to_multiple_of": 16, **OUTCOME, **SOME},
    *({**rule, "evaluation": True, "num_generations_eval": 2, **OUTCOME, **SOME} for rule in SHORT),
    # The default baseline, and that of PURE's verl code.
    *({"credit": credit, **OUTCOME, **SOME, "step_discount": 0.8} for credit in ("min_form", "discounted")),
    {"credit": "min_form", "scale_step_rewards": "group", "num_generations": 2, **SOME},
    {"credit": "min_form", "rollout_func": rollout_with_tools, "mask_truncated_completions": True, **OUTCOME, **SOME},
    *(
        {"credit": credit, "step_baseline": "mean_return", "max_completion_length": 64, **SOME}
        for credit in ("min_form", "discounted")
    ),
]  # fmt: skip


def name_of(case: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        values = value if isinstance(value, list) else [value]
        return "+".join(str(getattr(each, "__name__", each)) for each in values)

    return " ".join(f"{name}={shown(value)}" for name, value in case.items())


def measure(directory: Path, case: dict[str, Any]) -> dict[str, Any]:
    """The loss, and the advantages of each completion: one, or one a token."""
    changes = {"rollout_func": rollout, "step_style": "step", "per_device_train_batch_size": 8, **case}
    evaluation = changes.pop("evaluation", False)
    trainer = make(directory, **changes)
    trainer.model.train(not evaluation)
    generations = trainer.num_generations_eval if evaluation else trainer.num_generations
    rows = [{"prompt": f"What is {place // generations} + 1?", "answer": "5"} for place in range(8)]
    output = trainer._generate_and_score_completions(rows)
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, output).item()
    advantages = []
    lengths = (output["completion_ids"] != TOKENIZER.pad_token_id).sum(dim=1).tolist()
    for row, length in zip(output["advantages"].tolist(), lengths, strict=True):
        assert isinstance(row, float) or len(row) == output["completion_ids"].shape[1]
        advantages.append([row] if isinstance(row, float) else row[:length])
    return {"advantages": advantages, "loss": loss}


def shorten(values: list[float]) -> list[list[float]]:
    """Each number once, and how often it comes in a row."""
    return [[value, len(list(same))] for value, same in groupby(round(value, 7) for value in values)]


def test_every_case_was_recorded():
    assert set(json.loads(RECORDED.read_text(encoding="utf-8"))) == set(map(name_of, CASES))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_advantages_and_losses_are_the_recorded_ones(tmp_path, case):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name_of(case)]
    now = measure(tmp_path, case)
    assert now["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    for ours, theirs in zip(now["advantages"], recorded["advantages"], strict=True):
        assert ours == pytest.approx([value for value, count in theirs for _ in range(count)], abs=1e-6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        measured = {name_of(case): measure(Path(directory), case) for case in CASES}
    for batch in measured.values():
        batch["advantages"] = [shorten(row) for row in batch["advantages"]]
    lines = [f"{json.dumps(name)}: {json.dumps(batch)}" for name, batch in measured.items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
