"""The model that is trained, with all its weights in each process, to generate with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from trl.models import unwrap_model_for_generation

from genprm_trl.errors import ConfigError, GenPRMError


@contextlib.contextmanager
def gathered_model(trainer: Any) -> Iterator[Any]:
    """The trainer's model as it is now, whole in each process, however the training shards it.

    All processes must enter and leave together. In between each may run the model as often as it likes. If one of them
    fails there, all do: none waits for the others.

    Args:
        trainer: A trainer of transformers whose model is prepared.

    Yields:
        The model itself, not a copy. It must not be trained meanwhile.

    Raises:
        ConfigError: The model is sharded in a way that cannot be gathered (FSDP's first version).
        GenPRMError: Another process has failed.
    """
    check_can_gather(trainer)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            )
        )
        if trainer.is_fsdp_enabled:
            stack.enter_context(_unsharded(model))
        stack.enter_context(failing_together("generating with the model that is trained"))
        yield model


def check_can_gather(trainer: Any, *, refused: bool = False) -> None:
    """Checks that a trainer's model can be whole in each process.

    Args:
        trainer: The trainer.
        refused: Whether its options say not to gather what ZeRO-3 shards.

    Raises:
        ConfigError: The model cannot be whole, or the options refuse it.
    """
    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled and state.fsdp_plugin.fsdp_version == 1:
        raise ConfigError("the first version of FSDP cannot generate with whole weights; set fsdp_version: 2")
    if refused and trainer.is_deepspeed_enabled and state.deepspeed_plugin.zero_stage == 3:
        raise ConfigError("text is generated with whole weights: set ds3_gather_for_generation=True")


@contextlib.contextmanager
def failing_together(doing: str) -> Iterator[None]:
    """Makes a failure of one process one of all, before they wait for one another. All processes must run it.

    Args:
        doing: What the block does, for the message.

    Raises:
        GenPRMError: Another process has failed in the block.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    told = gather_object([None if failure is None else f"{type(failure).__name__}: {failure}"])
    if failure is not None:
        raise failure
    for process, message in enumerate(told):
        if message is not None:
            raise GenPRMError(f"process {process} failed while {doing}: {message}")


@contextlib.contextmanager
def _unsharded(model: Any) -> Iterator[None]:
    """Gathers the weights that FSDP (version 2) shards, and keeps them over any number of forward passes."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.unshard()
    # Not those of the outermost module, which never frees its weights after a pass.
    groups = [group for module in modules if module is not model for group in _groups(module)]
    freed = [group.post_forward_mesh_info for group in groups]
    for module in modules:
        if module is not model:
            module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for group, info in zip(groups, freed, strict=True):
            group.post_forward_mesh_info = info
        for module in modules:
            module.reshard()


def _groups(module: FSDPModule) -> list[Any]:
    """What torch keeps of each set of weights that is sharded together; torch promises no way to ask for it."""
    state = module._get_fsdp_state()
    one = getattr(state, "_fsdp_param_group", None)  # before torch 2.13
    return list(getattr(state, "_fsdp_param_groups", [one] if one is not None else []))
