"""A generator that runs vLLM's asynchronous engine from this process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import functools
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from genprm_trl.errors import ConfigError, GenPRMError, MissingExtraError, check_at_least
from genprm_trl.generation.assembly import Assembler
from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.loading import load_tokenizer
from genprm_trl.generation.loop_generator import CLOSED, LoopGenerator
from genprm_trl.generation.replicas import ReplicaPool
from genprm_trl.generation.tokens import Detokenizer

logger = logging.getLogger(__name__)

# Tokens that a request may name (vLLM 0.32).
_NAMED, _MOST_NAMED = "logprob_token_ids", 128

# Seconds that the engine gets to end its processes before they are killed.
_SHUTDOWN_SECONDS = 10.0


class VLLMGenerator(LoopGenerator):
    r"""Generates with vLLM: continuous batching, and prefixes computed once.

    The engine runs in separate processes, which end with `close`, at the interpreter's exit, and if the construction
    fails. Requests may come from any number of tasks, event loops and threads. If the engine dies, requests raise
    `GenPRMError`.

    A script that makes one must keep its main part under `if __name__ == "__main__"`: the engine's processes import
    it.

    Args:
        model: A directory, or a model id of the Hugging Face Hub.
        tokenizer: The tokenizer, or where to load it from; by default from `model`.
        max_batch_size: Requests that the engine works on at once (vLLM's `max_num_seqs`); by default vLLM's choice.
        dtype: Precision of the weights. vLLM's "auto" runs float32 checkpoints in 16 bits.
        max_context: Bound on prompt and output together; by default the model's context length.
        engine_options: Further fields of vLLM's `AsyncEngineArgs`: `tensor_parallel_size`, `data_parallel_size`,
            `quantization`, `gpu_memory_utilization`, `enforce_eager`, ...

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: vLLM cannot load or run the model with these options.

    Example:
        ```python
        async with VLLMGenerator("GenPRM/GenPRM-7B", gpu_memory_utilization=0.8) as generator:
            ids = generator.tokenizer.encode("Two and two is")
            result = await generator.generate(ids, SamplingParams(max_new_tokens=20, stop=("\n",)))
        ```
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        *,
        max_batch_size: int | None = None,
        dtype: str = "auto",
        max_context: int | None = None,
        **engine_options: Any,
    ):
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm", "the backend vllm") from error
        check_at_least(1, max_batch_size=max_batch_size, max_context=max_context)
        source = model if tokenizer is None else tokenizer
        self.tokenizer = load_tokenizer(source) if isinstance(source, str | Path) else source
        # Callers encode with the tokenizer while results are decoded; fast tokenizers may not be shared like that.
        self._assembler = Assembler(Detokenizer(copy.deepcopy(self.tokenizer)))
        options: dict[str, Any] = {
            "model": str(model),
            "dtype": dtype,
            "max_model_len": max_context,
            "max_num_seqs": max_batch_size,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            # The engine's own copy of it, for stop strings.
            "tokenizer": str(source) if isinstance(source, str | Path) else source.name_or_path or None,
        }
        if current_platform.is_cpu():
            # Its random numbers cannot be rewound, which a seeded request whose prompt is read in parts needs; the
            # engine would die of one (vLLM 0.32).
            options["enable_chunked_prefill"] = False
            # A prefix is found again in whole blocks, and the requests of a chain follow one another after few tokens:
            # of vLLM's 128 tokens, half are read again each time. Its kernels for the CPU take multiples of 32.
            options["block_size"] = 32
        options = {name: value for name, value in options.items() if value is not None} | engine_options
        try:
            arguments = AsyncEngineArgs(**options)
        except TypeError as error:
            raise ConfigError(f"vLLM's engine has no such option: {error}") from error

        self._engine: Any = None
        self._numbers = itertools.count()
        super().__init__("vllm-generator")
        try:
            self._engine = self._loop.run(_start(arguments))
        except Exception as error:
            self._shut_down()
            raise ConfigError(f"vLLM cannot run {model}: {_brief(error)}") from error
        except BaseException:
            self._shut_down()
            raise
        # After those of vLLM: the last one registered is the first one called, and must find the engine alive.
        atexit.register(self._shut_down)
        config = self._engine.vllm_config
        self.max_context = config.model_config.max_model_len
        ranks = config.parallel_config.data_parallel_size
        self.max_concurrent = config.scheduler_config.max_num_seqs * ranks
        # With data parallelism every rank has its own cache, so a prefix is worth returning to. vLLM queues whatever
        # is too much for a rank, so none is ever full.
        self._ranks = ReplicaPool([str(rank) for rank in range(ranks)])
        self._turns = _Turns()

    def _shut_down(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._shut_down)
        if self._engine is not None:
            self._loop.run(self._cancel_tasks())
            self._engine.shutdown(timeout=_SHUTDOWN_SECONDS)
            self._engine = None  # it would shut itself down once more, at a time when its modules are gone
        self._loop.close()

    # The rest runs in the loop's thread, which the engine belongs to.

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith(_REQUEST)]
        # The engine closes its sockets before it cancels its task that reads them. If that task is quicker, it takes
        # the engine for dead and logs so with a traceback (vLLM 0.32).
        if (reader := getattr(self._engine, "output_handler", None)) is not None:
            tasks.append(reader)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _generate(self, token_ids: list[int], params: SamplingParams, affinity: str | None) -> GenerationResult:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        number = next(self._numbers)
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"{_REQUEST}{number}")
        limit = min(params.max_new_tokens, self.max_context - len(token_ids))
        several = len(self._ranks.replicas) > 1
        rank = await self._ranks.acquire(affinity) if several else None
        output = None
        try:
            asked = _vllm_params(params, limit)
            async with self._turns.of(bool(getattr(asked, _NAMED, None)) if params.logprobs else None):
                async for output in self._engine.generate(  # noqa: B007
                    {"type": "token", "prompt_token_ids": token_ids},
                    asked,
                    f"genprm-{number}",
                    data_parallel_rank=None if rank is None else int(rank.name),
                ):
                    pass  # only the last one comes
            return self._result(output, params, limit)
        except EngineDeadError as error:
            if self._closed:
                return CLOSED
            raise GenPRMError("vLLM's engine has died; its last words are in the log above") from error
        except asyncio.CancelledError:
            if self._closed:
                return CLOSED
            raise
        except VLLMClientError as error:
            return GenerationResult("", [], finish_reason="error", message=_brief(error))
        except Exception as error:
            cause = error.__cause__ or error
            return GenerationResult("", [], finish_reason="error", message=_brief(cause))
        finally:
            if rank is not None:
                self._ranks.release(rank)

    def _result(self, output: Any, params: SamplingParams, limit: int) -> GenerationResult:
        if output is None or not output.finished:
            return GenerationResult("", [], finish_reason="error", message="vLLM's engine gave no result")
        [written] = output.outputs
        ids, reason, ended = list(written.token_ids), written.finish_reason, False
        finish: FinishReason = "stop"
        if reason == "length":
            finish = "length" if limit == params.max_new_tokens else "context"
        elif reason != "stop":
            return GenerationResult("", [], finish_reason="error", message=f"vLLM's engine ended it: {reason}")
        elif not isinstance(written.stop_reason, str):
            # An end-of-text token, which is the last one.
            ids, ended = ids[:-1], True

        def logprobs(count: int) -> list[dict[int, float]]:
            flat = written.logprobs
            spans = zip(flat.start_indices[:count], flat.end_indices[:count], strict=True)
            return [dict(zip(flat.token_ids[a:b], flat.logprobs[a:b], strict=True)) for a, b in spans]

        return self._assembler.assemble(self._assembler.begin(params.stop, ids), logprobs, params, finish, ended=ended)


