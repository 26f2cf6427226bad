"""Train a GenPRM on solutions with rationales from Python. The command for it is `genprm sft`.

    python examples/train_genprm.py RATIONALES.jsonl BASE_MODEL OUTPUT_DIR

RATIONALES.jsonl holds one `RationaleRecord` per line; `make quickstart` leaves one in outputs/quickstart/data. For
several GPUs, run it under `accelerate launch`.
"""

import sys

from genprm_trl import GenPRMConfig, GenPRMTrainer
from genprm_trl.loading import iter_rationales

data, base_model, output_dir = sys.argv[1:4]

trainer = GenPRMTrainer(
    model=base_model,
    args=GenPRMConfig(
        output_dir=output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=64,  # the paper's batch of 64 conversations, on one GPU
        logging_steps=1,
        report_to="none",
    ),
    train_dataset=list(iter_rationales(data)),
)
trainer.train()
trainer.save_model()  # weights, tokenizer, and the settings that `genprm verify` asks the model with
