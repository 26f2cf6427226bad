"""Reinforcement learning of the verifier itself: rollouts in which a GenPRM judges a solution and its code is run.

The reward says whether the verdict agrees with the label (`rewards.verdict_agreement_reward`, for example). Labels
are enough; no rationales are needed.

A rollout is one chain over the steps of a solution, up to the first step that it judges wrong. To TRL it is one prompt
and one completion. The prompt ends where the model begins to write. Text between the model's texts (later steps,
forced prefixes, interpreter output) is in the completion and masked out. A rollout per step would need histories.
Histories from another model are off-policy, and its own histories are exactly this chain. A chain is also what a
solution's label describes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genprm_trl._loops import run
from genprm_trl.conversation.settings import ModelSettings, frozen_date
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.generation import TransformersGenerator
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.protocol.genprm import GenPRMProtocol, Mode
from genprm_trl.records import Solution, StepJudgement
from genprm_trl.rows.jsonl import parse_json
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.training.gathered import check_can_gather, gathered_model
from genprm_trl.training.verifier_rl.recorded import RecordedGenerator
from genprm_trl.verifier.chain import ChainDriver

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOTrainer

_READ = ("ok", "fallback")  # statuses of a judgement with a verdict


def verifier_dataset(solutions: Iterable[Solution], *, labelled: bool = True) -> Dataset:
    """Solutions as a dataset for `GRPOTrainer` with `VerifierRollout`.

    Args:
        solutions: Solutions with a `label`. Steps after the first wrong one have no label and are left out; the model
            sees one step after the other and cannot tell.
        labelled: False takes whole solutions and leaves their labels out, for `verdict_majority_reward`.

    Returns:
        Columns `prompt` (problem and steps as JSON, which is all that a rollout is given), `id`, and `label`.

    Raises:
        DataError: There are none, or one has no steps, or no label.
    """
    from datasets import Dataset

    rows = []
    for number, solution in enumerate(solutions, start=1):
        if labelled and solution.label is None:
            raise DataError("missing; without it there is nothing to agree with", row=number, field="label")
        if not solution.steps:
            raise DataError("is empty; there is nothing to judge", row=number, field="steps")
        label = solution.label if labelled else None
        steps = solution.steps if label is None or label < 0 else solution.steps[: label + 1]
        prompt = json.dumps({"problem": solution.problem, "steps": steps}, ensure_ascii=False)
        rows.append({"prompt": prompt, "id": solution.id} | ({} if label is None else {"label": label}))
    if not rows:
        raise DataError("no solutions to train on")
    return Dataset.from_list(rows)


@dataclass(frozen=True, slots=True)
class JudgedSolution:
    """A rollout.

    Attributes:
        prompt_ids: Up to the first token that the model wrote.
        completion_ids: The token ids from there to the end of the last turn.
        mask: One value per completion id: 1 if the model sampled it, else 0.
        judgements: The judgements of the steps, up to the first one without the verdict Yes.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    judgements: list[StepJudgement]


