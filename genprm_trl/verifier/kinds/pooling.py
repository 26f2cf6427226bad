"""Classifiers of tokens in vLLM: its pooling gives the logits of all tokens of a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from genprm_trl.errors import ConfigError, GenPRMError, MissingExtraError, check_at_least
from genprm_trl.generation.loading import load_config

_TASK = "token_classify"


class PooledClassifier(nn.Module):
    """Stands for a classifier of tokens with two labels that runs in vLLM (pooling task `token_classify`).

    Its engine runs in a separate process, which ends with `close`. A script that makes one must keep its main part
    under `if __name__ == "__main__"`: that process imports it.

    Args:
        path: A directory, or a name on the Hub, of an architecture that vLLM serves as a classifier of tokens.
        dtype: Precision. vLLM's "auto" runs float32 checkpoints in 16 bits.
        max_context: Bound on the tokens of a solution; by default the model's context length.
        max_batch_size: Solutions that the engine works on at once (vLLM's `max_num_seqs`); by default vLLM's choice.
        engine_options: Further fields of vLLM's `EngineArgs`.

    Attributes:
        config: The model's configuration.
        device: Where logits are: the CPU.
        max_context: The most tokens of a solution.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: vLLM cannot run the model with these options.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "auto",
        max_context: int | None = None,
        max_batch_size: int | None = None,
        **engine_options: Any,
    ):
        super().__init__()
        try:
            from vllm import LLM, PoolingParams
            from vllm.config import PoolerConfig
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm", "the backend vllm") from error
        check_at_least(1, max_batch_size=max_batch_size, max_context=max_context)
        self.config = load_config(path)
        self.device = torch.device("cpu")
        bounds: dict[str, Any] = {"max_model_len": max_context, "max_num_seqs": max_batch_size}
        options = {name: value for name, value in bounds.items() if value is not None}
        options |= {"dtype": dtype, "disable_log_stats": True, **engine_options}
        try:
            # Not vLLM's `STEP`, which finds places by one token id: separators may be several.
            pooler = PoolerConfig(task=_TASK, tok_pooling_type="ALL")
            self._engine: Any = LLM(model=path, runner="pooling", pooler_config=pooler, **options)
        except TypeError as error:
            raise ConfigError(f"vLLM's engine has no such option: {error}") from error
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ConfigError(f"vLLM cannot run {path} as a classifier of tokens: {first}") from error
        self.max_context: int = self._engine.llm_engine.model_config.max_model_len
        self._params = PoolingParams(use_activation=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """The `logits` of a batch that is padded on the right, shape (batch, length, 2); those of padding are 0.

        Raises:
            GenPRMError: It is closed, or the engine has failed.
        """
        if self._engine is None:
            raise GenPRMError("the verifier is closed")
        rows = [ids[:length].tolist() for ids, length in zip(input_ids, attention_mask.sum(1).tolist(), strict=True)]
        try:
            outputs = self._engine.encode(
                [{"prompt_token_ids": ids} for ids in rows],
                pooling_params=self._params,
                pooling_task=_TASK,
                use_tqdm=False,
            )
        except Exception as error:
            raise GenPRMError(f"vLLM failed on {len(rows)} solutions: {error}") from error
        logits = torch.zeros(*input_ids.shape, 2)
        for row, (ids, output) in enumerate(zip(rows, outputs, strict=True)):
            found = output.outputs.data
            if found.shape != (len(ids), 2):
                raise GenPRMError(f"vLLM gave {tuple(found.shape)} numbers for {len(ids)} tokens of two labels")
            logits[row, : len(ids)] = found.float()
        return SimpleNamespace(logits=logits)

    def close(self) -> None:
        """Ends the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
