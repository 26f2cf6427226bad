"""Short trainings, one after another, in a process of a launched job: `-m tests.distributed.program SETUP MODELS OUT`.

The launcher (torchrun or accelerate) sets the environment. Each training leaves what it logged and the weights that it
saved in `OUT/NAME`, and `NAME.json` once it is finished.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from genprm_trl import (
    GenPRMConfig,
    GenPRMReward,
    GenPRMTrainer,
    PRMConfig,
    PRMTrainer,
    StepGRPOConfig,
    StepGRPOTrainer,
)
from genprm_trl.cli.main import main as genprm
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.rewards import verdict_agreement_reward
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.training import ImplicitPRM, VerifierRollout, verifier_dataset
from genprm_trl.training.callbacks import VerificationCallback
from genprm_trl.training.prm.scorer import PRMScorer
from tests.helpers.jobs import use_gloo_in_deepspeed, watch
from tests.helpers.prm import toy_rows
from tests.helpers.sft import records
from tests.helpers.step_grpo import PROMPTS, last_letter_steps, length_reward
from tests.helpers.tiny_models import tiny_tokenizer

SECONDS = 150  # for one training; the longest takes a tenth of it on an idle machine
LORA = LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@dataclasses.dataclass(frozen=True)
class Job:
    """Where a process finds its models, and where it puts what it did."""

    setup: str
    models: Path
    out: Path

    @property
    def policy(self) -> str:
        return str(self.models / "policy")

    @property
    def verifier(self) -> str:
        return str(self.models / "verifier")

    @property
    def classifier(self) -> str:
        return str(self.models / "classifier")

    def options(self, name: str, **changes: Any) -> dict[str, Any]:
        """The options that all trainings share."""
        return {
            "output_dir": str(self.out / name),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "bf16": False,
            "seed": 3,
            "max_grad_norm": 1.0,
            # Where a gradient is nothing but rounding, Adam's usual 1e-8 makes a whole step of it.
            "adam_epsilon": 1e-4,
            "ddp_backend": "gloo",
            "use_cpu": self.setup == "plain",
            **changes,
        }

    def grpo(self, name: str, **changes: Any) -> dict[str, Any]:
        return self.options(name, num_generations=4, max_completion_length=20, **changes)

    def reward(self, **options: Any) -> GenPRMReward:
        return GenPRMReward(self.verifier, max_step_tokens=16, **options)


def problems() -> Dataset:
    """As many as four steps of both processes use, so that none comes again."""
    return Dataset.from_dict({"prompt": [f"{prompt}{end}" for end in ("", " Why?") for prompt in PROMPTS]})


def finish(trainer: Any, checkpoint: str | None = None) -> dict[str, Any]:
    """Trains and saves; returns what was logged."""
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    return {"logs": trainer.state.log_history}


def sft(job: Job, name: str) -> dict[str, Any]:
    """With an evaluation whose last batch is not full, and with more solutions in one process than in the other."""
    args = job.options(
        name, max_steps=4, eval_strategy="steps", eval_steps=2, gradient_checkpointing=True, max_length=1024,
        per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer = GenPRMTrainer(
        job.verifier, args=GenPRMConfig(**args), train_dataset=records(10), eval_dataset=records(5)
    )
    solutions = [record.solution for record in records(3)]
    trainer.add_callback(VerificationCallback(trainer, solutions, mode="direct", n=2))
    return finish(trainer)


def sft_lora(job: Job, name: str) -> dict[str, Any]:
    args = GenPRMConfig(**job.options(name, max_length=1024, learning_rate=1e-2))
    trainer = GenPRMTrainer(job.verifier, args=args, train_dataset=records(8), peft_config=LORA)
    callback = VerificationCallback(trainer, [record.solution for record in records(3)], mode="direct", n=2)
    return {**finish(trainer), "verified": dict(callback.verify())}


def sft_bf16(job: Job, name: str) -> dict[str, Any]:
    args = GenPRMConfig(**job.options(name, max_length=1024, bf16=True))
    trainer = GenPRMTrainer(job.verifier, args=args, train_dataset=records(8))
    callback = VerificationCallback(trainer, [record.solution for record in records(3)], mode="direct")
    return {**finish(trainer), "verified": dict(callback.verify())}


def sft_one_solution(job: Job, name: str) -> dict[str, Any]:
    """The callback by itself, before and after training, when the second process has no solution to judge."""
    args = GenPRMConfig(**job.options(name, max_length=1024))
    trainer = GenPRMTrainer(job.verifier, args=args, train_dataset=records(8))
    callback = VerificationCallback(trainer, [Solution("1", "What is 1 + 1?", ["It is 2."], label=-1)], mode="direct")
    before = dict(callback.verify())
    return {**finish(trainer), "before": before, "after": dict(callback.verify())}


def grpo_reward(job: Job, name: str) -> dict[str, Any]:
    """TRL's own trainer, with a reference model, and a verifier in each process."""
    args = GRPOConfig(**job.grpo(name, beta=0.05))
    return finish(
        GRPOTrainer(job.policy, [job.reward(), length_reward], args, problems(), processing_class=tiny_tokenizer())
    )


