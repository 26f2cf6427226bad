"""Train a discriminative process reward model on the same solutions.

python train_prm.py TRAIN.jsonl --config discriminative.yaml
"""

import argparse

from trl import ModelConfig, TrlParser

from genprm_trl import PRMConfig, PRMTrainer
from genprm_trl.loading import iter_rationales

words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("data")
arguments, options = words.parse_known_args()
args, model = TrlParser((PRMConfig, ModelConfig)).parse_args_and_config(options)
rows = [record.solution.to_dict() for record in iter_rationales(arguments.data)]
trainer = PRMTrainer(model.model_name_or_path, args, train_dataset=rows)
trainer.train()
trainer.save_model()
