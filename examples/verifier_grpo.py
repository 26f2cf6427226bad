"""Train a GenPRM by GRPO: it is rewarded if its verdict agrees with the label.

    python examples/verifier_grpo.py SOLUTIONS.jsonl MODEL OUTPUT_DIR

SOLUTIONS.jsonl holds solutions with a `label` (index of the first wrong step from 0, or -1), such as those of `genprm
label`. No rationales are needed. MODEL must already write the format of the conversation, as it does after `genprm
sft`. For several GPUs, run it under `accelerate launch`.
"""

import sys

import torch
from trl import GRPOConfig, GRPOTrainer

from genprm_trl.loading import load_solutions
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.rewards import rationale_format_reward, verdict_agreement_reward
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.training import VerifierRollout, verifier_dataset

data, model, output_dir = sys.argv[1:4]

# The model analyses a step, writes code, and reads what the code prints, step after step: one rollout a solution.
rollout = VerifierRollout(GenPRMProtocol("full"), sandbox=LocalSandbox())

trainer = GRPOTrainer(
    model,
    reward_funcs=[verdict_agreement_reward, rationale_format_reward],
    args=GRPOConfig(
        output_dir=output_dir,
        reward_weights=[1.0, 0.1],  # to be right is what counts; the other one keeps rationales whole
        per_device_train_batch_size=8,
        gradient_accumulation_steps=8,
        num_generations=8,  # 8 chains a solution, 8 solutions a step of the optimizer
        max_completion_length=8192,  # all turns of a chain together
        learning_rate=1e-6,
        num_train_epochs=1,
        logging_steps=1,
        bf16=torch.cuda.is_available(),
        report_to="none",
    ),
    train_dataset=verifier_dataset(load_solutions(data)),
    rollout_func=rollout,
)
trainer.train()
trainer.save_model()
rollout.settings.save(output_dir)  # how `genprm verify` has to ask this model
