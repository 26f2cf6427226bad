"""GRPO on the verifier: rollouts as TRL takes them, their masks token by token, the rewards, and that it learns."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.generation.base import SamplingParams
from genprm_trl.protocol.base import Append, Generate, Rewind
from genprm_trl.protocol.genprm import DIRECT_SYSTEM_PROMPT, OUTPUT_END, OUTPUT_PREFIX, SYSTEM_PROMPT, GenPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.rewards import rationale_format_reward, step_agreement_reward, verdict_agreement_reward
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.training.verifier_rl.rollout import JudgedSolution, VerifierRollout, verifier_dataset
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.step_grpo import PROMPTS, Watch, advantages_of, make
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=1, logprobs=0)
SOLUTION = Solution("s", "What is 2 + 3?", ["Two and three.", "It is 6.", "Done."], label=1)
DIRECT = GenPRMProtocol("direct")
ANALYSIS = "The numbers are there.</analyze>\n"
CODE = "x = 2 + 3\nprint(x)\n```\n"
VERDICT = "It fits.\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
DOUBT = VERDICT.replace("Yes", "No")


def verifier(text: str) -> str:
    """A model that analyses, computes, and finds the second step wrong."""
    if text.endswith("step by step: "):
        return ANALYSIS
    if text.endswith("```python\n"):
        return CODE
    return DOUBT if "It is 6." in text else VERDICT


def judge(
    script: Any,
    protocol: GenPRMProtocol | None = None,
    solution: Solution = SOLUTION,
    limit: int = 4000,
    **generator: Any,
) -> JudgedSolution:
    scripted = ScriptedGenerator(script, **generator)
    sandbox = LocalSandbox() if protocol is None else None
    rollout = VerifierRollout(protocol, sandbox=sandbox)
    (judged,) = rollout.judge([solution], scripted, SAMPLING, max_completion_tokens=limit, close=True)
    assert scripted.closed
    return judged


def stretches(judged: JudgedSolution) -> list[tuple[int, str]]:
    """The completion's text in stretches of one mask, decoded."""
    found: list[tuple[int, list[int]]] = []
    for token, ours in zip(judged.completion_ids, judged.mask, strict=True):
        if not found or found[-1][0] != ours:
            found.append((ours, []))
        found[-1][1].append(token)
    return [(ours, TOKENIZER.decode(ids)) for ours, ids in found]


# Rollouts and masks --------------------------------------------------------------------------------------------------


def test_what_the_model_wrote_is_trained_on_and_nothing_else():
    judged = judge(verifier)
    verify = "<verify>\nLet's use python code to find any potential error:\n```python\n"
    output = "[Code Output]\n\n```\n5\n```\n"
    assert TOKENIZER.decode(judged.prompt_ids) == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?\nTwo and three.<|im_end|>\n"
        "<|im_start|>assistant\n<analyze>\nLet's analyze the Paragraph 1 step by step: "
    )
    assert stretches(judged) == [
        (1, ANALYSIS),
        (0, verify),
        (1, CODE),
        (0, output),
        (1, VERDICT),
        (0, "<|im_end|>\n<|im_start|>user\nIt is 6.<|im_end|>\n<|im_start|>assistant\n"
            "<analyze>\nLet's analyze the Paragraph 2 step by step: "),
        (1, ANALYSIS),
        (0, verify),
        (1, CODE),
        (0, output),
        (1, DOUBT),
        (0, "<|im_end|>"),
    ]  # fmt: skip
    assert judged.completion_ids[-1] == TOKENIZER.eos_token_id
    # Up to the first step that it finds wrong.
    assert [(judgement.reward, judgement.status) for judgement in judged.judgements] == [(1.0, "ok"), (0.0, "ok")]
    assert [len(judgement.code_rounds) for judgement in judged.judgements] == [1, 1]


