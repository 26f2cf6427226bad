"""The scripted generator keeps the rules of the interface, or tests that stand on it prove nothing."""

import pytest

from genprm_trl.errors import GenPRMError
from genprm_trl.generation.base import Generator, SamplingParams
from tests.helpers.scripted_generator import Reply, ScriptedGenerator

PROMPT = [5, 6, 7]


def test_is_a_generator() -> None:
    assert isinstance(ScriptedGenerator(str), Generator)


async def test_reply_is_cut_after_the_first_stop_string_even_inside_a_token() -> None:
    async with ScriptedGenerator(lambda _: "wrong. So</analyze>\nmore") as generator:
        for stop in ("</analyze>\n", "wro", "alyz"):
            result = await generator.generate(PROMPT, SamplingParams(stop=("never", stop)))
            assert result.text.endswith(stop)
            assert result.text.count(stop) == 1
            assert generator.tokenizer.decode(result.token_ids) == result.text
            assert result.finish_reason == "stop"
            assert len(result.top_logprobs) == len(result.token_ids)


async def test_limits_and_errors_have_their_reasons() -> None:
    generator = ScriptedGenerator(lambda _: Reply("a b c d e f", ends=False), max_context=6)
    assert (await generator.generate(PROMPT, SamplingParams())).finish_reason == "context"
    assert (await generator.generate(PROMPT * 2, SamplingParams())).text == ""
    cut = await generator.generate(PROMPT, SamplingParams(max_new_tokens=2))
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 2)
    failing = ScriptedGenerator(lambda _: Reply("", error="boom"))
    assert (await failing.generate(PROMPT, SamplingParams())).message == "boom"
    await failing.close()
    with pytest.raises(GenPRMError):
        await failing.generate(PROMPT, SamplingParams())


async def test_log_probabilities_name_the_alternatives() -> None:
    generator = ScriptedGenerator(lambda _: "Yes", alternatives={"N": -3.0})
    result = await generator.generate(PROMPT, SamplingParams(logprobs=5))
    other = generator.tokenizer.encode("N")[0]
    assert all(
        maps[other] == -3.0 and maps[token] == -0.01
        for token, maps in zip(result.token_ids, result.top_logprobs, strict=True)
    )
    assert (await generator.generate(PROMPT, SamplingParams(logprobs=0))).top_logprobs == []
