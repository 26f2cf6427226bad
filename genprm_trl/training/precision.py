"""Which precision a trainer's options start from."""

from __future__ import annotations

import os

from accelerate.utils import str_to_bool
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available


def computes_in_bf16(use_cpu: bool) -> bool:
    """Whether training in bfloat16 makes sense here: TRL's options turn it on everywhere and then fail on a CPU.

    Args:
        use_cpu: The option of that name.
    """
    if use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")):
        return False
    return is_torch_bf16_gpu_available() or is_torch_xla_available()
