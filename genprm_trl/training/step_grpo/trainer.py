"""GRPO with a reward for each step: TRL's trainer with the advantages of tokens in place of those of completions."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from accelerate.logging import get_logger
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from genprm_trl.data.steps import StepStyle
from genprm_trl.errors import ConfigError
from genprm_trl.generation.tokens import Detokenizer
from genprm_trl.training.credit import Baseline, Credit, Scale, spread_over_tokens, step_credit, step_lengths
from genprm_trl.training.precision import computes_in_bf16
from genprm_trl.training.step_grpo.figures import reward_gap
from genprm_trl.training.step_grpo.rewards import StepRewardFunc, StepRewardRecorder, record

logger = get_logger(__name__)

# The token-level losses of TRL's GRPO, and those that weigh whole sequences but still add up tokens. All of them take
# an advantage for each token.
_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")


@dataclass
class StepGRPOConfig(GRPOConfig):
    r"""Options of `StepGRPOTrainer`, on top of those of `trl.GRPOConfig`.

    Differs from `GRPOConfig` in one default: `bf16` is true only where the accelerator computes in bfloat16.

    Attributes:
        credit: How step rewards become advantages: `outcome` (not at all: stock GRPO on the outcome rewards),
            `process`, `min_form` or `discounted`; see `training.credit`.
        step_reward_weight: Factor of the steps' advantages, which are added to those of the outcome rewards.
        step_style: How a completion is split into steps; see `steps.split_steps`.
        signed_step_rewards: Take 2 r - 1 for a reward r, so that P(Yes) becomes P(Yes) - P(No). None does so for
            `min_form`, whose paper rewards steps so. Turn it off for rewards that are not probabilities.
        scale_step_rewards: Divide the steps' advantages by the standard deviation of step rewards in the `group`, the
            `batch` (of all processes), or by nothing (`none`). None is `group` for `process`, `none` for the others.
        min_form_temperature: Towards 0 the worst step alone counts.
        step_discount: Discount a step of `discounted`.
        step_baseline: What `min_form` and `discounted` compare with: the other completions' rewards a `step` or a
            `token`.
        verifiable_share: Share of the prompts whose outcome rewards are used; the others are rewarded for their steps
            alone. Which ones is fixed by `seed` and the prompt (PURE used about 0.1, arXiv 2504.15275).
        idle_step_penalty: Subtracted from the reward of steps without content or said before.
    """

    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Train in bfloat16 mixed precision. Unset: where the accelerator has it, unless fp16 is set."
        },
    )
    credit: str = field(
        default="min_form",
        metadata={
            "help": "How step rewards become token advantages: outcome (not at all), process (sum of the normalised "
            "rewards to come, DeepSeekMath), min_form (the worst step, PURE) or discounted.",
            "choices": list(get_args(Credit)),
        },
    )
    step_reward_weight: float = field(
        default=1.0, metadata={"help": "Factor of the steps' advantages beside those of the outcome rewards."}
    )
    step_style: str = field(
        default="auto",
        metadata={
            "help": "How a completion is split into steps: at 'Step k:' headings (step), blank lines (blank_line), "
            "lines (line), or whichever fits (auto).",
            "choices": list(get_args(StepStyle)),
        },
    )
    signed_step_rewards: bool | None = field(
        default=None, metadata={"help": "Turn a step reward r into 2 r - 1. Unset: for min_form."}
    )
    scale_step_rewards: str | None = field(
        default=None,
        metadata={
            "help": "Divide by the standard deviation of step rewards in the group, the batch, or not (none). Unset: "
            "group for process, none for the others.",
            "choices": list(get_args(Scale)),
        },
    )
    min_form_temperature: float = field(
        default=0.1, metadata={"help": "Temperature of min_form; towards 0 the worst step alone counts."}
    )
    step_discount: float = field(default=1.0, metadata={"help": "Discount a step of the credit rule discounted."})
    step_baseline: str = field(
        default="step",
        metadata={
            "help": "What min_form and discounted compare with: the other completions' rewards a step or a token.",
            "choices": list(get_args(Baseline)),
        },
    )
    verifiable_share: float = field(
        default=1.0, metadata={"help": "Share of the prompts whose outcome rewards are used."}
    )
    idle_step_penalty: float = field(
        default=0.0, metadata={"help": "Subtracted from the reward of steps without content or said before."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not computes_in_bf16(self.use_cpu):
            self.bf16 = False
        super().__post_init__()
        for name, choices in (
            ("credit", get_args(Credit)),
            ("step_style", get_args(StepStyle)),
            ("scale_step_rewards", (None, *get_args(Scale))),
            ("step_baseline", get_args(Baseline)),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(str(choice) for choice in choices if choice is not None)
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}; choose one of {known}")
        if not math.isfinite(self.step_reward_weight):
            raise ConfigError(f"step_reward_weight must be a finite number, got {self.step_reward_weight}")
        if not 0 <= self.idle_step_penalty < math.inf:
            raise ConfigError(f"idle_step_penalty must not be negative, got {self.idle_step_penalty}")
        if not self.min_form_temperature > 0:
            raise ConfigError(f"min_form_temperature must be positive, got {self.min_form_temperature}")
        for name in ("step_discount", "verifiable_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be within [0, 1], got {getattr(self, name)}")
        if self.credit != "outcome" and self.loss_type not in _LOSSES:
            raise ConfigError(
                f"loss_type={self.loss_type!r} is not known to take an advantage for each token; choose one of "
                f"{', '.join(_LOSSES)}"
            )

    @property
    def step_rewards_are_signed(self) -> bool:
        return self.credit == "min_form" if self.signed_step_rewards is None else self.signed_step_rewards


class StepGRPOTrainer(GRPOTrainer):
    """Group relative policy optimisation with rewards for the steps of a completion.

    Each completion is split into steps, a step reward function (a process reward model) rewards them, and a credit
    rule turns that into an advantage for each token: `process` is DeepSeekMath's process supervision (arXiv
    2402.03300, section 4.1.3), `min_form` is PURE's (arXiv 2504.15275). Advantages from outcome rewards, which TRL
    computes from `reward_funcs` in all its ways, are added.

    Besides what `GRPOTrainer` logs there are `steps/*` (count, tokens, share of idle steps and of completions without
    any), `process_outcome/*` (whether the verifier likes what is wrong), and `step_advantages/*`.

    Example:
        ```python
        from datasets import Dataset

        from genprm_trl import GenPRMReward, StepGRPOConfig, StepGRPOTrainer
        from genprm_trl.rewards import answer_reward

        dataset = Dataset.from_list([{"prompt": "What is 2 + 3 * 4? Solve step by step.", "answer": "14"}])
        trainer = StepGRPOTrainer(
            "Qwen/Qwen2.5-1.5B-Instruct",
            reward_funcs=answer_reward,
            step_reward_func=GenPRMReward("GenPRM/GenPRM-1.5B"),
            args=StepGRPOConfig("step-grpo", credit="min_form"),
            train_dataset=dataset,
        )
        trainer.train()
        ```

    Args:
        model: As in `GRPOTrainer`.
        reward_funcs: Outcome reward functions. None: the steps' rewards are all there is.
        step_reward_func: Rewards steps, for instance `GenPRMReward`; see `StepRewardFunc`. An object with a method
            `step_rewards` is called by it, and one that is a `TrainerCallback`, too, is added to the callbacks. Its
            smallest reward of a completion is logged like an outcome reward, and is the outcome reward where
            `credit="outcome"` and there are no `reward_funcs`.
        args: Options; the defaults of `StepGRPOConfig` if None.
        **kwargs: As in `GRPOTrainer`.

    Raises:
        ConfigError: There is nothing to reward, or options contradict each other; while training, if the step reward
            function does not return a reward for each step.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "genprm-trl", "step-grpo"]
    _name = "Step GRPO"
    args: StepGRPOConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        step_reward_func: StepRewardFunc | Any | None = None,
        args: StepGRPOConfig | None = None,
        **kwargs: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = StepGRPOConfig(f"{name.split('/')[-1]}-StepGRPO")
        if not isinstance(args, StepGRPOConfig):
            raise ConfigError(f"args must be a StepGRPOConfig, got a {type(args).__name__}")
        outcome_funcs = _as_list(reward_funcs)
        if step_reward_func is None and args.credit != "outcome":
            raise ConfigError(f"credit={args.credit!r} needs a step_reward_func; only 'outcome' does without")
        if step_reward_func is None and not outcome_funcs and not kwargs.get("environment_factory"):
            raise ConfigError("there is nothing to reward: give reward_funcs, a step_reward_func, or both")
        if args.reward_weights is not None and len(args.reward_weights) != len(outcome_funcs):
            raise ConfigError(
                f"reward_weights holds {len(args.reward_weights)} weights for {len(outcome_funcs)} outcome reward "
                "functions; the step rewards have step_reward_weight"
            )
        self._has_outcome = bool(outcome_funcs)
        self._recorder: StepRewardRecorder | None = None
        self._given: torch.Tensor | None = None  # the latest rewards of all processes, whether or not they count
        if step_reward_func is not None:
            self._recorder = record(getattr(step_reward_func, "step_rewards", step_reward_func))
            if outcome_funcs:
                # To TRL the step rewards are one more outcome reward, which is logged and counts nothing.
                args = copy.copy(args)
                args.reward_weights = [*(args.reward_weights or [1.0] * len(outcome_funcs)), 0.0]
                if (classes := kwargs.get("reward_processing_classes")) is not None:
                    kwargs["reward_processing_classes"] = [*_as_list(classes), None]
            outcome_funcs.append(self._recorder)
        super().__init__(model, outcome_funcs, args, **kwargs)
        if self._recorder is not None:
            self._recorder.detokenizer = Detokenizer(self._tokenizer)
            self._recorder.style = args.step_style  # type: ignore[assignment]  # checked by the configuration
            self._recorder.idle_penalty = args.idle_step_penalty
        if isinstance(step_reward_func, TrainerCallback):
            self.add_callback(step_reward_func)  # it has a state to save and load

    # Seams of TRL. None of them is promised; tests/test_step_grpo.py names each.

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        if self._recorder is not None:
            # It returns prompt ids, completion ids, the mask of tools, ...; reward functions are told of the second.
            self._recorder.prompt_ids, self._recorder.tool_masks = generated[0], generated[2]
            self._recorder.training = self.model.training
        return generated

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self._has_outcome:
            return rewards
        self._given = rewards.clone()
        outcome = rewards[:, :-1] if self._recorder is not None else rewards
        if self._recorder is not None:
            weights = self.reward_weights[:-1].to(rewards.device)
            average = (outcome * weights).sum(dim=1) / weights.sum()
            mode = "train" if self.model.training else "eval"
            for name, value in reward_gap(rewards[:, -1].tolist(), average.tolist()).items():
                self._metrics[mode][name].append(value)
        if self.args.verifiable_share < 1:
            verifiable = torch.tensor([self._is_verifiable(prompt) for prompt in prompts], device=rewards.device)
            outcome[~self.accelerator.gather(verifiable)] = torch.nan
        if self._recorder is not None:
            # A completion without an outcome reward has none, instead of the 0 that weighing its step rewards gives.
            rewards[outcome.isnan().all(dim=1), -1] = torch.nan
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        output = super()._generate_and_score_completions(inputs)
        if self._given is not None:
            self._log_rewards(self._given, mode)
        if self._recorder is None or self.args.credit == "outcome":
            return output
        latest = self._recorder.latest
        assert latest is not None  # it has just been asked
        token_steps = [completion.token_steps for completion in latest.completions]
        by_step, steps_of = self._step_advantages(latest.rewards, token_steps, output["completion_ids"], mode)
        advantages = self.args.step_reward_weight * spread_over_tokens(by_step, steps_of)
        if self._has_outcome:
            advantages = advantages + output["advantages"].unsqueeze(1)
        self._log_advantages(advantages, output["completion_mask"] * output.get("tool_mask", 1), mode)
        output["advantages"] = advantages  # TRL's loss takes shape (B, T) as well as (B,)
        return output

    def _step_advantages(
        self, rewards: list[list[float]], token_steps: list[list[int]], completion_ids: torch.Tensor, mode: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The advantage of each step, shape (B, S), and the step of each token, shape (B, T), of this process."""
        device, length = completion_ids.device, completion_ids.shape[1]
        steps_of = torch.full(completion_ids.shape, -1, dtype=torch.long)
        for row, steps in enumerate(token_steps):
            steps_of[row, : min(len(steps), length)] = torch.tensor(steps[:length], dtype=torch.long)
        most = max(map(len, rewards))
        table = torch.tensor([[*row, *[torch.nan] * (most - len(row))] for row in rewards], dtype=torch.float32)
        if self.args.step_rewards_are_signed:
            table = 2 * table - 1
        lengths = step_lengths(steps_of, most)
        # Groups may be spread over processes, and a batch's deviation is that of all of them.
        gather, pad = self.accelerator.gather, self.accelerator.pad_across_processes
        everything = gather(pad(table.to(device), dim=1, pad_index=torch.nan))
        by_step = step_credit(
            everything,
            group_size=self.num_generations if mode == "train" else self.num_generations_eval,
            credit=self.args.credit,  # type: ignore[arg-type]  # checked by the configuration, as the others
            scale=self.args.scale_step_rewards,  # type: ignore[arg-type]
            temperature=self.args.min_form_temperature,
            gamma=self.args.step_discount,
            baseline=self.args.step_baseline,  # type: ignore[arg-type]
            step_lengths=gather(pad(lengths.to(device), dim=1, pad_index=0)),
        )
        first = self.accelerator.process_index * len(rewards)
        return by_step[first : first + len(rewards)], steps_of.to(device)

    def _is_verifiable(self, prompt: Any) -> bool:
        """The same for all completions of a prompt, in every process and epoch."""
        key = json.dumps([self.args.seed, prompt], sort_keys=True, default=str)
        drawn = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
        return drawn < self.args.verifiable_share

    def _log_rewards(self, rewards: torch.Tensor, mode: str) -> None:
        """Replaces what TRL logged, the rewards that count, by those of all completions.

        Else there would be none to look at in a batch that has none of the prompts whose outcome rewards are used.
        """
        metrics, weights = self._metrics[mode], self.reward_weights.to(rewards.device)
        for name, column in zip(self.reward_func_names, rewards.T, strict=True):
            metrics[f"rewards/{name}/mean"][-1] = torch.nanmean(column).item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(column).item()
            _replace_latest(self._logs["rewards"][name], column.tolist())
        outcome = rewards[:, :-1] if self._recorder is not None else rewards
        total = (rewards * weights).nansum(dim=1).masked_fill(outcome.isnan().all(dim=1), torch.nan)
        metrics["reward"][-1], metrics["reward_std"][-1] = torch.nanmean(total).item(), nanstd(total).item()

    def _log_advantages(self, advantages: torch.Tensor, mask: torch.Tensor, mode: str) -> None:
        """Replaces what TRL logged, the advantages of the outcome alone, and adds figures on the tokens'."""
        tokens = mask.sum(dim=1).clamp(min=1)
        mean = (advantages * mask).sum(dim=1) / tokens
        within = ((advantages - mean.unsqueeze(1)) * mask).square().sum(dim=1) / tokens
        gathered, spread = self.accelerator.gather(mean).tolist(), self.accelerator.gather(within).mean().item()
        _replace_latest(self._logs["advantages"], gathered)
        self._metrics[mode]["step_advantages/mean"].append(sum(gathered) / len(gathered))
        self._metrics[mode]["step_advantages/std_within"].append(spread**0.5)


def _replace_latest(logged: deque[float], values: list[float]) -> None:
    for _ in range(min(len(values), len(logged))):
        logged.pop()
    logged.extend(values)


def _as_list(reward_funcs: Any) -> list[Any]:
    if reward_funcs is None:
        return []
    return list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
