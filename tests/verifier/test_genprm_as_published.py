"""A verifier that asks a released checkpoint as the published inference did: one setting, `turn_opening`."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat, TurnOpening
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.verifier.genprm import GenPRM, has_published_name
from tests.helpers import chat_templates
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

PROBLEM, STEPS = "Anna has 2 apples.", ["She has 2 + 3 = 5.", "Therefore 5."]
SYSTEM = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
ANALYZE = "<analyze>\nLet's analyze the Paragraph {n} step by step: "
VERIFY = "<verify>\nLet's use python code to find any potential error:\n```python\n"
ANALYSIS = "Anna is right.\n</analyze>\n"  # its first word shares a token with the space before it
CODE = "print(__name__)\n```\n"
END = "So.</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"


class Recorder(ScriptedGenerator):
    """Keeps the token ids of every prompt."""

    def __init__(self, tokenizer):
        super().__init__(self._reply, tokenizer)
        self.prompts: list[list[int]] = []

    @staticmethod
    def _reply(prompt: str) -> str:
        if prompt.endswith("step by step: "):
            return ANALYSIS
        return CODE if prompt.endswith("```python\n") else END

    async def generate(self, token_ids, params, **options):
        if params.max_new_tokens > 1:  # not the ones that score a token of a text
            self.prompts.append(list(token_ids))
        return await super().generate(token_ids, params, **options)


def published_texts(tokenizer, world: str) -> list[str]:
    """What the published inference gives to its engine, request by request."""
    messages, texts = [{"role": "system", "content": SYSTEM}], []
    for number, step in enumerate(STEPS, start=1):
        content = f"{PROBLEM}\n{step}" if number == 1 else step
        messages.append({"role": "user", "content": content})
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        prompt = prompt.removesuffix("\n").removesuffix(tokenizer.eos_token)
        parts = [ANALYZE.format(n=number), ANALYSIS + VERIFY, f"{CODE}[Code Output]\n\n```\n{world}\n```\n"]
        texts += [prompt + "".join(parts[:count]) for count in (1, 2, 3)]
        messages.append({"role": "assistant", "content": "".join(parts) + END})
    return texts


async def asked(turn_opening: TurnOpening, style: str) -> Recorder:
    tokenizer = getattr(chat_templates, style)()
    generator = Recorder(tokenizer)
    async with LocalSandbox() as sandbox:
        verifier = GenPRM(generator, sandbox, chat=ChatFormat(tokenizer, turn_opening))
        verdict = await verifier.verify(Solution("s", PROBLEM, STEPS))
    assert [judgement.status for judgement in verdict.chains[0]] == ["ok", "ok"]
    return generator


@pytest.mark.parametrize("style", ["chatml", "deepseek"])
async def test_every_request_holds_the_published_ids(style: str):
    generator = await asked("as_published", style)
    texts = published_texts(generator.tokenizer, "builtins")
    assert generator.prompts == [generator.tokenizer.encode(text, add_special_tokens=False) for text in texts]


async def test_ids_that_are_kept_give_the_same_text_in_other_tokens():
    generator = await asked("as_published_ids_kept", "chatml")
    encoded = [
        generator.tokenizer.encode(text, add_special_tokens=False)
        for text in published_texts(generator.tokenizer, "builtins")
    ]
    assert [generator.tokenizer.decode(prompt) for prompt in generator.prompts] == [
        generator.tokenizer.decode(ids) for ids in encoded
    ]
    assert generator.prompts[0] == encoded[0]
    assert generator.prompts[1] != encoded[1]
    assert generator.prompts[1][: len(generator.prompts[0])] == generator.prompts[0]  # a prefix cache hits all of it


async def test_a_verdict_in_a_long_text_is_scored_where_it_was_sampled():
    generator = await asked("as_published", "chatml")
    scored = [prompt for prompt, params in generator.calls if params.max_new_tokens == 1]
    assert not scored  # the verdict came with its log-probabilities
    tokenizer = chat_templates.chatml()
    generator = Recorder(tokenizer)
    generator.script = lambda prompt: ANALYSIS if prompt.endswith("step by step: ") else END
    chat = ChatFormat(tokenizer, "as_published")
    await GenPRM(generator, None, GenPRMProtocol("analysis_code"), chat=chat).verify(Solution("s", PROBLEM, STEPS[:1]))
    [scored] = [prompt for prompt, params in generator.calls if params.max_new_tokens == 1]
    assert scored == published_texts(tokenizer, "")[1] + END.partition("Yes")[0]


@pytest.mark.parametrize(
    ("turn_opening", "rewards_from", "reward"),
    [
        ("generation_prompt", None, 0.8),
        ("generation_prompt", "sampler", 0.91),
        ("as_published", None, 0.91),
        ("as_published_ids_kept", None, 0.91),
        ("as_published", "model", 0.8),
    ],
)
async def test_what_rewards_are_made_of(turn_opening, rewards_from, reward):
    tokenizer = tiny_tokenizer()
    [no] = tokenizer.encode("No")

    def script(prompt: str) -> Reply:
        return Reply("{Yes}$\n</output>\n", alternatives={place: {no: math.log(0.2)} for place in range(5)})

    generator = ScriptedGenerator(script, tokenizer, chosen_logprob=math.log(0.8))
    chat = ChatFormat(tokenizer, turn_opening)
    verifier = GenPRM(generator, None, GenPRMProtocol("direct"), chat=chat, rewards_from=rewards_from)
    verdict = await verifier.verify(Solution("s", PROBLEM, STEPS[:1]))
    assert verdict.rewards == [pytest.approx(reward, abs=0.005)]
    other = verifier.with_options(rewards_from="model")
    assert (await other.verify(Solution("s", PROBLEM, STEPS[:1]))).rewards == [pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("GenPRM-1.5B", True),
        ("models--GenPRM--GenPRM-7B/snapshots/0a1b", True),
        ("GenPRM-1.5B-mine", False),
        ("mine", False),
        ("GenPRM-1.5B/outputs/mine", False),
        ("GenPRM-7B/checkpoint-500", False),
        ("models--mine--GenPRM-7B/snapshots/0a1b", False),
        ("GenPRM/GenPRM-mine", False),
    ],
)
def test_released_checkpoints_are_known_by_their_name(tmp_path: Path, monkeypatch, name: str, published: bool):
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / name)
    for model in (tmp_path / name, str(tmp_path / name), name, f"./{name}/", "link"):
        assert has_published_name(model) is published
    monkeypatch.chdir(name)
    assert has_published_name(".") is published


@pytest.mark.parametrize(
    ("name", "published"), [("GenPRM/GenPRM-7B", True), ("GenPRM/GenPRM-x", True), ("m/x", False)]
)
def test_released_checkpoints_are_known_by_their_hub_id(name: str, published: bool):
    assert has_published_name(name) is published


@pytest.mark.parametrize(
    ("name", "turn_opening"), [("GenPRM-1.5B", "as_published"), ("GenPRM-7B/checkpoint-500", "generation_prompt")]
)
def test_a_warning_says_how_a_model_without_settings_is_asked(
    tmp_path: Path, monkeypatch, caplog, name: str, turn_opening: str
):
    tiny_model().save_pretrained(tmp_path / name)
    tiny_tokenizer().save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path / name)
    with caplog.at_level(logging.WARNING), GenPRM.from_pretrained(".", mode="direct") as prm:
        assert prm.chat.turn_opening == turn_opening
        assert prm.rewards_from == ("sampler" if turn_opening == "as_published" else "model")
    said = "It is asked as in the published" if turn_opening == "as_published" else "give turn_opening='as_published'"
    assert caplog.text.count(said) == 1


def test_a_model_that_states_its_settings_is_asked_by_them_whatever_its_name(tmp_path: Path, caplog):
    name = tmp_path / "GenPRM-1.5B"
    tiny_model().save_pretrained(name)
    tiny_tokenizer().save_pretrained(name)
    ModelSettings("generation_prompt").save(name)
    with caplog.at_level(logging.WARNING), GenPRM.from_pretrained(name, mode="direct") as prm:
        assert prm.chat.turn_opening == "generation_prompt"
    assert "turn_opening" not in caplog.text
