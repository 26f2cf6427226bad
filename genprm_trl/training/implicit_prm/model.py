r"""Implicit process rewards (PRIME, Cui et al. 2025, arXiv 2502.01456): step rewards without labels of steps.

A language model \(\pi_\phi\) is read as an outcome reward model: the log-odds that a completion y is right are
\(r_\phi(y) = \beta \log \frac{\pi_\phi(y)}{\pi_{ref}(y)}\) (section 2.2). Trained on outcomes alone, its sum over the
tokens of a step is a reward for the step. It is trained while the policy is, on the policy's own completions, so that
the policy does not run away from it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import broadcast, reduce
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import is_async_callable

from genprm_trl.errors import ConfigError, check_at_least, check_one_of
from genprm_trl.generation.hf.logps import completion_logps
from genprm_trl.generation.loading import check_whole, load_model
from genprm_trl.training.implicit_prm.objective import outcome_loss

logger = get_logger(__name__)

Update = Literal["before", "after"]
DIRECTORY = "implicit_prm"
_OPTIMIZER = "optimizer.pt"


@dataclass(frozen=True, slots=True)
class _Completion:
    """A completion that can be scored, `index` its place in the batch and `token_steps` the step of each token."""

    index: int
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    token_steps: Sequence[int]
    label: float | None


class ImplicitPRM(TrainerCallback):
    r"""A step reward function for `StepGRPOTrainer` that learns from outcomes.

    The reward of a step is \(\beta \log(\pi_\phi / \pi_{ref})\) summed over its tokens. It is a log-ratio, positive or
    negative, and no probability: `min_form` credit needs `signed_step_rewards=False` with it (checked when training
    begins).

    At each batch of completions the model takes one step of AdamW on the cross-entropy of \(\sigma(\sum_t r_t)\)
    against the outcomes, the mean over the completions of all processes. In evaluations it scores and does not learn.
    Dropout is off. What happens to completions that are not as usual:

    - A truncated one is scored as far as it goes; its label is what the outcome reward says.
    - A blank one is one step of all its tokens, so that saying nothing is rewarded by the same rule.
    - One whose outcome is None is scored, not learned from.
    - One that is longer than the model's context is neither (its rewards are None).
    - Tokens that a tool wrote count nowhere.

    The trainer calls it as a callback, too: it saves model and optimizer into the directory `implicit_prm` of each
    checkpoint, and loads them when training is resumed. Logged are `implicit_prm/loss`, `implicit_prm/accuracy` (share
    of completions whose outcome it tells, before it learns from them), `implicit_prm/reward` (mean of
    \(\sum_t r_t\)) and `implicit_prm/grad_norm`.

    With several processes each holds the model whole, and gradients are summed over them.

    Args:
        model: \(\pi_\phi\), with the policy's tokenizer; usually what the policy starts from. A model, or where to
            load one from (in float32). A PEFT model trains its adapter.
        outcome_reward: A reward function of TRL's kind that is not `async`, for instance `rewards.answer_reward`: for
            each completion a label in [0, 1], or None.
        ref_model: \(\pi_{ref}\), likewise; never trained. None: of a PEFT model the model without its adapter, which
            takes no memory; otherwise a copy of `model` as it is now.
        beta: \(\beta\), 0.05 in the paper.
        update: Learn `before` scoring, as in the paper, so that rewards come from a model that knows these outcomes,
            which takes another forward pass; or `after`.
        learning_rate: 1e-6 in the paper.
        max_grad_norm: Bound on the norm of the gradient.
        batch_size: Completions in a forward pass, a bound on memory; gradients are the same for any.
        gradient_checkpointing: Compute activations again instead of keeping them.

    Raises:
        ConfigError: An option is out of range, or a model cannot be loaded; while training, if the outcome reward
            returns something else than labels, or the models do not share the policy's tokenizer.

    Example:
        ```python
        from datasets import Dataset

        from genprm_trl import StepGRPOConfig, StepGRPOTrainer
        from genprm_trl.rewards import answer_reward
        from genprm_trl.training import ImplicitPRM

        policy = "Qwen/Qwen2.5-1.5B-Instruct"
        trainer = StepGRPOTrainer(
            policy,
            reward_funcs=answer_reward,
            step_reward_func=ImplicitPRM(policy, answer_reward),
            args=StepGRPOConfig(
                "prime", credit="discounted", step_baseline="token", scale_step_rewards="batch"
            ),
            train_dataset=Dataset.from_list([{"prompt": "What is 2 + 3 * 4?", "answer": "14"}]),
        )
        trainer.train()
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel | Any | str | Path,
        outcome_reward: Callable[..., Sequence[float | None]],
        *,
        ref_model: PreTrainedModel | Any | str | Path | None = None,
        beta: float = 0.05,
        update: Update = "before",
        learning_rate: float = 1e-6,
        max_grad_norm: float = 10.0,
        batch_size: int = 8,
        gradient_checkpointing: bool = False,
    ):
        check_one_of(get_args(Update), update=update)
        check_at_least(1, batch_size=batch_size)
        for name, value in (("beta", beta), ("learning_rate", learning_rate), ("max_grad_norm", max_grad_norm)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, got {value}")
        if is_async_callable(outcome_reward):
            raise ConfigError("outcome_reward must not be async: all processes learn from outcomes in step")
        if ref_model is not None and ref_model is model:
            raise ConfigError("ref_model is the model that is trained; give another one, or None for a copy")
        # To the CPU at first: which device is this process's own is known when training begins.
        load = {"dtype": torch.float32, "device": "cpu"}
        self.model: Any = load_model(model, **load) if isinstance(model, str | Path) else model
        self.ref_model: Any = load_model(ref_model, **load) if isinstance(ref_model, str | Path) else ref_model
        for given in (self.model, self.ref_model):
            if given is not None:
                check_whole(given)
        if ref_model is None and not hasattr(self.model, "disable_adapter"):
            self.ref_model = copy.deepcopy(self.model)
        self.outcome_reward = outcome_reward
        self.beta, self.update = beta, update
        self.max_grad_norm, self.batch_size = max_grad_norm, batch_size
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self._trained:
            raise ConfigError("the model has no parameters that require a gradient, so that there is nothing to train")
        self.optimizer = torch.optim.AdamW(self._trained, lr=learning_rate, weight_decay=0.0)
        self.model.eval()
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            for module in self.model.modules():
                # Only layers in training mode compute again. What is inside them, dropout above all, stays as it is.
                module.training = bool(getattr(module, "gradient_checkpointing", False))
        if self.ref_model is not None:
            self.ref_model.eval().requires_grad_(False)
        self._is_placed = False
        self._was_loaded = False

    # As a step reward function ---------------------------------------------------------------------------------------

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        steps: list[list[str]],
        *,
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
        token_steps: list[list[int]],
        training: bool = True,
        **kwargs: Any,
    ) -> list[list[float | None]]:
        """The reward of each step; of a completion without steps, one for all of it. See `StepRewardFunc`.

        With several processes, all must call it together.

        Args:
            prompts: The prompts, which the outcome reward is given.
            completions: The completions, which the outcome reward is given.
            steps: The steps that each completion was split into.
            prompt_ids: Token ids as the policy saw them.
            completion_ids: Token ids that the policy wrote.
            token_steps: The step of each of them, -1 for none.
            training: Whether to learn from the outcomes.
            **kwargs: The dataset's columns, which the outcome reward is given, and `log_metric`.
        """
        self._place()
        log_metric = kwargs.pop("log_metric", None)
        kwargs.pop("log_extra", None)  # what the outcome reward logs is logged where the trainer calls it
        labels = self._labels(prompts, completions, completion_ids, kwargs)
        batch = [
            _Completion(index, prompt, ids, of_tokens if texts else [0] * len(ids), label)
            for index, (prompt, ids, of_tokens, texts, label) in enumerate(
                zip(prompt_ids, completion_ids, token_steps, steps, labels, strict=True)
            )
            if ids and self._fits(prompt, ids)
        ]
        with torch.no_grad():
            reference = self._logps(batch, reference=True)
            ratios = self._learn(batch, reference, log_metric) if training else None
            if ratios is None or self.update == "before":
                ratios = self._ratios(batch, reference)
        rewards: list[list[float | None]] = [[None] * max(len(texts), 1) for texts in steps]
        for completion, ratio in zip(batch, ratios, strict=True):
            row = rewards[completion.index]
            of_tokens = torch.tensor(completion.token_steps, device=ratio.device)
            by_step = torch.zeros(len(row) + 1, device=ratio.device).index_add(0, of_tokens + 1, self.beta * ratio)
            rewards[completion.index] = by_step[1:].tolist()
        return rewards

    def _labels(self, prompts: Any, completions: Any, completion_ids: Any, columns: dict[str, Any]) -> list[Any]:
        labels = list(
            self.outcome_reward(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        )
        if len(labels) != len(completions):
            raise ConfigError(f"outcome_reward returned {len(labels)} labels for {len(completions)} completions")
        labels = [None if label is None or math.isnan(label) else float(label) for label in labels]
        if wrong := [label for label in labels if label is not None and not 0 <= label <= 1]:
            raise ConfigError(
                f"outcome_reward returned {wrong[0]}; a label of the implicit process reward model is within [0, 1]"
            )
        return labels

    def _fits(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bool:
        vocabulary = self.model.get_input_embeddings().num_embeddings
        if max(*prompt_ids, *completion_ids) >= vocabulary:
            raise ConfigError(
                f"a token id of the policy is outside of the {vocabulary} embeddings of the implicit process reward "
                "model: they must share a tokenizer"
            )
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return context is None or len(prompt_ids) + len(completion_ids) <= context

    def _learn(
        self, batch: list[_Completion], reference: list[torch.Tensor], log_metric: Callable[..., None] | None
    ) -> list[torch.Tensor] | None:
        """Takes one step of the optimizer; returns the log-ratios before it, or None if there is no outcome at all."""
        device = self._trained[0].device
        labelled = [completion.label for completion in batch if completion.label is not None]
        count = int(reduce(torch.tensor(len(labelled), device=device), "sum").item())
        if not count:
            return None
        ratios: list[torch.Tensor] = []
        sums = torch.zeros(3, device=device)  # of losses, of outcomes told, of logits
        for places in self._micro_batches(batch):
            part = [batch[place] for place in places]
            with torch.enable_grad():
                of_part = self._ratios(part, [reference[place] for place in places])
                known = [place for place, completion in enumerate(part) if completion.label is not None]
                if known:
                    logits = torch.stack([self._logit(part[place], of_part[place]) for place in known])
                    targets = torch.tensor([part[place].label for place in known], device=device)
                    loss = outcome_loss(logits, targets)
                    (loss / count).backward()
                    told = (logits > 0) == (targets > 0.5)
                    sums += torch.stack([loss.detach(), told.sum().float(), logits.detach().sum()])
            ratios += [ratio.detach() for ratio in of_part]
        for parameter in self._trained:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(own, "sum")
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()
        else:
            logger.warning("the gradient of the implicit process reward model is %s; this step is left out", norm)
        self.optimizer.zero_grad(set_to_none=True)
        if log_metric is not None:
            loss_mean, accuracy, logit = (reduce(sums, "sum") / count).tolist()
            log_metric("implicit_prm/loss", loss_mean)
            log_metric("implicit_prm/accuracy", accuracy)
            log_metric("implicit_prm/reward", logit)
            log_metric("implicit_prm/grad_norm", norm.item())
        return ratios

    def _logit(self, completion: _Completion, ratio: torch.Tensor) -> torch.Tensor:
        """The log-odds of a right outcome: the sum of the rewards of all steps."""
        of_steps = torch.tensor(completion.token_steps, device=ratio.device) >= 0
        return self.beta * (ratio * of_steps).sum()

    # Log-probabilities -----------------------------------------------------------------------------------------------

    def _ratios(self, batch: list[_Completion], reference: list[torch.Tensor]) -> list[torch.Tensor]:
        """log(pi_phi / pi_ref) of each token of each completion."""
        return [ours - theirs for ours, theirs in zip(self._logps(batch), reference, strict=True)]

    def _logps(self, batch: list[_Completion], reference: bool = False) -> list[torch.Tensor]:
        without_adapter = reference and self.ref_model is None
        model = self.ref_model if reference and self.ref_model is not None else self.model
        logps: list[torch.Tensor] = []
        with self.model.disable_adapter() if without_adapter else contextlib.nullcontext(), self._precision(model):
            for places in self._micro_batches(batch):
                part = [batch[place] for place in places]
                logps += completion_logps(model, [c.prompt_ids for c in part], [c.completion_ids for c in part])
        return logps

    def _micro_batches(self, batch: list[_Completion]) -> list[range]:
        return [
            range(start, min(start + self.batch_size, len(batch))) for start in range(0, len(batch), self.batch_size)
        ]

    @staticmethod
    def _precision(model: Any) -> AbstractContextManager[Any]:
        """bfloat16 for matrix products where the accelerator has it; weights stay as they are."""
        device = next(model.parameters()).device
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def _place(self) -> None:
        """Moves the models to this process's device, and makes them the same in all processes."""
        if self._is_placed:
            return
        device = PartialState().device
        self.model.to(device)
        if self.ref_model is not None:
            self.ref_model.to(device)
        broadcast([parameter.data for parameter in self._trained])
        self._is_placed = True

    # As a callback: resuming -----------------------------------------------------------------------------------------

    def save(self, directory: str | Path, *, with_optimizer: bool = True) -> None:
        """Saves the model as `save_pretrained` does, and the optimizer beside it. A kill leaves all of it or nothing.

        Args:
            directory: The directory to save to. What is there is replaced.
            with_optimizer: Whether to save what resuming needs, too.
        """
        directory = Path(directory)
        unfinished = directory.with_name(directory.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        self.model.save_pretrained(unfinished)
        if with_optimizer:
            torch.save(self.optimizer.state_dict(), unfinished / _OPTIMIZER)
        shutil.rmtree(directory, ignore_errors=True)
        unfinished.rename(directory)

    def load(self, directory: str | Path) -> None:
        """Loads what `save` saved. The reference stays what it is.

        Raises:
            ConfigError: There is nothing of the kind, or it belongs to another model.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise ConfigError(f"there is no implicit process reward model in {directory}")
        try:
            if hasattr(self.model, "peft_config"):
                from peft import load_peft_weights, set_peft_model_state_dict

                weights = load_peft_weights(str(directory), device="cpu")
                set_peft_model_state_dict(self.model, weights, adapter_name=self.model.active_adapter)
            else:
                saved = load_model(directory, dtype=self.model.dtype, device="cpu")
                self.model.load_state_dict(saved.state_dict())
            if (directory / _OPTIMIZER).exists():
                state = torch.load(directory / _OPTIMIZER, map_location="cpu", weights_only=True)
                self.optimizer.load_state_dict(state)
        except ConfigError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the implicit process reward model in {directory} is not of this kind: {error}"
            ) from error
        self._was_loaded = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Loads the model that belongs to the checkpoint training is resumed from, unless `load` was called before."""
        if getattr(args, "step_rewards_are_signed", False):
            raise ConfigError(
                "implicit process rewards are log-ratios, not probabilities: set signed_step_rewards=False"
            )
        if state.global_step and not self._was_loaded:
            named = args.resume_from_checkpoint
            default = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            found = (Path(named) if isinstance(named, str) else default) / DIRECTORY
            if not found.is_dir():
                raise ConfigError(
                    f"training resumes from step {state.global_step}, but there is no implicit process reward model "
                    f"in {found.parent}; call its method load() with the directory before training"
                )
            self.load(found)
        self._was_loaded = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves into the checkpoint that has just been written."""
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            self.save(checkpoint / DIRECTORY, with_optimizer=not args.save_only_model)
