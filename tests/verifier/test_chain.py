"""The driver of scripts by itself; what it does for the verifier is in test_verifier.py."""

from __future__ import annotations

import pytest

from genprm_trl.conversation.template import ChatFormat
from genprm_trl.generation import TransformersGenerator
from genprm_trl.generation.base import SamplingParams
from genprm_trl.protocol.base import Append, Execute, ExpectCode, Generate, Judge, OpenTurn, Score
from genprm_trl.protocol.scoring import opens_word
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.verifier.chain import ChainDriver, Passage
from tests.helpers.chat_templates import llama3, sentencepiece
from tests.helpers.scripted_generator import ScriptedGenerator
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

OPENING = OpenTurn(({"role": "user", "content": "Count."},))


def driver(generator: ScriptedGenerator, sandbox: LocalSandbox | None = None) -> ChainDriver:
    return ChainDriver(generator, sandbox, ChatFormat(generator.tokenizer), SamplingParams(), seed=3)


async def test_a_script_returns_its_end_and_what_was_done():
    def script():
        yield OPENING
        used = yield Append("one ")
        written = yield Generate(("\n",), 20)
        output = yield Execute("x = 2\nprint(x + 1)")
        yield Append(output, "interpreter")
        return used, written.text, output

    async with LocalSandbox() as sandbox:
        end = await driver(ScriptedGenerator(lambda prompt: "two \nthree"), sandbox).run(script(), "a")
    used, text, output = end.value
    assert used > 0
    assert (text, output) == ("two \n", "3")
    assert end.passage.text == "one two \n3"
    assert [(code.code, code.output, code.status) for code in end.passage.code_rounds] == [
        ("x = 2\nprint(x + 1)", "3", "ok")
    ]
    assert end.passage.num_tokens > 0


async def test_the_session_is_there_before_its_first_block_where_code_is_expected():
    seen = []

    def script():
        yield ExpectCode()
        yield OPENING
        yield Generate((), 20)
        seen.append(len(opened))
        yield Execute("x = 2")
        return (yield Execute("print(x)"))

    async with LocalSandbox() as sandbox:
        opened = []
        session = sandbox.session
        sandbox.session = lambda: opened.append(session()) or opened[-1]  # type: ignore[method-assign]
        end = await driver(ScriptedGenerator(lambda prompt: "fine"), sandbox).run(script(), "a")
    assert end.value == "2"
    assert seen == [1] == [len(opened)]


async def test_each_judgement_has_what_was_done_for_it_and_the_chain_goes_on_when_it_is_told():
    generator = ScriptedGenerator(lambda prompt: "fine")

    def script():
        for index in range(2):
            yield OPENING
            yield Generate((), 20)
            yield Judge(index, 1.0, "ok")
        return "the end"

    chain = driver(generator).open(script(), "a")
    assert generator.calls == []
    for index in range(2):
        judge, passage = await chain.advance()
        assert judge == Judge(index, 1.0, "ok")
        assert passage.text == "fine"
        assert passage.num_tokens > 0
        assert len(generator.calls) == index + 1
    end = await chain.advance()
    assert (end.value, end.passage) == ("the end", Passage("fine"))
    await chain.close()


async def test_a_closed_chain_does_nothing_more():
    closed = []

    def script():
        try:
            yield OPENING
            yield Generate((), 20)
            yield Judge(0, 1.0, "ok")
        finally:
            closed.append(True)

    chain = driver(ScriptedGenerator(lambda prompt: "fine")).open(script(), "a")
    await chain.advance()
    await chain.close()
    await chain.close()
    assert closed == [True]


async def test_a_token_is_scored_as_if_log_probabilities_had_been_asked_for():
    """Against a real model: what is reported afterwards is what the request itself would have reported."""
    async with TransformersGenerator(tiny_model(), tiny_tokenizer()) as generator:

        def script(index: int | None):
            yield OPENING
            written = yield Generate((), 20, logprobs=index is None)
            if index is None:
                return written
            return (yield Score(index))

        chains = ChainDriver(generator, None, ChatFormat(generator.tokenizer), SamplingParams(), seed=3)
        written = (await chains.run(script(None), "a")).value
        for index in (0, 7, len(written.tokens) - 1):
            scored = (await chains.run(script(index), "a")).value
            expected, found = (
                sorted(alternatives, key=lambda pair: (-pair[1], pair[0]))[:20]  # the sampled token may be a 21st
                for alternatives in (written.top_logprobs[index], scored.top_logprobs[0])
            )
            assert [text for text, _ in found] == [text for text, _ in expected]
            assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer, llama3, sentencepiece], ids=["tiny", "llama3", "sentencepiece"])
async def test_the_tokens_of_words_are_all_that_may_open_one(tokenizer):
    words, asked = ("Yes", "No"), []
    generator = ScriptedGenerator(lambda prompt: "{Yes}", tokenizer())

    def script():
        yield OPENING
        yield Generate((), 5, words=words)
        yield Generate((), 5, logprobs=False, words=words)
        yield Score(0, words)
        yield Generate((), 5)

    async def generate(ids, params, *, affinity=None):
        asked.append(params.logprob_token_ids)
        return await ScriptedGenerator.generate(generator, ids, params)

    generator.generate = generate  # type: ignore[method-assign]
    one = driver(generator)
    await one.run(script(), "a")
    texts = {i: one.detokenizer.token_text(i) for i in range(len(generator.tokenizer))}
    names = generator.tokenizer.convert_ids_to_tokens(list(texts))
    expected = [i for i, text in texts.items() if any(opens_word(text, word, one.is_token) for word in words)]
    # Without the bytes of SentencePiece, for which there are letters.
    expected = [i for i in expected if not names[i].startswith("<0x")]
    assert asked == [tuple(expected), (), tuple(expected), ()]
    # What a model may begin a verdict with, in whatever pieces its tokenizer has for it.
    for word in ("Yes", "No", " No"):
        opening = next(i for i in one.detokenizer.encode(word) if texts[i].strip())
        assert opening in expected
    assert not any(texts[i].strip().casefold() in ("not", "year", "ne") for i in expected)
    # Rewards as the sampler sees them are made of the most likely tokens.
    sampler = ChainDriver(generator, None, one.chat, SamplingParams(), seed=3, rewards_from="sampler")
    assert sampler.word_tokens(words) == ()


async def test_seeds_depend_on_the_name_and_the_number_of_the_request():
    generator = ScriptedGenerator(lambda prompt: "fine")

    def script():
        yield OPENING
        yield Generate((), 20)
        yield Generate((), 20)

    for name in ("a", "b", "a"):
        await driver(generator).run(script(), name)
    seeds = [params.seed for _, params in generator.calls]
    assert seeds[:2] == seeds[4:]
    assert len(set(seeds)) == 4
