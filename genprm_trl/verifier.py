"""The GenPRM at work: chains of rationale and code over many solutions at once, and the verdicts they give.

A chain judges one solution once. It is a coroutine that carries out the protocol's actions: generate until a stop, run
the code, go on. Chains are independent; the generator batches whatever is in flight, and code runs while others
generate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tqdm.auto import tqdm

from genprm_trl.chain import ChainDriver, Passage
from genprm_trl.chat import ChatFormat, TurnOpening
from genprm_trl.errors import ConfigError
from genprm_trl.generation.backends import Backend, open_generator
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.metrics import prediction_from_rewards
from genprm_trl.model_settings import ModelSettings, load_settings
from genprm_trl.protocol.base import Judge, VerificationProtocol
from genprm_trl.protocol.genprm import FirstTurn, GenPRMProtocol, Mode
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.streaming import iterate_in_thread

logger = logging.getLogger(__name__)

StopRule = Literal["never", "first_error"]

# The paper's largest is 8; every chain takes memory while its solution is judged.
MAX_N = 4096
# Checkpoints of the paper's authors carry no settings of ours, and were measured with their own way to open a turn.
_PUBLISHED_PREFIX = "GenPRM/GenPRM-"


class GenPRM:
    """A generative process reward model: judges the steps of solutions by writing and running rationales.

    Args:
        generator: Where text comes from.
        sandbox: Where code runs. Needed by modes that execute.
        protocol: The conversation's format; its mode says which parts of a rationale are written.
        chat: The tokenizer's chat template, made ready; default: the generator's own, opened by its generation prompt.
        n: Chains a solution (Maj@N); rewards are averaged step by step.
        sampling: Temperature and filters; default: the published ones. Its stop strings, bounds and seed are ignored.
        threshold: A step whose averaged reward is below it is predicted wrong.
        stop: `first_error` ends a solution at the first step whose averaged reward is below the threshold; its verdict
            then has rewards up to that step. `never` judges every step.
        seed: With the same seed, model and solutions, verdicts are the same in whatever order things happen.
        max_chains: Chains in flight at once.

    Example:
        >>> from genprm_trl import GenPRM  # doctest: +SKIP
        >>> prm = GenPRM.from_pretrained("GenPRM/GenPRM-7B", n=8)  # doctest: +SKIP
        >>> solution = Solution("1", "What is 2 * 3 + 1?", ["2 * 3 = 6", "6 + 1 = 8"])  # doctest: +SKIP
        >>> [verdict] = prm.verify_all([solution])  # doctest: +SKIP
        >>> verdict.prediction  # the second step is wrong  # doctest: +SKIP
        1
    """

    def __init__(
        self,
        generator: Generator,
        sandbox: Sandbox | None = None,
        protocol: VerificationProtocol | None = None,
        *,
        chat: ChatFormat | None = None,
        n: int = 1,
        sampling: SamplingParams | None = None,
        threshold: float = 0.5,
        stop: StopRule = "never",
        seed: int = 0,
        max_chains: int = 256,
    ):
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        if n > MAX_N:
            raise ConfigError(f"n is {n}; more than {MAX_N} rationales a solution are surely a mistake")
        if max_chains < 1:
            raise ConfigError(f"max_chains must be at least 1, got {max_chains}")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be within [0, 1], got {threshold}")
        if stop not in ("never", "first_error"):
            raise ConfigError(f"unknown stop rule {stop!r}; choose never or first_error")
        self.generator = generator
        self.sandbox = sandbox
        self.protocol = protocol if protocol is not None else GenPRMProtocol()
        if sandbox is None and isinstance(self.protocol, GenPRMProtocol) and Mode.of(self.protocol.mode).execute:
            raise ConfigError(
                "this mode runs code and needs a sandbox, for instance genprm_trl.sandbox.LocalSandbox()"
            )
        self.chat = chat if chat is not None else ChatFormat(generator.tokenizer)
        self.n = n
        self.sampling = sampling if sampling is not None else SamplingParams()
        self.threshold = threshold
        self.stop: StopRule = stop
        self.seed = seed
        self.max_chains = max_chains
        self._driver = ChainDriver(generator, sandbox, self.chat, self.sampling, seed)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Any,
        *,
        tokenizer: Any = None,
        backend: Backend = "transformers",
        mode: Mode | str | None = None,
        turn_opening: TurnOpening | None = None,
        first_turn: FirstTurn | None = None,
        chat_template: str | None = None,
        sandbox: Sandbox | None = None,
        generator_kwargs: dict[str, Any] | None = None,
        max_step_tokens: int = 2048,
        **kwargs: Any,
    ) -> Self:
        """A verifier with the settings that the model was trained with.

        Args:
            model: A directory, a name on the Hub, or a loaded model (then give its tokenizer, too).
            tokenizer: Default: the one saved with the model.
            backend: What generates; see `generation.backends.open_generator`.
            mode, turn_opening, first_turn: Default: what the model's directory says; else the full mode, the
                evaluation's first turn, and the published opening for the checkpoints of the paper's authors.
            chat_template: A Jinja template in place of the tokenizer's own.
            sandbox: Default: a `LocalSandbox` if the mode executes code.
            generator_kwargs: Passed to the backend's generator.
            max_step_tokens: Bound on the tokens of one rationale.
            **kwargs: Passed to `GenPRM`.

        Raises:
            ConfigError: if the directory holds no model, no tokenizer or no chat template, or an option is unknown.
        """
        if mode is not None:
            Mode.of(mode)  # a misspelt mode shows before the weights are loaded
        # The model before its settings: its errors say better what is wrong with a directory.
        generator = open_generator(model, tokenizer, backend=backend, **(generator_kwargs or {}))
        try:
            settings = load_settings(model) if isinstance(model, str | Path) else None
            if settings is None:
                published = str(model).startswith(_PUBLISHED_PREFIX)
                if not published and turn_opening is None:
                    logger.warning(
                        "%s says nothing of the conversations it was trained on (no genprm.json). It is asked with "
                        "the chat template's generation prompt; for a copy of a checkpoint of the paper's authors "
                        "give turn_opening='as_published'.",
                        model if isinstance(model, str | Path) else "The model",
                    )
                settings = ModelSettings(turn_opening="as_published" if published else "generation_prompt")
            protocol = GenPRMProtocol(
                mode=mode if mode is not None else settings.modes[0],
                first_turn=first_turn or settings.first_turn,
                max_step_tokens=max_step_tokens,
            )
            chat = ChatFormat(generator.tokenizer, turn_opening or settings.turn_opening, chat_template)
            if sandbox is None and Mode.of(protocol.mode).execute:
                from genprm_trl.sandbox import LocalSandbox

                sandbox = LocalSandbox()
            return cls(generator, sandbox, protocol, chat=chat, **kwargs)
        except BaseException:
            _run_in_thread(generator.close())  # an engine's processes must not outlive what failed
            raise

    def with_options(self, *, mode: Mode | str | None = None, **changes: Any) -> GenPRM:
        """A verifier on the same generator and sandbox with other settings: `with_options(mode="direct", n=8)`."""
        protocol = self.protocol
        if mode is not None:
            if not isinstance(protocol, GenPRMProtocol):
                raise ConfigError(f"{type(protocol).__name__} has no modes")
            protocol = replace(protocol, mode=mode)
        settings: dict[str, Any] = {
            "chat": self.chat,
            "n": self.n,
            "sampling": self.sampling,
            "threshold": self.threshold,
            "stop": self.stop,
            "seed": self.seed,
            "max_chains": self.max_chains,
        }
        return GenPRM(self.generator, self.sandbox, protocol, **(settings | changes))

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution with N concurrent chains.

        Whatever the model writes ends in a verdict; see the statuses of its judgements. Concurrent calls do not share
        the bound on chains; `verify_stream` and `verify_all` keep it over all of their solutions.
        """
        return await self._verify(solution, asyncio.Semaphore(self.max_chains))

    async def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions and yields each verdict as it is ready.

        Solutions are taken from the iterable only as chains become free, so it may be longer than memory.
        """
        chains = asyncio.Semaphore(self.max_chains)
        remaining = iter(solutions)
        tasks: set[asyncio.Task[Verdict]] = set()
        # One solution more than fills the chains is ready to start, so that no chain waits for the next solution.
        window = max(1, -(-self.max_chains // self.n)) + 1
        try:
            while True:
                while len(tasks) < window and (solution := next(remaining, None)) is not None:
                    tasks.add(asyncio.create_task(self._verify(solution, chains)))
                if not tasks:
                    return
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                failed = [task for task in done if task.exception() is not None]
                for task in done.difference(failed):
                    yield task.result()
                if failed:
                    failed[0].result()  # raises, once what was finished beside it has been handed out
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def verify_all(
        self,
        solutions: Iterable[Solution],
        *,
        progress: bool = True,
        total: int | None = None,
        desc: str = "Verifying",
    ) -> Iterator[Verdict]:
        """Judges many solutions and yields each verdict as it is ready, with a progress bar.

        The event loop runs in a thread of its own, so this works in scripts and notebooks alike.

        Args:
            solutions: Any iterable; consumed lazily.
            progress: Show a progress bar on stderr.
            total: Number of solutions for the bar, if `solutions` has no length.
            desc: The bar's label.
        """
        if total is None and isinstance(solutions, Sequence):
            total = len(solutions)
        verdicts = iterate_in_thread(lambda: self.verify_stream(solutions))
        with (
            contextlib.closing(verdicts),  # type: ignore[type-var]
            tqdm(total=total, desc=desc, unit="solution", disable=not progress, dynamic_ncols=True) as bar,
        ):
            for verdict in verdicts:
                bar.update()
                yield verdict

    async def _verify(self, solution: Solution, chains: asyncio.Semaphore) -> Verdict:
        if not solution.steps:
            raise ConfigError(f"solution '{solution.id}' has no steps")
        tally = _Tally(self.n, len(solution.steps), self.threshold if self.stop == "first_error" else None)

        async def run(index: int) -> None:
            async with chains:
                await self._run_chain(solution, index, tally)

        tasks = [asyncio.create_task(run(index)) for index in range(self.n)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        judged = tally.judged_by_all()
        rewards = tally.averages()[:judged]
        return Verdict(
            id=solution.id,
            rewards=rewards,
            prediction=prediction_from_rewards(rewards, self.threshold),
            # A chain that ran ahead of the deciding step did so by chance of timing; what it wrote there is dropped.
            chains=[chain[:judged] for chain in tally.chains],
            label=solution.label,
            threshold=self.threshold,
            solution_digest=solution.digest,
        )

    async def _run_chain(self, solution: Solution, index: int, tally: _Tally) -> None:
        def judged(judge: Judge, passage: Passage) -> bool:
            judgement = StepJudgement(
                passage.text, judge.reward, judge.status, passage.code_rounds, passage.num_tokens
            )
            tally.add(index, judge.index, judgement)
            if judge.status != "truncated":
                return True
            # The history only grows, so nothing that follows can fit either.
            for later in range(judge.index + 1, len(solution.steps)):
                tally.add(index, later, StepJudgement("", 0.5, "truncated"))
            return False

        script = self.protocol.chain(solution.problem, solution.steps)
        name = f"{solution.id}/{index}"
        await self._driver.run(script, name, on_judge=judged, stopped=lambda: tally.decided)

    async def close(self) -> None:
        """Frees the generator and the sandbox."""
        await self.generator.close()
        if self.sandbox is not None:
            await self.sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run_in_thread(self.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _run_in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end, in a thread: a notebook's own event loop may be running in this one."""
    thread = threading.Thread(target=lambda: asyncio.run(coroutine))
    thread.start()
    thread.join()


@dataclass(slots=True)
class _Tally:
    """The judgements of a solution's chains as they come in, and whether they already decide its prediction."""

    n: int
    num_steps: int
    threshold: float | None  # None: never decided before every step is judged
    decided: bool = False
    chains: list[list[StepJudgement]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chains = [[] for _ in range(self.n)]

    def add(self, chain: int, step: int, judgement: StepJudgement) -> None:
        assert len(self.chains[chain]) == step, "a protocol judges steps in order"
        self.chains[chain].append(judgement)
        self.decided = self.threshold is not None and self._first_error() is not None

    def averages(self) -> list[float]:
        """Averaged rewards of the steps that every chain has judged."""
        judged = min(len(chain) for chain in self.chains)
        return [sum(chain[step].reward for chain in self.chains) / self.n for step in range(judged)]

    def _first_error(self) -> int | None:
        assert self.threshold is not None
        return next((step for step, reward in enumerate(self.averages()) if reward < self.threshold), None)

    def judged_by_all(self) -> int:
        """How many steps the verdict covers."""
        first_error = self._first_error() if self.threshold is not None else None
        return len(self.averages()) if first_error is None else first_error + 1
