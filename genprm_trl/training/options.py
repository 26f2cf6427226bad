"""The base of the trainers' options: the precision they start from, and what somebody has set."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerate.utils import str_to_bool
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

if TYPE_CHECKING:
    from transformers import TrainingArguments as _Arguments
else:
    _Arguments = object


@dataclass
class TrainerOptions(_Arguments):
    """A base for options of trainers, before TRL's. It knows what was set, and fills `bf16` where that runs.

    TRL's options turn `bf16` on everywhere, and then fail on a CPU.
    """

    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Train in bfloat16 mixed precision. Unset: where the accelerator has it, unless fp16 is set."
        },
    )

    def __post_init__(self) -> None:
        self._set = {option.name for option in dataclasses.fields(self) if self._value(option) != _default(option)}
        if self.bf16 is None and not self._computes_in_bf16():
            self.bf16 = False
        super().__post_init__()
        self._made = {option.name: self._value(option) for option in dataclasses.fields(self)}

    def changed(self) -> list[str]:
        """Names of the options that somebody has set to something else than the default, now or at the beginning."""
        return [
            option.name
            for option in dataclasses.fields(self)
            if option.name in self._set or self._value(option) != self._made[option.name]
        ]

    def _value(self, option: dataclasses.Field[Any]) -> Any:
        return _plain(getattr(self, option.name))

    def _computes_in_bf16(self) -> bool:
        if self.use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")):
            return False
        return is_torch_bf16_gpu_available() or is_torch_xla_available()


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return _plain(option.default)


def _plain(value: Any) -> Any:
    """An enumeration's value; anything else as it is."""
    return getattr(value, "value", value)
