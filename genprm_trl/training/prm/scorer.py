"""Scoring solutions with a trained discriminative process reward model."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, DataError, check_at_least
from genprm_trl.generation.hf.regimes import Regimes
from genprm_trl.generation.loading import check_whole
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.training.prm.data import StepCollator
from genprm_trl.training.prm.loading import load_step_tokenizer, load_trained_classifier
from genprm_trl.training.prm.tokens import DEFAULT_STEP_SEPARATOR, StepTokens, tokenize_steps
from genprm_trl.verifier.base import Verifier, check_steps, longest_first


class PRMScorer(Verifier):
    """Gives each step of a solution the probability that it is correct, read off at the step's end.

    The steps reach the model exactly as `PRMTrainer` showed them, through `tokenize_steps`. It is a `Verifier`, so it
    serves wherever a `GenPRM` does: in rewards, in the service, in search.

    Example:
        ```python
        scorer = PRMScorer("outputs/math-prm")
        verdicts = scorer.score(solutions)
        ```

    Args:
        model_or_path: A token classification model with two labels (1 is correct), or the directory or name of a saved
            one, also of a PEFT adapter. See `prm.loading.load_trained_classifier`.
        tokenizer: The model's tokenizer; loaded from the path if None.
        step_separator: What follows each step. None is the one that `PRMTrainer` saved with the model, or a newline.
        batch_size: Solutions in one forward pass.
        max_length: Bound on the tokens of problem and steps; the model's context length if None.
        threshold: Rewards below it mark a step as wrong.

    Raises:
        ConfigError: Model or tokenizer cannot be loaded, or the model is no classifier of two labels, or is sharded.
    """

    def __init__(
        self,
        model_or_path: str | os.PathLike[str] | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        step_separator: str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        threshold: float = 0.5,
    ):
        check_at_least(1, batch_size=batch_size)
        if isinstance(model_or_path, str | os.PathLike):
            path = os.fspath(model_or_path)
            self.model = load_trained_classifier(path)
        else:
            self.model, path = model_or_path, model_or_path.config.name_or_path
            check_whole(self.model)
        config = self.model.config
        if config.num_labels != 2:
            raise ConfigError(f"The model has {config.num_labels} labels; a step is correct or not (num_labels=2)")
        self.tokenizer = tokenizer if tokenizer is not None else load_step_tokenizer(path)
        if step_separator is None:
            step_separator = getattr(config, "step_separator", DEFAULT_STEP_SEPARATOR)
        self.step_separator = step_separator
        self.batch_size = batch_size
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.max_length = min((bound for bound in (max_length, context) if bound is not None), default=None)
        self.threshold = threshold
        self._regimes = Regimes(self.model, left_padded=False)
        # Fast tokenizers do not bear two threads, and a pass puts the model into another mode and back.
        self._in_use = threading.Lock()

    @property
    def concurrency(self) -> int:
        """Solutions in one forward pass."""
        return self.batch_size

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution. `verify_stream`, `verify_all` and `score` judge several in one forward pass.

        Raises:
            ConfigError: The solution has no steps.
        """
        check_steps(solution)
        [verdict] = await asyncio.to_thread(self._score, [solution])
        return verdict

    async def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions, `batch_size` at a time, and yields the verdicts of each batch as it is ready.

        Raises:
            ConfigError: A solution has no steps.
        """
        if isinstance(solutions, Sequence):
            solutions = longest_first(solutions)
        remaining = iter(solutions)
        while batch := list(itertools.islice(remaining, self.batch_size)):
            for solution in batch:
                check_steps(solution)
            for verdict in await asyncio.to_thread(self._score, batch):
                yield verdict

    def score(self, solutions: Sequence[Solution]) -> list[Verdict]:
        """Judges every step of every solution.

        Args:
            solutions: The solutions; labels are carried over and not looked at.

        Returns:
            A verdict for each solution, in their order, with one chain. A step that does not fit `max_length` gets the
            reward 0.5 and the status `truncated`; one for which the model computes no finite number gets 0.5 and
            `error`.

        Raises:
            DataError: A solution has no steps.
        """
        for row, solution in enumerate(solutions, start=1):
            if not solution.steps:
                raise DataError(f"is empty in solution '{solution.id}'", row=row, field="steps")
        # disable=None: a bar on a terminal, none in a log.
        return self._score(solutions, no_bar=None)

    def _score(self, solutions: Sequence[Solution], *, no_bar: bool | None = True) -> list[Verdict]:
        with self._in_use:
            rewards = self._rewards_by_index(solutions, no_bar)
        return [self._verdict(solution, rewards.get(i, [])) for i, solution in enumerate(solutions)]

    def _rewards_by_index(self, solutions: Sequence[Solution], no_bar: bool | None) -> dict[int, list[float]]:
        tokens = [
            tokenize_steps(self.tokenizer, s.problem, s.steps, self.step_separator, max_length=self.max_length)
            for s in solutions
        ]
        # Equal lengths together, the longest first: little padding, and what exceeds the memory does so at once.
        order = sorted((i for i, t in enumerate(tokens) if t.step_ends), key=lambda i: -len(tokens[i].input_ids))
        rewards: dict[int, list[float]] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            with tqdm(total=len(order), desc="Scoring", unit="solution", disable=no_bar) as bar:
                for start in range(0, len(order), self.batch_size):
                    batch = order[start : start + self.batch_size]
                    for places in self._regimes.groups([len(tokens[i].input_ids) for i in batch]):
                        part = [batch[place] for place in places]
                        rewards.update(zip(part, self._rewards([tokens[i] for i in part]), strict=True))
                    bar.update(len(batch))
        finally:
            self.model.train(was_training)
        return rewards

    @torch.inference_mode()
    def _rewards(self, batch: list[StepTokens]) -> list[list[float]]:
        """P(correct) at each step's end of each sequence."""
        self._regimes.forget()
        collate = StepCollator.for_tokenizer(self.tokenizer)
        inputs = collate([{"input_ids": tokens.input_ids} for tokens in batch])
        logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in inputs.items()}).logits
        correct = logits.float().softmax(-1)[..., 1].cpu()
        return [row[tokens.step_ends].tolist() for row, tokens in zip(correct, batch, strict=True)]

    def _verdict(self, solution: Solution, rewards: list[float]) -> Verdict:
        chain = [
            StepJudgement("", reward, "ok") if 0 <= reward <= 1 else StepJudgement("", 0.5, "error")
            for reward in rewards
        ]
        chain += [StepJudgement("", 0.5, "truncated")] * (len(solution.steps) - len(chain))
        rewards = [judgement.reward for judgement in chain]
        prediction = prediction_from_rewards(rewards, self.threshold)
        return Verdict(
            solution.id,
            rewards,
            prediction,
            [chain],
            label=solution.label,
            threshold=self.threshold,
            solution_digest=solution.digest,
        )
