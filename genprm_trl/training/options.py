"""Which precision a trainer's options start from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelerate.utils import str_to_bool
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

if TYPE_CHECKING:
    from transformers import TrainingArguments as _Arguments
else:
    _Arguments = object


@dataclass
class BF16WhereItRuns(_Arguments):
    """A base for options of trainers, before TRL's: `bf16` is true where the accelerator computes in bfloat16.

    TRL's options turn it on everywhere, and then fail on a CPU.
    """

    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Train in bfloat16 mixed precision. Unset: where the accelerator has it, unless fp16 is set."
        },
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not self._computes_in_bf16():
            self.bf16 = False
        super().__post_init__()

    def _computes_in_bf16(self) -> bool:
        if self.use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")):
            return False
        return is_torch_bf16_gpu_available() or is_torch_xla_available()
