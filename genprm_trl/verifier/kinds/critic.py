"""A chat model that was not trained to verify, asked for a critique of each solution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.errors import ConfigError, check_text
from genprm_trl.generation.base import SamplingParams
from genprm_trl.protocol.critique import CriticProtocol
from genprm_trl.verifier.genprm import AdaptiveN
from genprm_trl.verifier.kinds.one_answer import OneAnswerVerifier
from genprm_trl.verifier.tally import StopRule


class Critic(OneAnswerVerifier):
    """A critic: a chat model names the first wrong step, with ProcessBench's prompt (arXiv 2412.06559) or your own.

    N answers vote: the reward of a step is the share of them that find no error up to it (see `CriticProtocol`).

    Example:
        ```python
        with open_verifier("Qwen/Qwen2.5-7B-Instruct", "critic", n=8) as verifier:
            [verdict] = verifier.verify_all([solution])
        ```
    """

    @classmethod
    def from_pretrained(  # type: ignore[override]  # has the options of its own protocol
        cls,
        model: str | Path | Any,
        *,
        tokenizer: Any = None,
        backend: str = "transformers",
        generator_kwargs: Mapping[str, Any] | None = None,
        prompt_file: str | None = None,
        chat_template: str | None = None,
        template_date: str | None = None,
        max_tokens: int = 8192,
        n: int = 1,
        sampling: SamplingParams | None = None,
        threshold: float = 0.5,
        stop: StopRule = "never",
        adaptive: AdaptiveN = "off",
        seed: int = 0,
        max_chains: int | Literal["auto"] = "auto",
    ) -> Self:
        """A verifier of any chat model.

        Args:
            model: A directory, a name on the Hub, or a loaded model (then give its tokenizer, too).
            tokenizer: Default: the one saved with the model.
            backend: Name of the generator; see `generation.backends.open_generator`.
            generator_kwargs: Passed to the backend's generator.
            prompt_file: A file with the prompt; see `CriticProtocol.template`. Default: ProcessBench's.
            chat_template: A Jinja template that replaces the tokenizer's.
            template_date: The day that the template shows as today's. Default: today.
            max_tokens: Bound on the tokens of an answer, thoughts included.
            n: Answers per solution.
            sampling: As for `GenPRM`, and so are the other options.
            threshold: A step is predicted wrong if a smaller share of the answers than this finds no error up to it.
            stop: `never` or `first_error`.
            adaptive: `off` or `exact`.
            seed: The same seed, model and solutions give the same verdicts.
            max_chains: Answers in flight at once.

        Raises:
            ConfigError: An option, the prompt or the model cannot be used.
        """
        template = None if prompt_file is None else read_prompt(prompt_file)

        def protocol(settings: ModelSettings | None, opens_thinking: bool) -> CriticProtocol:
            return CriticProtocol(template, max_tokens, opens_thinking)

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
        )


def read_prompt(file: str) -> str:
    """The text of a prompt's file.

    Raises:
        ConfigError: It cannot be read.
    """
    check_text(prompt_file=file)
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the critic's prompt_file {file}: {error}") from error
