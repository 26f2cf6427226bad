"""Carrying out a script of actions with a generator and a sandbox: one chain of text and code.

A chain is a coroutine: generate until a stop, run the code, go on. Chains are independent; the generator batches
whatever is in flight, and code runs while others generate.
"""

from __future__ import annotations

import collections.abc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from genprm_trl.chat import ChatFormat, Conversation
from genprm_trl.errors import GenPRMError
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.protocol.base import Action, Append, Execute, Generate, Judge, OpenTurn, Rewind, Written
from genprm_trl.records import CodeRound
from genprm_trl.sandbox.base import Sandbox, Session
from genprm_trl.seeding import derive_seed

logger = logging.getLogger(__name__)

EndT = TypeVar("EndT")


@dataclass(slots=True)
class Passage:
    """What a chain has done since its last judgement, or its start.

    Attributes:
        text: The open turn's whole text, forced prefixes and interpreter output included.
        code_rounds: The code blocks that ran, in order.
        num_tokens: Tokens the model generated.
    """

    text: str = ""
    code_rounds: list[CodeRound] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChainEnd(Generic[EndT]):
    """The end of a chain.

    Attributes:
        value: What the script returned; None if it was stopped before its end.
        passage: What has been done since the last judgement.
    """

    value: EndT | None
    passage: Passage


class ChainDriver:
    """Carries out scripts (see `protocol.base`).

    Args:
        generator: Where text comes from.
        sandbox: Where code runs; needed by scripts that execute.
        chat: The tokenizer's chat template, made ready.
        sampling: Temperature and filters. Its stop strings, bounds and seed are ignored.
        seed: With the same seed, model and script, a chain of the same name is the same in whatever order things
            happen.
    """

    def __init__(
        self, generator: Generator, sandbox: Sandbox | None, chat: ChatFormat, sampling: SamplingParams, seed: int
    ):
        self.generator, self.sandbox, self.chat = generator, sandbox, chat
        self.sampling, self.seed = sampling, seed
        self._token_texts: dict[int, str] = {}

    async def run(
        self,
        script: collections.abc.Generator[Action, Any, EndT],
        name: str,
        *,
        on_judge: Callable[[Judge, Passage], bool] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> ChainEnd[EndT]:
        """Carries out one script, with a sandbox session of its own, to its end or until it is stopped.

        Args:
            script: The actions.
            name: Tells this chain from all others of a run; its seeds are made of it.
            on_judge: Told each judgement with what led to it; says whether to go on.
            stopped: Asked before each action whether to stop.

        Raises:
            GenPRMError: The generator is closed.
        """
        conversation = Conversation(self.chat)
        session: Session | None = None
        passage = Passage()
        value: EndT | None = None
        requests = 0
        reply: Any = None
        try:
            while not stopped():
                try:
                    action = script.send(reply)
                except StopIteration as end:
                    value = end.value
                    break
                reply = None
                match action:
                    case OpenTurn(messages):
                        conversation.open_turn(messages)
                    case Append(text, kind):
                        conversation.append(text, kind)
                        reply = conversation.turn_tokens
                    case Rewind(keep):
                        conversation.rewind(keep)
                    case Generate():
                        result = await self._generate(conversation, action, derive_seed(self.seed, name, requests))
                        requests += 1
                        passage.num_tokens += result.num_generated
                        reply = self._written(conversation, result)
                    case Execute(code):
                        if session is None:
                            assert self.sandbox is not None  # checked where the script is chosen
                            session = self.sandbox.session()
                        outcome = await session.run(code)
                        passage.code_rounds.append(CodeRound(code, outcome.output, outcome.status, outcome.seconds))
                        # The sandbox's own failure is not something the program printed: the model must not see it.
                        reply = None if outcome.status == "sandbox_error" else outcome.output
                    case Judge():
                        passage.text = conversation.turn_text
                        judged, passage = passage, Passage()
                        if on_judge is not None and not on_judge(action, judged):
                            break
        finally:
            script.close()
            if session is not None:
                await session.close()
        if conversation.turn_count:
            passage.text = conversation.turn_text
        return ChainEnd(value, passage)

    async def _generate(self, conversation: Conversation, action: Generate, seed: int) -> GenerationResult:
        token_ids = conversation.token_ids
        if len(token_ids) >= self.generator.max_context:
            return GenerationResult("", [], finish_reason="context")
        params = replace(self.sampling, stop=action.stop, max_new_tokens=action.max_new_tokens, seed=seed)
        try:
            return await self.generator.generate(token_ids, params)
        except GenPRMError:
            raise
        except Exception as error:
            logger.warning("generation failed: %s: %s", type(error).__name__, error)
            return GenerationResult("", [], finish_reason="error", message=f"{type(error).__name__}: {error}")

    def _written(self, conversation: Conversation, result: GenerationResult) -> Written:
        conversation.append_ids(result.token_ids, result.text)
        return Written(
            text=result.text,
            finish_reason=result.finish_reason,
            turn_tokens=conversation.turn_tokens,
            turn_segments=conversation.turn_segments,
            tokens=[self._token_text(token) for token in result.token_ids],
            top_logprobs=_TextLogprobs(result.top_logprobs, self._token_text),
        )

    def _token_text(self, token: int) -> str:
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.generator.tokenizer.decode([token], skip_special_tokens=True)
        return text


class _TextLogprobs(Sequence[Sequence[tuple[str, float]]]):
    """Reported log-probabilities by token text, decoded only where they are looked at."""

    def __init__(self, logprobs: Sequence[dict[int, float]], text_of: Any):
        self._logprobs, self._text_of = logprobs, text_of

    def __len__(self) -> int:
        return len(self._logprobs)

    def __getitem__(self, index: Any) -> Any:
        return [(self._text_of(token), logprob) for token, logprob in self._logprobs[index].items()]
