"""GRPO with a reward for each step: TRL's trainer with the advantages of tokens in place of those of completions."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, get_args

import torch
from accelerate.utils import gather_object
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback, TrainingArguments
from trl import GRPOConfig, GRPOTrainer, is_conversational
from trl.extras.profiling import profiling_context
from trl.trainer.utils import get_callable_name, nanstd

from genprm_trl._loops import LoopThread
from genprm_trl.data.sources import is_transformed
from genprm_trl.data.steps import StepStyle, Thinking
from genprm_trl.errors import ConfigError, check_one_of, check_positive, check_share
from genprm_trl.generation.tokens import Detokenizer
from genprm_trl.grading.thinking import opens_thinking
from genprm_trl.rows.jsonl import write_text
from genprm_trl.training.credit import Baseline, Credit, Scale, outcome_advantages, step_advantages
from genprm_trl.training.options import TrainerOptions
from genprm_trl.training.step_grpo.consistency import consistent_completions
from genprm_trl.training.step_grpo.figures import reward_gap, step_figures
from genprm_trl.training.step_grpo.rewards import (
    StepRewardFunc,
    charge_idle_steps,
    checked_rewards,
    no_outcome_reward,
)
from genprm_trl.training.step_grpo.token_steps import CompletionSteps, find_steps

logger = logging.getLogger(__name__)

# The token-level losses of TRL's GRPO, and those that weigh whole sequences but still add up tokens. All of them take
# an advantage for each token.
_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")


@dataclass
class StepGRPOConfig(TrainerOptions, GRPOConfig):
    r"""Options of `StepGRPOTrainer`, on top of those of `trl.GRPOConfig`.

    Differs from `GRPOConfig` in one default: `bf16` is true only where the accelerator computes in bfloat16.

    Attributes:
        credit: How step rewards become advantages: `outcome` (not at all: stock GRPO on the outcome rewards),
            `process`, `min_form` or `discounted`; see `training.credit`.
        step_reward_weight: The steps' advantages are multiplied by this, and added to those of the outcome rewards.
        step_style: How a completion is split into steps; see `data.steps.split_steps`.
        thinking: What to do with thinking blocks: `skip` leaves them out, `opened` also where the chat template opens
            one (which is seen in the prompt, if it ends in `<think>`), `judge` takes thoughts for steps; see
            `data.steps.written_steps`. The tokens of thoughts get the credit of the step that they led to.
        signed_step_rewards: Take 2 r - 1 for a reward r, so that P(Yes) becomes P(Yes) - P(No). None does so for
            `min_form`, whose paper rewards steps so. Turn it off for rewards that are not probabilities.
        scale_step_rewards: Divide the steps' advantages by the standard deviation of step rewards in the `group`, the
            `batch` (of all processes), or by nothing (`none`). None is `group` for `process`, `none` for the others.
        min_form_temperature: Towards 0 the worst step alone counts.
        step_discount: For `discounted`: what a reward is multiplied by for each step that it lies ahead; 1 is none.
        step_baseline: What `min_form` and `discounted` subtract, from the group's other completions: their mean
            `return` to go, which favours no number of steps; or, as in PURE's code, their mean reward per `step` or
            per `token`, or their `mean_return` over `max_completion_length` tokens. See `training.credit.step_credit`.
        idle_step_penalty: Subtracted from the reward of steps without content or said before.
        keep_consistent: Train on so many completions of each prompt, and leave out the others: right ones that the
            verifier doubts, and wrong ones that it likes; see `training.step_grpo.consistency`. What is right, the
            trainer's `outcome` says. None trains on all. PROF has 8 generations, keeps 4 of them, and
            `credit="outcome"`.
    """

    credit: Credit = field(
        default="min_form",
        metadata={
            "help": "How step rewards become token advantages: outcome (not at all), process (sum of the normalised "
            "rewards to come, DeepSeekMath), min_form (the worst step, PURE) or discounted.",
        },
    )
    step_reward_weight: float = field(
        default=1.0,
        metadata={"help": "The steps' advantages are multiplied by this, and added to those of the outcome rewards."},
    )
    step_style: StepStyle = field(
        default="auto",
        metadata={
            "help": "How a completion is split into steps: at 'Step k:' headings (step), blank lines (blank_line), "
            "lines (line), or whichever fits (auto).",
        },
    )
    thinking: Thinking = field(
        default="skip",
        metadata={
            "help": "What to do with thinking blocks of completions: leave them out (skip), also where the chat "
            "template opens one (opened), or judge thoughts as steps (judge).",
        },
    )
    signed_step_rewards: bool | None = field(
        default=None, metadata={"help": "Turn a step reward r into 2 r - 1. Unset: for min_form."}
    )
    scale_step_rewards: Scale | None = field(
        default=None,
        metadata={
            "help": "Divide by the standard deviation of step rewards in the group, the batch, or not (none). Unset: "
            "group for process, none for the others.",
        },
    )
    min_form_temperature: float = field(
        default=0.1, metadata={"help": "Temperature of min_form; towards 0 the worst step alone counts."}
    )
    step_discount: float = field(
        default=1.0,
        metadata={
            "help": "For --credit discounted: a reward is multiplied by this for each step that it lies ahead. 1 does "
            "not discount."
        },
    )
    step_baseline: Baseline = field(
        default="return",
        metadata={
            "help": "What min_form and discounted subtract, from the group's other completions: their mean return to "
            "go (return), which favours no number of steps; or as PURE's code does, their mean reward per step or per "
            "token, or their mean return over the longest completion (mean_return).",
        },
    )
    idle_step_penalty: float = field(
        default=0.0, metadata={"help": "Subtracted from the reward of steps without content or said before."}
    )
    keep_consistent: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many completions of each prompt: right ones whose steps the verifier likes, and "
            "wrong ones whose steps it does not (PROF; with --credit outcome). Unset: on all of them."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(get_args(Credit), credit=self.credit)
        check_one_of(get_args(StepStyle), step_style=self.step_style)
        check_one_of(get_args(Thinking), thinking=self.thinking)
        check_one_of((None, *get_args(Scale)), scale_step_rewards=self.scale_step_rewards)
        check_one_of(get_args(Baseline), step_baseline=self.step_baseline)
        if not math.isfinite(self.step_reward_weight):
            raise ConfigError(f"step_reward_weight must be a finite number, got {self.step_reward_weight}")
        if not 0 <= self.idle_step_penalty < math.inf:
            raise ConfigError(f"idle_step_penalty must not be negative, got {self.idle_step_penalty}")
        check_positive(min_form_temperature=self.min_form_temperature)
        check_share(step_discount=self.step_discount)
        if self.keep_consistent is not None:
            if not 2 <= self.keep_consistent <= self.num_generations:
                raise ConfigError(
                    f"keep_consistent must be from 2 to num_generations ({self.num_generations}), got "
                    f"{self.keep_consistent}"
                )
            if self.multi_objective_aggregation != "sum_then_normalize":
                raise ConfigError("keep_consistent needs multi_objective_aggregation='sum_then_normalize'")
        if self.credit != "outcome" and self.loss_type not in _LOSSES:
            raise ConfigError(
                f"loss_type={self.loss_type!r} is not known to take an advantage for each token; choose one of "
                f"{', '.join(_LOSSES)}"
            )

    @property
    def step_rewards_are_signed(self) -> bool:
        """Whether a step reward r counts as 2 r - 1. Where `signed_step_rewards` is None, only `min_form` does so."""
        return self.credit == "min_form" if self.signed_step_rewards is None else self.signed_step_rewards

    @property
    def uses_step_rewards(self) -> bool:
        """Whether step rewards decide anything: advantages, or which completions are kept."""
        return self.credit != "outcome" or self.keep_consistent is not None


class StepGRPOTrainer(GRPOTrainer):
    """Group relative policy optimisation with rewards for the steps of a completion.

    Each completion is split into steps, a step reward function (a process reward model) rewards them, and a credit
    rule turns that into an advantage for each token: `process` is DeepSeekMath's process supervision (arXiv
    2402.03300, section 4.1.3), `min_form` is PURE's (arXiv 2504.15275). Advantages from outcome rewards, which TRL
    computes from `reward_funcs` in all its ways, are added. Steps are rewarded after outcomes.

    It logs what `GRPOTrainer` logs. `reward`, `reward_std` and `frac_reward_zero_std` are of the outcome rewards, and
    are left out where there are none. The smallest step reward of a completion is in `rewards/NAME/mean` and
    `rewards/NAME/std`, where NAME is the step reward function's. Besides there are `steps/*` (count, tokens, share of
    idle steps and of completions without any); `process_outcome/*` (whether the verifier likes what is wrong);
    `step_advantages/*`; and with `keep_consistent` `kept/*` (the share of the completions, and of right ones in them).

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
        model: The policy, in any form that `GRPOTrainer` takes.
        reward_funcs: Outcome reward functions. None: the steps' rewards are all there is.
        args: Options; the defaults of `StepGRPOConfig` if None. A `GRPOConfig` or plain `TrainingArguments` are taken
            as well.
        train_dataset: The prompts, and the columns that the reward functions need.
        *others: The further arguments of `GRPOTrainer`, in its order.
        step_reward_func: Rewards steps, for instance `GenPRMReward`; see `StepRewardFunc`. An object with a method
            `step_rewards` is called by it, and one that is a `TrainerCallback`, too, is added to the callbacks.
        outcome: The name of the outcome reward that says whether an answer is right, which it is from one half on.
            `keep_consistent` and `process_outcome/*` go by it alone, whatever its weight is. None: the only one, and
            of several none. An empty name: none, though there is only one.
        **kwargs: The further arguments of `GRPOTrainer`, by their names.

    Raises:
        ConfigError: There is nothing to reward, options contradict each other, or `outcome` does not name one of the
            outcome rewards; while training, if the step reward function does not return a reward for each step.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "genprm-trl", "step-grpo"]
    _name = "Step GRPO"
    args: StepGRPOConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: StepGRPOConfig | TrainingArguments | None = None,
        train_dataset: Any = None,
        *others: Any,
        step_reward_func: StepRewardFunc | Any | None = None,
        outcome: str | None = None,
        **kwargs: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = StepGRPOConfig(f"{name.split('/')[-1]}-StepGRPO")
        if not isinstance(args, TrainingArguments):
            raise ConfigError(
                f"args must be a StepGRPOConfig, got a {type(args).__name__}; step_reward_func is given by its name"
            )
        args = StepGRPOConfig.of(args)
        outcome_funcs = reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        outcome_funcs = [func for func in outcome_funcs if func is not None]
        if step_reward_func is None and args.credit != "outcome":
            raise ConfigError(f"credit={args.credit!r} needs a step_reward_func; only 'outcome' does without")
        if step_reward_func is None and args.keep_consistent is not None:
            raise ConfigError("keep_consistent needs a step_reward_func, whose rewards choose completions")
        if not outcome_funcs and not kwargs.get("environment_factory"):
            if args.credit == "outcome":
                raise ConfigError("No reward source provided: credit='outcome' needs reward_funcs")
            if args.keep_consistent is not None:
                raise ConfigError("keep_consistent needs reward_funcs, which say what is right")
        if args.reward_weights is not None and len(args.reward_weights) != len(outcome_funcs):
            raise ConfigError(
                f"reward_weights holds {len(args.reward_weights)} weights for {len(outcome_funcs)} outcome reward "
                "functions; the step rewards have step_reward_weight"
            )
        _check_columns([*outcome_funcs, step_reward_func], train_dataset)
        super().__init__(model, outcome_funcs or [no_outcome_reward], args, train_dataset, *others, **kwargs)
        self._answer_place = self._place_of_answers(outcome)
        if self._answer_place is None and args.keep_consistent is not None:
            raise ConfigError(
                "keep_consistent needs a reward that says which answers are right: name one of "
                f"{', '.join(self.reward_func_names)} with the argument outcome"
            )
        if self._answer_place is None and outcome is None and step_reward_func is not None and len(outcome_funcs) > 1:
            logger.warning(
                "process_outcome/* are not logged: name the reward for right answers, one of %s, with the argument "
                "outcome", ", ".join(self.reward_func_names),
            )  # fmt: skip
        self._detokenizer = Detokenizer(self._tokenizer)
        self._step_rewards: Any = getattr(step_reward_func, "step_rewards", step_reward_func)
        self._step_reward_name = get_callable_name(getattr(step_reward_func, "__self__", step_reward_func))
        if isinstance(step_reward_func, TrainerCallback):
            self.add_callback(step_reward_func)  # it has a state to save and load

    def _place_of_answers(self, outcome: str | None) -> int | None:
        """Which of the outcome rewards says what is right; None if none of them does."""
        names = {p: name for p, name in enumerate(self.reward_func_names) if self._counts_outcomes[p]}
        meant = [place for place, name in names.items() if outcome in (None, name)]
        if outcome and len(meant) != 1:
            raise ConfigError(
                f"outcome={outcome!r} must be the name of one of the outcome rewards: {', '.join(names.values())}"
            )
        return meant[0] if len(meant) == 1 else None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Outcome rewards by TRL, then step rewards, credit, advantages.

        TRL does not promise this method; tests/training/test_step_grpo.py holds what is relied on here.
        """
        output = super()._generate_and_score_completions(inputs)
        if self._step_rewards is None:
            return output
        mode = "train" if self.model.training else "eval"
        completions = self._completions(output)
        # Groups may be spread over processes, and a batch's deviation is that of all of them.
        rewards = self._gather_rows(self._reward_steps(inputs, output, completions, mode), torch.nan)
        self._log_rewards(rewards, mode)
        ours = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        of_outcomes = self.accelerator.gather(output["advantages"])
        if self.args.keep_consistent is not None and mode == "train":
            kept = self._kept(rewards, completions)
            of_outcomes = outcome_advantages(
                self._outcomes().masked_fill(~kept, torch.nan), self.num_generations, self.args.scale_rewards
            )
            rewards = rewards.masked_fill(~kept.unsqueeze(1), torch.nan)
            output["advantages"] = of_outcomes[ours]
            self._leave_out(output, ~kept[ours])
            table = self._logs["advantages"]  # TRL has put in those of all completions
            for _ in range(min(len(table), len(of_outcomes))):
                table.pop()
            table.extend(of_outcomes.tolist())
        if self.args.credit == "outcome":
            self._log_advantages(output, mode)
            return output
        length = output["completion_ids"].shape[1]
        token_steps = [each.credited_steps + [-1] * (length - len(each.token_ids)) for each in completions]
        advantages = step_advantages(
            2 * rewards - 1 if self.args.step_rewards_are_signed else rewards,
            self._gather_rows(token_steps, -1),
            group_size=self.num_generations if mode == "train" else self.num_generations_eval,
            credit=self.args.credit,
            outcome_advantages=of_outcomes,
            step_weight=self.args.step_reward_weight,
            scale=self.args.scale_step_rewards,
            temperature=self.args.min_form_temperature,
            gamma=self.args.step_discount,
            baseline=self.args.step_baseline,
            response_length=self.args.max_completion_length,
        )
        output["advantages"] = advantages[ours, :length]  # TRL's loss takes (B,) and (B, T)
        self._log_advantages(output, mode)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as `GRPOTrainer` does, without the figures of outcome rewards where there are none.

        The stand-in for them is 0 everywhere, which would read as no signal.

        Args:
            logs: What to log besides what the batches gave.
            start_time: When the training began, in seconds.
        """
        name = get_callable_name(no_outcome_reward)
        left_out = [f"rewards/{name}/mean", f"rewards/{name}/std"]
        if self.reward_funcs == [no_outcome_reward]:
            left_out += ["reward", "reward_std", "frac_reward_zero_std"]
        for metrics in self._metrics.values():
            for figure in left_out:
                metrics.pop(figure, None)
        self._logs["rewards"].pop(name, None)  # a column of the table of completions
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes TRL's card. Of a base model on this machine it says so, where TRL links to a model named None."""
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and card.is_file():
            text = card.read_text(encoding="utf-8")
            write_text(card, text.replace("[None](https://huggingface.co/None)", "a model on the author's machine"))

    def _completions(self, output: dict[str, Any]) -> list[CompletionSteps]:
        """The steps of what the policy wrote, without padding."""
        ids, mask = output["completion_ids"], output["completion_mask"]
        # With `mask_truncated_completions` TRL empties the masks of those. They end with a token that is no padding.
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        until_padding = ((ids != self._tokenizer.pad_token_id) * places).amax(dim=1)
        lengths = torch.where(mask.any(dim=1), mask.sum(dim=1), until_padding).tolist()
        written = output.get("tool_mask", mask).tolist()
        return [
            find_steps(
                row[:length],
                self._detokenizer,
                self.args.step_style,
                ours[:length] if any(ours) else None,
                "opened" if opened else self.args.thinking,
            )
            for row, ours, length, opened in zip(
                ids.tolist(), written, lengths, self._opened_blocks(output), strict=True
            )
        ]

    def _opened_blocks(self, output: dict[str, Any]) -> list[bool]:
        """Whether each prompt ends with the start of a thinking block, which the completion is to end."""
        if self.args.thinking != "skip":
            return [False] * len(output["prompt_ids"])
        # Prompts are padded on the left. A tag and the new line after it are a few tokens.
        return [
            opens_thinking(self._tokenizer.decode([id for id, there in zip(ids, mask, strict=True) if there]))
            for ids, mask in zip(
                output["prompt_ids"][:, -16:].tolist(), output["prompt_mask"][:, -16:].tolist(), strict=True
            )
        ]

    def _reward_steps(
        self, inputs: list[dict[str, Any]], output: dict[str, Any], completions: list[CompletionSteps], mode: str
    ) -> list[list[float]]:
        """The reward of each step, NaN where there is none."""
        texts: list[Any] = [each.text for each in completions]
        if is_conversational(inputs[0]):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        columns = {
            name: [row[name] for row in inputs]
            for name in inputs[0]
            if name not in ("prompt", "completion", "completion_ids")
        }
        if self.environments is not None:
            columns["environments"] = self.environments
        figures: dict[str, list[float]] = defaultdict(list)
        extras: dict[str, list[Any]] = defaultdict(list)
        with profiling_context(self, self._step_reward_name):
            given = self._step_rewards(
                prompts=[row.get("prompt") for row in inputs],
                completions=texts,
                steps=[each.steps for each in completions],
                prompt_ids=[
                    ids[mask].tolist()
                    for ids, mask in zip(output["prompt_ids"], output["prompt_mask"].bool(), strict=True)
                ],
                completion_ids=[each.token_ids for each in completions],
                token_steps=[each.token_steps for each in completions],
                training=mode == "train",
                trainer_state=self.state,
                log_metric=lambda name, value: figures[name].append(value),
                log_extra=lambda column, values: extras[column].extend(values),
                **columns,
            )
            if inspect.isawaitable(given):
                given = self._step_reward_loop.run(_result(given))
        rewards = checked_rewards(self._step_reward_name, given, completions)
        self._warn_of_none(inputs, texts, rewards)
        for name, value in step_figures(completions).items():
            figures[name].append(value)
        extras["step_rewards"] = [[None if math.isnan(r) else round(r, 4) for r in row] for row in rewards]
        self._log_found(figures, extras, mode)
        return charge_idle_steps(rewards, completions, self.args.idle_step_penalty)

    def _warn_of_none(self, inputs: list[dict[str, Any]], completions: list[Any], rewards: list[list[float]]) -> None:
        """Warns as TRL does of a completion without any reward, where the steps' rewards are all there is."""
        if self.reward_funcs != [no_outcome_reward]:
            return  # TRL has looked at the outcome rewards
        for row, completion, of_steps in zip(inputs, completions, rewards, strict=True):
            if all(map(math.isnan, of_steps)):
                logger.warning(
                    "All reward functions returned None for the following kwargs:\n%s\nPlease ensure that the step "
                    "reward function returns a valid reward for at least one step.",
                    {**row, "completion": completion},
                )
                return

    @functools.cached_property
    def _step_reward_loop(self) -> LoopThread:
        """Where an `async` function runs: one loop for all batches, since its connections may belong to their loop."""
        return LoopThread("step-rewards")

    def _gather_rows(self, rows: list[list[Any]], fill: float) -> torch.Tensor:
        """The rows of all processes as one table, filled up at the right."""
        table = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
        table = self.accelerator.pad_across_processes(table.to(self.accelerator.device), dim=1, pad_index=fill)
        return self.accelerator.gather(table)

    def _log_found(self, figures: Mapping[str, list[float]], extras: Mapping[str, list[Any]], mode: str) -> None:
        """Logs what the processes found: the means of figures, and columns of the table of completions."""
        rows = len(extras["step_rewards"])
        found = gather_object([(dict(figures), dict(extras))])
        for name in sorted({name for theirs, _ in found for name in theirs}):
            self._metrics[mode][name].append(fmean(v for theirs, _ in found for v in theirs.get(name, ())))
        for name in sorted({name for _, theirs in found for name in theirs}):
            self._logs["extra"][name].extend(v for _, theirs in found for v in theirs.get(name, [None] * rows))

    def _log_rewards(self, rewards: torch.Tensor, mode: str) -> None:
        """Logs the smallest reward of each completion, and how far it is from the reward of its answer.

        Args:
            rewards: The step rewards of all processes, NaN where there is none.
            mode: The metrics to add to, `train` or `eval`.
        """
        smallest = rewards.nan_to_num(nan=torch.inf).amin(dim=1)
        smallest = smallest.masked_fill(smallest.isinf(), torch.nan)
        name, metrics = self._step_reward_name, self._metrics[mode]
        metrics[f"rewards/{name}/mean"].append(torch.nanmean(smallest).item())
        metrics[f"rewards/{name}/std"].append(nanstd(smallest).item())
        if self._answer_place is not None:
            for figure, value in reward_gap(smallest.tolist(), self._answers()).items():
                metrics[figure].append(value)
        self._logs["rewards"][name].extend(smallest.tolist())

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keeps the outcome rewards of all processes, shape (B, functions), NaN for None. TRL does not promise it."""
        self._outcome_rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        return self._outcome_rewards

    @functools.cached_property
    def _counts_outcomes(self) -> torch.Tensor:
        """Which of the outcome reward functions is more than a stand-in for none."""
        return torch.tensor([func is not no_outcome_reward for func in self.reward_funcs])

    def _outcomes(self) -> torch.Tensor:
        """The outcome reward of each completion of all processes, as TRL adds it up, shape (B,). NaN: all are None."""
        rewards = self._outcome_rewards[:, self._counts_outcomes]
        weights = self.reward_weights[self._counts_outcomes].to(rewards.device)
        return (rewards * weights).nansum(dim=1).masked_fill(rewards.isnan().all(dim=1), torch.nan)

    def _answers(self) -> list[float]:
        """The reward of each completion's answer, of all processes, NaN where there is none."""
        answers: list[float] = self._outcome_rewards[:, self._answer_place].tolist()
        return answers

    def _kept(self, rewards: torch.Tensor, completions: list[CompletionSteps]) -> torch.Tensor:
        """Which completions of all processes are trained on, from the step rewards of all and the steps of ours."""
        answers = self._answers()
        kept = consistent_completions(
            torch.nanmean(rewards, dim=1).tolist(),
            answers,
            gather_object([len(each.steps) for each in completions]),
            group_size=self.num_generations,
            keep=self.args.keep_consistent or self.num_generations,
        )
        self._metrics["train"]["kept/share"].append(fmean(kept))
        self._metrics["train"]["kept/right"].append(
            fmean(answer >= 0.5 for answer, is_kept in zip(answers, kept, strict=True) if is_kept)
        )
        self._logs["extra"]["kept"].extend(kept)
        return torch.tensor(kept, device=rewards.device)

    def _leave_out(self, output: dict[str, Any], left_out: torch.Tensor) -> None:
        """Takes completions out of the loss, as TRL does with truncated ones (`mask_truncated_completions`)."""
        for name in {"completion_mask", "tool_mask"} & output.keys():
            output[name] = output[name] * ~left_out.unsqueeze(1)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()

    def _log_advantages(self, output: dict[str, Any], mode: str) -> None:
        """Logs the mean over a completion's tokens, and how far they are spread around it."""
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        advantages = output["advantages"].view(len(mask), -1)  # one for each token, or for all of a completion
        tokens = mask.sum(dim=1).clamp(min=1)
        mean = (advantages * mask).sum(dim=1) / tokens
        within = ((advantages - mean.unsqueeze(1)) * mask).square().sum(dim=1) / tokens
        means, spread = self.accelerator.gather(mean), self.accelerator.gather(within).mean().sqrt()
        self._metrics[mode]["step_advantages/mean"].append(means.mean().item())
        self._metrics[mode]["step_advantages/std_within"].append(spread.item())
        self._logs["extra"]["mean_advantage"].extend(means.tolist())


def _check_columns(funcs: Sequence[Any], dataset: Any) -> None:
    """Raises `ConfigError` for a column that a reward function needs and the dataset lacks."""
    there = getattr(dataset, "column_names", None)  # None: a stream, which does not know
    if not isinstance(there, list) or is_transformed(dataset):
        return
    for func in funcs:
        func = getattr(func, "func", func)  # functools.partial
        for column in getattr(func, "columns", ()):
            if column not in there:
                raise ConfigError(
                    f"{get_callable_name(func)} needs a column '{column}' in the dataset, which has {', '.join(there)}"
                )


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
