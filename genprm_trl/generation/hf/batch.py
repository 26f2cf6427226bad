"""One batch in `model.generate`: which rows are done after each step, and what each has generated."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from genprm_trl.generation.assembly import Assembler
from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.hf.prefix_cache import PrefixCache
from genprm_trl.generation.hf.sampling import BatchSampler
from genprm_trl.generation.hf.whole import generate_whole
from genprm_trl.generation.stopping import GeneratedText

_BROKEN = "the model's logits are not finite (an overflow of its 16-bit numbers?)"

# Steps between two looks at whether the logits of unfinished rows are still numbers; a look waits for the device.
_CHECK_EVERY = 64


@dataclass(slots=True, eq=False)
class Request:
    """A request from its arrival to its result; it may pass through several batches.

    Attributes:
        prompt: Token ids of the prompt.
        params: How to sample.
        limit: Tokens it may generate: `max_new_tokens` or what the context leaves.
        generated: What it has generated so far.
        uniforms: The request's random numbers, shape `(limit,)`.
        future: Receives the result.
        recorded: One pair of token ids and log-probabilities per batch passed through, `(steps, columns)` each.
        failed: Whether it has ended with reason `error`.
    """

    prompt: list[int]
    params: SamplingParams
    limit: int
    generated: GeneratedText
    uniforms: torch.Tensor
    future: Future[GenerationResult] = field(default_factory=Future)
    recorded: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = field(default_factory=list)
    failed: bool = False

    def tokens(self) -> list[int]:
        """Prompt and output so far."""
        return self.prompt + self.generated.ids

    @property
    def length(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt) + len(self.generated.ids)

    def gone(self) -> bool:
        """Whether it was cancelled or has failed."""
        return self.failed or self.future.cancelled()

    def resolve(self, result: GenerationResult) -> None:
        """Hands over the result, unless the caller has gone or has one."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, message: str) -> None:
        """Ends the request with reason `error`. What it has generated so far is worth nothing to the caller."""
        self.failed = True
        self.resolve(
            GenerationResult("", [], finish_reason="error", num_generated=len(self.generated.ids), message=message)
        )

    def finish(self, reason: FinishReason, *, ended: bool = False) -> None:
        """Makes the result of what has been generated.

        Args:
            reason: Why it ended; a stop string that is found in the text overrides it.
            ended: Whether the model wrote an end-of-text token, which is counted but left out of the result.
        """
        self.resolve(Assembler.assemble(self.generated, self._top_logprobs, self.params, reason, ended=ended))

    def _top_logprobs(self, count: int) -> list[dict[int, float]]:
        # A token that cannot be may be named, but is none of the most likely ones.
        named = bool(self.params.logprob_token_ids)
        maps: list[dict[int, float]] = []
        for ids, values in self.recorded:
            # The last column is the chosen token's, so a dict keeps it in its place if it is among the others.
            for row_ids, row_values in zip(ids.tolist(), values.tolist(), strict=True):
                maps.append({i: v for i, v in zip(row_ids, row_values, strict=True) if named or v > -np.inf})
        return maps[:count]


class BatchDecoder(StoppingCriteria):
    """Runs one batch of requests and resolves each as soon as it is done.

    As a stopping criterion it sees the tokens of every step, and `generate` ends when it says that all rows are done.

    Args:
        requests: The rows.
        eos_token_ids: End-of-text tokens.
        device: The device of the model's inputs.
        interrupt: Asked after each step with the number of unfinished rows; true ends the batch with those unfinished.
        prefixes: Keys and values of earlier batches, or None to compute everything again.
        last_column: The most columns that the rows may share; the batch ends before the next one.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        eos_token_ids: frozenset[int],
        device: torch.device,
        interrupt: Callable[[int], bool],
        prefixes: PrefixCache | None = None,
        last_column: float = math.inf,
    ):
        self._requests = list(requests)
        self._eos = eos_token_ids
        self._device = device
        self._interrupt = interrupt
        self._prefixes = prefixes
        self._last_column = last_column
        self._active = dict(enumerate(self._requests))
        self._done = torch.zeros(len(self._requests), dtype=torch.bool)
        self._steps = 0
        self._sampler = BatchSampler(
            [r.params for r in self._requests],
            [r.uniforms[len(r.generated.ids) :] for r in self._requests],
            device,
        )

    def run(self, model: PreTrainedModel) -> None:
        """Generates until all rows are done or the batch is interrupted; raises what the model raises."""
        sequences = [r.tokens() for r in self._requests]
        width = max(map(len, sequences))
        input_ids = torch.zeros(len(sequences), width, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for i, sequence in enumerate(sequences):
            input_ids[i, width - len(sequence) :] = torch.tensor(sequence)
            attention_mask[i, width - len(sequence) :] = 1
        cache = self._prefixes.start(sequences) if self._prefixes is not None else None
        generate_whole(
            model,
            input_ids,
            attention_mask,
            max_new_tokens=max(r.limit - len(r.generated.ids) for r in self._requests),
            cache=cache,
            logits_processor=LogitsProcessorList([self._sampler]),
            stopping_criteria=StoppingCriteriaList([self]),
        )
        if self._prefixes is not None and cache is not None:
            for i, (request, sequence) in enumerate(zip(self._requests, sequences, strict=True)):
                if not request.gone():
                    self._prefixes.keep(request.tokens(), cache, row=i, start=width - len(sequence))

    def unfinished(self) -> list[Request]:
        """The requests that have no result after `run`, ready to go on in another batch. Call it once."""
        for row, request in self._active.items():
            self._store_logprobs(row, request)
        return list(self._active.values())

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Takes the newest token of each row, and resolves the requests that it completes.

        Returns:
            For each row whether it stops. All rows stop when the batch is interrupted.
        """
        if self._active:
            tokens = input_ids[:, -1].tolist()
            self._steps += 1
            finished = [row for row, request in self._active.items() if self._advance(row, request, tokens[row])]
            if self._steps % _CHECK_EVERY == 1:
                for row in self._sampler.broken_rows() & self._active.keys() - set(finished):
                    self._active[row].fail(_BROKEN)
                    finished.append(row)
            for row in finished:
                del self._active[row]
            self._done[finished] = True
            if self._active and (input_ids.shape[1] > self._last_column or self._interrupt(len(self._active))):
                self._done[:] = True
        return self._done.to(self._device)

    def _advance(self, row: int, request: Request, token: int) -> bool:
        """Adds a token to a row; true if the row is done."""
        if request.future.cancelled():
            return True
        generated = request.generated
        if token in self._eos:
            self._finish(row, request, "stop", ended=True)
            return True
        generated.ids.append(token)
        if generated.stop.may_end_with(token) and generated.find_stop() >= 0:
            self._finish(row, request, "stop")
            return True
        if len(generated.ids) >= request.limit:
            self._finish(row, request, "length" if request.limit == request.params.max_new_tokens else "context")
            return True
        return False

    def _finish(self, row: int, request: Request, reason: FinishReason, ended: bool = False) -> None:
        if row in self._sampler.broken_rows():
            request.fail(_BROKEN)
            return
        self._store_logprobs(row, request)
        request.finish(reason, ended=ended)

    def _store_logprobs(self, row: int, request: Request) -> None:
        if (recorded := self._sampler.recorded(row, self._steps)) is not None:
            request.recorded.append(recorded)
