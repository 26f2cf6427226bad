"""What the trainers of reward models and of policies on pairs share: evaluation on rows of any form, and the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from transformers import Trainer

from genprm_trl.cards.card import CITATION
from genprm_trl.cards.model_card import CardContent, ModelKind, write_model_card
from genprm_trl.errors import ConfigError
from genprm_trl.training.card_facts import (
    DescribedData,
    changed_arguments,
    measured_while_training,
    row_facts,
    training_facts,
)


class RewardModelTrainer(Trainer):
    """What the trainers share that take rows of any form and write a card. Named before a trainer class of TRL.

    Attributes:
        card_kind: What the model is.
        card_citation: BibTeX of the work to cite.
        described_data: What the caller knows of the training data.
    """

    card_kind: ModelKind
    card_citation: ClassVar[str] = CITATION
    described_data: DescribedData | None = None

    def card_training(self) -> dict[str, Any]:
        """Facts of this kind of training, for the card's table."""
        return {}

    def card_data(self) -> dict[str, Any]:
        """Counts of the training data, for the card's table."""
        return row_facts(self.train_dataset)

    @staticmethod
    def read_rows(rows: Any, name: str) -> Any:
        """Checks rows of any form that the trainer takes; errors call them by the name."""
        raise NotImplementedError

    def _prepare_eval(self, rows: Any) -> Any:
        """Prepares evaluation rows, or each part of a dict of them."""
        if isinstance(rows, dict):
            return {name: self.read_rows(part, f"eval_dataset[{name!r}]") for name, part in rows.items()}
        return self.read_rows(rows, "eval_dataset")

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluates as TRL's trainer, on rows of any form that the trainer takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare_eval(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call:
            self.create_model_card(model_name=Path(self.args.hub_model_id or self.args.output_dir).name)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether the metrics are the best ones so far. Scores of steps are undefined where a class has no rows."""
        try:
            return bool(super()._determine_best_metric(metrics, trial))
        except KeyError as error:
            raise ConfigError(
                f"metric_for_best_model is {self.args.metric_for_best_model!r}, which this evaluation does not have "
                f"({', '.join(sorted(metrics))}); f1 needs rows with a wrong step and rows without one"
            ) from error

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes `README.md` to `args.output_dir`. Asks nothing of a hub.

        Args:
            model_name: Title of the card.
            dataset_name: What the model was trained on.
            tags: Tags besides the trainer's own.
        """
        if not self.is_world_process_zero():
            return
        base_model, args = self.model.config.name_or_path, self.args
        data = self.described_data or DescribedData(dataset_name)
        content = CardContent(
            name=model_name or Path(args.output_dir).name,
            description=f"Trained on {data.name}." if data.name else "",
            scores=measured_while_training(self),
            training={
                "trainer": f"genprm_trl.{type(self).__name__}",
                **self.card_training(),
                **training_facts(self),
            },
            data={**self.card_data(), **data.facts},
            recipe=data.recipe,
            arguments=changed_arguments(args),
            base_model=None if not base_model or Path(base_model).exists() else base_model,
            datasets=(data.hub_id,) if data.hub_id else (),
            tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
            model_id=args.hub_model_id,
            kind=self.card_kind,
            citation=self.card_citation,
        )
        write_model_card(args.output_dir, content)
