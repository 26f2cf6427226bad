"""The baseline: verification as the code published with arXiv 2504.00891 does it, one request at a time.

The caller loops over solutions and chains (Maj@N). For each step this module renders the whole conversation, tokenizes
it, generates, runs the code, and generates again. It asks for log-probabilities at every token. Nothing is kept
between requests; the caller gives a generator without a prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.protocol.base import Written
from genprm_trl.protocol.genprm import (
    ANALYZE_END,
    ANALYZE_PREFIX,
    CODE_END,
    CODE_OUTPUT,
    NO_CODE_FOUND,
    OUTPUT_END,
    OUTPUT_PREFIX,
    SYSTEM_PROMPT,
    VERIFY_PREFIX,
    last_code_block,
    read_verdict,
)
from genprm_trl.records import Solution
from genprm_trl.sandbox.base import Sandbox, Session


@dataclass(slots=True)
class SerialVerifier:
    """Judges with one request in flight.

    Attributes:
        generator: Without a prefix cache.
        sandbox: Where code runs, a namespace a chain.
        sampling: Temperature and filters.
        max_step_tokens: Bound on the tokens of one generation.
        tokens: Tokens generated so far.
    """

    generator: Generator
    sandbox: Sandbox
    sampling: SamplingParams
    max_step_tokens: int = 2048
    tokens: int = 0

    async def judge_chain(self, solution: Solution, chain: int) -> list[float]:
        """The step rewards of one chain."""
        messages = [{"role": "system", "content": SYSTEM_PROMPT}]
        rewards = []
        async with self.sandbox.session() as session:
            for number, step in enumerate(solution.steps, start=1):
                content = f"{solution.problem}\n{step}" if number == 1 else step
                messages.append({"role": "user", "content": content})
                rationale, reward = await self._judge(messages, number, session, chain)
                messages.append({"role": "assistant", "content": rationale})
                rewards.append(reward)
        return rewards

    async def _judge(
        self, messages: Sequence[dict[str, str]], number: int, session: Session, chain: int
    ) -> tuple[str, float]:
        analysis = ANALYZE_PREFIX.format(n=number)
        analysis += (await self._generate(messages, analysis, (ANALYZE_END,), self.max_step_tokens, chain)).text
        text = analysis + VERIFY_PREFIX
        before = VERIFY_PREFIX
        for _ in range(3):
            result = await self._generate(messages, text, (CODE_END, OUTPUT_END), self.max_step_tokens, chain)
            text += result.text
            if not result.text.endswith(CODE_END):
                reward = self._reward(before, result)
                if reward is not None:
                    return text, reward
                break
            code = last_code_block(before + result.text)
            output = NO_CODE_FOUND if code is None else (await session.run(code)).output
            text += CODE_OUTPUT.format(output=output)
            before = ""
        text = analysis + OUTPUT_PREFIX
        result = await self._generate(messages, text, (OUTPUT_END,), 20, chain)
        reward = self._reward(OUTPUT_PREFIX, result)
        return text + result.text, 0.5 if reward is None else reward

    async def _generate(
        self, messages: Sequence[dict[str, str]], turn: str, stop: tuple[str, ...], limit: int, chain: int
    ) -> GenerationResult:
        tokenizer = self.generator.tokenizer
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True) + turn
        ids = tokenizer.encode(text, add_special_tokens=False)
        result = await self.generator.generate(
            ids, replace(self.sampling, stop=stop, max_new_tokens=limit, seed=chain)
        )
        self.tokens += result.num_generated
        return result

    def _reward(self, before: str, result: GenerationResult) -> float | None:
        decode = self.generator.tokenizer.decode
        texts = [decode([token]) for token in result.token_ids]
        logprobs = [[(decode([token]), value) for token, value in place.items()] for place in result.top_logprobs]
        return read_verdict(before, Written(result.text, tokens=texts, top_logprobs=logprobs))