def test_tokens_of_rollouts_are_those_that_the_verifier_meets():
    """The conversation of inference, token for token, and what the generator returned where the mask is 1."""
    prompts: list[list[int]] = []
    written: list[int] = []

    class Spy(ScriptedGenerator):
        async def generate(self, token_ids, params, *, affinity=None):
            result = await super().generate(token_ids, params, affinity=affinity)
            prompts.append(token_ids)
            written.extend(result.token_ids)
            return result

    with_sandbox = VerifierRollout(sandbox=LocalSandbox())
    (judged,) = with_sandbox.judge([SOLUTION], Spy(verifier), SAMPLING, max_completion_tokens=4000)
    whole = judged.prompt_ids + judged.completion_ids
    assert judged.prompt_ids == prompts[0]
    assert all(whole[: len(prompt)] == prompt for prompt in prompts)
    sampled = [token for token, ours in zip(judged.completion_ids, judged.mask, strict=True) if ours]
    assert sampled == written


def test_tokens_that_were_encoded_anew_are_not_sampled_ones():
    """The stop string ends within a token of the reply: what is kept of it is not what the model sampled."""
    reply = "{Yes}$\n</output>\n\n"
    ids = TOKENIZER.encode(reply)
    assert TOKENIZER.decode(ids[-1:]) == "\n\n"  # one token, of which a half is kept
    judged = judge(lambda text: reply, DIRECT)
    first = stretches(judged)
    assert first[0] == (1, "{Yes}$\n</output>")
    assert first[1][1].startswith("\n<|im_end|>\n<|im_start|>user\n")


def test_what_a_fall_back_drops_is_not_part_of_the_rollout():
    def rambling(text: str) -> Any:
        if text.endswith("step by step: "):
            return ANALYSIS
        if text.endswith("$\\boxed"):
            return "{No}$\n</output>\n"
        return Reply("it goes on and on without any end", ends=False)

    judged = judge(rambling, GenPRMProtocol("analysis_code"))
    assert stretches(judged) == [
        (1, ANALYSIS),
        (0, OUTPUT_PREFIX),
        (1, "{No}$\n</output>\n"),
        (0, "<|im_end|>"),
    ]
    assert judged.judgements[0].status == "fallback"


class SecondThought(GenPRMProtocol):
    """Lets the model write, drops it, and forces the very same text before it judges."""

    def _judge_step(self, number):
        yield Append("First ")
        yield Generate(("\n",), 20)
        written = yield Generate(("\n",), 20)
        yield Rewind(2)
        yield Append(written.text)
        yield Generate((OUTPUT_END,), 20)
        return 0.0, "ok"


def test_a_forced_text_that_the_model_had_written_itself_is_still_forced():
    replies = iter(["Yes\n", "No\n", "so</output>\n"])
    judged = judge(lambda text: next(replies), SecondThought("direct"))
    assert stretches(judged) == [(1, "Yes\n"), (0, "No\n"), (1, "so</output>\n"), (0, "<|im_end|>")]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_chain_keeps_to_its_bound_and_then_ends_as_truncated(share):
    whole = judge(verifier, GenPRMProtocol("analysis"))
    limit = int(share * len(whole.completion_ids))
    judged = judge(verifier, GenPRMProtocol("analysis"), limit=limit)
    assert len(judged.completion_ids) <= limit
    assert whole.completion_ids[: len(judged.completion_ids)] == judged.completion_ids
    assert judged.judgements[-1].status == "truncated"
    assert judged.completion_ids[-1] != TOKENIZER.eos_token_id
    assert judged.mask[-1] == 1


def test_a_prompt_without_room_is_a_rollout_of_nothing():
    judged = judge(verifier, DIRECT, max_context=10)
    assert judged.mask == [0]
    assert len(judged.completion_ids) == 1
    assert judged.judgements[0].status == "truncated"


def test_the_verdict_is_the_word_that_was_sampled():
    """No is far more likely; Yes was sampled, and Yes is what has to be rewarded or not."""
    judged = judge(lambda text: "{Yes}$\n</output>\n", DIRECT, alternatives={"No": -0.001}, chosen_logprob=-9.0)
    assert [judgement.reward for judgement in judged.judgements] == [1.0, 1.0, 1.0]


def test_a_chain_without_a_verdict_ends():
    judged = judge(lambda text: "who knows</output>\n", DIRECT)
    assert [judgement.status for judgement in judged.judgements] == ["no_verdict"]


# The dataset --------------------------------------------------------------------------------------------------------


