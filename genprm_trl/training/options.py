"""The base of the trainers' options: the precision they start from, what somebody has set, what decides the model."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from accelerate.utils import str_to_bool
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from genprm_trl.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from transformers import TrainingArguments as _Arguments
else:
    _Arguments = object

# TRL's and Transformers' options, of which no mark says what they are for. Those that are not named here decide the
# model. Where the work is done, and what is told of it:
_PLACE = re.compile(
    r"output_dir|run_name|report_to|project|.*trackio.*|disable_tqdm|log_.*|logging_.*|resume_from_checkpoint|local_rank"
    r"|do_(train|eval|predict)|.*hub.*|debug|prediction_loss_only|include_.*|num_completions_to_print"
    r"|dataloader_num_workers|dataset_num_proc"
)
# How it is done, how fast, for how long, and in how many parts:
_PACE = re.compile(
    r"deepspeed|fsdp.*|ddp_.*|parallelism_config|accelerator_config|step_metrics|use_cpu|full_determinism|use_cache"
    r"|dataloader_(persistent_workers|pin_memory|prefetch_factor|multiprocessing_context|in_order)"
    r"|torch_compile.*|torch_empty_cache_steps|.*liger_kernel.*|gradient_checkpointing.*|activation_.*"
    r"|skip_memory_metrics|enable_jit_checkpoint|ds3_gather_for_generation|trust_remote_code|use_transformers_.*"
    r"|transformers_continuous_.*|cache_implementation|restore_callback_states_from_checkpoint"
    r"|vllm_(mode|server_.*|group_port|gpu_memory_utilization|tensor_parallel_size|max_model_length|enable_sleep_mode"
    r"|model_impl)|skip_bad_rows|max_steps|num_train_epochs|steps_per_generation"
    r"|per_device_train_batch_size|gradient_accumulation_steps"
)
# These decide the model where the best checkpoint is taken in the end:
_EVALUATION = re.compile(
    r"eval_.*|per_device_eval_batch_size|batch_eval_metrics|.*_full_eval|num_generations_eval|metric_for_best_model"
    r"|greater_is_better|save_.*"
)


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
        if isinstance(self.deepspeed, str):
            if not Path(self.deepspeed).is_file():
                raise ConfigError(f"--deepspeed {self.deepspeed}: there is no such file")
            if importlib.util.find_spec("deepspeed") is None:
                raise MissingExtraError("deepspeed", "deepspeed", "training with DeepSpeed (--deepspeed)")
        self._set = {option.name for option in dataclasses.fields(self) if self._value(option) != _default(option)}
        if self.bf16 is None and not self._computes_in_bf16():
            self.bf16 = False
        super().__post_init__()
        self._made = {option.name: self._value(option) for option in dataclasses.fields(self)}

    @classmethod
    def of(cls, args: TrainingArguments) -> Self:
        """These options with the values of more general ones, as `trl.SFTTrainer` takes plain `TrainingArguments`.

        Args:
            args: Options of this class, which are returned as they are, or of one that it extends.

        Raises:
            ConfigError: They are no options, or have some that this class lacks.
        """
        if isinstance(args, cls):
            return args
        if not isinstance(args, TrainingArguments):
            raise ConfigError(f"args must be a {cls.__name__}, got {type(args).__name__}")
        known = {option.name for option in dataclasses.fields(cls)}
        values = {option.name: getattr(args, option.name) for option in dataclasses.fields(args) if option.init}
        if lacking := sorted(values.keys() - known):
            raise ConfigError(
                f"args must be a {cls.__name__}, which has no {', '.join(lacking)}; got a {type(args).__name__}"
            )
        # What `to_dict` makes of tokens tells nobody what they are.
        values = args.to_dict() | {name: value for name, value in values.items() if name.endswith("_token")}
        if values.get("steps_per_generation") is not None:
            values["generation_batch_size"] = None  # GRPO's options fill in both, and take only one of them
        return cls(**values)

    def changed(self) -> list[str]:
        """Names of the options that somebody has set to something else than the default, now or at the beginning."""
        return [
            option.name
            for option in dataclasses.fields(self)
            if option.name in self._set or self._value(option) != self._made[option.name]
        ]

    def decisive(self, *, pace: bool = False) -> dict[str, Any]:
        """The options that decide the model, as JSON values.

        Args:
            pace: Whether to return those, too, that say how and how long the work is done.
        """
        left_out = [_PLACE, *([] if pace else [_PACE]), *([] if self.load_best_model_at_end else [_EVALUATION])]
        return {
            name: value
            for name, value in self.to_dict().items()
            if not any(names.fullmatch(name) for names in left_out)
        }

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
