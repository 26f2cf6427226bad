"""Making a result of what an engine has generated: the rules of the interface, applied in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from genprm_trl.generation.base import FinishReason, GenerationResult, SamplingParams
from genprm_trl.generation.stopping import GeneratedText, StopStrings
from genprm_trl.generation.tokens import Detokenizer


def refuse(token_ids: Sequence[int], params: SamplingParams, max_context: int) -> GenerationResult | None:
    """The result of a request that no engine need see: an empty or impossible prompt, no room, nothing wanted."""
    if not token_ids:
        return GenerationResult("", [], finish_reason="error", message="the prompt is empty")
    if min(token_ids) < 0:
        return GenerationResult("", [], finish_reason="error", message="the prompt has negative token ids")
    if len(token_ids) >= max_context:
        return GenerationResult("", [], finish_reason="context")
    if params.max_new_tokens == 0:
        return GenerationResult("", [], finish_reason="length")
    return None


class Assembler:
    """Makes `GenerationResult`s of token ids and log-probabilities as engines report them.

    Text is decoded here and stop strings are looked for here, so that results are the same whatever the engine does
    with spaces, special tokens and the token that completes a stop string.

    Args:
        detokenizer: Decodes with the model's tokenizer.
    """

    def __init__(self, detokenizer: Detokenizer):
        self._detokenizer = detokenizer
        self._stop_strings: dict[tuple[str, ...], StopStrings] = {}

    def begin(self, stop: tuple[str, ...], ids: Sequence[int] = ()) -> GeneratedText:
        """The text of a request with these stop strings, which has generated `ids` so far."""
        known = self._stop_strings.get(stop)
        if known is None:
            known = self._stop_strings[stop] = StopStrings(stop, self._detokenizer)
        generated = GeneratedText(known, self._detokenizer)
        generated.ids.extend(ids)
        return generated

    @staticmethod
    def assemble(
        generated: GeneratedText,
        maps: Callable[[int], list[dict[int, float]]],
        params: SamplingParams,
        reason: FinishReason,
        *,
        ended: bool = False,
        num_generated: int | None = None,
    ) -> GenerationResult:
        """The result of one request.

        Args:
            generated: What was generated, without an end-of-text token.
            maps: A function from a number of tokens to the log-probabilities at that many positions. It is called only
                if they are wanted. An end-of-text token has the position behind `generated`; there may be none for it.
            params: The request's parameters.
            reason: Why generation ended; a stop string in the text overrides it.
            ended: Whether an end-of-text token was generated. It is counted.
            num_generated: Tokens that the engine produced. Default: those in `generated` and the end-of-text token.
        """
        end = generated.find_stop()
        if end >= 0:
            text, ids, kept = generated.cut(end)
            reason = "stop"
        else:
            text, ids, kept = generated.text(), list(generated.ids), len(generated.ids)
        logprobs: list[dict[int, float]] = []
        at_end: dict[int, float] = {}
        if params.logprobs:
            logprobs = maps(kept + 1 if ended and end < 0 else kept)
            if len(logprobs) > kept:
                at_end = logprobs.pop()
            logprobs += [{} for _ in ids[kept:]]
        count = len(generated.ids) + ended if num_generated is None else num_generated
        return GenerationResult(text, ids, logprobs, reason, count, end_logprobs=at_end)


def trimmed(reported: Mapping[int, float], sampled: int, count: int) -> dict[int, float]:
    """The `count` most likely tokens of a position and the sampled one; engines may report more."""
    if len(reported) <= count:
        return dict(reported)
    best = sorted(reported, key=reported.__getitem__, reverse=True)[:count]
    return {token: reported[token] for token in reported if token in best or token == sampled}
