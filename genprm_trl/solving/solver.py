"""A model that solves problems, from the problem or from a prefix of a solution."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError, GenPRMError, check_at_least
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.grading import thinking
from genprm_trl.grading.extract import before_cut
from genprm_trl.grading.thinking import THINK_START
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.base import Verifier

logger = logging.getLogger(__name__)

# The Qwen2.5-Math models were trained with it, and other instruction models follow it as well.
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """How a model is asked for solutions: options of the commands that need a policy.

    Raises:
        ConfigError: A value is out of range.
    """

    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature; above 0."})
    top_p: float = field(
        default=1.0,
        metadata={"help": "Sample from the most likely tokens whose probabilities add up to this; 1: from all."},
    )
    top_k: int = field(default=0, metadata={"help": "Sample from this many of the most likely tokens; 0: from all."})
    max_tokens: int = field(default=2048, metadata={"help": "Maximum tokens of one request."})
    system_prompt: str | None = field(
        default=None,
        metadata={"help": f"The system message; an empty one for none. Default: {SYSTEM_PROMPT}"},
    )
    max_requests: int = field(
        default=256, metadata={"help": "Requests in flight at once, in each worker.", "operational": True}
    )

    def __post_init__(self) -> None:
        check_at_least(1, max_tokens=self.max_tokens, max_requests=self.max_requests)
        if self.temperature == 0:
            raise ConfigError("with temperature 0 all samples are the same one; give a positive temperature")
        self.sampling()

    def sampling(self) -> SamplingParams:
        """Returns the sampling parameters of a solution, which asks for no log-probabilities."""
        return SamplingParams(self.max_tokens, self.temperature, self.top_p, self.top_k, logprobs=0)


class SolutionPrompts:
    """Token ids of what a policy is asked and of how its solution begins.

    Training on steps builds them with the same class (`training.step_dpo`), so that a policy is trained in the tokens
    in which it is asked.

    Args:
        tokenizer: The policy's tokenizer.
        system_prompt: The system message; an empty one for none. None is `SYSTEM_PROMPT`.
        chat_template: A Jinja template that replaces the tokenizer's own.
        template_date: The day that the template shows as today's; see `ChatFormat`.

    Raises:
        ConfigError: The tokenizer has no usable chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        system_prompt: str | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
    ):
        self._system_prompt = SYSTEM_PROMPT if system_prompt is None else system_prompt
        self._chat = ChatFormat(tokenizer, chat_template=chat_template, template_date=template_date)
        # What closes the thinking block that the chat template opens, if it opens one.
        self._end_of_thinking = thinking.end_of_thinking(_opening(self._chat))

    def begin(self, problem: str) -> Conversation:
        """A conversation that has asked for the solution of a problem, and opened the turn that answers."""
        conversation = Conversation(self._chat)
        messages = [{"role": "user", "content": problem}]
        if self._system_prompt:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        conversation.open_turn(messages)
        return conversation

    def prompt(self, problem: str, begun: str = "", *, thinks: bool = True) -> list[int]:
        """Token ids of a problem and a prefix of its solution.

        Args:
            problem: The problem.
            begun: The prefix.
            thinks: Whether thoughts may come first, where there is no prefix and the chat template opens a block.
        """
        conversation = self.begin(problem)
        self.begin_answer(conversation, begun, thinks=thinks)
        return conversation.token_ids

    def begin_answer(self, conversation: Conversation, begun: str, *, thinks: bool = True) -> None:
        """Puts the beginning of an answer into the open turn.

        A thinking block that the chat template has opened is closed before: what the model goes on with would be
        thoughts otherwise, and no steps.

        Args:
            conversation: The conversation.
            begun: The beginning.
            thinks: Whether the block stays open if the beginning is empty.
        """
        if self._end_of_thinking and (begun or not thinks):
            text = f"\n{self._end_of_thinking}\n\n"
            conversation.append_ids(self._chat.encode(text), text)
        if begun:
            conversation.append(begun, "forced")

    def following(self, text: str) -> list[int]:
        """Token ids of a text as a model writes it behind a prompt. What spells a control token stays text."""
        return self._chat.encode(self._chat.neutralize(text))