def test_steps_without_a_label_are_left_out():
    whole = Solution("w", "p", ["a", "b"], label=-1)
    rows = verifier_dataset([SOLUTION, whole])
    assert rows["label"] == [1, -1]
    assert rows["prompt"][0] == '{"problem": "What is 2 + 3?", "steps": ["Two and three.", "It is 6."]}'
    assert rows["prompt"][1] == '{"problem": "p", "steps": ["a", "b"]}'


def test_solutions_need_labels():
    with pytest.raises(DataError, match="row 2"):
        verifier_dataset([SOLUTION, Solution("x", "p", ["a"])])
    with pytest.raises(DataError, match=r"row 1.*steps.*nothing to judge"):
        verifier_dataset([Solution("a", "p", [], label=-1)])
    with pytest.raises(DataError, match="no solutions"):
        verifier_dataset([])


def test_solutions_without_labels_are_taken_whole():
    rows = verifier_dataset([Solution("w", "p", ["a", "b"], label=0), Solution("x", "p", ["a"])], labelled=False)
    assert sorted(rows.column_names) == ["id", "prompt"]
    assert [len(json.loads(prompt)["steps"]) for prompt in rows["prompt"]] == [2, 1]


# Rewards -------------------------------------------------------------------------------------------------------------

YES, NO = True, False
CASES = [
    # verdicts, statuses, steps, label: agreement, share of steps
    ([YES, NO], "ok ok", 2, 1, 1.0, 1.0),
    ([YES, YES], "ok ok", 2, 1, 0.0, 0.5),
    ([NO], "ok", 2, 1, 0.0, 0.0),
    ([NO], "ok", 1, 0, 1.0, 1.0),
    ([YES, YES, YES], "ok ok fallback", 3, -1, 1.0, 1.0),
    ([YES, NO], "ok ok", 3, -1, 0.0, 1 / 3),
    ([YES, None], "ok no_verdict", 3, -1, 0.0, 1 / 3),
    ([YES, YES, None], "ok ok truncated", 3, -1, 0.0, 2 / 3),
    ([None], "truncated", 1, 0, 0.0, 0.0),
    ([YES, None], "ok error", 3, -1, None, None),
]


@pytest.mark.parametrize(("verdicts", "statuses", "steps", "label", "agreement", "share"), CASES)
def test_rewards(verdicts, statuses, steps, label, agreement, share):
    arguments = [[""], [verdicts], [statuses.split()], [steps], [label]]
    assert verdict_agreement_reward(*arguments) == [agreement]
    assert step_agreement_reward(*arguments) == pytest.approx([share])


def test_the_reward_of_format_and_what_is_logged():
    logged: list[tuple[str, float]] = []
    log = {"log_metric": lambda name, value: logged.append((name, value))}
    rewards = rationale_format_reward([""] * 3, [["ok", "fallback"], ["ok", "ok"], ["ok", "error"]], **log)
    assert rewards == [0.5, 1.0, None]
    assert dict(logged)["verifier/share_fallback"] == pytest.approx(1 / 6)
    logged.clear()
    verdict_agreement_reward([""] * 3, [[NO], [YES], [NO]], [["ok"]] * 3, [1] * 3, [0, -1, -1], **log)
    assert [value for name, value in logged if name == "verifier/error_acc"] == [1.0]
    assert [value for name, value in logged if name == "verifier/correct_acc"] == [1.0, 0.0]


def test_rewards_say_what_they_need():
    with pytest.raises(ConfigError, match="step_agreement_reward needs rollout_func"):
        step_agreement_reward([""])
    with pytest.raises(ConfigError, match="needs a column 'label'"):
        verdict_agreement_reward([""], [[YES]], [["ok"]], [1])
    with pytest.raises(ConfigError, match="rationale_format_reward needs rollout_func"):
        rationale_format_reward([""])


# In TRL's trainer ----------------------------------------------------------------------------------------------------