def step_grpo(job: Job, name: str, *, step_reward: Any = None, peft: Any = None, **changes: Any) -> Any:
    return StepGRPOTrainer(
        job.policy,
        reward_funcs=length_reward,
        step_reward_func=step_reward or job.reward(),
        args=StepGRPOConfig(**job.grpo(name, step_style="line", **changes)),
        train_dataset=problems(),
        processing_class=tiny_tokenizer(),
        peft_config=peft,
    )


def step_outcome(job: Job, name: str) -> dict[str, Any]:
    return finish(step_grpo(job, name, credit="outcome", gradient_checkpointing=True))


def step_process(job: Job, name: str) -> dict[str, Any]:
    return finish(step_grpo(job, name, credit="process", beta=0.05))


def step_min_form(job: Job, name: str) -> dict[str, Any]:
    """Four steps at once, and the last two again from the checkpoint."""
    options = {"credit": "min_form", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    told = finish(step_grpo(job, name, **options))
    again = step_grpo(job, f"{name}_resumed", **options)
    resumed = finish(again, str(job.out / name / "checkpoint-2"))
    return {**told, "resumed": resumed["logs"]}


def step_lora(job: Job, name: str) -> dict[str, Any]:
    return finish(step_grpo(job, name, credit="min_form", peft=LORA, learning_rate=1e-2))


def step_bf16(job: Job, name: str) -> dict[str, Any]:
    return finish(step_grpo(job, name, credit="min_form", bf16=True))


def step_early_ends(job: Job, name: str) -> dict[str, Any]:
    """Completions of the first process end at once, those of the second do not."""
    trainer = step_grpo(job, name, credit="min_form", step_reward=last_letter_steps)
    if trainer.accelerator.process_index == 0:
        trainer.generation_config.eos_token_id = list(range(len(tiny_tokenizer())))
    return finish(trainer)


def step_scorer(job: Job, name: str) -> dict[str, Any]:
    """A discriminative model rewards the steps."""
    scorer = PRMScorer(job.classifier)

    def scored(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
        whole = [Solution(str(i), prompts[i], row or ["-"]) for i, row in enumerate(steps)]
        return [verdict.rewards[: max(len(row), 1)] for verdict, row in zip(scorer.score(whole), steps, strict=True)]

    return finish(step_grpo(job, name, credit="process", step_reward=scored))


def implicit(job: Job, name: str) -> dict[str, Any]:
    """It learns beside the policy, and is resumed with it."""
    options = {"credit": "process", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def prm() -> ImplicitPRM:
        return ImplicitPRM(job.verifier, length_reward, learning_rate=1e-3)

    told = finish(step_grpo(job, name, step_reward=prm(), **options))
    checkpoint = job.out / name / "checkpoint-2"
    learnt = prm()
    learnt.load(checkpoint / "implicit_prm")
    again = step_grpo(job, f"{name}_resumed", step_reward=learnt, **options)
    resumed = finish(again, str(checkpoint))
    return {**told, "resumed": resumed["logs"]}


def prm(job: Job, name: str, **changes: Any) -> dict[str, Any]:
    args = job.options(name, per_device_eval_batch_size=2, max_steps=3, **changes)
    trainer = PRMTrainer(
        job.classifier, args=PRMConfig(**args), train_dataset=Dataset.from_list(toy_rows(24)),
        eval_dataset=toy_rows(9, seed=1),
    )  # fmt: skip
    told = finish(trainer)
    return {**told, "metrics": trainer.evaluate()}


def rollout(job: Job, name: str) -> dict[str, Any]:
    """The verifier is the policy; its code runs."""
    solutions = [Solution(str(i), f"What is {i} + 1?", [f"It is {i + 1}.", "Done."], label=i % 2 - 1) for i in (1, 2)]
    protocol = GenPRMProtocol("code_execution", max_step_tokens=24, max_code_rounds=1, verdict_tokens=4)
    return finish(
        GRPOTrainer(
            job.verifier,
            [verdict_agreement_reward, length_reward],
            GRPOConfig(**job.grpo(name) | {"max_completion_length": 300}),
            verifier_dataset(solutions),
            processing_class=tiny_tokenizer(),
            rollout_func=VerifierRollout(protocol, sandbox=LocalSandbox()),
        )
    )


def commands(job: Job, name: str) -> dict[str, Any]:
    """`genprm sft`, `prm` and `grpo`, and each again."""
    rows, questions = job.out / "rows.jsonl", job.out / "problems.jsonl"
    if PartialState().is_main_process:
        write_jsonl(rows, records(8))
        write_jsonl(questions, [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)])
    PartialState().wait_for_everyone()
    shared = [
        "--model", job.policy, "--max_steps", "2", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3",
        "--report_to", "none", "--ddp_backend", "gloo", "--logging_steps", "1", "--dtype", "float32",
        "--adam_epsilon", "1e-4", "--save_steps", "1", "--bf16", "false", *(["--use_cpu"] * (job.setup == "plain")),
    ]  # fmt: skip
    asked = {
        "sft": [str(rows), "--max_length", "1024"],
        "prm": [str(rows), "--train_head_only"],  # a new head, whose optimizer is saved without that of the model
        "grpo": [
            str(questions), "--reward_config", str(job.models / "reward.yaml"),
            "--num_generations", "4", "--max_completion_length", "20",
        ],
    }  # fmt: skip
    codes = {}
    for command, words in asked.items():
        for turn in ("first", "again"):
            forget()
            out = str(job.out / f"{name}_{command}")
            codes[f"{command} {turn}"] = genprm([command, *words, "--output_dir", out, *shared]) or 0
    return {"codes": codes}


def failing(job: Job, name: str) -> dict[str, Any]:
    """The last one: a reward that fails in the second process must end the first one, too."""

    def fails(prompts: Any, completions: Any, steps: Any, **kwargs: Any) -> list[list[float]]:
        if PartialState().process_index == 1:
            raise RuntimeError("this reward fails in the second process")
        return [[1.0] * max(len(row), 1) for row in steps]

    return finish(step_grpo(job, name, credit="process", step_reward=fails))


TRAININGS: dict[str, Callable[[Job, str], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        sft, sft_lora, sft_bf16, sft_one_solution, grpo_reward, step_outcome, step_process, step_min_form, step_lora,
        step_bf16, step_early_ends, step_scorer, implicit, prm, rollout, commands, failing,
    )
}  # fmt: skip


def on_a_cpu(setup: str) -> None:
    """Lets the libraries do on a CPU what they offer on accelerators alone."""
    import transformers.training_args

    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    PartialState.destroy_process_group = lambda self, group=None: None  # a command ends with it; others follow here
    if setup.startswith("zero"):
        use_gloo_in_deepspeed()
    if setup == "fsdp2":
        PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def forget() -> None:
    """Each training sets up accelerate for itself; the processes stay connected."""
    AcceleratorState._reset_state()
    GradientState._reset_state()


def run(setup: str, models: str, out: str, *names: str) -> None:
    on_a_cpu(setup)
    gc.freeze()  # each training collects garbage, and need not look through what was imported
    job = Job(setup, Path(models), Path(out))
    for name in names or TRAININGS:
        watch(SECONDS)
        started = time.monotonic()
        told = TRAININGS[name](job, name)
        torch.distributed.barrier()
        if os.environ["RANK"] == "0":
            (job.out / f"{name}.json").write_text(json.dumps(told, default=float))
        forget()
        print(f"[{setup}] {name}: {time.monotonic() - started:.1f} s", flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    run(*sys.argv[1:])
