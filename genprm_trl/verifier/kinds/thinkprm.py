"""ThinkPRM (Khalifa et al. 2025, arXiv 2504.16828): one chain of thought judges all steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import TurnOpening
from genprm_trl.errors import check_one_of
from genprm_trl.generation.base import SamplingParams
from genprm_trl.generation.logprobs import RewardsFrom
from genprm_trl.protocol.thinkprm import ThinkPRMProtocol
from genprm_trl.verifier.genprm import AdaptiveN, check_protocol
from genprm_trl.verifier.kinds.one_answer import OneAnswerVerifier
from genprm_trl.verifier.tally import StopRule


class ThinkPRM(OneAnswerVerifier):
    """A ThinkPRM. The reward of a step is P(correct) at its box; the solution's is P(yes) after the chain.

    Verdicts have both (`rewards`, `solution_reward`). A chain that is ended at its first wrong step does not come to
    the solution. A step that the chain has no box for is `no_verdict`. In a search it has the reward of the first step
    that the chain finds wrong, if that comes before it. If the question about the solution fails, the last step has
    the status `error`.

    Example:
        ```python
        with ThinkPRM.from_pretrained("launch/ThinkPRM-1.5B", n=4) as verifier:
            [verdict] = verifier.verify_all([solution])
        print(verdict.rewards, verdict.solution_reward)
        ```
    """

    scores_solutions = True

    @classmethod
    def from_pretrained(  # type: ignore[override]  # has the options of its own protocol
        cls,
        model: str | Path | Any,
        *,
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        turn_opening: TurnOpening | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
        max_tokens: int = 8192,
        decision_temperature: float = 1.0,
        n: int = 1,
        sampling: SamplingParams | None = None,
        threshold: float = 0.5,
        stop: StopRule = "never",
        adaptive: AdaptiveN = "off",
        seed: int = 0,
        max_chains: int | Literal["auto"] = "auto",
        rewards_from: RewardsFrom | None = None,
    ) -> Self:
        """A verifier with the settings that the model was trained with.

        Args:
            model: A directory, a name on the Hub, or a loaded model (then give its tokenizer, too).
            tokenizer: Default: the one saved with the model.
            backend: Name of the generator; see `generation.backends.open_generator`.
            generator_kwargs: Passed to the backend's generator.
            turn_opening: How the model is asked. `as_published` (and `as_published_ids_kept`, the same here): as in
                the released code. `generation_prompt`: as in training (see `ThinkPRMProtocol`). Default: the one in
                the model's directory, or else `as_published`.
            chat_template: A Jinja template that replaces the tokenizer's.
            template_date: The day that the template shows as today's. Default: the one in the model's directory.
            max_tokens: Bound on the tokens of a chain.
            decision_temperature: Divides the log-odds of the solution's score, as in the released code.
            n: Chains per solution (Maj@N).
            sampling: As for `GenPRM`, and so are the other options.
            threshold: A step is predicted wrong if its averaged reward is below this.
            stop: `never` or `first_error`.
            adaptive: `off` or `exact`.
            seed: The same seed, model and solutions give the same verdicts.
            max_chains: Chains in flight at once.
            rewards_from: `model` or `sampler`. Default: `model`.

        Raises:
            ConfigError: An option or the model cannot be used.
        """
        if turn_opening is not None:
            check_one_of(get_args(TurnOpening), turn_opening=turn_opening)

        def protocol(settings: ModelSettings | None, opens_thinking: bool) -> ThinkPRMProtocol:
            check_protocol(settings, model, "thinkprm")
            opening = turn_opening or (settings.turn_opening if settings is not None else "as_published")
            return ThinkPRMProtocol(opening != "generation_prompt", opens_thinking, max_tokens, decision_temperature)

        return cls.load(
            model,
            protocol,
            tokenizer=tokenizer,
            backend=backend,
            generator_kwargs=generator_kwargs,
            chat_template=chat_template,
            template_date=template_date,
            n=n,
            sampling=sampling,
            threshold=threshold,
            stop=stop,
            adaptive=adaptive,
            seed=seed,
            max_chains=max_chains,
            rewards_from=rewards_from,
        )
