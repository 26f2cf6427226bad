"""Judging real solutions while a GenPRM is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genprm_trl.cards.model_card import MeasuredScore
from genprm_trl.errors import DataError
from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.protocol.base import VerificationProtocol
from genprm_trl.protocol.genprm import GenPRMProtocol, Mode
from genprm_trl.protocol.thinkprm import ThinkPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.training.gathered import check_can_gather, gathered_model

if TYPE_CHECKING:
    from genprm_trl.training.sft.trainer import GenPRMTrainer


logger = logging.getLogger(__name__)


class VerificationCallback(TrainerCallback):
    """At each evaluation, lets the model judge solutions as the verifier does: it writes rationales, and code runs.

    Logs the scores of ProcessBench in per cent as `eval_verified_f1`, `eval_verified_error_acc` and
    `eval_verified_correct_acc` (those that the labels leave undefined are left out), and as `eval_verified_ok` the
    share of judgements, in [0, 1], that came of a complete rationale. All of them can be `metric_for_best_model`.

    With several processes, each judges its share of the solutions. A model that ZeRO-3 or FSDP shards is whole in each
    of them meanwhile, so its weights must fit.

    Args:
        trainer: The trainer; add the callback to it with `trainer.add_callback`.
        solutions: Solutions with a `label`; a few dozen, since generation is slow.
        mode: The mode to judge in; default: the main one that the model is trained in. A ThinkPRM has none.
        n: Chains per solution.
        max_step_tokens: Bound on the tokens of one rationale; of a ThinkPRM, on those of a chain.
        max_batch_size: Chains that generate at once.
        seed: Seed of the sampling, the same at each evaluation.
        sandbox: Where code runs, and what is required of it.
        name: Name of the solutions in the model card.

    Raises:
        ConfigError: The first version of FSDP shards the model, or the sandbox cannot run the code of the mode.
        DataError: There are no solutions, or one has no label.

    Example:
        ```python
        from genprm_trl import GenPRMConfig, GenPRMTrainer
        from genprm_trl.loading import iter_rationales, load_solutions
        from genprm_trl.training.callbacks import VerificationCallback

        records = list(iter_rationales("rationales.jsonl"))
        args = GenPRMConfig("genprm", eval_strategy="steps", eval_steps=100)
        trainer = GenPRMTrainer(
            "Qwen/Qwen2.5-0.5B-Instruct", args=args, train_dataset=records[50:], eval_dataset=records[:50]
        )
        trainer.add_callback(VerificationCallback(trainer, load_solutions("held_out.jsonl", limit=50)))
        trainer.train()
        ```
    """

    def __init__(
        self,
        trainer: GenPRMTrainer,
        solutions: Sequence[Solution],
        *,
        mode: str | None = None,
        n: int = 1,
        max_step_tokens: int = 2048,
        max_batch_size: int = 64,
        seed: int = 0,
        sandbox: SandboxOptions | None = None,
        name: str = "held-out solutions",
    ):
        if not solutions:
            raise DataError("no solutions to verify")
        for number, solution in enumerate(solutions, start=1):
            if solution.label is None:
                raise DataError("missing; without it there is nothing to score", row=number, field="label")
        check_can_gather(trainer)
        self.trainer = trainer
        self.solutions = list(solutions)
        settings = trainer.model_settings
        self.sandbox = sandbox if sandbox is not None else SandboxOptions()
        self.protocol: VerificationProtocol
        self.mode: str
        if settings.protocol == "thinkprm":
            self.mode, self._executes = settings.protocol, False
            self.protocol = ThinkPRMProtocol(False, trainer.chat_format.opens_thinking, max_step_tokens)
        else:
            self.mode = mode or settings.default_mode
            self.protocol = GenPRMProtocol(self.mode, settings.first_turn, max_step_tokens)
            self._executes = Mode.of(self.mode).execute
        if self._executes:
            self.sandbox.check_sandbox()
        self.n = n
        self.max_batch_size = max_batch_size
        self.seed = seed
        self.name = name
        self._scores: dict[str, float] = {}
        self._done_at: int | None = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Verifies, once a step even where several datasets are evaluated."""
        if self._done_at == state.global_step and state.global_step:
            return
        self._done_at = state.global_step
        self._scores = dict(self.verify())
        scores = {f"eval_verified_{name}": value for name, value in self._scores.items()}
        if metrics is not None:
            metrics.update(scores)  # where the trainer looks for metric_for_best_model
        self.trainer.log(dict(scores))

    def measured(self, state: TrainerState) -> list[MeasuredScore]:
        """The scores of the weights as they are, for the model's card; none if they were trained on since."""
        if self._done_at != state.global_step:
            return []
        pooled = "Pass@1" if self.n == 1 else f"Maj@{self.n}"
        setting = f"{self.mode}, {pooled}, {len(self.solutions)} solutions"
        names = {"error_acc": "error_acc", "correct_acc": "correct_acc", "f1": "F1"}
        return [
            MeasuredScore(self.name, metric, self._scores[name], setting)
            for name, metric in names.items()
            if name in self._scores
        ]

    def verify(self) -> Mapping[str, float]:
        """Lets the model as it is judge the solutions.

        Returns:
            The scores, without their prefix; the same in every process.
        """
        from genprm_trl.generation import TransformersGenerator
        from genprm_trl.verifier.genprm import GenPRM

        trainer = self.trainer
        rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
        chat = trainer.chat_format
        share = self.solutions[rank::world]
        with gathered_model(trainer) as model:
            prm = GenPRM(
                TransformersGenerator(model, chat.tokenizer, max_batch_size=self.max_batch_size),
                self.sandbox.open_sandbox() if self._executes else None,
                self.protocol,
                chat=chat,
                n=self.n,
                stop="first_error",
                seed=self.seed,
            )
            was_training = model.training
            try:
                with prm:
                    verdicts = list(prm.verify_all(share, progress=not trainer.args.disable_tqdm and rank == 0))
            finally:
                model.train(was_training)
        statuses = [judgement.status for verdict in verdicts for chain in verdict.chains for judgement in chain]
        judged = [verdict for verdict in verdicts if not verdict.has_failed]
        if len(judged) < len(verdicts):
            logger.warning(
                "%d of %d solutions are in no score: the generator or the sandbox failed on them",
                len(verdicts) - len(judged),
                len(verdicts),
            )
        found = gather_object([(verdict.label, verdict.scored_prediction) for verdict in judged])
        complete = gather_object([status == "ok" for status in statuses])
        scores = processbench_scores([label for label, _ in found], [prediction for _, prediction in found])
        return {
            **{name: value for name, value in scores.items() if value is not None},
            "ok": sum(complete) / len(complete),
        }