def train(
    directory: Path, rollout: VerifierRollout, rows: Any, model: Any = None, watch: Watch | None = None, **changes: Any
) -> GRPOTrainer:
    options = {
        "output_dir": str(directory / "run"), "per_device_train_batch_size": 4, "num_generations": 4,
        "max_completion_length": 400, "max_steps": 2, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "seed": 3,
        "temperature": 1.0, **changes,
    }  # fmt: skip
    trainer = GRPOTrainer(
        model or copy.deepcopy(tiny_model()),
        reward_funcs=[verdict_agreement_reward, step_agreement_reward, rationale_format_reward],
        args=GRPOConfig(**options),
        train_dataset=rows,
        processing_class=TOKENIZER,
        rollout_func=rollout,
        callbacks=[watch] if watch else None,
    )
    trainer.train()
    return trainer


def test_a_random_model_trains_with_code_run_in_the_rollout(tmp_path):
    """End to end, all parts real: whatever a random model writes, the trainer gets whole rollouts."""
    seen: list[dict[str, Any]] = []

    class Kept(VerifierRollout):
        def __call__(self, prompts, trainer):
            seen.append(super().__call__(prompts, trainer))
            return copy.deepcopy(seen[-1])

    watch = Watch()
    protocol = GenPRMProtocol("code_execution", max_step_tokens=40, max_code_rounds=2, verdict_tokens=5)
    rollout = Kept(protocol, sandbox=LocalSandbox())
    train(tmp_path, rollout, verifier_dataset([SOLUTION] * 2), watch=watch, num_iterations=2, max_steps=4)
    assert len(seen) == 2  # num_iterations
    for output in seen:
        for ids, mask in zip(output["completion_ids"], output["env_mask"], strict=True):
            assert len(ids) == len(mask)
            assert 0 < sum(mask) < len(mask)
    assert seen[0]["completion_ids"] != seen[1]["completion_ids"]  # other samples in another step
    assert len({tuple(ids) for ids in seen[0]["completion_ids"]}) > 1  # and within a group
    assert all(map(math.isfinite, watch.values("loss")))
    # Of a random model no verdict can be expected; what it was, is logged.
    shares = [watch.values(f"verifier/share_{status}")[0] for status in ("ok", "fallback", "no_verdict", "truncated")]
    assert sum(shares) == pytest.approx(1.0)
    expected = [sum(sum(mask) for mask in output["env_mask"]) / 4 for output in seen]
    assert watch.values("completions/mean_length") == pytest.approx(expected)


def half_trained_verifier() -> Any:
    """A tiny model after supervised training on direct verdicts of which a quarter is wrong: it knows the form."""
    model = copy.deepcopy(tiny_model(seed=5, initializer_range=0.08))
    chat, chance = ChatFormat(TOKENIZER), random.Random(0)
    rows = []
    for solution in apples_and_books(96):
        conversation = Conversation(chat)
        for index, step in enumerate(solution.steps):
            conversation.open_turn(DIRECT.opening_messages(solution.problem, solution.steps, index))
            conversation.append(OUTPUT_PREFIX, "forced")
            right = chance.random() < 0.75
            text = "{" + ("Yes" if right == ("apples" in step) else "No") + "}$\n</output>\n"
            conversation.append_ids(chat.encode(text), text)
        ids, kinds = conversation.finished()
        rows.append((ids, [token if kind == "written" else -100 for token, kind in zip(ids, kinds, strict=True)]))
    length = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for start in [*range(0, 96, 16)] * 10:
        batch = slice(start, start + 16)
        model(input_ids=inputs[batch], labels=labels[batch]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def apples_and_books(count: int) -> list[Solution]:
    """Steps that speak of books are wrong ones."""
    solutions = []
    for number in range(count):
        label = number % 3 - 1
        things = ["books" if index == label else "apples" for index in range(2)]
        steps = [f"There are {number % 7 + index} {thing}." for index, thing in enumerate(things)]
        solutions.append(Solution(str(number), "How many?", steps, label=label))
    return solutions


@pytest.mark.slow
def test_a_verifier_learns_from_labels_alone(tmp_path):
    watch = Watch()
    train(
        tmp_path, VerifierRollout(DIRECT), verifier_dataset(apples_and_books(48)), half_trained_verifier(), watch,
        per_device_train_batch_size=48, num_generations=8, max_steps=10, loss_type="dr_grpo",
    )  # fmt: skip
    rewards = watch.values("rewards/verdict_agreement_reward/mean")
    assert rewards[0] < 0.65
    assert sum(rewards[-3:]) / 3 > 0.8


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"repetition_penalty": 1.1}, "unset min_p and repetition_penalty"),
        ({"min_p": 0.1}, "unset min_p and repetition_penalty"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, changes, what):
    with pytest.raises(ConfigError, match=what):
        train(tmp_path, VerifierRollout(DIRECT), verifier_dataset([SOLUTION]), **changes)


