"""A generator that runs a transformers model in this process and batches whatever requests are in flight.

Batches run in `model.generate`, through its own extension points: a logits processor that samples, a stopping
criterion that ends rows, a cache to start from. The continuous batching of transformers (5.24) knows no stop strings
and no seed of a request, and reports the log-probability of the sampled token only: too little to score a verdict.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, GenPRMError, check_at_least
from genprm_trl.generation.assembly import Assembler, refuse
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.generation.hf.batch import BatchDecoder, Request
from genprm_trl.generation.hf.prefix_cache import PrefixCache
from genprm_trl.generation.hf.regimes import Regimes
from genprm_trl.generation.hf.sampling import draw_uniforms
from genprm_trl.generation.loading import check_whole, context_length, load_model, load_tokenizer
from genprm_trl.generation.tokens import Detokenizer

logger = logging.getLogger(__name__)

# Requests that are made together (a gather over many chains) arrive within microseconds of each other: an idle worker
# waits until none has come for this long before it starts a batch.
_SETTLE_SECONDS = 0.002

# New rows for each unfinished one that are worth copying the keys and values of the latter.
_NEW_ROWS_SHARE = 0.5


class TransformersGenerator(Generator):
    r"""Generates with `model.generate`, whatever is in flight as one left-padded batch.

    Requests may come from any number of tasks, event loops and threads, each with its own sampling parameters, stop
    strings and seed. A worker thread takes them in the order of their arrival. A request is answered as soon as it is
    done, while the rest of its batch continues. When enough new requests could join the unfinished ones, a new batch
    is formed of both, so that long requests do not hold up short ones. Keys and values are kept between batches where
    the model's cache allows it (see `PrefixCache`). The next request of a conversation, and further samples of a
    prompt, then compute only their new tokens.

    In float32 a request's result does not depend on the rest of its batch. In 16 bits, kernels round differently for
    different batch shapes, and so a close decision between two tokens may differ. A few models give a row other text
    beside a longer one: their rows are kept apart, or run one by one, and a log line says so (see `Regimes`).

    The model's own generation defaults, such as a repetition penalty, are not used; `SamplingParams` decide.

    Args:
        model_or_path: A causal language model, a directory, or a model id of the Hugging Face Hub. A given model stays
            the caller's. It may be trained between batches and is in eval mode during them; nothing of it is kept from
            one to the next.
        tokenizer: The tokenizer, or where to load it from; by default from `model_or_path`.
        max_batch_size: Rows of a batch. More are faster until memory is full; if it runs out, batches get smaller.
        device: Device for a model that is loaded here. Default: the first accelerator, else the CPU.
        dtype: Precision of a model that is loaded here; "auto" is the checkpoint's own.
        max_context: Bound on prompt and output together; by default the model's context length.
        model_kwargs: Passed on to `from_pretrained`.

    Raises:
        ConfigError: Model or tokenizer are missing or cannot be used, or the model is sharded over processes.

    Example:
        ```python
        async with TransformersGenerator("Qwen/Qwen2.5-0.5B-Instruct") as generator:
            ids = generator.tokenizer.encode("Two and two is")
            result = await generator.generate(ids, SamplingParams(max_new_tokens=20, stop=("\n",)))
        ```
    """

    def __init__(
        self,
        model_or_path: PreTrainedModel | str | Path,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        *,
        max_batch_size: int = 64,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        max_context: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ):
        check_at_least(1, max_batch_size=max_batch_size, max_context=max_context)
        if isinstance(model_or_path, str | Path):
            # The tokenizer first: it is quick, and a directory without one should not cost the loading of a model.
            source = model_or_path if tokenizer is None else tokenizer
            self.tokenizer = load_tokenizer(source) if isinstance(source, str | Path) else source
            model = load_model(model_or_path, dtype=dtype, device=device, model_kwargs=model_kwargs)
        else:
            if tokenizer is None:
                raise ConfigError("a model that is already loaded needs its tokenizer: give tokenizer=...")
            if device is not None or dtype != "auto" or model_kwargs:
                raise ConfigError("device, dtype and model_kwargs are for loading a model; this one is loaded already")
            self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
            model = model_or_path
            check_whole(model)
        if model.config.is_encoder_decoder:
            raise ConfigError("the model is an encoder-decoder; a causal (decoder-only) language model is needed")

        self.model = model
        self.max_batch_size = self.max_concurrent = max_batch_size
        self.max_context = max_context or context_length(model, self.tokenizer)
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._eos_token_ids = _end_of_text(model, self.tokenizer)
        # Callers encode with the tokenizer while the worker decodes; fast tokenizers may not be shared like that.
        self._assembler = Assembler(Detokenizer(copy.deepcopy(self.tokenizer)))

        self._runner = _without_defaults(model)
        self._prefixes: PrefixCache | None = None
        # Nothing is remembered of a model that is handed over: it may be trained between batches.
        if isinstance(model_or_path, str | Path) and PrefixCache.supports(model):
            self._prefixes = PrefixCache(self._runner, _memory_for_prefixes(model.device))

        self._regimes = Regimes(self._runner, left_padded=True)
        if self._regimes:
            logger.warning("%s", self._regimes.message())

        self._regime: int | None = 0  # of the running batch

        self._row_limit = max_batch_size
        self._pending: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Continues `token_ids`; see `Generator.generate`. Cancelling the awaiting task drops the request."""
        if self._closed:
            raise GenPRMError("the generator is closed; make a new one")
        if refusal := self._refuse(token_ids, params):
            return refusal
        limit = min(params.max_new_tokens, self.max_context - len(token_ids))
        request = Request(
            prompt=list(token_ids),
            params=params,
            limit=limit,
            generated=self._assembler.begin(params.stop),
            uniforms=draw_uniforms(params, limit),
        )
        with self._changed:
            if self._closed:
                raise GenPRMError("the generator is closed; make a new one")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="transformers-generator", daemon=True)
                self._worker.start()
                # A thread that is still in torch when the interpreter goes would abort the process.
                atexit.register(self._shut_down)
            self._pending.append(request)
            self._changed.notify()
        return await asyncio.wrap_future(request.future)

    async def close(self) -> None:
        """Ends the worker. Requests still in flight end with reason `error`. May be called again."""
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()
        atexit.unregister(self._shut_down)

    def _refuse(self, token_ids: list[int], params: SamplingParams) -> GenerationResult | None:
        """The result of a request that the model need not, or must not, see."""
        # An id past the embeddings would end a CUDA process for good, and take the rest of the batch with it.
        for what, ids in (("the prompt has", token_ids), ("logprob_token_ids has", params.logprob_token_ids)):
            if ids and not 0 <= min(ids) <= max(ids) < self._vocabulary:
                message = f"{what} token ids outside the model's {self._vocabulary} embeddings"
                return GenerationResult("", [], finish_reason="error", message=message)
        return refuse(token_ids, params, self.max_context)

    # The rest runs in the worker thread.

    def _work(self) -> None:
        while requests := self._next_batch():
            unfinished = self._run(requests)
            with self._changed:
                # They came before whatever is waiting.
                self._pending.extendleft(reversed(unfinished))
        with self._changed:
            for request in self._pending:
                request.fail("the generator was closed")
            self._pending.clear()

    def _next_batch(self) -> list[Request]:
        """Waits for requests and takes the oldest; an empty list when the generator is closed."""
        with self._changed:
            while True:
                while not self._pending and not self._closed:
                    self._changed.wait()
                arrived = 0
                while arrived < len(self._pending) < self._row_limit and not self._closed:
                    arrived = len(self._pending)
                    self._changed.wait(_SETTLE_SECONDS)
                if self._closed:
                    return []
                if batch := self._take():
                    return batch

    def _take(self) -> list[Request]:
        """Takes the oldest requests that are waiting, all of the regime of the first one."""
        batch: list[Request] = []
        others: list[Request] = []
        while self._pending and len(batch) < self._row_limit and not (batch and self._regime is None):
            request = self._pending.popleft()
            if request.future.cancelled():
                continue
            if not batch:
                self._regime = self._regimes.of(request.length)
            if self._regimes.of(request.length) == self._regime:
                batch.append(request)
            else:
                others.append(request)
        self._pending.extendleft(reversed(others))
        return batch

    def _interrupt(self, unfinished: int) -> bool:
        """Whether to end the running batch and form a new one with what is unfinished and what is waiting.

        Unfinished rows are then computed again, unless their keys and values are kept. With at least one new row for
        each unfinished one, this at most doubles the work on prompts, however requests arrive. Kept rows only have to
        be copied, so a smaller share of new rows is enough.
        """
        if self._regimes and self._others_wait():
            return self._closed  # their turn comes when this batch is done, and would not come if it took in others
        share = 1.0 if self._prefixes is None else _NEW_ROWS_SHARE
        return self._closed or min(len(self._pending), self._row_limit - unfinished) >= share * unfinished

    def _others_wait(self) -> bool:
        """Whether a request is waiting that cannot join the running batch."""
        if self._regime is None:
            return True
        with self._changed:
            return any(self._regimes.of(request.length) != self._regime for request in self._pending)

    def _run(self, requests: list[Request]) -> list[Request]:
        """Runs a batch; returns the requests that have to be in another one."""
        in_training = [module for module in self.model.modules() if module.training]
        try:
            self.model.eval()
            self._regimes.forget()
            longest = max(request.length for request in requests)
            decoder = BatchDecoder(
                requests,
                self._eos_token_ids,
                self.model.device,
                self._interrupt,
                # What is kept was computed in the first regime.
                self._prefixes if self._regime == 0 else None,
                self._regimes.end(longest),
            )
            if not self._decode(decoder, requests):
                self._make_room(len(requests))
            return decoder.unfinished()
        except Exception as error:
            logger.exception("generation failed for %d requests", len(requests))
            for request in requests:
                request.fail(f"{type(error).__name__}: {error}")
            return []
        finally:
            for module in in_training:
                module.training = True

    def _decode(self, decoder: BatchDecoder, requests: list[Request]) -> bool:
        """Runs a batch to its end; false if memory ran out and there is something to be done about it.

        A separate function, so that nothing of the failed step, which its traceback holds, outlives it.
        """
        try:
            with attention_without_plans(self.model.device):
                decoder.run(self._runner)
        except Exception as error:
            if is_out_of_memory(error) and (len(requests) > 1 or len(self._prefixes or ())):
                return False
            raise
        return True

    def _make_room(self, rows: int) -> None:
        """After a batch of `rows` ran out of memory: forgets what is remembered, or else makes batches smaller."""
        if self._prefixes is not None and len(self._prefixes):
            self._prefixes.clear()
            logger.warning(
                "out of memory with %d rows in a batch; the keys and values of earlier ones are dropped", rows
            )
        else:
            self._row_limit = max(1, rows // 2)
            logger.warning(
                "out of memory with %d rows in a batch; continuing with at most %d (set max_batch_size to avoid it)",
                rows,
                self._row_limit,
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def attention_without_plans(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Keeps torch on the attention kernels that take any shape at once.

    cuDNN's, which torch prefers on Hopper and newer GPUs, build a plan for each shape that they have not seen, and a
    batch that generates has another one at every token: on an H100 a step of 0.5B parameters took 60 ms instead of
    20. The choice holds for the whole process meanwhile.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _without_defaults(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its own, empty generation defaults; weights, modules and hooks are shared."""
    # PEFT's wrapper would hand its defaults on to the model inside. Adapters act there; only learned prompts need it.
    if hasattr(model, "get_base_model") and not model.active_peft_config.is_prompt_learning:
        model = model.get_base_model()
    runner = object.__new__(type(model))  # copy.copy would make a new model of one that FSDP shards
    runner.__dict__.update(model.__dict__)
    runner.generation_config = GenerationConfig()
    return runner


def _memory_for_prefixes(device: torch.device) -> int:
    """Bytes that may be spent on keys and values between batches."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] // 5
    return 2**31


def _end_of_text(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: the model's generation config may name several, chat models among them."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id}
    return frozenset(i for i in ids if i is not None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a forward pass did not fit the memory, that of the device or the host's."""
    # Running out of host memory is a plain RuntimeError that names torch's allocator.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