class Solver(SolutionPrompts):
    """Asks a generator for solutions through its chat template.

    A prefix of a solution, if there is one, stands at the start of the assistant's turn, and the model continues it
    (step forcing; arXiv 2504.00891, section 3.1).

    Args:
        generator: The model.
        settings: How it is asked.
        chat_template: A Jinja template that replaces the tokenizer's own.
        template_date: The day that the template shows as today's; see `ChatFormat`.

    Raises:
        ConfigError: The tokenizer has no usable chat template.
    """

    def __init__(
        self,
        generator: Generator,
        settings: SolverSettings | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
    ):
        self.settings = settings if settings is not None else SolverSettings()
        super().__init__(generator.tokenizer, self.settings.system_prompt, chat_template, template_date)
        self._generator, self._sampling = generator, self.settings.sampling()
        self._free = asyncio.Semaphore(self.settings.max_requests)

    def text(self, begun: str, written: str, finish_reason: str) -> str:
        """A solution as it is read: what began it, and what the model wrote.

        If a bound cut off thoughts in a block that the chat template has opened, the text says that it is open. They
        look like an answer otherwise. No block is open behind a prefix.

        Args:
            begun: The prefix that the model continued.
            written: What it wrote.
            finish_reason: Why it ended.
        """
        thoughts = self._end_of_thinking and not begun and self._end_of_thinking not in written
        return f"{THINK_START if thoughts and finish_reason != 'stop' else ''}{begun}{written}"

    def graded_text(self, begun: str, written: str, finish_reason: str, *, alone: bool = False) -> str:
        """The part of `text` that an answer is looked for in: without the end if a bound cut it off.

        Args:
            begun: The prefix that the model continued.
            written: What it wrote.
            finish_reason: Why it ended.
            alone: Whether to leave out the prefix, whose answers must not count.
        """
        text = written if begun and alone else self.text(begun, written, finish_reason)
        return text if finish_reason == "stop" else before_cut(text)

    async def complete(
        self, prompt: list[int], seed: int, *, stop: tuple[str, ...] = (), affinity: str | None = None
    ) -> GenerationResult:
        """Continues a prompt.

        Args:
            prompt: Token ids that `prompt` returned, or those of a conversation.
            seed: Seed of this request.
            stop: Stop strings, which are kept. Default: the model ends its turn.
            affinity: A hint for prefix caches; see `Generator.generate`.

        Raises:
            ItemFailed: The generator failed on this request.
            GenPRMError: The generator cannot be used any more.
        """
        async with self._free:
            try:
                params = replace(self._sampling, seed=seed, stop=stop)
                result = await self._generator.generate(prompt, params, affinity=affinity)
            except GenPRMError:
                raise
            except Exception as error:  # a generator's own failure must not end what others are working on
                logger.debug("generation failed", exc_info=True)
                raise ItemFailed(f"{type(error).__name__}: {error}") from error
        if result.finish_reason == "error":
            raise ItemFailed(result.message or "the generator failed and does not say why")
        return result


def _opening(chat: ChatFormat) -> str:
    [text] = chat.render([{"role": "user", "content": "x"}], open_turn=True)
    return text


@contextlib.asynccontextmanager
async def open_solver(
    open_generator: Callable[[], Generator],
    settings: SolverSettings,
    chat_template: str | None = None,
    template_date: str | None = None,
) -> AsyncIterator[Solver]:
    """Opens a generator and asks it as a solver, for a stage's worker."""
    async with open_generator() as generator:
        yield Solver(generator, settings, chat_template, template_date)


@contextlib.asynccontextmanager
async def open_solver_and_verifier(
    open_policy: Callable[[], AbstractAsyncContextManager[Solver]],
    open_verifier: Callable[[], Verifier],
    *,
    policy_first: bool = False,
) -> AsyncIterator[tuple[Solver, Verifier]]:
    """Opens a policy and the verifier that judges it, for a stage's worker.

    Args:
        open_policy: Opens the policy.
        open_verifier: Opens the verifier.
        policy_first: Whether the policy is opened before the verifier. What a server offers comes first, so that one
            that cannot be used shows before a model is loaded.
    """
    async with contextlib.AsyncExitStack() as stack:
        if policy_first:
            policy = await stack.enter_async_context(open_policy())
            verifier = await stack.enter_async_context(open_verifier())
        else:
            verifier = await stack.enter_async_context(open_verifier())
            policy = await stack.enter_async_context(open_policy())
        yield policy, verifier