@pytest.mark.parametrize(
    ("how", "plugins", "what"),
    [
        ("is_deepspeed_enabled", {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ds3_gather_for_generation"),
        ("is_fsdp_enabled", {"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "fsdp_version: 2"),
    ],
)
def test_weights_must_be_whole(tmp_path, how, plugins, what):
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, ds3_gather_for_generation=False)
    sharding = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False, how: True}
    accelerator = SimpleNamespace(state=SimpleNamespace(**plugins))
    trainer = SimpleNamespace(args=args, accelerator=accelerator, **sharding)
    with pytest.raises(ConfigError, match=what):
        VerifierRollout(DIRECT)(verifier_dataset([SOLUTION])["prompt"], trainer)


def test_a_mode_that_runs_code_needs_a_sandbox():
    with pytest.raises(ConfigError, match="needs a sandbox"):
        VerifierRollout()


def test_prompts_of_another_form_are_refused(tmp_path):
    rows = verifier_dataset([SOLUTION]).map(lambda row: {"prompt": "What is 2 + 3?"})
    with pytest.raises(DataError, match="make the dataset with verifier_dataset"):
        train(tmp_path, VerifierRollout(DIRECT), rows)


def test_settings_are_those_of_the_rollouts():
    settings = VerifierRollout(GenPRMProtocol("analysis", "demonstration")).settings
    assert settings == ModelSettings("generation_prompt", "demonstration", ("analysis",))
    assert DIRECT_SYSTEM_PROMPT in DIRECT.messages("p", ["s"], ["r"])[0]["content"]


# The seams of TRL ----------------------------------------------------------------------------------------------------


def test_seam_a_rollout_is_trained_on_by_its_mask_and_told_to_reward_functions(tmp_path):
    calls: list[tuple[list[str], Any]] = []
    told: dict[str, Any] = {}

    def rollout(prompts, trainer):
        calls.append((prompts, trainer))
        return {
            "prompt_ids": [[5, 6]] * 4,
            "completion_ids": [[7, 8, 9, TOKENIZER.eos_token_id]] * 4,
            "logprobs": None,
            "env_mask": [[1, 0, 0, 1]] * 4,
            "verdicts": [[True], [False], [True, None], [True]],
            "num_steps": [1, 1, 2, 1],
        }

    def reward(completions, completion_ids, verdicts, num_steps, answer, **columns):
        told.update(ids=completion_ids, verdicts=verdicts, num_steps=num_steps, answer=answer)
        return [1.0, 0.0, 0.0, 0.0]

    trainer = make(tmp_path, GRPOTrainer, reward_funcs=[reward], rollout_func=rollout)
    _, output = advantages_of(trainer)
    assert calls == [([PROMPTS[0]] * 4, trainer)]
    assert output["tool_mask"].tolist() == [[1, 0, 0, 1]] * 4
    assert output["num_items_in_batch"].item() == 8
    assert "sampling_per_token_logps" not in output
    assert told == {
        "ids": [[7, 8, 9, TOKENIZER.eos_token_id]] * 4,
        "verdicts": [[True], [False], [True, None], [True]],
        "num_steps": [1, 1, 2, 1],
        "answer": ["5"] * 4,
    }


@pytest.mark.parametrize("missing", ["prompt_ids", "completion_ids", "logprobs"])
def test_seam_a_rollout_has_three_fields_at_least(tmp_path, missing):
    def rollout(prompts, trainer):
        whole = {"prompt_ids": [[5]] * 4, "completion_ids": [[7]] * 4, "logprobs": None}
        return {name: value for name, value in whole.items() if name != missing}

    trainer = make(tmp_path, GRPOTrainer, reward_funcs=[verdict_agreement_reward], rollout_func=rollout)
    with pytest.raises(ValueError, match=missing):
        advantages_of(trainer)
