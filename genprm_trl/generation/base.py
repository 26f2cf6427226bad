"""The interface of every text generator: token ids in; text, token ids and log-probabilities out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from genprm_trl._loops import Closable
from genprm_trl.errors import ConfigError, check_at_least

FinishReason = Literal["stop", "length", "context", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one request. The defaults are the published GenPRM settings.

    Attributes:
        max_new_tokens: Bound on generated tokens.
        temperature: 0 is greedy.
        top_p, top_k: Nucleus and top-k filters; `top_k=0` is no filter.
        stop: Stop strings. Generation ends as soon as the text contains one. The stop string is kept; text that the
            last token holds beyond it is cut.
        logprobs: How many of the most likely tokens to report at each position, from the model's own distribution
            (before temperature and filters). 0 reports none.
        seed: Makes a sampled request reproducible, whatever else is in the batch. None draws a fresh seed.
        logprob_token_ids: Tokens to report in place of the most likely ones, however unlikely they are. A generator
            that cannot do so reports the most likely ones. Without `logprobs` none are reported.

    Raises:
        ConfigError: A value is outside its range.
    """

    max_new_tokens: int = 2048
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    stop: tuple[str, ...] = ()
    logprobs: int = 20
    seed: int | None = None
    logprob_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(0, max_new_tokens=self.max_new_tokens, top_k=self.top_k, logprobs=self.logprobs)
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 (greedy) or a positive number, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise ConfigError(f"stop must be a tuple of non-empty strings, got {self.stop!r}")
        if not isinstance(self.logprob_token_ids, tuple) or any(token < 0 for token in self.logprob_token_ids):
            raise ConfigError(f"logprob_token_ids must be a tuple of token ids, got {self.logprob_token_ids!r}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """How a file or a command line says that a verifier samples.

        Args:
            values: Any of `temperature`, `top_p` and `top_k`.

        Raises:
            ConfigError: There is another name, or a value is no number or outside its range.
        """
        for name in values:
            if name not in ("temperature", "top_p", "top_k"):
                raise ConfigError(f"sampling is temperature, top_p and top_k, not '{name}'")
        check_at_least(0, **values)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What the model wrote for one request.

    Attributes:
        text: The text, ended by the stop string where one was hit. Special tokens are left out.
        token_ids: Token ids whose text is `text`. If a token spilled over the stop string, the kept part of it is
            re-encoded, so that the ids can be continued exactly.
        top_logprobs: One map per entry of `token_ids`, from token id to log-probability: the sampled token, and either
            all of `logprob_token_ids` or the `logprobs` most likely ones. The maps of re-encoded tokens are empty. The
            list is empty if none were asked for.
        finish_reason: `stop` (a stop string or the end-of-text token), `length` (max_new_tokens), `context` (prompt
            and output fill the model's context; also a prompt that does not fit, with empty text), `error` (the
            generator failed on this request; `message` says how).
        num_generated: Tokens that the model produced before cutting, for accounting.
        end_logprobs: Where an end-of-text token has ended the text: what is reported in its place. Empty where the
            engine does not say it.
    """

    text: str
    token_ids: list[int]
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    num_generated: int = 0
    message: str = ""
    end_logprobs: dict[int, float] = field(default_factory=dict)


class Generator(Closable):
    """Generates for any number of concurrent callers and batches whatever is in flight.

    `async with` closes it at the end of the block.

    Attributes:
        tokenizer: The model's tokenizer (`transformers.PreTrainedTokenizerBase`).
        max_context: Tokens that prompt and output may fill together.
        max_concurrent: Requests that it works on at once; the others wait. Keep somewhat more than these in flight.
    """

    tokenizer: Any
    max_context: int
    max_concurrent: int

    @abstractmethod
    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Continues `token_ids`. Never raises for what the model writes; a failed request has reason `error`.

        Args:
            token_ids: The prompt.
            params: How to sample.
            affinity: A hint for prefix caches. Requests that share a long prefix, like those of one solution, give the
                same string, and a generator with several replicas sends them to the same one. It never changes the
                result.

        Raises:
            GenPRMError: The generator is closed, its engine died, or its servers are gone. Finished work is worth
                keeping; another run can resume.
        """
