"""Servers of other makes: the right verdict from each, and what is found out about them at the start."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from genprm_trl.cli.main import main
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError
from genprm_trl.generation import GenerationResult, SamplingParams, ServerGenerator, TransformersGenerator
from genprm_trl.generation.server import generator as module
from genprm_trl.generation.server.wire import Abilities
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.completion_server import DIALECTS, CompletionServer, says, until
from tests.helpers.scripted_generator import Reply, ScriptedGenerator, current_turn
from tests.helpers.tiny_models import tiny_tokenizer

ANALYSIS = "It says √2 · √2 = 2 ✓ and ∠ABC ≅ ∠DEF 😀, 你好 “x ≤ y” ⌊3.5⌋ = 3. That fits."
PLAIN = SamplingParams(max_new_tokens=9, temperature=0.6, logprobs=0)
SOLUTION = Solution("a", "What is 2 * 3 + 1?", ["2 * 3 = 6 √", "WRONG: 6 + 1 = 8 😀"])


def verdict(word: str, other: str) -> Reply:
    """Eight times as likely as the other one."""
    text = f"{{{word}}}$\n</output>\n"
    ids, others = tiny_tokenizer().encode(text), tiny_tokenizer().encode(text.replace(word, other))
    [at] = [place for place, (one, two) in enumerate(zip(ids, others, strict=True)) if one != two]
    return Reply(text, alternatives={at: {ids[at]: math.log(8 / 9), others[at]: math.log(1 / 9)}})


class Model(ScriptedGenerator):
    """A verifier that finds the mark WRONG in a step, and writes characters of several tokens."""

    def __init__(self, analysis: str = ANALYSIS) -> None:
        super().__init__(self._reply, alternatives={" ": -9.0, "a": -10.0, ".": -11.0, ",": -12.0, "\n": -13.0})
        self.analysis = analysis

    def _reply(self, prompt: str) -> str | Reply:
        turn = current_turn(prompt)
        if "<|im_start|>assistant" not in prompt:
            return f" ✓ √16 = 4 ✓ {self.calls[-1][1].seed} Step 3: and so on 😀 for some more tokens, and further"
        if turn.endswith("step by step: "):
            return f"{self.analysis}</analyze>\n"
        wrong = "WRONG" in prompt.rpartition("<|im_start|>user\n")[2]
        return verdict("No", "Yes") if wrong else verdict("Yes", "No")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)


def connect(server: CompletionServer, **options: Any) -> ServerGenerator:
    options = {"max_context": 2048, "attempts": 1, **options}
    return ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=server.url, **options)


async def judge(generator: ServerGenerator, **options: Any) -> Verdict:
    chat = ChatFormat(generator.tokenizer)
    return await GenPRM(generator, None, GenPRMProtocol("analysis"), chat=chat, **options).verify(SOLUTION)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_verdict_is_right_in_every_dialect(dialect: str) -> None:
    with CompletionServer(Model(), dialect) as server:
        async with connect(server) as generator:
            found = await judge(generator)
    assert [step.status for step in found.chains[0]] == ["ok", "ok"]
    assert all(f"step by step: {ANALYSIS}</analyze>\n" in step.rationale for step in found.chains[0])
    soft = DIALECTS[dialect].tokens != "none"
    assert found.rewards == pytest.approx([8 / 9, 1 / 9] if soft else [1, 0])


async def test_what_is_found_out_of_each() -> None:
    expected = {
        "llama.cpp": {"stops": "streamed", "bare_ids": False},
        "aphrodite": {"bare_ids": False},
        "mlx": {"prompts": "text", "stops": "streamed", "logprobs": 5, "bare_ids": False},
        "mlx of 2026": {
            "prompts": "text", "stops": "streamed", "logprobs": 5, "bare_ids": False, "switch": True,
            "streams_logprobs": False,
        },
        "tgi": {"prompts": "text", "stops": "streamed", "logprobs": 0, "bare_ids": False},
        "ollama": {"prompts": "text", "stops": "streamed", "logprobs": 0, "bare_ids": False},
        "lm studio": {"prompts": "text", "stops": "streamed", "bare_ids": False, "stream_options": False},
    }  # fmt: skip
    for dialect, abilities in expected.items():
        with CompletionServer(Model(), dialect) as server:
            async with connect(server) as generator:
                assert generator.abilities == Abilities(**abilities), dialect  # type: ignore[arg-type]


# What a server has read


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "openai", "ollama", "tgi", "lm studio"])
async def test_a_cut_prompt_is_no_verdict(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    with CompletionServer(Model(), dialect, num_ctx=120) as server:
        async with connect(server) as generator:
            found = await judge(generator)
            again = await judge(generator)
            short = await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)
    assert [step.status for step in found.chains[0]] == ["truncated", "truncated"]
    assert found.rewards == again.rewards == [0.5, 0.5]
    assert short.finish_reason == "length"
    assert caplog.text.count("has read only 120 of the") == 1
    assert "give max_context" in caplog.text


@pytest.mark.parametrize("lost", [1, 2, 40])
async def test_the_first_lost_token_is_noticed(lost: int) -> None:
    prompt = tiny_tokenizer().encode("The whole of this prompt, with a mark ✓, must be read. " * 5)
    for dialect in ("vllm", "ollama"):
        with CompletionServer(Model(), dialect, num_ctx=len(prompt) - lost) as server:
            async with connect(server) as generator:
                result = await generator.generate(prompt, PLAIN)
                assert (result.finish_reason, result.text, result.token_ids) == ("context", "", [])
                assert f"has read only {len(prompt) - lost} of {len(prompt)} tokens" in result.message
                assert (await generator.generate(prompt[lost:], PLAIN)).finish_reason == "length"


@pytest.mark.parametrize("dialect", ["vllm", "openai", "ollama"])
@pytest.mark.parametrize(("counts", "extra"), [("all", 1), ("all", 0), ("uncached", 0), ("silent", 0), ("none", 0)])
async def test_counts_that_are_no_sign_of_a_cut(dialect: str, counts: Any, extra: int) -> None:
    with CompletionServer(Model(), dialect, counts=counts, extra=extra) as server:
        async with connect(server) as generator:
            for _ in range(2):  # the second time from the cache
                assert [step.status for step in (await judge(generator)).chains[0]] == ["ok", "ok"]
            assert (generator.abilities.counted is None) == (counts in ("silent", "none"))


@pytest.mark.parametrize("dialect", ["openai", "ollama", "transformers"])
@pytest.mark.parametrize(("counts", "extra"), [("all", 1), ("all", 0), ("none", 0)])
async def test_begin_of_text_is_read_once(dialect: str, counts: Any, extra: int) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    ids = tokenizer.encode("What is 1 + 1?")
    assert ids[0] == tokenizer.bos_token_id
    with CompletionServer(Model(), dialect, counts=counts, extra=extra) as server:
        async with ServerGenerator("tiny-genprm", tokenizer, urls=server.url, max_context=2048) as generator:
            assert (await generator.generate(ids, PLAIN)).finish_reason == "length"
    sent = server.bodies[-1]["prompt"]
    # One that counts a token more puts it there. Of one that counts nothing, OpenAI's fields are a sign of that.
    adds = extra == 1 or (counts == "none" and DIALECTS[dialect].strict)
    assert sent == ("" if adds else bos) + "What is 1 + 1?"


async def test_a_cut_prompt_is_noticed_by_a_server_that_tells_what_was_cached() -> None:
    with CompletionServer(Model(), "vllm", counts="uncached", num_ctx=120) as server:
        async with connect(server) as generator:
            for _ in range(2):
                assert (await judge(generator)).chains[0][1].status == "truncated"


@pytest.mark.parametrize("dialect", ["openai", "ollama", "tgi"])
class TestAnotherPromptIsAnError:
    def test_chat_template(self, dialect: str) -> None:
        with (
            CompletionServer(Model(), dialect, template=True) as server,
            pytest.raises(ConfigError, match=r"reads \d+ tokens where \d+ were sent: it puts a chat template"),
        ):
            connect(server)

    def test_control_tokens_as_text(self, dialect: str) -> None:
        with (
            CompletionServer(Model(), dialect, plain_control=True) as server,
            pytest.raises(ConfigError, match=r"reads control tokens such as '<\|im_end\|>' as plain text"),
        ):
            connect(server)

    def test_a_cut_of_the_shortest(self, dialect: str) -> None:
        with (
            CompletionServer(Model(), dialect, num_ctx=10) as server,
            pytest.raises(ConfigError, match=r"has read only 10 of the \d+ tokens of a short prompt"),
        ):
            connect(server)

    def test_another_tokenizer(self, dialect: str) -> None:
        with (
            CompletionServer(Model(), dialect) as server,
            pytest.raises(ConfigError, match="the tokenizer is not that of the served model 'tiny-genprm'"),
        ):
            ServerGenerator("tiny-genprm", tiny_tokenizer(400), urls=server.url, max_context=2048)


async def test_an_id_that_no_text_spells_is_an_error() -> None:
    with CompletionServer(Model(), "openai") as server:
        async with connect(server) as generator:
            result = await generator.generate([3, 10**6], PLAIN)
    assert (result.finish_reason, result.text) == ("error", "")
    assert "token ids that the tokenizer does not know" in result.message


async def test_more_than_was_sent_is_no_verdict() -> None:
    with CompletionServer(Model(), "vllm") as server:
        async with connect(server) as generator:
            server.dialect = dataclasses.replace(server.dialect, extra=25)
            result = await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)
    assert (result.finish_reason, result.text) == ("error", "")
    assert "another prompt" in result.message


# What is asked for, tried at the start


@pytest.mark.parametrize("dialect", ["vllm", "openai", "llama.cpp"])
@pytest.mark.parametrize(("most", "asked"), [(20, 20), (10, 5), (5, 5), (4, 2), (2, 2)])
async def test_as_many_log_probabilities_as_the_server_reports(
    dialect: str, most: int, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    with CompletionServer(Model(), dialect, most_logprobs=most) as server:
        async with connect(server) as generator:
            assert (await judge(generator)).rewards == pytest.approx([8 / 9, 1 / 9])
    assert (f"refuses 20 log-probabilities a token; rewards are read from {asked}" in caplog.text) == (asked < 20)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_rewards_without_alternatives_are_read_from_the_written_word(
    dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    with CompletionServer(Model(), dialect, alternatives=False) as server:
        async with connect(server) as generator:
            found = await judge(generator)
            again = await judge(generator)
    assert found.rewards == again.rewards == pytest.approx([8 / 9, 1 / 9])
    assert caplog.text.count("of the written tokens alone; rewards are read from those") == 1


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("heeded", None),
        ("ignored", "does not heed seeds"),
        ("one", "makes the same sample of all seeds; it is sent none"),
        ("stuck", "the same sample again and again at temperature 1"),
    ],
)
async def test_seeds_that_do_not_do_what_they_should(
    engine: TransformersGenerator, seeds: Any, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with CompletionServer(engine, "sglang", seeds=seeds) as server:
        async with connect(server) as generator:
            server.bodies.clear()
            await generator.generate(tiny_tokenizer().encode("1 + 1"), dataclasses.replace(PLAIN, seed=5))
            assert ("seed" in server.bodies[0]) == (seeds != "one")
    assert (
        "seed" not in caplog.text and "same sample" not in caplog.text if message is None else message in caplog.text
    )


class OneAtATime(CompletionServer):
    """Sets the seed of whatever it writes when a request comes, as one process with one seed does."""

    seed: int | None = None

    async def _generate(self, ids: list[int], body: dict[str, Any], logprobs: int) -> GenerationResult:
        self.seed = body.get("seed")
        await asyncio.sleep(0.05)
        return await super()._generate(ids, body | {"seed": self.seed}, logprobs)


async def test_seeds_of_requests_that_come_together(
    engine: TransformersGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    with OneAtATime(engine, "transformers") as server:
        await connect(server).close()
    assert "does not heed seeds, or not those of requests that come together" in caplog.text


@pytest.mark.parametrize("dialect", ["llama.cpp", "openai", "ollama"])
@pytest.mark.parametrize(
    "traits", [{"streams": False}, {"takes_stream_options": False}, {"done": False}, {"streams_logprobs": False}]
)
async def test_streams_that_are_not_like_others(dialect: str, traits: dict[str, Any]) -> None:
    with CompletionServer(Model(), dialect, **traits) as server:
        async with connect(server) as generator:
            found = await judge(generator)
            unstopped = await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)
    assert found.rewards == pytest.approx([8 / 9, 1 / 9] if DIALECTS[dialect].tokens != "none" else [1, 0])
    assert unstopped.finish_reason == "length"


@pytest.mark.parametrize("dialect", ["vllm", "tgi"])
async def test_a_server_without_a_list_of_models_lives(
    dialect: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    with CompletionServer(Model(), dialect, lists_models=False) as server:
        async with connect(server) as generator:
            await asyncio.sleep(0.3)
            assert (await judge(generator)).chains[0][1].status == "ok"
        assert "taken out" not in caplog.text
        with pytest.raises(ConfigError, match="give max_context"):
            connect(server, max_context=None)


@pytest.mark.parametrize("reason", ["eos_token", "stop_sequence", "end_turn", "EOS", "", None, {"type": "stop"}])
async def test_an_end_by_any_name_is_an_end(reason: Any) -> None:
    with CompletionServer(Model(), "openai", reasons={"eos": reason, "stop": reason}) as server:
        async with connect(server) as generator:
            assert (await judge(generator)).rewards == pytest.approx([8 / 9, 1 / 9])


@pytest.mark.parametrize("reason", ["content_filter", "abort", "error", {"type": "abort", "message": "x"}])
async def test_a_text_that_the_server_cut_off_is_an_error_with_its_reason(reason: Any) -> None:
    with CompletionServer(Model()) as server:
        async with connect(server, attempts=3) as generator:
            server.bodies.clear()
            server.every = says(json.dumps({"choices": [{"text": "so \\boxed{Yes}", "finish_reason": reason}]}))
            result = await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)
    assert (result.finish_reason, result.text, len(server.bodies)) == ("error", "", 1)
    assert f"ended the text with the reason '{reason if isinstance(reason, str) else 'abort'}'" in result.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"error": {"message": "out of memory", "code": 500}}', "application/json"),
        ('{"error": "out of memory"}', "application/json"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "text/event-stream"),
        ('error: {"message": "out of memory"}\n\n', "text/event-stream"),
    ],
)
async def test_an_error_in_an_answer_is_told_as_such(body: str, kind: str) -> None:
    with CompletionServer(Model(), "llama.cpp") as server:
        async with connect(server, attempts=2) as generator:
            server.faults = [says(body, kind)] * 2
            result = await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)
            assert result.finish_reason == "error"
            assert "answers 500: out of memory" in result.message
            server.faults = [says(body, kind)]
            assert (await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)).finish_reason == "length"
            too_long = '{"error": {"message": "the request exceeds the available context size", "code": 400}}'
            server.faults = [says(too_long)]
            assert (await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)).finish_reason == "context"


async def test_an_answer_in_one_piece_to_a_request_for_a_stream() -> None:
    with CompletionServer(Model(), "openai") as server:
        async with connect(server) as generator:
            server.faults = [says('{"choices": [{"text": "fine", "finish_reason": "stop"}]}')]
            assert (await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)).text == "fine"


async def test_other_paths_and_other_names(engine: TransformersGenerator) -> None:
    with CompletionServer(engine) as server:
        server.name = "tiny-genprm:latest"
        async with connect(server) as generator:
            assert (await generator.generate(tiny_tokenizer().encode("1 + 1"), PLAIN)).finish_reason == "length"
    assert module._base("http://a/v3") == "http://a/v3"
    assert module._base("http://a/openai") == "http://a/openai/v1"


def test_rationales_that_are_all_the_same_are_warned_of(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "solutions.jsonl", [SOLUTION])
    command = [
        "verify",
        str(tmp_path / "solutions.jsonl"),
        "--model",
        str(model_dir),
        "--mode",
        "analysis",
        "--n",
        "4",
    ]
    warning = "All rationales of each solution are the same"
    with CompletionServer(Model(), "sglang", seeds="stuck") as server:
        command += ["--backend", "server", "--server_url", server.url, "--max_context", "2048"]
        assert main([*command, "--output", str(tmp_path / "warm.jsonl")]) == 0
        assert warning in capsys.readouterr().err
        assert main([*command, "--output", str(tmp_path / "greedy.jsonl"), "--temperature", "0"]) == 0
        assert warning not in capsys.readouterr().err


async def test_each_of_several_servers_is_asked_in_its_own_way() -> None:
    with CompletionServer(Model(), "vllm") as one, CompletionServer(Model(), "openai", most_logprobs=5) as other:
        urls = [one.url, other.url]
        async with ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=urls, attempts=1) as generator:
            found = await asyncio.gather(*(judge(generator, seed=seed) for seed in range(6)))
    assert all(verdict.rewards == pytest.approx([8 / 9, 1 / 9]) for verdict in found)
    assert {type(body["prompt"]) for server in (one, other) for body in server.bodies[-4:]} == {str, list}


async def test_one_unfit_server_of_two_is_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    with CompletionServer(Model(), "ollama") as one, CompletionServer(Model(), "ollama", template=True) as other:
        options = {"max_context": 2048, "attempts": 1}
        async with ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=[other.url, one.url], **options) as generator:
            other.bodies.clear()
            assert (await judge(generator)).rewards == [1, 0]
            assert not other.bodies
    assert "it puts a chat template around the text" in caplog.text


async def test_a_server_that_comes_late_is_tried_out_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    caplog.set_level("INFO")
    late = CompletionServer(Model(), "openai").start()
    late.stop()
    with CompletionServer(Model(), "vllm") as one:
        urls = [late.url, one.url]
        async with ServerGenerator("tiny-genprm", tiny_tokenizer(), urls=urls, attempts=1) as generator:
            late.start()
            root = late.url.removesuffix("/v1")
            await asyncio.to_thread(until, lambda: f"{root} answers again" in caplog.text)
            one.stop()
            assert (await judge(generator)).rewards == pytest.approx([8 / 9, 1 / 9])
            assert isinstance(late.bodies[-1]["prompt"], str)
    late.stop()
