"""Training a ThinkPRM: its rows, the published form of the turn, and a model that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.protocol.thinkprm import ThinkPRMProtocol, clean_chain, follows_labels, read_decisions
from genprm_trl.records import Solution
from genprm_trl.training.callbacks import VerificationCallback
from genprm_trl.training.sft.chains import read_chain
from genprm_trl.training.sft.data import ConversationEncoder, load_conversations, read_row
from genprm_trl.verifier import GenPRM, open_verifier
from genprm_trl.verifier.kinds.thinkprm import ThinkPRM
from tests.helpers import chat_templates
from tests.helpers.replay_generator import ReplayGenerator
from tests.helpers.scripted_generator import ScriptedGenerator
from tests.helpers.sft import config, records, trainer
from tests.helpers.tiny_models import save_tiny, tiny_tokenizer

CHAIN = "Step 1: 2 * 3 is 6. \\boxed{correct}\nStep 2: 6 + 1 is 7, not 8. \\boxed{incorrect}"
WRITTEN = CHAIN.replace("{correct}", "{\\text{correct}}")
PUBLISHED: dict[str, Any] = {
    "problem": "What is 2 * 3 + 1?",
    "prefix": "2 * 3 = 6.\n6 + 1 = 8.",
    "prefix_steps": ["Step 1: 2 * 3 = 6.", "Step 2: 6 + 1 = 8."],
    "cot": f"<think>\n{WRITTEN} So it is wrong.\n</think>\nIs the solution correct? No",
    "gt_step_labels": ["+", "-"],
    "prefix_label": False,
}
TURN = f"<think>\nLet's verify step by step:\n{CHAIN}\n</think>\nIs the solution correct? No"


def test_published_rows_become_the_published_turn() -> None:
    chain = read_chain(PUBLISHED)
    assert (chain.turn, chain.decisions) == (TURN, [True, False])
    conversation = read_row(PUBLISHED, protocol="thinkprm")
    assert conversation.rationales == [TURN]
    [[user]] = conversation.openings
    assert "[Solution]\n\n2 * 3 = 6.\n6 + 1 = 8.\n\nReview" in user["content"]
    assert read_row(conversation.to_row(), protocol="thinkprm") == conversation


@pytest.mark.parametrize("with_text", [True, False])
def test_our_rationales_and_labels_make_chains(with_text: bool) -> None:
    for record in records(2):
        row = record.to_dict() if with_text else record.solution.to_dict()
        said = ("Paragraph 1 adds. ", "Paragraph 2 adds. ") if with_text else ("", "")
        words = ("correct", "correct" if record.labels[1] else "incorrect")
        lines = [f"Step {i + 1}: {said[i]}\\boxed{{{words[i]}}}" for i in range(2)]
        answer = "Yes" if all(record.labels) else "No"
        turn = "<think>\nLet's verify step by step:\n" + "\n".join(lines)
        assert read_chain(row).turn == turn + f"\n</think>\nIs the solution correct? {answer}"
        assert read_chain(record if with_text else record.solution).turn == read_chain(row).turn


def test_steps_after_the_first_error_are_shown_and_unjudged_ones_are_not() -> None:
    steps = ["1 + 1 = 3.", "So 3.", "It is 3."]
    wrong = read_chain({"problem": "p", "steps": steps, "label": 0})
    assert (wrong.steps, wrong.decisions) == (steps, [False])
    [record] = records(1, steps=3)
    record.rationales, record.labels = record.rationales[:2], record.labels[:2]
    assert read_chain(record).steps == record.solution.steps[:2]


def test_a_rationale_that_is_not_used_may_contradict_its_label() -> None:
    [record] = records(1, steps=3)
    record.labels = [False, True, False]
    record.rationales = [record.rationales[0].replace("{Yes}", "{No}"), *["It is \\boxed{No}."] * 2]
    assert read_chain(record).decisions == [False]
    record.labels[0] = True
    with pytest.raises(DataError, match="says the opposite"):
        read_chain(record)


def test_a_rationale_that_would_stop_the_chain_is_refused() -> None:
    for end in ("Is the solution correct?", "</think>"):
        [record] = records(1)
        record.rationales[0] = record.rationales[0].replace("Paragraph 1 adds.", f"{end} Paragraph 1 adds.")
        with pytest.raises(DataError, match="is stopped") as found:
            read_chain(record)
        assert found.value.field == "rationales[0]"


def test_labels_before_a_right_step_are_right_as_in_the_authors_filter() -> None:
    chain = CHAIN.replace("{incorrect}", "{correct}")
    row = {**PUBLISHED, "cot": chain, "gt_step_labels": ["-", "+"], "prefix_label": True}
    assert read_chain(row).decisions == [True, True]
    three = {**PUBLISHED, "prefix_steps": ["a", "b", "c"], "gt_step_labels": ["-", "+", "-"], "prefix_label": False}
    chain += "\nStep 3: \\boxed{incorrect}"
    assert read_chain({**three, "cot": chain}).decisions == [True, True, False]
    wrong = {**PUBLISHED, "gt_step_labels": ["-", "-"], "cot": "Step 1: \\boxed{incorrect}"}
    assert read_chain(wrong).decisions == [False]
    with pytest.raises(DataError, match="does not follow"):
        read_chain({**wrong, "cot": CHAIN})


@pytest.mark.parametrize(
    ("decisions", "labels", "kept"),
    [
        ([True, False], [True, False], True),
        ([True], [True, False], False),
        ([True, False, False], [True, False, False], True),
        ([True, False, True], [True, False, False], True),
        ([True, False], [True, False, False], True),
        ([False, False], [True, False], False),
        ([True, True], [True, True], True),
        ([True], [True, True], False),
        ([True, False], [True, True], False),
    ],
)
def test_the_published_filter(decisions: list[bool], labels: list[bool], kept: bool) -> None:
    assert follows_labels(decisions, labels) == kept


def test_chains_are_cleaned() -> None:
    for text in (CHAIN, f"Let's verify step by step:{CHAIN}.", f"<think>{CHAIN}$ more</think>\\boxed{{correct}}"):
        assert clean_chain(text).rstrip("$") == CHAIN
    assert read_decisions(CHAIN) == [True, False]
    assert read_decisions("Step 2: \\boxed{correct}") is None


def messages(*turns: str) -> dict[str, Any]:
    asked = {"role": "user", "content": "p"}
    return {"messages": [each for turn in turns for each in (asked, {"role": "assistant", "content": turn})]}


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({**PUBLISHED, "gt_step_labels": ["+", "+"]}, "cot", "does not follow gt_step_labels"),
        ({**PUBLISHED, "gt_step_labels": ["+", "so"]}, "gt_step_labels[1]", "must be"),
        ({**PUBLISHED, "gt_step_labels": ["+"] * 3}, "gt_step_labels", "must be as many as the steps"),
        ({**PUBLISHED, "prefix_label": True}, "prefix_label", "the chain says otherwise"),
        ({**PUBLISHED, "prefix_steps": None}, "prefix_steps", "must not be null"),
        ({**PUBLISHED, "cot": "It is wrong."}, "cot", "does not follow"),
        ({**PUBLISHED, "cot": "Is the solution correct? " + CHAIN}, "cot", "is stopped"),
        (messages(TURN.replace("6 + 1", "Is the solution correct?")), "messages[1]", "no fin"),
        (
            {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": CHAIN}]},
            "messages[1]",
            "no fin",
        ),
        (
            {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": TURN[:-2] + "Yes"}]},
            "messages[1]",
            "says Yes of the solution",
        ),
        ({"problem": "p", "steps": ["a"]}, "label", "missing"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as found:
        read_row(row, protocol="thinkprm", file="rows", number=3)
    assert (found.value.field, found.value.row) == (field, 3)


def answer_tokenizer() -> Any:
    """The tiny one, in which a space and an answer are one token, as in those of published models."""
    tiny = tiny_tokenizer()
    known = json.loads(tiny.backend_tokenizer.to_str())["model"]
    vocab, merges = dict(known["vocab"]), [tuple(merge) for merge in known["merges"]]
    for word in (" Yes", " No", " yes", " no"):
        pieces = tiny.tokenize(word)
        while len(pieces) > 1:
            *pieces, left, right = pieces
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
            pieces.append(left + right)
    special = {"bos_token": tiny.bos_token, "eos_token": tiny.eos_token, "pad_token": tiny.pad_token}
    tokenizer = type(tiny)(vocab=vocab, merges=merges, additional_special_tokens=["<|im_start|>"], **special)
    tokenizer.chat_template = tiny.chat_template
    return tokenizer


async def test_question_and_answer_have_the_tokens_of_one_text() -> None:
    tokenizer = answer_tokenizer()
    [no] = tokenizer.encode(" No", add_special_tokens=False)
    whole = tokenizer.encode("Is the solution correct? No", add_special_tokens=False)
    assert whole[-1] == no
    encoded = ConversationEncoder(tokenizer, protocol="thinkprm").encode(read_row(PUBLISHED, protocol="thinkprm"))
    end = encoded.input_ids.index(no) + 1
    assert encoded.input_ids[end - len(whole) : end] == encoded.labels[end - len(whole) : end] == whole

    def reply(prompt: str) -> str:
        return " No" if prompt.endswith("correct?") else CHAIN

    solution = Solution("s", PUBLISHED["problem"], PUBLISHED["prefix_steps"])
    words = {" yes": -2.0, " no": -0.2, " Yes": -0.2, " No": -2.0}
    for as_published, expected in ((True, 0.1419), (False, 0.8581)):
        generator = ScriptedGenerator(reply, tokenizer, alternatives=words)
        verdict = await GenPRM(generator, protocol=ThinkPRMProtocol(as_published)).verify(solution)
        assert verdict.solution_reward == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    "make_tokenizer", [tiny_tokenizer, answer_tokenizer, chat_templates.chatml, chat_templates.deepseek]
)
async def test_a_model_is_asked_in_the_tokens_that_it_was_trained_on(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    encoder = ConversationEncoder(tokenizer, protocol="thinkprm")
    encoded = encoder.encode(read_row(PUBLISHED, protocol="thinkprm"))
    text = tokenizer.decode(encoded.input_ids)
    assert text.count("<think>") == text.count("</think>") == 1
    assert f"{TURN}{tokenizer.eos_token}" in text
    chat = ChatFormat(tokenizer)
    for mark in ("<think>", "</think>"):
        ids = tokenizer.encode(mark, add_special_tokens=False)
        if len(ids) == 1:
            assert encoded.input_ids.count(ids[0]) == 1
    trained = tokenizer.decode([token for token in encoded.labels if token != -100])
    assert CHAIN + "\n</think>\nIs the solution correct? No" in trained
    assert "Let's verify" not in trained

    generator = ReplayGenerator(tokenizer, text)
    protocol = ThinkPRMProtocol(False, chat.opens_thinking)
    solution = Solution("s", PUBLISHED["problem"], PUBLISHED["prefix_steps"])
    verdict = await GenPRM(generator, protocol=protocol, chat=chat).verify(solution)
    assert verdict.rewards == [1.0, 0.0]
    assert verdict.solution_reward == 0.0
    for prompt in generator.prompts:
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)]
    assert [judgement for _, judgement, _, _ in encoded.verdicts] == [1, 0]
    for position, judgement, yes, no in encoded.verdicts:
        assert encoded.input_ids[position] == (yes if judgement else no)
        assert yes != no


def test_a_model_learns_a_chain_and_says_what_it_is(tmp_path: Path) -> None:
    rows = [PUBLISHED, *(record.to_dict() for record in records(2))]
    run = trainer(tmp_path, rows, eval_dataset=rows, protocol="thinkprm", max_steps=2)
    run.train()
    metrics = run.evaluate()
    assert {"eval_step_accuracy", "eval_error_acc", "eval_f1"} <= metrics.keys()
    callback = VerificationCallback(run, [records(1)[0].solution], max_step_tokens=8)
    assert "ok" in callback.verify()
    run.save_model()
    run.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "thinkprm" in card
    assert "open_verifier" in card
    assert "runs Python" not in card
    assert json.loads((tmp_path / "genprm.json").read_text())["protocol"] == "thinkprm"
    with open_verifier(tmp_path, max_tokens=4) as verifier:
        assert isinstance(verifier, ThinkPRM)
        assert verifier.protocol == ThinkPRMProtocol(False, max_tokens=4)


def test_the_command_trains_one(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (PUBLISHED, {**PUBLISHED, "cot": "?"})))
    assert load_conversations(rows, protocol="thinkprm", skip_bad_rows=True).num_rows == 1
    with pytest.raises(DataError, match=r"row 2, field 'cot'"):
        load_conversations(rows, protocol="thinkprm")
    words = ["sft", str(rows), "--model", str(save_tiny(tmp_path / "base")), "--output_dir", str(tmp_path / "out")]
    words += ["--protocol", "thinkprm", "--skip_bad_rows", "true", "--max_steps", "1", "--report_to", "none"]
    assert main([*words, "--save_strategy", "no", "--bf16", "false"]) == 0
    assert json.loads((tmp_path / "out" / "genprm.json").read_text())["protocol"] == "thinkprm"


def test_options_are_checked(tmp_path: Path) -> None:
    for wrong in ({"mode": "direct"}, {"turn_opening": "as_published"}):
        with pytest.raises(ConfigError, match="a thinkprm has no mode and no other turn_opening"):
            config(tmp_path, protocol="thinkprm", **wrong)
    with pytest.raises(ConfigError, match="unknown protocol 'prm'"):
        config(tmp_path, protocol="prm")
    short = ConversationEncoder(tiny_tokenizer(), protocol="thinkprm", max_length=9)
    assert short.encode(read_row(PUBLISHED, protocol="thinkprm")).cut == 1
