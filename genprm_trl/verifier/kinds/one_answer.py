"""Verifiers whose model judges all steps of a solution in one answer, without code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from genprm_trl._loops import run
from genprm_trl.conversation.settings import ModelSettings, load_settings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.generation.backends import open_generator
from genprm_trl.protocol.base import VerificationProtocol
from genprm_trl.verifier.genprm import GenPRM, check_context, check_options, early_settings


class OneAnswerProtocol(VerificationProtocol, Protocol):
    """A protocol whose chain opens one turn."""

    def opening_messages(self, problem: str, steps: Sequence[str]) -> tuple[dict[str, str], ...]:
        """The messages before the assistant's turn."""
        ...


class OneAnswerVerifier(GenPRM):
    """What such verifiers share: chains are those of a GenPRM, in another protocol and without a sandbox."""

    @classmethod
    def load(
        cls,
        model: str | Path | Any,
        protocol: Callable[[ModelSettings | None, bool], OneAnswerProtocol],
        *,
        tokenizer: Any,
        backend: str,
        generator_kwargs: Mapping[str, Any] | None,
        chat_template: str | None,
        template_date: str | None,
        **options: Any,
    ) -> Self:
        """Loads a model for a protocol.

        Args:
            model: A directory, a name on the Hub, or a loaded model (then give its tokenizer, too).
            protocol: Makes the protocol, of the settings in the model's directory and of whether the chat template's
                generation prompt opens a thinking block.
            tokenizer: The tokenizer, or where it is; None for the model's.
            backend: Name of the generator; see `generation.backends.open_generator`.
            generator_kwargs: Passed to the generator.
            chat_template: A Jinja template that replaces the tokenizer's.
            template_date: The day that the template shows as today's. Default: the one in the model's directory.
            **options: Passed to `GenPRM`.

        Raises:
            ConfigError: An option or the model cannot be used.
        """
        check_options(**options)
        # What can be seen to be wrong shows before the weights are loaded: a model of another protocol, too.
        shortest = protocol(early_settings(model), False).opening_messages("", [""])
        if isinstance(model, str | Path):
            source = model if tokenizer is None else tokenizer
            check_context((generator_kwargs or {}).get("max_context"), source, chat_template, shortest)
        generator = open_generator(model, tokenizer, backend=backend, **(generator_kwargs or {}))
        try:
            settings = load_settings(model) if isinstance(model, str | Path) else None
            if template_date is None and settings is not None:
                template_date = settings.template_date
            chat = ChatFormat(generator.tokenizer, "generation_prompt", chat_template, template_date)
            return cls(generator, None, protocol(settings, chat.opens_thinking), chat=chat, **options)
        except BaseException:
            run(generator.close())  # an engine's processes must not outlive what failed
            raise
