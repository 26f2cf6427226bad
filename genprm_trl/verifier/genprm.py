"""The GenPRM at work: chains of rationale and code over many solutions at once, and the verdicts they give.

A chain (`verifier.chain`) judges one solution once. N chains run for each solution (`verifier.run`). Their judgements
so far decide which of them continue (`verifier.tally`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from genprm_trl._loops import FairGate, run
from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.settings import ModelSettings, load_settings
from genprm_trl.conversation.template import ChatFormat, TurnOpening
from genprm_trl.errors import ConfigError, check_at_least, check_one_of, check_share
from genprm_trl.generation.backends import Backend, open_generator
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.generation.logprobs import RewardsFrom
from genprm_trl.protocol.base import ResumableProtocol, VerificationProtocol
from genprm_trl.protocol.genprm import FirstTurn, GenPRMProtocol, Mode
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.verifier.base import Verifier, check_steps
from genprm_trl.verifier.chain import Chain, ChainDriver
from genprm_trl.verifier.decision import average, fewest_more
from genprm_trl.verifier.run import run_chains
from genprm_trl.verifier.tally import StopRule, Tally

logger = logging.getLogger(__name__)

AdaptiveN = Literal["off", "exact"]

# The paper's largest is 8; every chain takes memory while its solution is judged.
MAX_N = 4096
# Checkpoints of the paper's authors carry no settings of ours, and were measured with their own inference. Their names
# on the Hub, and of directories that they are copied to.
_PUBLISHED_ID = re.compile(r"GenPRM/GenPRM-[^/]+")
_PUBLISHED_DIRECTORY = re.compile(r"GenPRM-[0-9.]+B")
_HUB_CACHE = "models--GenPRM--GenPRM-"


class GenPRM(Verifier):
    """A generative process reward model: judges the steps of solutions by writing and running rationales.

    Args:
        generator: Generates the text.
        sandbox: Runs the code; needed by modes that execute.
        protocol: The conversation's format; its mode says which parts of a rationale are written.
        chat: The tokenizer's chat template, ready for use. Default: the generator's, with its generation prompt.
        n: Chains per solution (Maj@N); rewards are averaged step by step.
        sampling: Temperature and filters. Default: the published ones. Its stop strings, bounds and seed are ignored.
        threshold: A step is predicted wrong if its averaged reward is below this.
        stop: `never` judges every step. `first_error` ends a solution at the first step whose averaged reward is below
            the threshold. The verdict is that of `never`, cut after that step. Chains that ran ahead end as soon as an
            earlier step is sure to be judged wrong.
        adaptive: `off` runs all N chains. `exact` starts chains in waves, until the missing ones cannot change the
            prediction. The prediction is that of all N chains; rewards are averages over the chains in the verdict.
        seed: The same seed, model and solutions give the same verdicts, in whatever order things happen.
        max_chains: Chains in flight at once, over all concurrent calls. `auto` is somewhat more than the generator
            works on at once, because some chains run code.
        rewards_from: Which log-probabilities make the rewards. `model`: the model's own. `sampler`: those after
            temperature, top_k and top_p, as in the published figures (see `generation.logprobs`). Default: `sampler`
            if `chat` asks as published, else `model`.

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
        adaptive: AdaptiveN = "off",
        seed: int = 0,
        max_chains: int | Literal["auto"] = "auto",
        rewards_from: RewardsFrom | None = None,
    ):
        if max_chains == "auto":
            max_chains = _chains_for(generator)
        check_options(n, threshold, stop, adaptive, max_chains, rewards_from)
        self.generator = generator
        self.sandbox = sandbox
        self.protocol = protocol if protocol is not None else GenPRMProtocol()
        if sandbox is None and isinstance(self.protocol, GenPRMProtocol) and self.runs_code:
            raise ConfigError(
                "this mode runs code and needs a sandbox, for instance genprm_trl.sandbox.LocalSandbox()"
            )
        self.chat = chat if chat is not None else ChatFormat(generator.tokenizer)
        self.n = n
        self.sampling = sampling if sampling is not None else SamplingParams()
        self.threshold = threshold
        self.stop: StopRule = stop
        self.adaptive: AdaptiveN = adaptive
        self.seed = seed
        self.max_chains = max_chains
        if rewards_from is None:
            rewards_from = "sampler" if self.chat.as_published else "model"
        self.rewards_from: RewardsFrom = rewards_from
        self._slots = FairGate(max_chains)
        self._driver = ChainDriver(generator, sandbox, self.chat, self.sampling, seed, rewards_from)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Any,
        *,
        tokenizer: Any = None,
        backend: Backend | str = "transformers",
        mode: Mode | str | None = None,
        turn_opening: TurnOpening | None = None,
        first_turn: FirstTurn | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
        sandbox: Sandbox | None = None,
        generator_kwargs: dict[str, Any] | None = None,
        max_step_tokens: int = 2048,
        **kwargs: Any,
    ) -> Self:
        """A verifier with the settings that the model was trained with.

        Args:
            model: A directory, a name on the Hub, or a loaded model (then give its tokenizer, too).
            tokenizer: Default: the one saved with the model.
            backend: Name of the generator; see `generation.backends.open_generator`.
            mode: Parts of the rationale. Default: the mode in the model's directory, or else the full one.
            turn_opening: How the model is asked. `as_published`: as in the published inference in all that it does:
                turns, token ids, what code sees (`Sandbox.session`) and what rewards are made of. Default: the one in
                the model's directory. Without it: `as_published` for checkpoints of the paper's authors, known by
                their name, and `generation_prompt` for others.
            first_turn: The form of the first turn. Default: the one in the model's directory, or else `evaluation`.
            chat_template: A Jinja template that replaces the tokenizer's.
            template_date: The day that the template shows as today's, such as `2026-12-01`. Default: the one in the
                model's directory, or else today.
            sandbox: Default: a `LocalSandbox` if the mode executes code.
            generator_kwargs: Passed to the backend's generator.
            max_step_tokens: Bound on the tokens of one rationale.
            **kwargs: Passed to `GenPRM`.

        Raises:
            ConfigError: if the directory holds no model, no tokenizer or no chat template, an option is unknown, or
                the sandbox cannot run code. It is asked before the model is loaded.
        """
        # What can be seen to be wrong shows before the weights are loaded.
        ModelSettings(turn_opening or "generation_prompt", first_turn or "evaluation", template_date=template_date)
        GenPRMProtocol("full" if mode is None else mode, max_step_tokens=max_step_tokens)
        check_options(**kwargs)
        if isinstance(model, str | Path):
            source = model if tokenizer is None else tokenizer
            shortest = GenPRMProtocol().opening_messages("", [""], 0)
            check_context((generator_kwargs or {}).get("max_context"), source, chat_template, shortest)
        check_protocol(early_settings(model), model, "genprm")
        executes = runs_code(model, mode)
        if sandbox is None and executes:
            from genprm_trl.sandbox import LocalSandbox

            sandbox = LocalSandbox()
        if sandbox is not None and (executes or mode is None):
            run(sandbox.check())
        # The model before its settings: its errors say better what is wrong with a directory.
        generator = open_generator(model, tokenizer, backend=backend, **(generator_kwargs or {}))
        try:
            settings = load_settings(model) if isinstance(model, str | Path) else None
            if settings is None:
                published = isinstance(model, str | Path) and has_published_name(model)
                if not published and turn_opening is None:
                    logger.warning(
                        "%s says nothing of the conversations it was trained on (no genprm.json). It is asked with "
                        "the chat template's generation prompt; for a copy of a checkpoint of the paper's authors "
                        "give turn_opening='as_published'.",
                        model if isinstance(model, str | Path) else "The model",
                    )
                elif published and turn_opening is None:
                    logger.warning(
                        "%s has the name of a checkpoint of the paper's authors and no genprm.json. It is asked as in "
                        "the published inference; for another model give turn_opening='generation_prompt'.",
                        model,
                    )
                settings = ModelSettings(turn_opening="as_published" if published else "generation_prompt")
            protocol = GenPRMProtocol(
                mode=mode if mode is not None else settings.modes[0],
                first_turn=first_turn or settings.first_turn,
                max_step_tokens=max_step_tokens,
            )
            chat = ChatFormat(
                generator.tokenizer,
                turn_opening or settings.turn_opening,
                chat_template,
                template_date or settings.template_date,
            )
            return cls(generator, sandbox, protocol, chat=chat, **kwargs)
        except BaseException:
            run(generator.close())  # an engine's processes must not outlive what failed
            raise

    @property
    def concurrency(self) -> int:
        """Solutions whose chains fill the bound on chains in flight."""
        return -(-self.max_chains // self.fewest_chains)

    @property
    def fewest_chains(self) -> int:
        """Chains that a solution takes at least: N, or fewer if N is adaptive."""
        return self.n if self.adaptive == "off" else fewest_more([], self.n, self.threshold)

    @property
    def runs_code(self) -> bool:
        """Whether its chains may run code."""
        protocol = self.protocol
        return Mode.of(protocol.mode).execute if isinstance(protocol, GenPRMProtocol) else self.sandbox is not None

    def with_options(
        self, *, mode: Mode | str | None = None, generator: Generator | None = None, **changes: Any
    ) -> Self:
        """A verifier of this class on the same generator and sandbox: `with_options(mode="direct", n=8)`.

        Args:
            mode: The mode of the protocol.
            generator: Replaces the verifier's generator, for example by one that counts or records its requests.
            **changes: Arguments of `GenPRM`.

        Raises:
            ConfigError: There is no such option, or it has no such value.
        """
        protocol = self.protocol
        if mode is not None:
            if not isinstance(protocol, GenPRMProtocol):
                raise ConfigError(f"{type(protocol).__name__} has no modes")
            protocol = replace(protocol, mode=mode)
        names = ("chat", "n", "sampling", "threshold", "stop", "adaptive", "seed", "max_chains", "rewards_from")
        super().with_options(**{name: value for name, value in changes.items() if name not in names})
        settings = {name: getattr(self, name) for name in names}
        changed = type(self)(generator or self.generator, self.sandbox, protocol, **(settings | changes))
        if "max_chains" not in changes:
            changed._slots = self._slots  # the bound is the engine's, whoever uses it
        return changed

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution with N concurrent chains.

        Every text of the model ends in a verdict; the statuses of its judgements say how. Any number of calls may run
        at once, in any number of event loops. They share the bound on chains in flight, first come first served.

        Raises:
            ConfigError: The solution has no steps.
            GenPRMError: The generator is closed or cannot be used any more.
        """
        check_steps(solution)
        tally = Tally(self.n, len(solution.steps), self.threshold, self.stop, self.adaptive == "exact")

        def open_chain(index: int) -> Chain[None]:
            script = self.protocol.chain(solution.problem, solution.steps)
            return self._driver.open(script, f"{solution.id}/{index}", affinity=solution.id)

        await run_chains(tally, open_chain, self._slots)
        return self._verdict(solution, tally.averages(), tally.judged())

    async def verify_further(
        self, solution: Solution, verdict: Verdict | None = None, *, affinity: str | None = None
    ) -> Verdict:
        """Judges the steps that a solution has gained since a verdict, at the cost of these steps only.

        All N chains judge all steps, whatever `stop` and `adaptive` say.

        Args:
            solution: The solution as it is now. Its id seeds the chains, so give each branch of a tree its own id.
            verdict: The verdict of this method on the first steps; None if there is none.
            affinity: A hint for prefix caches. Default: the solution's id.

        Raises:
            ConfigError: The protocol's chains cannot be resumed, or the verdict has other chains than this verifier.
            GenPRMError: The generator is closed or cannot be used any more.
        """
        protocol = self.protocol
        if not isinstance(protocol, ResumableProtocol):
            raise ConfigError(f"chains of {type(protocol).__name__} cannot go on where they have ended")
        chains = verdict.chains if verdict is not None else [[] for _ in range(self.n)]
        if len(chains) != self.n or any(len(chain) > len(solution.steps) for chain in chains):
            raise ConfigError(f"the verdict of '{solution.id}' is not of {self.n} chains over its first steps")

        async def go_on(index: int) -> list[StepJudgement]:
            judged = chains[index]
            script = protocol.resumed_chain(solution.problem, solution.steps, judged)
            chain = self._driver.open(script, f"{solution.id}/{index}", affinity=affinity or solution.id)
            try:
                async with self._slots:
                    steps = [await chain.judge_step() for _ in solution.steps]
            finally:
                await chain.close()
            return [*judged, *steps[len(judged) :]]

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(go_on(index)) for index in range(self.n)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        judged = [task.result() for task in tasks]
        rewards = [average([chain[step].reward for chain in judged]) for step in range(len(solution.steps))]
        return self._verdict(solution, rewards, judged)

    def _verdict(self, solution: Solution, rewards: list[float], chains: list[list[StepJudgement]]) -> Verdict:
        return Verdict(
            id=solution.id,
            rewards=rewards,
            prediction=prediction_from_rewards(rewards, self.threshold),
            chains=chains,
            label=solution.label,
            threshold=self.threshold,
            solution_digest=solution.digest,
            n=self.n,
        )

    async def close(self) -> None:
        """Frees the generator and the sandbox."""
        await self.generator.close()
        if self.sandbox is not None:
            await self.sandbox.close()


def runs_code(model: Any, mode: Mode | str | None = None) -> bool:
    """Whether a verifier of a model runs code, as far as that can be known before the model is loaded.

    Args:
        model: A directory, a name on the Hub, or a loaded model.
        mode: The mode that it is asked in. Default: the one in the model's directory, or else the full one.
    """
    if mode is None and (settings := early_settings(model)) is not None:
        mode = settings.default_mode
    return Mode.of("full" if mode is None else mode).execute


def early_settings(model: Any) -> ModelSettings | None:
    """The settings in a model's directory, before the model is loaded; None if they cannot be read."""
    if isinstance(model, str | Path):
        with contextlib.suppress(OSError, ValueError):  # loading the model will say what is wrong with it
            return load_settings(model)
    return None


def check_protocol(settings: ModelSettings | None, model: Any, protocol: str) -> None:
    """Checks that a model was not trained in another protocol.

    Raises:
        ConfigError: It was.
    """
    if settings is not None and settings.protocol != protocol:
        raise ConfigError(
            f"{model} was trained as a {settings.protocol}: leave out --kind, or give --kind {settings.protocol}; in "
            "Python open it with open_verifier"
        )


def has_published_name(model: str | Path) -> bool:
    """Whether a model is a checkpoint of the paper's authors, by its Hub id, place in the Hub's cache or own name.

    The names of directories above it say nothing: another model may have been trained there.
    """
    directory = Path(model)
    if not directory.is_dir() and _PUBLISHED_ID.fullmatch(str(model)):
        return True
    directory = directory.resolve()
    repository = directory.parent.parent.name if directory.parent.name == "snapshots" else ""
    return repository.startswith(_HUB_CACHE) or _PUBLISHED_DIRECTORY.fullmatch(directory.name) is not None


def check_options(
    n: int = 1,
    threshold: float = 0.5,
    stop: str = "never",
    adaptive: str = "off",
    max_chains: Any = "auto",
    rewards_from: str | None = None,
    **others: Any,
) -> None:
    """Checks options of `GenPRM`; passes over `others`.

    Raises:
        ConfigError: An option has no such value.
    """
    check_at_least(1, n=n, max_chains=None if max_chains == "auto" else max_chains)
    check_share(threshold=threshold)
    check_one_of(get_args(StopRule), stop=stop)
    check_one_of(get_args(AdaptiveN), adaptive=adaptive)
    if rewards_from is not None:
        check_one_of(get_args(RewardsFrom), rewards_from=rewards_from)
    if n > MAX_N:
        raise ConfigError(f"n is {n}; more than {MAX_N} rationales a solution are surely a mistake")


def check_context(
    max_context: int | None, tokenizer: Any, chat_template: str | None, shortest: Sequence[dict[str, str]]
) -> None:
    """Checks that the shortest prompt has room, that of an empty step of an empty problem.

    Raises:
        ConfigError: It has none.
    """
    if max_context is None:
        return
    if isinstance(tokenizer, str | Path):
        from genprm_trl.generation.loading import load_tokenizer

        tokenizer = load_tokenizer(tokenizer)
    conversation = Conversation(ChatFormat(tokenizer, chat_template=chat_template))
    conversation.open_turn(shortest)
    if len(conversation.token_ids) >= max_context:
        raise ConfigError(
            f"max_context {max_context} holds no prompt: the shortest has {len(conversation.token_ids)} tokens"
        )


def _chains_for(generator: Generator) -> int:
    """Chains that keep the generator busy: a quarter of them may run code or be between two requests."""
    return generator.max_concurrent + -(-generator.max_concurrent // 4)