class _Turns:
    """Keeps requests that name tokens apart from those for likely ones; whichever waits longest is next.

    In its runner for the CPU, vLLM 0.32 reports no likely ones to a batch of which one request names tokens.
    """

    def __init__(self) -> None:
        self._kind: bool | None = None
        self._inside = 0
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def of(self, kind: bool | None) -> AsyncIterator[None]:
        """The turn of a request that names tokens, or does not. None is for one without log-probabilities."""
        if kind is None:
            yield
            return
        await self._enter(kind)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, kind: bool) -> None:
        if not self._inside or (kind == self._kind and not self._waiting):
            self._kind = kind
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((kind, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let in at the same time
                self._leave()
            raise

    def _leave(self) -> None:
        self._inside -= 1
        if self._inside:
            return
        waiting = [(one, turn) for one, turn in self._waiting if not turn.done()]
        self._waiting = deque((one, turn) for one, turn in waiting if one != waiting[0][0])
        for one, turn in waiting:
            if one == waiting[0][0]:
                self._kind = one
                self._inside += 1
                turn.set_result(None)


_REQUEST = "vllm-request-"


async def _start(arguments: Any) -> Any:
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(arguments)


def _named_tokens(params: SamplingParams) -> list[int]:
    """The tokens that a request names; none if they are more than the engine takes."""
    if len(params.logprob_token_ids) > _MOST_NAMED:
        _warn_of_too_many(len(params.logprob_token_ids), params.logprobs)
        return []
    return list(params.logprob_token_ids)


@functools.cache  # once, and not for each request
def _warn_of_too_many(named: int, most_likely: int) -> None:
    logger.warning(
        "The verdict's words have %d tokens in this vocabulary, and vLLM reports at most %d by name. Rewards are made "
        "of the %d most likely tokens; a word that is not among them counts as the last of them.",
        named,
        _MOST_NAMED,
        most_likely,
    )


def _vllm_params(params: SamplingParams, limit: int) -> Any:
    import vllm
    from vllm.sampling_params import RequestOutputKind

    reported: dict[str, Any] = {"logprobs": params.logprobs or None}
    # The engine takes them since vLLM 0.32.
    if params.logprobs and hasattr(vllm.SamplingParams, _NAMED) and (named := _named_tokens(params)):
        reported = {_NAMED: named}
    return vllm.SamplingParams(
        max_tokens=limit,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        stop=list(params.stop),
        include_stop_str_in_output=True,
        **reported,
        flat_logprobs=True,  # instead of an object for each of 20 alternatives to each token
        # A separate random generator slows a request down, and greedy decoding draws nothing.
        seed=None if params.seed is None or params.temperature == 0 else params.seed % 2**63,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines)[:500]}"
