"""Rationale synthesis: a strong reasoner critiques whole solutions, and its code is run as it writes.

This follows arXiv 2504.00891, section 3.2 (with QwQ-32B). Critiques become training data in `consensus`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genprm_trl._loops import gathered
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import check_at_least
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.labeling.critiques import RationaleSample, SampledCode, SampledSolution
from genprm_trl.protocol.synthesis import SynthesisProtocol
from genprm_trl.records import Solution
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.chain import ChainDriver


@dataclass(frozen=True, slots=True)
class RationaleSettings:
    """How critiques are sampled: options of `genprm rationalize`.

    The defaults of the sampling are those that QwQ-32B's authors advise.

    Raises:
        ConfigError: A value is out of range.
    """

    samples: int = field(default=1, metadata={"help": "Critiques sampled per solution."})
    max_tokens: int = field(
        default=16384,
        metadata={"help": "Maximum tokens of a critique: its thinking, its answer, and the output of its code."},
    )
    max_code_rounds: int = field(default=32, metadata={"help": "Maximum code blocks that run for a critique."})
    temperature: float = field(default=0.6, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(
        default=0.95,
        metadata={"help": "Sample from the most likely tokens whose probabilities add up to this; 1: from all."},
    )
    top_k: int = field(default=40, metadata={"help": "Sample from this many of the most likely tokens; 0: from all."})
    keep_thinking: bool = field(
        default=False,
        metadata={"help": "Keep the reasoner's thinking in a separate field. It is never part of a rationale."},
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same critiques."})
    max_chains: int = field(
        default=256, metadata={"help": "Critiques in progress at once, in each worker.", "operational": True}
    )

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples, max_chains=self.max_chains)
        self.sampling()
        self.protocol()

    def sampling(self) -> SamplingParams:
        """Returns the sampling parameters of a critique, which asks for no log-probabilities."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, logprobs=0)

    def protocol(self, opens_thinking: bool = False) -> SynthesisProtocol:
        """Returns the protocol that writes a critique within these bounds.

        Args:
            opens_thinking: Whether the chat template's generation prompt leaves a thinking block open.
        """
        return SynthesisProtocol(self.max_tokens, self.max_code_rounds, opens_thinking)


class Reasoner:
    """Samples critiques of solutions.

    Args:
        generator: The model.
        sandbox: Runs the model's code.
        settings: How critiques are sampled.
        chat_template: A Jinja template that replaces the tokenizer's own.
        template_date: The day that the template shows as today's; see `ChatFormat`.

    Raises:
        ConfigError: The tokenizer has no usable chat template.
    """

    def __init__(
        self,
        generator: Generator,
        sandbox: Sandbox,
        settings: RationaleSettings | None = None,
        *,
        chat_template: str | None = None,
        template_date: str | None = None,
    ):
        self.settings = settings if settings is not None else RationaleSettings()
        chat = ChatFormat(generator.tokenizer, chat_template=chat_template, template_date=template_date)
        self._protocol = self.settings.protocol(chat.opens_thinking)
        self._driver = ChainDriver(generator, sandbox, chat, self.settings.sampling(), self.settings.seed)
        self._chains = asyncio.Semaphore(self.settings.max_chains)

    async def critique(self, solution: Solution, number: int = 0) -> RationaleSample:
        """One critique of a solution; `number` tells it from others of the same one.

        Whatever the model writes ends in a sample; see its status.

        Raises:
            ItemFailed: The generator or the sandbox failed.
            GenPRMError: The generator cannot be used any more.
        """
        async with self._chains:
            script = self._protocol.chain(solution.problem, solution.steps)
            end = await self._driver.run(script, f"{solution.id}/{number}", affinity=solution.id)
        critique, passage = end.value, end.passage
        if critique.status == "generator_failed":
            raise ItemFailed(critique.message or "the generator failed and does not say why")
        if critique.status == "sandbox_failed":
            raise ItemFailed(f"the sandbox failed: {passage.code_rounds[-1].output}")
        return RationaleSample(
            status=critique.status,
            answer=critique.answer,
            code_rounds=[SampledCode(ran.code, ran.output, ran.status) for ran in passage.code_rounds],
            num_tokens=passage.num_tokens,
            thinking=critique.thinking if self.settings.keep_thinking else None,
        )

    async def critiques(self, solution: Solution) -> list[RationaleSample]:
        """Samples as many critiques as the settings say, in order. Raises what `critique` raises."""
        return await gathered(self.critique(solution, number) for number in range(self.settings.samples))


@contextlib.asynccontextmanager
async def open_reasoner(
    open_generator: Callable[[], Generator],
    open_sandbox: Callable[[], Sandbox],
    settings: RationaleSettings,
    *,
    chat_template: str | None = None,
    template_date: str | None = None,
) -> AsyncIterator[Reasoner]:
    """Opens a generator and a sandbox as a `Reasoner`, for a stage's worker.

    Raises:
        ConfigError: The sandbox cannot run code. It is asked before the model is loaded.
    """
    async with open_sandbox() as sandbox:
        await sandbox.check()
        async with open_generator() as generator:
            yield Reasoner(generator, sandbox, settings, chat_template=chat_template, template_date=template_date)


async def rationalize(
    reasoner: Reasoner, solution: Solution, partial: Partial, *, source: Mapping[str, Any]
) -> Outcome:
    """Critiques one solution.

    Args:
        reasoner: Writes the critiques.
        solution: The solution.
        partial: Not used; an unfinished critique starts again.
        source: Provenance that is written into every row.

    Returns:
        One row: a `SampledSolution`.

    Raises:
        ItemFailed: The generator or the sandbox failed.
    """
    samples = await reasoner.critiques(solution)
    counts: Counter[str] = Counter(f"status/{sample.status}" for sample in samples)
    rounds = [code_round for sample in samples for code_round in sample.code_rounds]
    counts.update(f"code/{code_round.status}" for code_round in rounds)
    counts["tokens"] = sum(sample.num_tokens for sample in samples)
    counts["code_blocks"] = len(rounds)
    if len(samples) > 1 and len({sample.answer for sample in samples}) == 1:
        counts["solutions_with_equal_critiques"] = 1
    row = SampledSolution(solution, samples, dict(source)).to_dict()
    return Outcome(rows=[row], counts=dict(counts))


def with_solution(solution: Solution, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `rationalize` about the solution as it is given now: its label may have been corrected."""
    return {**row, "solution": solution.to_dict()}
