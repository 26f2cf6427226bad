"""Verifiers that read the scores of all steps off a model in one forward pass."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_args

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, DataError, GenPRMError, check_at_least, check_one_of, check_share
from genprm_trl.generation.hf.generator import is_out_of_memory
from genprm_trl.generation.hf.regimes import Regimes
from genprm_trl.generation.loading import check_device, check_whole, load_tokenizer
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.verifier.base import Verifier, check_steps, longest_first
from genprm_trl.verifier.step_tokens import StepTokens, pad_right, padding_token
from genprm_trl.verifier.tally import StopRule

logger = logging.getLogger(__name__)

# What the commands call the arguments of a generator, and what a scorer calls them.
_MODEL_OPTIONS = {"device": "device", "dtype": "dtype", "max_batch_size": "batch_size", "max_context": "max_length"}
# Solutions that vLLM is given together, which it works on as its memory allows.
_AT_ONCE = 64
_SURROGATE = re.compile("[\ud800-\udfff]")  # half characters, which no tokenizer takes


class StepScorer(Verifier):
    """A discriminative verifier: one forward pass gives each step the probability that it is correct.

    A subclass says how a solution is written as tokens (`encode`), and how scores are read off the model (`scores`).
    It also loads its model (`load_model`). Solutions share forward passes, those of like length together.

    Args:
        model: The model, whole in this process.
        tokenizer: Its tokenizer.
        batch_size: Solutions in one forward pass.
        max_length: Bound on the tokens of problem and steps; the model's context length if None.
        threshold: A step is predicted wrong if its reward is below this.
        stop: `never` judges every step. `first_error` cuts a verdict after the first step below the threshold.
        seed: Changes nothing, because nothing is sampled. All verifiers have it.

    Raises:
        ConfigError: An option has no such value, or the model is sharded.
    """

    # Whether vLLM can run such models: `scores` reads the logits of two labels, and nothing else of the model.
    pooled = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
        threshold: float = 0.5,
        stop: StopRule = "never",
        seed: int = 0,
    ):
        check_at_least(1, batch_size=batch_size, max_length=max_length)
        check_share(threshold=threshold)
        check_one_of(get_args(StopRule), stop=stop)
        check_whole(model)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = min((bound for bound in (max_length, context) if bound is not None), default=None)
        self.threshold = threshold
        self.stop: StopRule = stop
        self.seed = seed
        self._vocabulary: int = model.config.get_text_config().vocab_size
        self._regimes = Regimes(model, left_padded=False)
        # Fast tokenizers do not bear two threads, and a pass puts the model into another mode and back.
        self._in_use = threading.Lock()
        self._waiting = _Waiting()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Loads a verifier of this kind.

        Args:
            model: A directory, or a name on the Hub.
            tokenizer: The tokenizer, or where it is. Default: the model's.
            backend: `transformers`, or `vllm` for the kinds that vLLM serves as classifiers of tokens.
            generator_kwargs: `device`, `dtype`, `max_batch_size` (`batch_size`) and `max_context` (`max_length`). vLLM
                has no device, and takes the further fields of its `EngineArgs`.
            **options: Passed to the class.

        Raises:
            ConfigError: The model cannot be loaded as one of this kind, or an option is unknown or given twice.
            MissingExtraError: The backend is not installed.
        """
        backends = ["transformers", "vllm"] if cls.pooled else ["transformers"]
        if backend not in backends:
            raise ConfigError(
                f"{cls.__name__} judges in this process: give the backend {' or '.join(backends)}, not {backend}; "
                "`genprm serve` offers it to other machines"
            )
        given = dict(generator_kwargs or {})
        if backend == "transformers":
            for option in given:
                if option not in _MODEL_OPTIONS:
                    raise ConfigError(
                        f"{cls.__name__} has no backend option '{option}'; it has {', '.join(_MODEL_OPTIONS)}"
                    )
            check_device(given.get("device"))
        own: dict[str, Any] = {}
        for name in ("max_batch_size", "max_context"):
            if name not in given:
                continue
            if _MODEL_OPTIONS[name] in options:
                raise ConfigError(f"{cls.__name__} is given {_MODEL_OPTIONS[name]} twice, also as {name}")
            own[_MODEL_OPTIONS[name]] = given[name]
        if tokenizer is None or isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(model if tokenizer is None else tokenizer)
        if backend == "transformers":
            loaded = cls.load_model(str(model), device=given.get("device"), dtype=given.get("dtype", "auto"))
            return cls(loaded, tokenizer, **own, **options)
        from genprm_trl.verifier.kinds.pooling import PooledClassifier

        engine: Any = PooledClassifier(str(model), **given)
        own = {"batch_size": _AT_ONCE, **own, **options}
        if own.get("max_length") is None:
            own["max_length"] = engine.max_context
        try:
            return cls(engine, tokenizer, **own)
        except BaseException:
            engine.close()
            raise

    @classmethod
    @abstractmethod
    def load_model(cls, path: str, *, device: Any = None, dtype: Any = "auto") -> PreTrainedModel:
        """Loads the model with its head, in eval mode.

        Args:
            path: A directory, or a name on the Hub.
            device: Where it goes. None is the first accelerator, else the CPU.
            dtype: Precision; `auto` is the checkpoint's own.

        Raises:
            ConfigError: It is no model of this kind, or is incomplete.
        """

    @abstractmethod
    def encode(self, problem: str, steps: Sequence[str]) -> StepTokens:
        """A solution as token ids, with the place at which each step's score stands.

        Tokens behind the last place that fits are left out before the model sees them.

        Args:
            problem: The problem, without lone surrogates.
            steps: The steps, at least one, likewise.
        """

    def scores(self, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """P(correct) at some places of a batch, in [0, 1]. By default P(label 1) of the model's two.

        Args:
            inputs: What the model is called with: `input_ids` and `attention_mask` of shape (batch, length), padded
                on the right, and `use_cache=False` where the architecture has a cache.
            rows: Row of each place, shape (places,).
            columns: Token of each place, shape (places,).

        Returns:
            Probabilities of shape (places,).
        """
        logits: torch.Tensor = self.model(**inputs).logits[rows, columns]
        return logits.float().softmax(-1)[:, 1]

    @property
    def concurrency(self) -> int:
        """Solutions in some forward passes, so that those of like length can share one."""
        return 4 * self.batch_size

    def with_options(self, **changes: Any) -> StepScorer:
        """A verifier on the same model with another `threshold`, `stop` or `seed`.

        Raises:
            ConfigError: There is no such option, it has no such value, or it cannot be changed.
        """
        own: dict[str, Any] = {}
        for name in ("threshold", "stop", "seed"):
            if name in changes:
                own[name] = changes.pop(name)
        super().with_options(**changes)
        check_share(threshold=own.get("threshold", self.threshold))
        check_one_of(get_args(StopRule), stop=own.get("stop", self.stop))
        changed = copy(self)
        vars(changed).update(own)
        return changed

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution. Calls that wait at the same time share forward passes.

        Raises:
            ConfigError: The solution has no steps, or the tokenizer is another model's.
            GenPRMError: The verifier is closed.
        """
        check_steps(solution)
        future = self._waiting.add(solution, self._judge_waiting)
        return self._verdict(solution, await asyncio.wrap_future(future))

    async def verify_further(
        self, solution: Solution, verdict: Verdict | None = None, *, affinity: str | None = None
    ) -> Verdict:
        """Judges the whole solution, whatever `stop` says.

        Raises:
            ConfigError: The solution has no steps.
            GenPRMError: The verifier is closed.
        """
        return await self.with_options(stop="never").verify(solution)

    async def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions, and yields the verdicts of some forward passes as they are ready.

        Raises:
            ConfigError: A solution has no steps.
            GenPRMError: The verifier is closed.
        """
        if isinstance(solutions, Sequence):
            solutions = longest_first(solutions)
        remaining = iter(solutions)
        while part := list(itertools.islice(remaining, self.concurrency)):
            for solution in part:
                check_steps(solution)
            self._waiting.check_open()
            for verdict in await asyncio.to_thread(self._score, part):
                yield verdict

    def score(self, solutions: Sequence[Solution]) -> list[Verdict]:
        """Judges every step of every solution.

        Args:
            solutions: The solutions; labels are carried over and not looked at.

        Returns:
            A verdict for each solution, in their order, with one chain. A step that does not fit `max_length` gets the
            reward 0.5 and the status `truncated`; one for which the model computes no probability gets 0.5 and
            `error`, and so do the steps of a solution that alone does not fit the memory.

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

    def _judge_waiting(self) -> None:
        """Judges what waits now, in the thread of the verifier."""
        waiting = self._waiting.take(self.concurrency)
        if not waiting:
            return
        try:
            with self._in_use:
                rewards = self._rewards_by_index([solution for solution, _ in waiting], True)
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for i, (_, future) in enumerate(waiting):
            future.set_result(rewards.get(i, []))

    def _rewards_by_index(self, solutions: Sequence[Solution], no_bar: bool | None) -> dict[int, list[float]]:
        fitting = {i: self._fitting(solution) for i, solution in enumerate(solutions)}
        # Scores that belong to no step for sure are none.
        rewards = {i: [math.nan] * len(solutions[i].steps) for i, found in fitting.items() if found is None}
        tokens = {i: found for i, found in fitting.items() if found is not None and found.step_ends}
        # Equal lengths together, the longest first: little padding, and what exceeds the memory does so at once.
        order = sorted(tokens, key=lambda i: -len(tokens[i].input_ids))
        was_training = self.model.training
        self.model.eval()
        try:
            with tqdm(total=len(order), desc="Scoring", unit="solution", disable=no_bar) as bar:
                for start in range(0, len(order), self.batch_size):
                    batch = order[start : start + self.batch_size]
                    for places in self._regimes.groups([len(tokens[i].input_ids) for i in batch]):
                        part = [batch[place] for place in places]
                        rewards.update(self._rewards({i: tokens[i] for i in part}, solutions))
                    bar.update(len(batch))
        finally:
            self.model.train(was_training)
        return rewards

    def _fitting(self, solution: Solution) -> StepTokens | None:
        """The solution's tokens up to the last step that fits whole; None if a step has no place of its own."""
        problem, *steps = (_SURROGATE.sub("\ufffd", text) for text in (solution.problem, *solution.steps))
        tokens = self.encode(problem, steps)
        highest = max(tokens.input_ids, default=0)
        if highest >= self._vocabulary:
            raise ConfigError(
                f"the tokenizer gives the token {highest}, and the model knows {self._vocabulary} tokens: give the "
                "model's own tokenizer"
            )
        if len(tokens.step_ends) != len(steps):
            return None
        limit = len(tokens.input_ids) if self.max_length is None else self.max_length
        step_ends = [end for end in tokens.step_ends if end < limit]
        kept = tokens.input_ids[: step_ends[-1] + 1] if step_ends else []
        return replace(tokens, input_ids=kept, step_ends=step_ends)

    def _rewards(self, batch: dict[int, StepTokens], solutions: Sequence[Solution]) -> dict[int, list[float]]:
        """P(correct) of each step of some of the solutions, by index; NaN in one that does not fit the memory."""
        found = None
        try:
            found = self._forward([*batch.values()])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise GenPRMError(f"the model failed on {len(batch)} solutions: {error}") from error
        # Not in the handler, whose error holds the tensors that must go.
        if found is None and len(batch) > 1:
            some = dict(itertools.islice(batch.items(), len(batch) // 2))
            others = {i: tokens for i, tokens in batch.items() if i not in some}
            return self._rewards(some, solutions) | self._rewards(others, solutions)
        if found is None:
            [(i, tokens)] = batch.items()
            # The others wait for the same pass. They are not to fail with it.
            logger.warning(
                "solution '%s' of %d tokens does not fit the memory; its steps have the status error",
                solutions[i].id,
                len(tokens.input_ids),
            )
            return {i: [math.nan] * len(tokens.step_ends)}
        remaining = iter(found.tolist())
        return {i: list(itertools.islice(remaining, len(tokens.step_ends))) for i, tokens in batch.items()}

    @torch.inference_mode()
    def _forward(self, batch: list[StepTokens]) -> torch.Tensor:
        self._regimes.forget()
        device = self.model.device
        padding = padding_token(self.tokenizer)
        if padding >= self._vocabulary:  # added to the tokenizer alone
            padding = 0
        padded = pad_right([tokens.input_ids for tokens in batch], padding)
        inputs: dict[str, Any] = {name: tensor.to(device) for name, tensor in padded.items()}
        if hasattr(self.model.config.get_text_config(), "use_cache"):
            inputs["use_cache"] = False  # nothing is generated, and keys and values take more memory than the model
        rows = torch.tensor([row for row, tokens in enumerate(batch) for _ in tokens.step_ends], device=device)
        columns = torch.tensor([end for tokens in batch for end in tokens.step_ends], device=device)
        return self.scores(inputs, rows, columns).cpu()

    def _verdict(self, solution: Solution, rewards: list[float]) -> Verdict:
        chain = [
            StepJudgement("", reward, "ok") if 0 <= reward <= 1 else StepJudgement("", 0.5, "error")
            for reward in rewards
        ]
        chain += [StepJudgement("", 0.5, "truncated")] * (len(solution.steps) - len(chain))
        prediction = prediction_from_rewards([judgement.reward for judgement in chain], self.threshold)
        if self.stop == "first_error" and prediction >= 0:
            chain = chain[: prediction + 1]
        return Verdict(
            solution.id,
            [judgement.reward for judgement in chain],
            prediction,
            [chain],
            label=solution.label,
            threshold=self.threshold,
            solution_digest=solution.digest,
        )

    async def close(self) -> None:
        """Ends what waits, and refuses what comes after. An engine ends."""
        await asyncio.to_thread(self._waiting.close)
        if (end := getattr(self.model, "close", None)) is not None:
            await asyncio.to_thread(end)


class _Waiting:
    """Solutions that wait for a forward pass, and the thread that makes it. Verifiers on one model share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[Solution, Future[list[float]]]] = []
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="step-scorer")

    def check_open(self) -> None:
        if self._thread is None:
            raise GenPRMError("the verifier is closed")

    def add(self, solution: Solution, judge: Any) -> Future[list[float]]:
        with self._lock:
            self.check_open()
            assert self._thread is not None
            future: Future[list[float]] = Future()
            self._entries.append((solution, future))
            self._thread.submit(judge)
        return future

    def take(self, count: int) -> list[tuple[Solution, Future[list[float]]]]:
        """The entries that came first, without those that nobody waits for any more."""
        with self._lock:
            taken, self._entries = self._entries[:count], self._entries[count:]
        return [(solution, future) for solution, future in taken if future.set_running_or_notify_cancel()]

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            entries, self._entries = self._entries, []
        for _, future in entries:
            if future.set_running_or_notify_cancel():
                future.set_exception(GenPRMError("the verifier is closed"))
        if thread is not None:
            thread.shutdown()
