"""The states of a problem's solutions and their rollouts: each state once, however many solutions share it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genprm_trl import grading
from genprm_trl._loops import gathered
from genprm_trl.data.steps import join_steps
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.solving.solver import Solver


@dataclass(slots=True)
class State:
    """A prefix of a solution (an empty one is the problem itself), and the outcomes of its rollouts.

    Attributes:
        text: The prefix as the model continues it.
        digest: A short hash of problem and text. The seed of rollout i is made of it and of i. The rollouts of a state
            are therefore one fixed stream, and an estimate uses a prefix of that stream.
        outcomes: Whether each rollout so far reached the answer, in the stream's order.
        tokens: Tokens of these rollouts, without those of an earlier labelling.
        reused: How many of them are an earlier labelling's.
        texts: Hashes of two of their texts that differ, or of the only one.
        known: The estimate of a complete solution, 0 or 1, which needs no rollouts.
    """

    text: str
    digest: str
    outcomes: list[bool] = field(default_factory=list)
    tokens: int = 0
    reused: int = 0
    texts: set[str] = field(default_factory=set)
    known: int | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def bits(self) -> str:
        """The outcomes as a string of `0` and `1`."""
        return write_bits(self.outcomes)

    @property
    def estimate(self) -> float | None:
        """The share of successes; None without rollouts."""
        if self.known is not None:
            return float(self.known)
        return sum(self.outcomes) / len(self.outcomes) if self.outcomes else None


def write_bits(outcomes: Sequence[bool]) -> str:
    """Writes outcomes as a string with `1` for each success and `0` for each failure."""
    return "".join("1" if outcome else "0" for outcome in outcomes)


class RolloutTree:
    """All states of one problem's solutions.

    Args:
        solver: The completion model.
        problem: The problem's text.
        answer: The reference answer.
        seed: The run's seed.
        keep: Called with the outcomes of new rollouts of a state, as a JSON object that `restore` takes.
        reused: State digest to the bits of an earlier labelling, whose rollouts are not sampled again.
    """

    def __init__(
        self,
        solver: Solver,
        problem: str,
        answer: str,
        *,
        seed: int,
        keep: Callable[[dict[str, Any]], None] = lambda record: None,
        reused: Mapping[str, str] | None = None,
    ):
        self._solver, self._problem, self._answer, self._seed = solver, problem, answer, seed
        self._keep = keep
        self._reused = reused or {}
        self._restored: dict[str, tuple[list[bool], int, set[str]]] = {}
        self.states: dict[str, State] = {}

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rollouts of an earlier run. Call it before asking for the first state."""
        for record in records:
            outcomes, tokens, texts = self._restored.get(record["state"], ([], 0, set()))
            # What a state had from elsewhere is not in its records: they say where they begin.
            known = [*self._bits(self._reused.get(record["state"], "")), *outcomes]
            if record["start"] == len(known):
                outcomes = [*outcomes, *self._bits(record["outcomes"])]
                texts = _two([*texts, *record.get("texts", ())])
                self._restored[record["state"]] = (outcomes, tokens + record["tokens"], texts)

    @staticmethod
    def _bits(text: str) -> list[bool]:
        return [bit == "1" for bit in text]

    def state(self, text: str, known: int | None = None) -> State:
        """The state of a text, the same object each time."""
        digest = state_digest(self._problem, text)
        # A complete solution is a separate state, because another solution may continue the same text.
        key = digest if known is None else f"{digest} complete"
        if key not in self.states:
            state = State(text, digest, known=known)
            if known is None:
                state.outcomes = self._bits(self._reused.get(digest, ""))
                state.reused = len(state.outcomes)
                outcomes, state.tokens, state.texts = self._restored.get(digest, ([], 0, set()))
                state.outcomes += outcomes
            self.states[key] = state
        return self.states[key]

    async def sample(self, state: State, trials: int) -> None:
        """Makes sure that a state has at least this many rollouts.

        Raises:
            ItemFailed: The generator failed on one of them. None of those that were missing is kept then.
        """
        async with state.lock:
            start = len(state.outcomes)
            if start >= trials:
                return
            prompt = self._solver.prompt(self._problem, state.text)
            results = await gathered(
                self._solver.complete(prompt, derive_seed(self._seed, state.digest, number), affinity=state.digest)
                for number in range(start, trials)
            )
            # An answer in the prefix must not answer for the rollout.
            texts = [
                self._solver.graded_text(state.text, result.text, result.finish_reason, alone=True)
                for result in results
            ]
            pairs = [(text, self._answer) for text in texts]
            outcomes = [grade.correct for grade in await asyncio.to_thread(grading.grade_many, pairs)]
            tokens = sum(result.num_generated for result in results)
            state.texts = _two([*state.texts, *(state_digest("", result.text) for result in results)])
            self._keep(
                {
                    "state": state.digest,
                    "start": start,
                    "outcomes": write_bits(outcomes),
                    "tokens": tokens,
                    "texts": sorted(state.texts),
                },
            )
            state.outcomes += outcomes
            state.tokens += tokens


def _two(texts: Iterable[str]) -> set[str]:
    """Two of them at most: more say no more than that they differ."""
    return set(sorted(set(texts))[:2])


def state_digest(problem: str, text: str) -> str:
    """A short hash of a problem and a prefix of a solution."""
    key = f"{problem}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8).hexdigest()


def prefix_text(steps: Sequence[str], separator: str) -> str:
    """The prefix as the model continues it; empty for no steps."""
    return join_steps(steps, separator) + separator if steps else ""
