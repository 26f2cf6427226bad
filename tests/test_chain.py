"""The driver of scripts by itself; what it does for the verifier is in test_verifier.py."""

from __future__ import annotations

from genprm_trl.chain import ChainDriver, Passage
from genprm_trl.chat import ChatFormat
from genprm_trl.generation.base import SamplingParams
from genprm_trl.protocol.base import Append, Execute, Generate, Judge, OpenTurn
from genprm_trl.sandbox import LocalSandbox
from tests.scripted_generator import ScriptedGenerator

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


async def test_each_judgement_has_what_was_done_for_it_and_can_end_the_chain():
    def script():
        for index in range(3):
            yield OPENING
            yield Generate((), 20)
            yield Judge(index, 1.0, "ok")

    seen: list[tuple[int, Passage]] = []

    def on_judge(judge, passage):
        seen.append((judge.index, passage))
        return judge.index < 1

    end = await driver(ScriptedGenerator(lambda prompt: "fine")).run(script(), "a", on_judge=on_judge)
    assert [index for index, _ in seen] == [0, 1]
    assert seen[0][1].text == seen[1][1].text == "fine"
    assert seen[0][1].num_tokens == seen[1][1].num_tokens == end.passage.num_tokens + seen[0][1].num_tokens
    assert end.value is None


async def test_a_chain_may_be_stopped_before_it_begins():
    generator = ScriptedGenerator(lambda prompt: "fine")

    def script():
        yield OPENING
        yield Generate((), 20)

    end = await driver(generator).run(script(), "a", stopped=lambda: True)
    assert end.value is None
    assert end.passage == Passage()
    assert generator.calls == []


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
