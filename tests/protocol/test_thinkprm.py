r"""ThinkPRM's chain: its strings byte for byte, its boxes, its scores, the statuses of any text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError
from genprm_trl.protocol.base import ChainScript, Generate, Judge, Score, Written
from genprm_trl.protocol.thinkprm import ThinkPRMProtocol, read_boxes
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.verifier import GenPRM
from tests.helpers.chat_templates import deepseek
from tests.helpers.growth import growth
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import tiny_tokenizer

STEPS = ["Step 1: 2 * 3 = 6.", "Then 6 + 1 = 8.", "So 8."]
SOLUTION = Solution("s", "What is 2 * 3 + 1?", STEPS)
PROMPT = """\
You are given a math problem and a proposed step-by-step solution:

[Math Problem]

What is 2 * 3 + 1?

[Solution]

2 * 3 = 6.
Then 6 + 1 = 8.
So 8.

Review and critique each step in the proposed solution to determine whether each step is correct. If the solution is \
incomplete, only verify the provided steps."""
CHAIN = "\nStep 1: fine. \\boxed{correct}\nStep 2: 6 + 1 is 7. \\boxed{incorrect}\n"


def prompted(text: str) -> str:
    return f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜><think>\n"


def scripted(chain: str, answer: str | Reply = " Yes\n", **options: float | int) -> ScriptedGenerator:
    def reply(prompt: str) -> str | Reply:
        return answer if prompt.endswith("Is the solution correct?") else chain

    return ScriptedGenerator(reply, **options)


async def judged(generator: ScriptedGenerator, protocol: ThinkPRMProtocol | None = None, **options: int) -> Verdict:
    return await GenPRM(generator, protocol=protocol or ThinkPRMProtocol(), **options).verify(SOLUTION)


@pytest.mark.parametrize("as_published", [True, False])
async def test_the_model_sees_the_published_strings(as_published: bool) -> None:
    def reply(prompt: str) -> str:
        return " Yes" if prompt.endswith("correct?") else CHAIN + "</think>\nIs the solution correct? No"

    generator = ScriptedGenerator(reply, deepseek())
    chat = ChatFormat(generator.tokenizer)
    assert chat.opens_thinking
    verdict = await GenPRM(generator, protocol=ThinkPRMProtocol(as_published, True), chat=chat).verify(SOLUTION)
    asked = [prompt for prompt, params in generator.calls if params.max_new_tokens > 1]
    line = "\n" if as_published else ""
    end = "" if as_published else "</think>"
    opening = prompted(PROMPT) + f"{line}Let's verify step by step:"
    assert asked == [opening, opening + CHAIN + f"{end}\nIs the solution correct?"]
    text = f"{line}Let's verify step by step:{CHAIN}{end}\nIs the solution correct? Yes"
    assert "".join(judgement.rationale for judgement in verdict.chains[0]) == text
    assert generator.calls[0][1].stop == ("Is the solution correct?", "</think>")
    # The marks are the tokens that the model was trained on, wherever they come from.
    ids = generator.tokenizer.encode("</think>", add_special_tokens=False)
    assert len(ids) == 1


async def test_the_training_form_opens_the_block_that_the_template_does_not() -> None:
    generator = scripted("1 is right: \\boxed{correct}")
    await judged(generator, ThinkPRMProtocol(as_published=False))
    assert generator.calls[0][0].endswith("<|im_start|>assistant\n<think>\nLet's verify step by step:")
    assert generator.calls[-1][0].endswith("\\boxed{correct}\n</think>\nIs the solution correct?")


async def test_a_search_numbers_the_steps_and_judges_a_prefix_from_the_start() -> None:
    prm = GenPRM(generator := scripted(CHAIN + "Step 4: what? \\boxed{incorrect}"), protocol=ThinkPRMProtocol(), n=2)
    first = await prm.verify_further(Solution("s", SOLUTION.problem, STEPS[:1]))
    assert "[Solution]\n\nStep 1: 2 * 3 = 6.\n\nReview" in generator.calls[0][0]
    assert generator.calls[0][1].stop[-1] == "Step 2:"
    grown = await prm.verify_further(SOLUTION, first)
    assert generator.calls[-1][0].count("Step 3: So 8.") == 1
    assert "Step 4" not in generator.calls[-1][0]
    for chain, before in zip(grown.chains, first.chains, strict=True):
        assert chain[0] == before[0]
        assert [judgement.status for judgement in chain] == ["ok"] * 3
        assert chain[1].num_tokens > 0
        assert chain[2].reward == chain[1].reward < 0.5  # nothing is said of it, but the step before is wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\boxed{correct} \\boxed{incorrect}", [(0, "correct"), (1, "incorrect")]),
        ("\\boxed{\\text{Correct}}, $\\boxed{ incorrect }$", [(0, "correct"), (1, "incorrect")]),
        ("**Step 3:** so \\boxed{incorrect}", [(2, "incorrect")]),
        ("Step 2: ok \\boxed{correct}\nno, \\boxed{incorrect}", [(1, "correct"), (1, "incorrect")]),
        ("Step 1: as in Step 3: fine \\boxed{correct}", [(0, "correct")]),  # only at the start of a line
        ("Step 1: a \\boxed{correct}\nStep 1: no, \\boxed{incorrect}", [(0, "correct"), (0, "incorrect")]),
        ("\\boxed{correct}" * 5, [(0, "correct"), (1, "correct"), (2, "correct")]),
        ("Step 9: \\boxed{correct}", []),
        ("Step 0: \\boxed{correct}", []),
        (
            "\\boxed{correct}\nStep 3: \\boxed{correct} \\boxed{incorrect}",
            [(0, "correct"), (2, "correct"), (2, "incorrect")],
        ),
        ("\\boxed{correct or incorrect} \\boxed{correct, but} \\boxed{correct.}", [(0, "correct")]),
        ("\\boxed{correct/incorrect} \\boxed{7} \\boxed{correctly} \\boxed{", []),
        ("I write \\boxed{correct} or \\boxed{incorrect}. So \\boxed{incorrect}", [(0, "incorrect")]),
        ("Step 1: $\\boxed{\\text{correct}}$ (or $\\boxed{incorrect}$)? Yes, \\boxed{correct}", [(0, "correct")]),
        ("`\\boxed{correct}`/`\\boxed{incorrect}`, **\\boxed{correct}** or else \\boxed{incorrect}", []),
        ("Step 1: \\boxed{correct}\nOr so.\nStep 2: \\boxed{incorrect}", [(0, "correct"), (1, "incorrect")]),
        ("", []),
    ],
)
def test_boxes(text: str, expected: list[tuple[int, str]]) -> None:
    boxes = read_boxes(text, 3)
    assert [(box.step, text[box.word : box.end].lower()) for box in boxes] == expected


def alternatives(text: str, words: Sequence[dict[str, float]]) -> Callable[[str], Reply]:
    """A script whose boxes hold these log-probabilities, and whose answer is Yes."""
    tokenizer = tiny_tokenizer()

    def reply(prompt: str) -> Reply:
        if prompt.endswith("correct?"):
            return Reply(" Yes")
        for index, known in enumerate(words):
            if prompt.endswith(text[: _places(text)[index]]):
                return Reply(
                    "?", alternatives={0: {tokenizer.encode(word)[0]: value for word, value in known.items()}}
                )
        return Reply(text)

    return reply


def _places(text: str) -> list[int]:
    return [box.word for box in read_boxes(text, 3)]


async def test_a_step_is_scored_at_its_box() -> None:
    # The example worked by hand: .6 against .2, and .1 against .7; the third step has no box.
    generator = scripted(CHAIN, chosen_logprob=math.log(0.6))
    verdict = await judged(generator)
    assert [judgement.status for judgement in verdict.chains[0]] == ["ok", "ok", "no_verdict"]
    assert verdict.prediction == 1
    assert verdict.rewards[2] == 0.5
    assert verdict.rewards[0] > 0.5 > verdict.rewards[1]
    assert [params.max_new_tokens for _, params in generator.calls] == [8192, 1, 1, 4]
    assert generator.calls[1][0].endswith("\nStep 1: fine. \\boxed{")
    assert generator.calls[1][1].temperature == 0


@pytest.mark.parametrize("behind", ["√2", "😀", "漢字", "é√é"])
async def test_a_step_is_scored_whatever_stands_behind_its_box(behind: str) -> None:
    def reply(prompt: str) -> str:
        if prompt.endswith("correct?"):
            return " Yes"
        return "correct" if prompt.endswith("{") else f"a \\boxed{{correct}} {behind}, so \\boxed{{correct}} {behind}"

    verdict = await judged(ScriptedGenerator(reply, chosen_logprob=math.log(0.6)))
    assert verdict.rewards[:2] == pytest.approx([0.6, 0.6])


def carried_out(script: ChainScript, *replies: Written) -> list[Judge]:
    """The judgements of a script whose requests are answered with these."""
    left, reply, judgements = iter(replies), None, []
    while True:
        try:
            action = script.send(reply)
        except StopIteration:
            assert not [*left]
            return judgements
        reply = next(left) if isinstance(action, Generate | Score) else None
        if isinstance(action, Judge):
            judgements.append(action)


def boxed(text: str) -> Written:
    return Written(text, tokens=list(text))


def scored(**logprobs: float) -> Written:
    return Written("", top_logprobs=[[*logprobs.items()]])


def test_a_new_step_behind_a_wrong_one_has_its_reward() -> None:
    before = [StepJudgement("", 0.7, "ok")] * 2
    text = "Step 1: \\boxed{correct}\nStep 2: \\boxed{incorrect}\n"
    script = ThinkPRMProtocol().resumed_chain(SOLUTION.problem, STEPS, before)
    wrong = scored(correct=math.log(0.1), incorrect=math.log(0.9))
    [*_, new] = carried_out(script, boxed(text), wrong, Written(" No", tokens=[" No"]))
    assert (new.reward, new.status) == (pytest.approx(0.1), "ok")
    script = ThinkPRMProtocol().resumed_chain(SOLUTION.problem, STEPS, before)
    [*_, new] = carried_out(script, boxed("Step 2: \\boxed{correct}\n"), Written(" No", tokens=[" No"]))
    assert (new.reward, new.status) == (0.5, "no_verdict")


@pytest.mark.parametrize("as_published", [True, False])
def test_an_answer_that_is_not_written_is_scored(as_published: bool) -> None:
    script = ThinkPRMProtocol(as_published).chain(SOLUTION.problem, STEPS[:1])
    words = {" yes": -0.2, " no": -2.0} if as_published else {" Yes": -0.2, " No": -2.0}
    [judgement] = carried_out(script, boxed("\\boxed{correct}"), scored(correct=-0.1), Written(""), scored(**words))
    assert judgement.solution_reward == pytest.approx(0.8581, abs=5e-5)


@pytest.mark.parametrize("as_published", [True, False])
def test_an_ended_text_has_the_answer_beside_its_end(as_published: bool) -> None:
    words = [(" yes", -2.2), (" no", -4.0), (" Yes", -3.0), (" No", -3.0)]
    if not as_published:
        words = [(word.title(), value) for word, value in words[:2]]
    script = ThinkPRMProtocol(as_published).chain(SOLUTION.problem, STEPS[:1])
    answer = Written("", top_logprobs=[[("", -0.01), *words]])
    [judgement] = carried_out(script, boxed("\\boxed{correct}"), scored(correct=-0.1), answer)
    assert judgement.solution_reward == pytest.approx(0.8581, abs=5e-5)


async def test_an_end_of_text_that_is_likelier_than_the_words_hides_none() -> None:
    def reply(prompt: str) -> Reply:
        if not prompt.endswith("{"):
            return Reply(" Yes" if prompt.endswith("correct?") else CHAIN)
        words = {tiny_tokenizer().encode(word)[0]: value for word, value in (("correct", -2.2), ("incorrect", -4.0))}
        return Reply("", alternatives={0: words})

    verdict = await judged(ScriptedGenerator(reply))
    assert verdict.rewards[:2] == pytest.approx([0.8581] * 2, abs=5e-5)


@pytest.mark.parametrize(
    ("chain", "answers", "status"),
    [
        ("\\boxed{correct}", [Written("", "error")], "error"),
        ("Who knows?", [Written("", "error")], "error"),
        ("\\boxed{correct}", [Written(""), Written("", "error")], "error"),
        ("\\boxed{correct}", [Written("", "context")], "ok"),
        ("Who knows?", [Written("", "context")], "truncated"),
    ],
)
def test_a_failed_question_is_seen(chain: str, answers: list[Written], status: str) -> None:
    boxes = [scored(correct=math.log(0.9), incorrect=math.log(0.1))] * len(read_boxes(chain, 1))
    script = ThinkPRMProtocol().chain(SOLUTION.problem, STEPS[:1])
    [judgement] = carried_out(script, boxed(chain), *boxes, *answers)
    reward = pytest.approx(0.9) if status == "ok" else 0.5
    assert (judgement.status, judgement.reward, judgement.solution_reward) == (status, reward, None)


@pytest.mark.parametrize(("temperature", "expected"), [(1, 0.8581), (0.5, 0.9734), (1e-9, 1.0)])
def test_the_solution_is_scored_by_yes_and_no_in_lower_case(temperature: float, expected: float) -> None:
    known = [(" Yes", -0.1), (" yes", -0.2), (" no", -2.0), (" No", -0.3), ("yes", -9.0), ("no", -0.01)]
    written = Written(" No", tokens=[" No"], top_logprobs=[known])
    published = ThinkPRMProtocol(decision_temperature=temperature)
    assert published.read_answer(written) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("text", "known", "published", "trained"),
    [
        (" Yes", [(" Yes", -0.2), (" No", -2.0)], 0.8581, 0.8581),  # no word is reported in lower case
        (" No", [(" No", -0.1), (" yes", -3.0)], 0.0522, 0.0522),  # the other word takes the least that is reported
        (" Yes", [(" Yes", 0.0), (" No", -math.inf), (" yes", -math.inf), (" no", -math.inf)], 1.0, 1.0),
        (" **no**", [], 0.0, 0.0),
        (" Maybe", [(" yes", -1.0), (" no", -1.0)], 0.5, None),
        (" Maybe", [(" Yes", -0.2), (" No", -2.0)], 0.8581, 0.8581),
        ("Maybe", [], None, None),
        ("Nothing", [], None, None),
        ("", [], None, None),
    ],
)
def test_other_answers(
    text: str, known: list[tuple[str, float]], published: float | None, trained: float | None
) -> None:
    written = Written(text, tokens=[text], top_logprobs=[known] if known else [])
    for as_published, expected in ((True, published), (False, trained)):
        assert ThinkPRMProtocol(as_published).read_answer(written) == (
            None if expected is None else pytest.approx(expected, abs=5e-5)
        )


async def test_the_scores_of_solutions_are_averaged_and_kept() -> None:
    verdict = await judged(scripted("\\boxed{correct}" * 3, " Yes\n"), n=3)
    said = [chain[-1].solution_reward for chain in verdict.chains]
    assert verdict.solution_reward == pytest.approx(sum(said) / 3)
    assert verdict.solution_reward > 0.5
    assert Verdict.from_dict(verdict.to_dict()) == verdict
    assert "solution_reward" not in verdict.to_dict()["chains"][0][0]
    assert StepJudgement.from_dict(StepJudgement("", 0.5, "ok").to_dict()).solution_reward is None
    silent = await judged(scripted("\\boxed{correct}" * 3, "Perhaps"))
    assert silent.solution_reward is None


async def test_statuses() -> None:
    cases = {
        "no_verdict": scripted("I do not know."),
        "truncated": scripted("egg " * 5000, max_context=600),
        "error": ScriptedGenerator(lambda _: Reply("", error="gone")),
    }
    for status, generator in cases.items():
        verdict = await judged(generator)
        assert {judgement.status for judgement in verdict.chains[0]} == {status}
        assert verdict.rewards == [0.5] * 3
        assert (verdict.solution_reward is None) == (status != "no_verdict")
    cut = await judged(scripted("\\boxed{correct} " * 3), ThinkPRMProtocol(max_tokens=8))
    assert cut.chains[0][0].status in ("ok", "no_verdict")
    assert cut.chains[0][2].status == "no_verdict"
    failing = ScriptedGenerator(lambda prompt: Reply("", error="gone") if prompt.endswith("{") else Reply(CHAIN))
    assert (await judged(failing)).chains[0][0].status == "error"


async def test_a_chain_that_ends_early_asks_for_nothing_more() -> None:
    verdict = await judged(generator := scripted(CHAIN), stop="first_error")
    assert (verdict.rewards[1] < 0.5, len(verdict.rewards)) == (True, 2)
    assert [params.max_new_tokens for _, params in generator.calls] == [8192, 1, 1]


PIECES = ["\\boxed{", "correct", "incorrect", "}", "Step 2:", "\n", "</think>", "Is the solution correct?", "{", "$"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5)).map("".join))
def test_any_text_is_read(text: str) -> None:
    protocol = ThinkPRMProtocol()
    assert "".join(segment.text for segment in protocol.segments(text)) == text
    script = protocol.chain(SOLUTION.problem, STEPS)
    reply: object = None
    rationales = []
    while True:
        try:
            action = script.send(reply)
        except StopIteration:
            break
        name = type(action).__name__
        reply = Written(text, tokens=list(text)) if name in ("Generate", "Score") else None
        if name == "Judge":
            assert 0 <= action.reward <= 1  # type: ignore[union-attr]
            rationales.append(action.rationale)  # type: ignore[union-attr]
    assert len(rationales) == len(STEPS)


@pytest.mark.parametrize("text", ["\\boxed{" * 9_000, "\\boxed{" + " $" * 40_000, "Step 1" * 9_000, "#>*-_" * 9_000])
def test_time_is_linear(text: str) -> None:
    assert growth(lambda each: read_boxes(each, 3), text) < 30


def test_a_finished_conversation_has_the_turn_in_its_parts() -> None:
    protocol = ThinkPRMProtocol(as_published=False)
    turn = "<think>\nLet's verify step by step: a \\boxed{correct}\n</think>\nIs the solution correct? Yes"
    [user, assistant] = protocol.messages(SOLUTION.problem, STEPS, [turn[:50], turn[50:]])
    assert user["content"].endswith("provided steps.")
    assert "So 8." not in user["content"]
    assert [(part.kind, part.text) for part in protocol.segments(assistant["content"])] == [
        ("mark", "<think>\n"),
        ("forced", "Let's verify step by step:"),
        ("written", " a \\boxed{correct}\n"),
        ("mark", "</think>\nIs the solution correct?"),
        ("written", " Yes"),
    ]


def test_settings_are_checked() -> None:
    for wrong in ({"max_tokens": 0}, {"decision_temperature": 0}, {"decision_temperature": "hot"}):
        with pytest.raises(ConfigError):
            ThinkPRMProtocol(**wrong)  # type: ignore[arg-type]
