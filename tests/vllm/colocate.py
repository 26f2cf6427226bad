"""A short training whose policy vLLM generates in the trainer's process: `-m tests.vllm.colocate VERIFIER OUT`.

The launcher (torchrun or accelerate) sets the environment. The policy is in `OUT/model`, the trained one comes to
`OUT/run`, and each process leaves what it logged: `OUT/rank0.json`, `OUT/rank1.json`.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import sys
from pathlib import Path

import torch

from tests.helpers.jobs import use_gloo_in_deepspeed, watch
from tests.vllm.conftest import ENGINE  # before vLLM, which reads the variables that it sets

SECONDS = 300  # a busy machine needs a third of it


def on_a_cpu() -> None:
    """Lets the libraries do on a CPU what they offer on accelerators alone."""
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils

    def unpacked(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    # It packs linear weights and drops the parameters, which the next update of the weights then does not find.
    utils.dispatch_cpu_unquantized_gemm = unpacked
    vllm_generation.LLM = functools.partial(vllm_generation.LLM, **ENGINE)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        use_gloo_in_deepspeed()


def run(verifier: str, out: str) -> None:
    watch(SECONDS)
    on_a_cpu()
    from genprm_trl import GenPRMReward
    from tests.helpers.step_grpo import length_reward, make

    trainer = make(
        Path(out),
        reward_funcs=length_reward,
        step_reward_func=GenPRMReward(verifier, max_step_tokens=16),
        credit="min_form",
        step_style="line",
        use_vllm=True,
        vllm_mode="colocate",
        max_completion_length=20,
        max_steps=3,
        learning_rate=1e-2,  # with less, nobody would notice the weights of the step before
        gradient_checkpointing=False,
        # Otherwise accelerate leaves DeepSpeed out, or knows of one process only.
        use_cpu=False,
        ddp_backend="gloo",
    )
    trainer.train()
    trainer.save_model()
    rank = trainer.accelerator.process_index
    (Path(out) / f"rank{rank}.json").write_text(json.dumps(trainer.state.log_history, default=float))
    trainer.accelerator.wait_for_everyone()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    run(*sys.argv[1:])
