"""Models with a head of ours, for checkpoints whose own class is code that comes with them, which is never run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import check_shapes, default_device, load_config, loaded_whole, unloadable

_Head = Callable[[int], nn.Module]


class _Headed(PreTrainedModel):
    """A trunk of transformers, `model`, with a head beside it."""

    base_model_prefix = "model"
    # Whether the trunk supports these is its own to say.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: PreTrainedConfig, name: str, head: _Head):
        super().__init__(config)
        self.model = AutoModel.from_config(config, trust_remote_code=False)
        self.add_module(name, head(config.get_text_config().hidden_size))
        self._head_name = name
        self.post_init()

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """The head's numbers for each token, as `logits`."""
        return SimpleNamespace(logits=getattr(self, self._head_name)(self.model(**inputs).last_hidden_state))


def load_with_head(
    path: str, name: str, head: _Head, *, device: Any = None, dtype: Any = "auto", kind: str = "this kind"
) -> PreTrainedModel:
    """Loads a trunk and a head, whose weights stand in the same files. No code of the checkpoint is run.

    Args:
        path: A directory, or a name on the Hub.
        name: What the checkpoint calls the head.
        head: Makes it from the width of the model.
        device: Where the model goes. None is the first accelerator, else the CPU.
        dtype: Precision; `auto` is the checkpoint's own.
        kind: What errors call such models.

    Returns:
        The model in eval mode. It gives the head's numbers for each token, as `logits`.

    Raises:
        ConfigError: There is no such model, transformers has no class for its trunk, or weights are missing or have
            another shape.
    """
    config = load_config(path)
    try:
        with loaded_whole():
            model, info = _Headed.from_pretrained(
                path, name, head, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise unloadable(error, path, f"verifier of the kind {kind}") from error
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"'{path}' is no verifier of the kind {kind}: it has no weights for {', '.join(missing[:3])}; give "
            "another --kind"
        )
    check_shapes(info, f"'{path}' is no verifier of the kind {kind}", "give another --kind")
    return model.to(device or default_device()).eval()