class VerifierRollout:
    """A `rollout_func` of TRL's `GRPOTrainer`: the trainer's model judges solutions, and the code it writes is run.

    Chains of a batch run at once; code runs while others generate. Sampling is the trainer's (`temperature`, `top_p`,
    `top_k`). Its `max_completion_length` bounds each chain after the first prompt, interpreter output included. Use
    several thousand. A chain that reaches it, or the model's context, ends without a verdict and counts as truncated
    for `mask_truncated_completions`.

    The loss covers only tokens that the model sampled. If the verifier falls back to a forced verdict, the dropped
    text is not part of the completion.

    Each turn opens with the template's generation prompt, whatever the model did before. With `as_published` a turn is
    rendered again once it is history, so a conversation would not be one sequence. `settings` tells the verifier; save
    them next to the trained weights.

    Args:
        protocol: The conversation; its mode says whether code is run.
        sandbox: Runs the code; needed by modes that execute. Its owner closes it.
        chat_template: A Jinja template that replaces the tokenizer's.
        template_date: The day that the template shows as today's, such as `2026-12-01`. Default: the one in the
            settings of the model, or of the output directory, or else the day of the first rollout. A run that resumes
            on another day needs the first day here, unless `settings` were saved to the output directory.
        max_batch_size: Chains that generate at once.

    Raises:
        ConfigError: The mode needs a sandbox, or the sandbox cannot run code; while training, if the trainer's options
            do not fit: generation by vLLM, `min_p` or a repetition penalty, or a model that must stay sharded while it
            generates (the first version of FSDP, or ZeRO-3 with `ds3_gather_for_generation=False`).

    Example:
        ```python
        from trl import GRPOConfig, GRPOTrainer

        from genprm_trl.loading import load_solutions
        from genprm_trl.rewards import rationale_format_reward, verdict_agreement_reward
        from genprm_trl.sandbox import LocalSandbox
        from genprm_trl.training import VerifierRollout, verifier_dataset

        trainer = GRPOTrainer(
            "GenPRM/GenPRM-1.5B",
            reward_funcs=[verdict_agreement_reward, rationale_format_reward],
            args=GRPOConfig("verifier-grpo", max_completion_length=8192, reward_weights=[1.0, 0.1]),
            train_dataset=verifier_dataset(load_solutions("solutions.jsonl")),
            rollout_func=VerifierRollout(sandbox=LocalSandbox()),
        )
        trainer.train()
        ```
    """

    def __init__(
        self,
        protocol: GenPRMProtocol | None = None,
        *,
        sandbox: Sandbox | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
        max_batch_size: int = 64,
    ):
        self.protocol = protocol or GenPRMProtocol()
        if Mode.of(self.protocol.mode).execute:
            if sandbox is None:
                raise ConfigError(
                    "this mode runs code and needs a sandbox, for instance genprm_trl.sandbox.LocalSandbox()"
                )
            run(sandbox.check())
        self.sandbox = sandbox
        self.chat_template, self.template_date = chat_template, template_date
        self.max_batch_size = max_batch_size
        self._chat: ChatFormat | None = None
        self._step, self._calls = -1, 0

    @property
    def settings(self) -> ModelSettings:
        """How a verifier has to ask the trained model: `settings.save(output_dir)`."""
        return ModelSettings(
            turn_opening="generation_prompt",
            first_turn=self.protocol.first_turn,
            modes=(Mode.of(self.protocol.mode).name,),
            template_date=self.template_date,
        )

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any] | None]:
        """Judges the solutions of a batch with the model as it is.

        Args:
            prompts: Rows of `verifier_dataset`.
            trainer: The trainer.

        Returns:
            What TRL asks for: `prompt_ids`, `completion_ids`, `env_mask` (the `JudgedSolution.mask`) and `logprobs`
            (None, as from TRL's own generation with transformers: the trainer computes them). And for the reward
            functions `verdicts` (for each judged step True for Yes, False for No, None where there is no verdict),
            `statuses` (see `records.StepStatus`), `code_rounds` (in all) and `num_steps` (to be judged).
        """
        args = trainer.args
        if args.use_vllm:
            raise ConfigError("VerifierRollout generates with the trainer's own model: set use_vllm=False")
        if args.min_p or args.repetition_penalty != 1.0:
            raise ConfigError("VerifierRollout samples with temperature, top_p and top_k alone: unset min_p and "
                              "repetition_penalty")  # fmt: skip
        check_can_gather(trainer, refused=not args.ds3_gather_for_generation)
        if self._chat is None:
            tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
            if self.template_date is None:
                before = (trainer.model.config.name_or_path, args.output_dir)
                template = str(self.chat_template or tokenizer.chat_template)
                self.template_date = frozen_date(template, *(each for each in before if each))
            self._chat = ChatFormat(tokenizer, "generation_prompt", self.chat_template, self.template_date)
        sampling = SamplingParams(
            temperature=args.temperature, top_p=args.top_p, top_k=args.top_k or 0, max_new_tokens=1, logprobs=0
        )
        with gathered_model(trainer) as model:
            solutions = [_solution(prompt) for prompt in prompts]
            generator = TransformersGenerator(model, self._chat.tokenizer, max_batch_size=self.max_batch_size)
            judged = self.judge(
                solutions,
                generator,
                sampling,
                max_completion_tokens=args.max_completion_length,
                seed=args.seed,
                name=self._name(trainer),
                close=True,
            )
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in judged],
            "completion_ids": [rollout.completion_ids for rollout in judged],
            "logprobs": None,
            "env_mask": [rollout.mask for rollout in judged],
            "verdicts": [[_verdict(judgement) for judgement in rollout.judgements] for rollout in judged],
            "statuses": [[judgement.status for judgement in rollout.judgements] for rollout in judged],
            "code_rounds": [sum(len(j.code_rounds) for j in rollout.judgements) for rollout in judged],
            "num_steps": [len(solution.steps) for solution in solutions],
        }

    def judge(
        self,
        solutions: Sequence[Solution],
        generator: Generator,
        sampling: SamplingParams,
        *,
        max_completion_tokens: int,
        seed: int = 0,
        name: str = "",
        close: bool = False,
    ) -> list[JudgedSolution]:
        """Runs a chain over each solution.

        Args:
            solutions: What to judge; equal ones get separate chains.
            generator: Generates the text.
            sampling: Temperature and filters.
            max_completion_tokens: Bound on each chain after its first prompt.
            seed: Seed of the sampling.
            name: Tells these rollouts from all others of the seed.
            close: Whether to close the generator afterwards.
        """
        chat = self._chat or ChatFormat(
            generator.tokenizer, "generation_prompt", self.chat_template, self.template_date
        )

        async def judge_one(index: int, solution: Solution) -> JudgedSolution:
            recorded = RecordedGenerator(generator, max_completion_tokens)
            driver = ChainDriver(recorded, self.sandbox, chat, sampling, seed)
            chain = driver.open(
                self.protocol.chain(solution.problem, solution.steps), f"{name}/{index}", affinity=solution.digest
            )
            judgements: list[StepJudgement] = []
            try:
                while len(judgements) < len(solution.steps):
                    judgements.append(await chain.judge_step())
                    if _verdict(judgements[-1]) is not True:
                        break
                ids, kinds = chain.tokens()
            finally:
                await chain.close()
            written = [
                sampled and kind == "written" for sampled, kind in zip(recorded.sampled(ids), kinds, strict=True)
            ]
            # Up to the token that ends the last turn, by which TRL knows a whole completion from a truncated one.
            ends = {"written", "end_of_turn"} if judgements[-1].status in (*_READ, "no_verdict") else {"written"}
            end = max((at + 1 for at, kind in enumerate(kinds) if kind in ends), default=len(ids))
            start = min(kinds.index("written") if "written" in kinds else end, end - 1)
            return JudgedSolution(ids[:start], ids[start:end], [int(w) for w in written[start:end]], judgements)

        async def judge_all() -> list[JudgedSolution]:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(judge_one(index, s)) for index, s in enumerate(solutions)]
                return [task.result() for task in tasks]
            finally:
                if close:
                    await generator.close()

        return run(judge_all())

    def _name(self, trainer: GRPOTrainer) -> str:
        """Different for each batch of each process; the same when training is resumed."""
        if trainer.state.global_step != self._step:
            self._step, self._calls = trainer.state.global_step, 0
        self._calls += 1
        return f"{self._step}/{self._calls}/{trainer.accelerator.process_index}"


def _solution(prompt: str) -> Solution:
    try:
        return Solution.from_dict(parse_json(prompt), default_id="rollout")
    except (TypeError, DataError) as error:
        raise DataError(
            f"is not of the form that VerifierRollout needs ({error}); make the dataset with verifier_dataset",
            field="prompt",
        ) from error


def _verdict(judgement: StepJudgement) -> bool | None:
    return judgement.reward >= 0.5 if judgement.status in _READ else None
