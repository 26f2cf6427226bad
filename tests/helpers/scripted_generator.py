"""A generator whose text comes from a Python function: for tests of what callers do with any text a model may write.

    def reply(text: str) -> str:          # `text` is the whole prompt, special tokens included
        return "fine</analyze>\n" if text.endswith("step by step: ") else "$\\boxed{Yes}$"

    generator = ScriptedGenerator(reply)  # the tiny tokenizer; give a tokenizer to use another
    result = await generator.generate(token_ids, SamplingParams(stop=("</analyze>\n",)))

It keeps every rule of `genprm_trl.generation.base`: the reply is cut after the first stop string, at max_new_tokens
and at the context, and a stop string inside a token gives re-encoded ids with empty log-probability maps.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genprm_trl.errors import GenPRMError
from genprm_trl.generation.base import FinishReason, GenerationResult, Generator, SamplingParams
from tests.helpers.tiny_models import tiny_tokenizer


@dataclass
class Reply:
    """What the function may return instead of a plain string, to say more.

    Attributes:
        text: The model's text before any cut.
        ends: Whether the end-of-text token follows; if not and nothing else stops it, the request runs on and the
            finish reason is `length`.
        alternatives: Log-probabilities by position of *this reply's* tokens (from 0): `{5: {token_id: -0.2}}` adds
            to, and overrides, what is reported at position 5.
        error: If set, the request fails with reason `error` and this message.
    """

    text: str
    ends: bool = True
    alternatives: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    error: str = ""


Script = Callable[[str], "str | Reply | Awaitable[str | Reply]"]


class ScriptedGenerator(Generator):
    """A `Generator` that answers each prompt with `script(prompt_text)`.

    Args:
        script: Gets the decoded prompt (special tokens kept) and returns a string or a `Reply`; may be async, may
            raise (the exception goes to the caller of `generate`, which real generators never do: for tests only).
        tokenizer: `tiny_tokenizer()` if None.
        max_context: Tokens that prompt and reply may fill together.
        alternatives: Reported at every position beside the chosen token: token string (one token) to log-probability,
            e.g. `{"No": -0.2}`. The chosen token's own is `chosen_logprob` unless it is named here.
        chosen_logprob: Log-probability of each written token.
        delay: Seconds that each request takes.
        max_concurrent: What the attribute says; more requests are answered all the same.

    Attributes:
        calls: Every request so far as (prompt text, params), in order of arrival.
        affinities: The affinity of each of them.
    """

    def __init__(
        self,
        script: Script,
        tokenizer: Any = None,
        *,
        max_context: int = 4096,
        alternatives: Mapping[str, float] | None = None,
        chosen_logprob: float = -0.01,
        delay: float = 0.0,
        max_concurrent: int = 256,
    ):
        self.script = script
        self.tokenizer = tokenizer or tiny_tokenizer()
        self.max_context = max_context
        self.max_concurrent = 256
        self.chosen_logprob = chosen_logprob
        self.delay = delay
        self.max_concurrent = max_concurrent
        self.calls: list[tuple[str, SamplingParams]] = []
        self.affinities: list[str | None] = []
        self.closed = False
        self.alternatives: dict[int, float] = {}
        for token, logprob in (alternatives or {}).items():
            ids = self._encode(token)
            if len(ids) != 1:
                raise ValueError(f"{token!r} is {len(ids)} tokens, an alternative must be one")
            self.alternatives[ids[0]] = logprob

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        if self.closed:
            raise GenPRMError("the generator is closed")
        prompt = self.tokenizer.decode(token_ids, skip_special_tokens=False)
        self.calls.append((prompt, params))
        self.affinities.append(affinity)
        await asyncio.sleep(self.delay)
        room = min(params.max_new_tokens, self.max_context - len(token_ids))
        if room <= 0:
            reason: FinishReason = "context" if len(token_ids) >= self.max_context else "length"
            return GenerationResult("", [], finish_reason=reason)
        answer = self.script(prompt)
        if inspect.isawaitable(answer):
            answer = await answer
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if reply.error:
            return GenerationResult("", [], finish_reason="error", message=reply.error)

        ids = self._encode(reply.text)
        if len(ids) > room:  # the model is cut off before it has written all of the reply
            ids = ids[:room]
            reason = "length" if room == params.max_new_tokens else "context"
        else:
            reason = "stop" if reply.ends else "length"
        text = self._decode(ids)
        maps = [self._logprobs(i, token, params, reply) for i, token in enumerate(ids)] if params.logprobs else []
        ended: dict[int, float] = {}
        if params.logprobs and reason == "stop":
            ended = self._logprobs(len(ids), self.tokenizer.eos_token_id, params, reply)

        ends = [text.find(stop) + len(stop) for stop in params.stop if stop in text]
        if not ends:
            return GenerationResult(text, ids, maps, reason, len(ids) + (reason == "stop"), end_logprobs=ended)
        text = text[: min(ends)]
        kept = len(ids)
        while not text.startswith(self._decode(ids[:kept])):
            kept -= 1
        tail = self._encode(text[len(self._decode(ids[:kept])) :])
        maps = maps[:kept] + [{} for _ in tail] if params.logprobs else []
        return GenerationResult(text, ids[:kept] + tail, maps, "stop", kept + bool(tail))

    def _logprobs(self, position: int, token: int, params: SamplingParams, reply: Reply) -> dict[int, float]:
        known = {token: self.chosen_logprob, **self.alternatives, **reply.alternatives.get(position, {})}
        top = sorted(known, key=known.__getitem__, reverse=True)[: params.logprobs]
        return {i: known[i] for i in known if i in top or i == token}

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    async def close(self) -> None:
        self.closed = True


def current_turn(prompt: str) -> str:
    """The open assistant turn of a prompt in the tiny tokenizer's ChatML template."""
    return prompt.rpartition("<|im_start|>assistant\n")[2]


def checking_script(prompt: str) -> str:
    """A model that checks the step's equation with code and believes what the code prints."""
    turn = current_turn(prompt)
    if turn.endswith("step by step: "):
        return "The claim is an equation. </analyze>\n"
    step = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0].splitlines()[-1]
    equation = step.rstrip(".").split(" ", 1)[1].replace(" = ", " == ")
    if turn.endswith("```python\n"):
        return f"print({equation})\n```\n"
    if turn.endswith("```\n"):
        verdict = "Yes" if "True" in turn.rpartition("[Code Output]")[2] else "No"
        return f"</verify>\n<output>\n**Judgement**: $\\boxed{{{verdict}}}$\n</output>\n"
    if turn.endswith("\\boxed"):
        return "{Yes}$\n</output>\n"
    raise AssertionError(f"unexpected prompt: {turn!r}")
