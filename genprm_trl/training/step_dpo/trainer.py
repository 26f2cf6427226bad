r"""Training a policy on pairs of steps (Step-DPO, Lai et al. 2024, arXiv 2406.18629).

With a problem x, the right steps \(s_1 \dots s_{k-1}\), a right next step \(s_{win}\) and a wrong one \(s_{lose}\):

\[L = -\log\sigma\Big(\beta \log\frac{\pi_\theta(s_{win} | x; s_{1..k-1})}{\pi_{ref}(s_{win} | x; s_{1..k-1})}
- \beta \log\frac{\pi_\theta(s_{lose} | x; s_{1..k-1})}{\pi_{ref}(s_{lose} | x; s_{1..k-1})}\Big)\]

This is DPO whose prompt ends within the solution and whose completion is one step. No end-of-text token follows a
step, since the policy must not learn to stop there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from accelerate.utils import is_peft_model
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from genprm_trl.cards.model_card import POLICY
from genprm_trl.conversation.settings import POLICY_SETTINGS_FILE
from genprm_trl.data.step_pairs import StepPair
from genprm_trl.errors import ConfigError, check_at_least, check_positive
from genprm_trl.rows.jsonl import write_json
from genprm_trl.solving.solver import SYSTEM_PROMPT, SolutionPrompts
from genprm_trl.training.answer_trainer import check_generates
from genprm_trl.training.dates import dated_by, training_date
from genprm_trl.training.given_rows import fitting_pairs, is_encoded, problem_facts, read_given
from genprm_trl.training.options import TrainerOptions
from genprm_trl.training.reward_model import RewardModelTrainer
from genprm_trl.verifier.step_tokens import load_step_tokenizer

_ENCODED = frozenset(("prompt_ids", "chosen_ids", "rejected_ids"))


@dataclass
class StepDPOConfig(TrainerOptions, DPOConfig):
    r"""Options of `StepDPOTrainer`, on top of those of `trl.DPOConfig`.

    Differs from it in the defaults of `learning_rate` and `beta`, which are the paper's for 7B.

    Attributes:
        beta: \(\beta\) of the log-ratios.
        max_length: Bound on the tokens of problem, prefix and step. A pair with a longer side is left out. None is no
            bound.
        system_prompt: The system message; an empty one for none. It must be the one that the policy is asked with
            (`--system_prompt` of `genprm rollout` and `genprm pairs`), whose default is the same.
    """

    learning_rate: float = field(default=5e-7, metadata={"help": "The initial learning rate for AdamW."})
    beta: float = field(default=0.5, metadata={"help": "Factor of the log-ratios."})
    max_length: int | None = field(
        default=1024,
        metadata={"help": "Bound on the tokens of problem, prefix and step; a pair with a longer side is left out."},
    )
    system_prompt: str | None = field(
        default=None,
        metadata={
            "help": "The system message, which must be the one that the policy is asked with; an empty one for none. "
            f"Default: {SYSTEM_PROMPT}"
        },
    )

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(1, max_length=self.max_length)
        super().__post_init__()


_CITATION = """\
@article{lai2024step,
  title   = {Step-DPO: Step-wise Preference Optimization for Long-chain Reasoning of LLMs},
  author  = {Lai, Xin and Tian, Zhuotao and Chen, Yukang and Yang, Senqiao and Peng, Xiangru and Jia, Jiaya},
  journal = {arXiv preprint arXiv:2406.18629},
  year    = {2024}
}"""


def as_rows(rows: Any, name: str) -> Dataset:
    """Pairs of steps as a dataset with the columns `problem`, `prefix`, `chosen` and `rejected`.

    Args:
        rows: `StepPair`s, or rows that `StepPair.from_dict` reads. A dataset that is encoded already stays as it is.
        name: What errors call them.

    Raises:
        DataError: A row is unusable, or there are none. Names the dataset and the row.
    """
    return read_given(rows, name, _row, _ENCODED)


def _row(row: Any, default_id: str) -> Mapping[str, Any]:
    pair = row if isinstance(row, StepPair) else StepPair.from_dict(row, default_id=default_id)
    return {each: getattr(pair, each) for each in ("problem", "prefix", "chosen", "rejected")}


class StepDPOTrainer(RewardModelTrainer, DPOTrainer):
    r"""Trains a policy on pairs of steps, by TRL's `DPOTrainer` with any of its losses.

    Only the encoding of the rows is ours. Problem and prefix have the token ids in which the policy is asked to go on
    (`Solver`), and those of a step follow, without an end-of-text token.

    Example:
        ```python
        from genprm_trl.training import StepDPOConfig, StepDPOTrainer

        rows = [
            {
                "problem": "What is 2 * 3 + 4?",
                "prefix": "Step 1: 2 * 3 = 6\nStep 2:",
                "chosen": " 6 + 4 = 10",
                "rejected": " 6 + 4 = 11",
            }
        ]
        trainer = StepDPOTrainer("Qwen/Qwen2.5-7B-Instruct", args=StepDPOConfig("step-dpo"), train_dataset=rows)
        trainer.train()
        trainer.save_model()
        ```

    Args:
        model: The policy to train, or where to load it from.
        ref_model: The reference. Default: the model as it is, or without the adapter that is trained. It must be given
            for a model that is not loaded from anywhere.
        args: Options.
        train_dataset: `StepPair`s, or rows that `StepPair.from_dict` reads: a `datasets.Dataset` or a list.
        eval_dataset: The same, or a dict of such rows by name.
        **options: Further arguments of `trl.DPOTrainer`.

    Raises:
        ConfigError: Options contradict each other, or the tokenizer has no usable chat template.
        DataError: A row is unusable, or none fits. Names the dataset and the row.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "step-dpo", "genprm-trl"]
    card_kind = POLICY
    read_rows = staticmethod(as_rows)
    card_citation = _CITATION

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: StepDPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **options: Any,
    ):
        path = str(model) if isinstance(model, str | Path) else str(model.config.name_or_path)
        args = StepDPOConfig(f"{Path(path).name or 'model'}-Step-DPO") if args is None else StepDPOConfig.of(args)
        if train_dataset is None:
            raise ConfigError("`train_dataset` is required")
        rows = as_rows(train_dataset, "train_dataset")
        if eval_dataset is not None:
            eval_dataset = self._prepare_eval(eval_dataset)
        check_generates(model, args.model_init_kwargs)
        if options.get("processing_class") is None:
            options["processing_class"] = load_step_tokenizer(path, args.model_init_kwargs)
        self._dated_by = dated_by(model, options["processing_class"], args)
        self._template_date: str | None = None
        super().__init__(
            path if isinstance(model, Path) else model,
            ref_model,
            args,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            **options,
        )
        self._facts = {
            "pairs of steps": f"{len(rows):,}",
            "pairs trained on": f"{len(self.train_dataset):,}",
            **problem_facts(rows),
        }

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if self._template_date is None:
            self._template_date = training_date(processing_class, self._dated_by)
        if is_encoded(dataset, _ENCODED):
            return dataset
        prompts = SolutionPrompts(processing_class, args.system_prompt, template_date=self._template_date)
        encoded = [
            {
                "prompt_ids": prompts.prompt(row["problem"], row["prefix"], thinks=False),
                "chosen_ids": prompts.following(row["chosen"]),
                "rejected_ids": prompts.following(row["rejected"]),
            }
            for row in dataset
        ]
        return Dataset.from_list(fitting_pairs(encoded, _length, args.max_length, dataset_name))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, the day that a dated chat template shows, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and self._template_date is not None:
            write_json(
                Path(output_dir or self.args.output_dir, POLICY_SETTINGS_FILE), {"template_date": self._template_date}
            )

    def card_data(self) -> dict[str, Any]:
        """Counts of the training data."""
        return self._facts

    def card_training(self) -> dict[str, Any]:
        """Returns the loss, beta and the reference."""
        own = is_peft_model(self.model) and self.ref_model is None
        return {
            "loss": ", ".join(self.args.loss_type),
            "beta": self.args.beta,
            "reference": "the model without its adapter" if own else "the base model",
        }


def _length(row: Mapping[str, list[int]]) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
