"""Carrying out a script of actions with a generator and a sandbox: one chain of text and code.

A protocol (`protocol.base`) yields actions and receives their results. A chain carries them out one after the other:
it generates until a stop, runs the code, and continues. Chains are independent. The generator batches the requests in
flight, and code runs while other chains generate.
"""

from __future__ import annotations

import collections.abc
import logging
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

from genprm_trl.conversation.conversation import Conversation, TokenKind
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import GenPRMError
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.generation.logprobs import RewardsFrom, sampled_logprobs
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.generation.tokens import Detokenizer
from genprm_trl.protocol.base import (
    Action,
    Append,
    Execute,
    ExpectCode,
    Generate,
    Judge,
    OpenTurn,
    Rewind,
    Score,
    Written,
)
from genprm_trl.protocol.scoring import opens_word
from genprm_trl.records import CodeRound, StepJudgement
from genprm_trl.sandbox.base import Sandbox, Session

logger = logging.getLogger(__name__)

EndT = TypeVar("EndT")
ItemT = TypeVar("ItemT")
ViewT = TypeVar("ViewT")

# The tokens of words, by tokenizer: a look through a whole vocabulary takes a while, and drivers are made often.
_word_tokens: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], tuple[int, ...]]] = weakref.WeakKeyDictionary()


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
        value: What the script returned.
        passage: What the chain did after the last judgement.
    """

    value: EndT
    passage: Passage


class ChainDriver:
    """Carries out scripts (see `protocol.base`).

    Args:
        generator: Generates the text.
        sandbox: Runs the code; needed by scripts that execute.
        chat: The tokenizer's chat template, ready for use.
        sampling: Temperature and filters. Its stop strings, bounds and seed are ignored.
        seed: The same seed, model, script and name give the same chain, in whatever order things happen.
        rewards_from: Which log-probabilities a script is told; see `generation.logprobs`.
    """

    def __init__(
        self,
        generator: Generator,
        sandbox: Sandbox | None,
        chat: ChatFormat,
        sampling: SamplingParams,
        seed: int,
        rewards_from: RewardsFrom = "model",
    ):
        self.generator, self.sandbox, self.chat = generator, sandbox, chat
        self.sampling, self.seed, self.rewards_from = sampling, seed, rewards_from
        self.detokenizer = Detokenizer(generator.tokenizer)

    def word_tokens(self, words: tuple[str, ...]) -> tuple[int, ...]:
        """All tokens that may open one of the words; none where the most likely tokens are wanted, whatever they say.

        Rewards as the sampler sees them need those: temperature and filters are applied to them.
        """
        if not words or not self.sampling.logprobs or self.rewards_from == "sampler":
            return ()
        of_words = _word_tokens.setdefault(self.generator.tokenizer, {})
        if (known := of_words.get(words)) is None:
            beginnings = "|".join(re.escape(word[:end]) for word in words for end in range(len(word), 0, -1))
            # A letter more is another word. Names hold letters of other scripts where there is a space or a byte.
            pattern = re.compile(rf"[^A-Za-z]*(?:{beginnings})(?![A-Za-z])", re.IGNORECASE)
            known = of_words[words] = self.detokenizer.tokens_with(
                pattern, lambda text: any(opens_word(text, word, self.is_token) for word in words)
            )
        return known

    def is_token(self, text: str) -> bool:
        """Whether a text is one token."""
        return len(self.chat.encode(text)) == 1

    def open(
        self, script: collections.abc.Generator[Action, Any, EndT], name: str, *, affinity: str | None = None
    ) -> Chain[EndT]:
        """A chain that carries out a script as far as it is told; its caller closes it.

        Args:
            script: The actions.
            name: The chain's unique name in a run; its seeds are made of it.
            affinity: A hint for prefix caches; see `Generator.generate`.
        """
        return Chain(self, script, name, affinity)

    async def run(
        self, script: collections.abc.Generator[Action, Any, EndT], name: str, *, affinity: str | None = None
    ) -> ChainEnd[EndT]:
        """Carries out one script to its end; arguments as for `open`.

        Raises:
            GenPRMError: The generator is closed or cannot be used any more.
        """
        chain = self.open(script, name, affinity=affinity)
        try:
            while not isinstance(done := await chain.advance(), ChainEnd):
                pass
            return done
        finally:
            await chain.close()


class Chain(Generic[EndT]):
    """A script that is being carried out, with its own conversation and sandbox session. Made by `ChainDriver`.

    `advance` serves any script. `judge_step` is the same for the scripts of verification protocols, one step a call.
    """

    def __init__(
        self,
        driver: ChainDriver,
        script: collections.abc.Generator[Action, Any, EndT],
        name: str,
        affinity: str | None,
    ):
        self._driver, self._script, self._name, self._affinity = driver, script, name, affinity
        self._conversation = Conversation(driver.chat)
        self._session: Session | None = None
        self._requests = 0  # sampled requests, each with its own seed
        self._last: tuple[list[int], GenerationResult] | None = None  # the last sampled request and its answer

    async def advance(self) -> tuple[Judge, Passage] | ChainEnd[EndT]:
        """Runs to the next judgement, which comes with what was done for it, or to the end.

        Raises:
            GenPRMError: The generator is closed or cannot be used any more.
        """
        conversation = self._conversation
        passage = Passage()
        reply: Any = None
        while True:
            try:
                action = self._script.send(reply)
            except StopIteration as end:
                passage.text = conversation.turn_text if conversation.turn_count else ""
                return ChainEnd(end.value, passage)
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
                    result = await self._generate(action)
                    passage.num_tokens += result.num_generated
                    reply = self._written(result)
                case Score():
                    reply = await self._score(action)
                case ExpectCode():
                    self._open_session()
                case Execute(code):
                    code_round = await self._execute(code)
                    passage.code_rounds.append(code_round)
                    # The sandbox's own failure is not something the program printed: the model must not see it.
                    reply = None if code_round.status == "sandbox_error" else code_round.output
                case Judge(rationale=rationale):
                    passage.text = conversation.turn_text if rationale is None else rationale
                    return action, passage

    async def judge_step(self) -> StepJudgement:
        """Judges the next step of a solution, as the script of a verification protocol does.

        Whatever the model writes or does not write ends in a judgement with a status.

        Raises:
            GenPRMError: The generator is closed or cannot be used any more.
        """
        judged = await self.advance()
        assert not isinstance(judged, ChainEnd), "a protocol judges every step"
        verdict, passage = judged
        return StepJudgement(
            passage.text,
            verdict.reward,
            verdict.status,
            passage.code_rounds,
            passage.num_tokens,
            verdict.solution_reward,
        )

    def tokens(self) -> tuple[list[int], list[TokenKind]]:
        """The conversation so far as training sees it: see `Conversation.finished`."""
        return self._conversation.finished()

    async def close(self) -> None:
        """Ends the script and frees the session. Safe to call twice."""
        self._script.close()
        if self._session is not None:
            await self._session.close()

    async def _generate(self, action: Generate) -> GenerationResult:
        driver = self._driver
        prompt = self._conversation.token_ids
        if len(prompt) >= driver.generator.max_context:
            result = GenerationResult("", [], finish_reason="context")
        else:
            params = replace(
                driver.sampling,
                stop=action.stop,
                max_new_tokens=action.max_new_tokens,
                logprobs=driver.sampling.logprobs if action.logprobs else 0,
                logprob_token_ids=driver.word_tokens(action.words) if action.logprobs else (),
                seed=derive_seed(driver.seed, self._name, self._requests),
            )
            result = await self._request(prompt, params)
        self._requests += 1
        self._conversation.append_ids(result.token_ids, result.text)
        self._last = (prompt, result)
        return result

    async def _score(self, action: Score) -> Written:
        """Asks for the log-probabilities of a token that was generated without them.

        One token is generated in its place. The log-probabilities depend only on the text before it.
        """
        driver = self._driver
        assert self._last is not None, "a script scores what it has generated"
        if not driver.sampling.logprobs:
            return Written("")
        prompt, last = self._last
        params = replace(
            driver.sampling,
            temperature=0.0,
            stop=(),
            max_new_tokens=1,
            seed=None,
            logprob_token_ids=driver.word_tokens(action.words),
        )
        result = await self._request(prompt + last.token_ids[: action.token], params)
        return Written(
            result.text,
            result.finish_reason,
            tokens=_View(result.token_ids, driver.detokenizer.token_text),
            top_logprobs=self._by_place(result),
            is_token=self._driver.is_token,
        )

    async def _request(self, prompt: list[int], params: SamplingParams) -> GenerationResult:
        try:
            result = await self._driver.generator.generate(prompt, params, affinity=self._affinity)
        except GenPRMError:
            raise
        except Exception as error:
            result = GenerationResult("", [], finish_reason="error", message=f"{type(error).__name__}: {error}")
        if result.finish_reason == "error":
            logger.warning("generation failed in chain %s: %s", self._name, result.message)
        return result

    def _written(self, result: GenerationResult) -> Written:
        conversation = self._conversation
        return Written(
            text=result.text,
            finish_reason=result.finish_reason,
            turn_tokens=conversation.turn_tokens,
            turn_segments=conversation.turn_segments,
            tokens=_View(result.token_ids, self._driver.detokenizer.token_text),
            top_logprobs=self._by_place(result),
            message=result.message,
            is_token=self._driver.is_token,
        )

    def _by_place(self, result: GenerationResult) -> Sequence[Sequence[tuple[str, float]]]:
        places = [*result.top_logprobs, result.end_logprobs] if result.end_logprobs else result.top_logprobs
        return _View(places, self._by_text)

    def _by_text(self, logprobs: dict[int, float]) -> Sequence[tuple[str, float]]:
        driver = self._driver
        if driver.rewards_from == "sampler":
            logprobs = sampled_logprobs(logprobs, driver.sampling)
        text_of = driver.detokenizer.token_text
        return [(text_of(token), logprob) for token, logprob in logprobs.items()]

    async def _execute(self, code: str) -> CodeRound:
        outcome = await self._open_session().run(code)
        return CodeRound(code, outcome.output, outcome.status, outcome.seconds)

    def _open_session(self) -> Session:
        if self._session is None:
            sandbox = self._driver.sandbox
            assert sandbox is not None, "a script that executes code is given a sandbox"
            # A sandbox that knows no other world need not take the argument.
            self._session = sandbox.session(as_published=True) if self._driver.chat.as_published else sandbox.session()
        return self._session


class _View(Sequence[ViewT], Generic[ItemT, ViewT]):
    """The results of a function on items, computed on access: only tokens near the verdict are decoded."""

    def __init__(self, items: Sequence[ItemT], make: Callable[[ItemT], ViewT]):
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> ViewT: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ViewT]: ...

    def __getitem__(self, index: int | slice) -> ViewT | Sequence[ViewT]:
        if isinstance(index, slice):
            return [self._make(item) for item in self._items[index]]
        return self._make(self._items[index])
