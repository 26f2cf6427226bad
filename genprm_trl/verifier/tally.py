"""The judgements of a solution's chains as they come in, and what they leave to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genprm_trl.records import StepJudgement
from genprm_trl.verifier.decision import average, fewest_more, is_decided, is_surely_below

StopRule = Literal["never", "first_error"]


@dataclass(slots=True)
class Tally:
    """Says how many chains to start, and which of them to go on with, hold back or end.

    The judgements decide what the verdict holds, never the order in which they come. It holds the first `started`
    chains, each up to the same step. Faster chains may run ahead; their further judgements are cut.

    With the stop rule `first_error` the verdict ends with the first step whose averaged reward is below the threshold.
    No chain goes beyond a step as soon as that step is sure to be judged wrong, whatever the missing chains say.

    Adaptive chains are started in waves, as many at a time as it takes at least to decide the side of the threshold
    that a step is on. Steps are looked at in order. Once every chain that was started has judged a step and the side
    is not decided, the next wave starts. With `first_error` the earlier chains wait for it there, since the solution
    may end at that step.

    Attributes:
        n: Most chains.
        num_steps: Steps of the solution.
        threshold: A step whose averaged reward is below it is wrong.
        stop: Which steps to judge.
        adaptive: Whether chains are left out that can no longer change the prediction.
        chains: The judgements so far, by chain and step.
        started: How many chains are to be started in all, as far as is known.
        needed: How many steps are to be judged, as far as is known.
    """

    n: int
    num_steps: int
    threshold: float
    stop: StopRule = "never"
    adaptive: bool = False
    started: int = field(init=False)
    needed: int = field(init=False)
    chains: list[list[StepJudgement]] = field(init=False)
    _rewards: list[list[float]] = field(init=False)  # by step, in order of arrival
    _passed: int = 0  # steps that the chains started so far place above the threshold
    _settled: bool = False  # no more chains are started
    _contested: int | None = None  # the step that the last wave was started for, until it is told

    def __post_init__(self) -> None:
        self.started = fewest_more([], self.n, self.threshold) if self.adaptive else self.n
        self.needed = self.num_steps
        self.chains = [[] for _ in range(self.started)]
        self._rewards = [[] for _ in range(self.num_steps)]

    def add(self, chain: int, judgement: StepJudgement) -> None:
        """Takes a chain's judgement of its next step.

        Raises:
            ValueError: The reward is not within [0, 1].
        """
        if not 0 <= judgement.reward <= 1:  # also NaN: the bounds would not hold
            raise ValueError(f"the protocol gave the reward {judgement.reward}, which is not within [0, 1]")
        step = len(self.chains[chain])
        self.chains[chain].append(judgement)
        rewards = self._rewards[step]
        rewards.append(judgement.reward)
        if self.stop == "first_error" and step < self.needed and is_surely_below(rewards, self.n, self.threshold):
            self.needed = step + 1
        if not self._settled:
            self._look()

    def _look(self) -> None:
        while self._passed < self.needed:
            step = self._passed
            if len(self._rewards[step]) < self.started:
                return
            rewards = [chain[step].reward for chain in self.chains]
            is_below = average(rewards) < self.threshold
            if self.started < self.n and not is_decided(rewards, self.n, self.threshold):
                self._start_more(step, fewest_more(rewards, self.n, self.threshold))
                return
            if is_below:
                if self.stop == "first_error":
                    self.needed = step + 1
                break
            self._passed += 1
            if self._contested is not None and self._passed > self._contested:
                self._contested = None
        self._settled = True
        self._contested = None

    def _start_more(self, step: int, count: int) -> None:
        self._contested = step
        self.started = min(self.n, self.started + count)
        self.chains += [[] for _ in range(self.started - len(self.chains))]
        self._passed = 0

    def is_done(self, chain: int) -> bool:
        """Whether nothing that the chain could add is needed."""
        return len(self.chains[chain]) >= self.needed

    @property
    def is_contested(self) -> bool:
        """Whether there is a step that chains may have to wait at."""
        return self._contested is not None

    def must_wait(self, chain: int) -> bool:
        """Whether the chain's next step may turn out not to be needed, which others are about to tell."""
        return (
            self._contested is not None
            and self.stop == "first_error"
            and self._contested < len(self.chains[chain]) < self.needed
        )

    def judged(self) -> list[list[StepJudgement]]:
        """The judgements that the verdict holds, once every chain is done: `started` chains of `needed` steps."""
        return [chain[: self.needed] for chain in self.chains]

    def averages(self) -> list[float]:
        """The averaged rewards of the steps that the verdict holds."""
        return [average([chain[step].reward for chain in self.chains]) for step in range(self.needed)]
