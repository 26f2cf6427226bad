"""What the model sees, as token ids, through real styles of chat templates."""

from __future__ import annotations

from itertools import groupby
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.template import ChatFormat, TurnOpening
from genprm_trl.errors import ConfigError
from genprm_trl.protocol import GenPRMProtocol
from tests.helpers import chat_templates
from tests.helpers.chat_templates import STYLES
from tests.helpers.growth import growth

SYSTEM = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
ANALYZE = "<analyze>\nLet's analyze the Paragraph 1 step by step: "
ANALYZE_2 = "<analyze>\nLet's analyze the Paragraph 2 step by step: "
VERIFY = "<verify>\nLet's use python code to find any potential error:\n```python\n"
SHOWN = "[Code Output]\n\n```\n5\n```\n"
END = "So it is.</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
PROBLEM, STEP_1, STEP_2 = "Anna has 2 apples and buys 3 more.", "She has 2 + 3 = 5.", "Therefore 5."

TURN_1 = [
    (ANALYZE, "forced"),
    ("Look: 5.</analyze>\n", "written"),
    (VERIFY, "forced"),
    ("print(2 + 3)\n```\n", "written"),
]
TURN_1 += [(SHOWN, "interpreter"), (END, "written")]
TURN_2 = [(ANALYZE_2, "forced"), ("The same.</analyze>\n", "written"), (VERIFY, "forced"), (END, "written")]
RATIONALES = ["".join(text for text, _ in turn) for turn in (TURN_1, TURN_2)]

CHATML_TEXT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{PROBLEM}\n{STEP_1}<|im_end|>\n"
    f"<|im_start|>assistant\n{RATIONALES[0]}<|im_end|>\n<|im_start|>user\n{STEP_2}<|im_end|>\n"
    f"<|im_start|>assistant\n{RATIONALES[1]}<|im_end|>\n"
)
# What the model sees and is trained on, turn openings and all, typed out for each style.
FULL_TEXT = {
    "chatml": CHATML_TEXT,
    # Earlier turns stay as they were opened, though the template alone would give the last one an empty reasoning.
    "qwen3": CHATML_TEXT,
    "merging": CHATML_TEXT,
    "deepseek": (
        f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>{PROBLEM}\n{STEP_1}<｜Assistant｜><think>\n{RATIONALES[0]}"
        f"<｜end▁of▁sentence｜><｜User｜>{STEP_2}<｜Assistant｜><think>\n{RATIONALES[1]}<｜end▁of▁sentence｜>"
    ),
    # The template trims what it is given; what the model wrote keeps its last line break.
    "llama3": (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{PROBLEM}\n{STEP_1}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{RATIONALES[0]}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{STEP_2}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{RATIONALES[1]}<|eot_id|>"
    ),
    # No system role: its text leads the first user turn. This tokenizer puts a space behind special tokens by itself.
    "no_system": (
        f"<s> [INST] {SYSTEM}\n\n{PROBLEM}\n{STEP_1} [/INST]{RATIONALES[0]} </s>"
        f" [INST] {STEP_2} [/INST]{RATIONALES[1]} </s>"
    ),
}


def chat_of(style: str, turn_opening: str = "generation_prompt") -> ChatFormat:
    return ChatFormat(STYLES[style](), turn_opening)


def openings(steps=(STEP_1, STEP_2), problem=PROBLEM):
    protocol = GenPRMProtocol()
    return [protocol.opening_messages(problem, steps, index) for index in range(len(steps))]


def grow(chat: ChatFormat, turns=(TURN_1, TURN_2), steps=(STEP_1, STEP_2), problem=PROBLEM):
    """Grows a conversation as a verifier does; returns it and its token ids as they grew."""
    conversation, seen = Conversation(chat), []
    for messages, turn in zip(openings(steps, problem), turns, strict=True):
        conversation.open_turn(messages)
        for place, (text, kind) in enumerate(turn):
            if kind == "written":
                seen.append(conversation.token_ids)  # the prompt the text was generated from
                conversation.append_ids(chat.encode(text), text)
            else:
                conversation.append(text, kind)
            if place:
                seen.append(conversation.token_ids)
    return conversation, seen


def whole(tokenizer, text: str) -> list[int]:
    """Ids of a whole text that has its begin-of-text, if any, written out."""
    return tokenizer.encode(text, add_special_tokens=False)


# Counts the user's turns.
COUNTING = chat_templates.CHATML.replace("message['content']", "loop.index ~ ': ' ~ message['content']")


ESCAPING, TRIMMING, SHOUTING = (
    chat_templates.CHATML.replace("message['content']", f"(message['content'] | {change})")
    for change in ("e", "trim", "replace('no', 'NO')")
)


def check_openings(chat: ChatFormat, texts: list[str]) -> None:
    """Opens a turn for each text; what leads up to each must be what the template makes of the conversation."""
    conversation, messages, opened = Conversation(chat), [], []
    for step, text in enumerate(texts):
        added = [{"role": "system", "content": SYSTEM}] if step == 0 else []
        added.append({"role": "user", "content": text})
        conversation.open_turn(added)
        messages += [{**message, "content": chat.neutralize(message["content"])} for message in added]
        rendered = chat.render(messages, open_turn=True)
        opened.append(rendered[-1])
        first, *others = opened if chat.turn_opening == "generation_prompt" else rendered
        if chat.encodes_anew:
            first, others = "".join(rendered), []
        assert conversation.token_ids == sum(map(chat.encode, others), chat.encode_start(first))
        messages.append({"role": "assistant", "content": "So it is."})


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("turn_opening", get_args(TurnOpening))
@pytest.mark.parametrize("template", [None, COUNTING, chat_templates.DROPS_SYSTEM, ESCAPING, TRIMMING, SHOUTING])
def test_turns_open_as_the_whole_conversation_says(style, turn_opening, template):
    """Templates may count turns, move the system's message or change texts."""
    chat = ChatFormat(STYLES[style](), turn_opening, template)
    check_openings(chat, [f"{PROBLEM}\n{STEP_1}", f" {STEP_2}\n", "1 < 2 </think> [INST]", "é\n\nso", "."])


@pytest.mark.parametrize("style", sorted(STYLES))
@settings(deadline=None, max_examples=40)
@given(st.text(), st.text())
def test_any_text_opens_a_turn_as_rendered(style, problem, step):
    check_openings(ChatFormat(STYLES[style]()), [problem, step])


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_prompt_extends_the_one_before(style):
    chat = chat_of(style)
    conversation, seen = grow(chat)
    ids, kinds = conversation.finished()
    for shorter, longer in zip(seen, [*seen[1:], ids], strict=True):
        assert longer[: len(shorter)] == shorter
        assert len(ids) == len(kinds)
    assert len(ids) > len(seen[-1])


@pytest.mark.parametrize("style", sorted(STYLES))
def test_training_sees_the_text_that_the_model_saw(style):
    chat = chat_of(style)
    ids, _ = grow(chat)[0].finished()
    assert chat.tokenizer.decode(ids) == FULL_TEXT[style]


def test_training_ids_are_those_of_the_whole_text():
    """Where a tokenizer merges nothing across the seams, growing by segments changes no token."""
    for style in ("chatml", "deepseek", "llama3", "qwen3"):
        chat = chat_of(style)
        ids, _ = grow(chat)[0].finished()
        assert ids == whole(chat.tokenizer, FULL_TEXT[style])


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("turn_opening", get_args(TurnOpening))
def test_begin_of_text_stands_once_and_first(style, turn_opening):
    chat = chat_of(style, turn_opening)
    conversation, seen = grow(chat)
    bos = chat.tokenizer.bos_token_id
    for ids in [*seen, conversation.finished()[0]]:
        assert ids.count(bos) == (bos is not None)
        assert bos is None or ids[0] == bos


def test_begin_of_text_that_only_the_tokenizer_adds():
    tokenizer = chat_templates.llama3(chat_templates.LLAMA3.replace("{{- bos_token }}", ""))
    _, seen = grow(ChatFormat(tokenizer))
    assert seen[0][0] == tokenizer.bos_token_id
    assert seen[0] == whole(tokenizer, FULL_TEXT["llama3"].partition("Look: 5.")[0])


@pytest.mark.parametrize("style", sorted(STYLES))
def test_kinds_say_who_wrote_each_token(style):
    chat = chat_of(style)
    ids, kinds = grow(chat)[0].finished()
    runs = [
        (kind, chat.tokenizer.decode([token for _, token in run]))
        for kind, run in groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0])
    ]
    end = {"deepseek": "<｜end▁of▁sentence｜>", "llama3": "<|eot_id|>", "no_system": "</s>"}.get(style, "<|im_end|>")
    must_write = [text.strip() for kind, text in runs if kind in ("written", "end_of_turn")]
    written_1, written_2 = ([text for text, kind in turn if kind == "written"] for turn in (TURN_1, TURN_2))
    assert must_write == [text.strip() for text in (*written_1, end, *written_2, end)]
    assert [text for kind, text in runs if kind == "interpreter"] == [SHOWN]
    if style != "merging":  # there a token reaches from the template's text into the prefix
        assert [text for kind, text in runs if kind == "forced"] == [ANALYZE, VERIFY, ANALYZE_2, VERIFY]


def test_published_opening_of_deepseek():
    """The published inference puts the forced prefix straight behind the user's text, without the turn's marker."""
    chat = chat_of("deepseek", "as_published")
    conversation, seen = grow(chat)
    first = f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>{PROBLEM}\n{STEP_1}{ANALYZE}"
    assert chat.tokenizer.decode(seen[0]) == first
    assert seen[0] == whole(chat.tokenizer, first)
    history = (
        f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>{PROBLEM}\n{STEP_1}"
        f"<｜Assistant｜>{RATIONALES[0]}<｜end▁of▁sentence｜>"
    )
    second = f"{history}<｜User｜>{STEP_2}{ANALYZE_2}"
    [prompt] = [ids for ids in seen if chat.tokenizer.decode(ids).endswith(ANALYZE_2)]
    assert chat.tokenizer.decode(prompt) == second
    assert prompt == whole(chat.tokenizer, second)
    ids, kinds = conversation.finished()
    trained = f"{history}<｜User｜>{STEP_2}<｜Assistant｜>{RATIONALES[1]}<｜end▁of▁sentence｜>"
    assert chat.tokenizer.decode(ids) == trained
    assert kinds.count("end_of_turn") == 2
    # Asking for the training ids leaves the conversation as it is.
    assert chat.tokenizer.decode(conversation.token_ids) == second + RATIONALES[1].removeprefix(ANALYZE_2)


def published_turns(chat: ChatFormat) -> list[list[tuple[str, str]]]:
    """Turns whose analysis begins with a word that merges with the space before it."""
    return [
        [(text.replace("Look", "Anna").replace("The same", "Anna"), kind) for text, kind in turn]
        for turn in (TURN_1, TURN_2)
    ]


@pytest.mark.parametrize("style", ["chatml", "deepseek", "llama3", "qwen3", "merging"])
def test_published_requests_hold_the_ids_of_their_whole_text(style):
    """The published inference gives its engine a text, which is encoded anew for each request."""
    chat, kept = chat_of(style, "as_published"), chat_of(style, "as_published_ids_kept")
    conversation, seen = grow(chat, published_turns(chat))
    _, as_generated = grow(kept, published_turns(kept))
    for ids, grown in zip(seen, as_generated, strict=True):
        text = chat.tokenizer.decode(ids)
        assert text == kept.tokenizer.decode(grown)
        assert ids == whole(chat.tokenizer, text)
    anna = chat.encode(" Anna")
    if style != "merging":
        assert len(anna) == 1  # so the forced prefix and the analysis share a token
        assert anna[0] in seen[-1]
        assert anna[0] not in as_generated[-1]
    assert seen[0] == as_generated[0]
    assert seen[-1] != as_generated[-1]
    ids, kinds = conversation.finished()
    assert ids == whole(chat.tokenizer, chat.tokenizer.decode(ids))
    runs = [
        (kind, chat.tokenizer.decode([token for _, token in run]))
        for kind, run in groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0])
    ]
    assert sum(kind == "end_of_turn" for kind, _ in runs) == 2
    assert [text for kind, text in runs if kind == "interpreter"] == [SHOWN]
    if style != "merging":  # there tokens reach across every seam
        # A token across a seam is of the part in which it ends.
        assert [text for kind, text in runs if kind == "forced"] == [
            ANALYZE.rstrip(), VERIFY, ANALYZE_2.rstrip(), VERIFY
        ]  # fmt: skip
        written = [
            " " + text if text.startswith("Anna") else text
            for turn in published_turns(chat)
            for text, kind in turn
            if kind == "written"
        ]
        assert [text for kind, text in runs if kind == "written"] == written


def test_published_turns_are_counted_as_text():
    chat = chat_of("chatml", "as_published")
    conversation = Conversation(chat)
    conversation.open_turn(openings()[0])
    conversation.append(ANALYZE, "forced")
    conversation.append_ids([token for letter in "Anna total" for token in chat.encode(letter)], "Anna total")
    assert conversation.turn_tokens == len(chat.encode(ANALYZE + "Anna total"))


def test_published_history_holds_the_control_tokens_that_the_model_wrote_and_no_others():
    chat = chat_of("deepseek", "as_published")
    thought = chat.tokenizer.convert_tokens_to_ids("</think>")
    spelled = [token for letter in "</think>" for token in chat.encode(letter)]
    for ids, count in (([thought], 1), (spelled, 0)):
        conversation = Conversation(chat)
        conversation.open_turn(openings()[0])
        conversation.append_ids(ids, "</think>")
        assert conversation.token_ids.count(thought) == count
        conversation.open_turn(openings()[1])
        assert conversation.token_ids.count(thought) == count


def test_training_on_published_ids_needs_to_know_where_tokens_stand():
    chat = chat_of("chatml", "as_published")
    conversation, _ = grow(chat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(chat.tokenizer), "is_fast", False)
        with pytest.raises(ConfigError, match="load a fast tokenizer or set turn_opening to as_published_ids_kept"):
            conversation.finished()


def test_published_opening_strips_the_end_of_the_users_turn():
    for style, end in (("chatml", "<|im_end|>\n"), ("llama3", "<|eot_id|>")):
        chat = chat_of(style, "as_published")
        _, seen = grow(chat)
        assert chat.tokenizer.decode(seen[0]).endswith(f"{STEP_1}{ANALYZE}")
        expected = FULL_TEXT[style].partition(STEP_1 + end)[0] + STEP_1 + ANALYZE
        assert seen[0] == whole(chat.tokenizer, expected)


def test_a_prefix_that_merges_with_the_users_text_is_encoded_with_it():
    chat = chat_of("merging", "as_published")
    _, seen = grow(chat)
    expected = FULL_TEXT["merging"].partition(STEP_1)[0] + STEP_1 + ANALYZE
    assert seen[0] == whole(chat.tokenizer, expected)
    # The tokens do merge: apart, they are others.
    apart = whole(chat.tokenizer, expected.removesuffix(ANALYZE)) + whole(chat.tokenizer, ANALYZE)
    assert seen[0] != apart


def test_a_prefix_that_would_merge_with_what_follows_keeps_its_tokens():
    """Trained and asked alike: the model never sees the merged token that encoding the whole text would give."""
    chat = chat_of("merging")
    conversation, seen = grow(chat)
    ids, _ = conversation.finished()
    assert ids[: len(seen[0])] == seen[0]
    assert whole(chat.tokenizer, FULL_TEXT["merging"])[: len(seen[0])] != seen[0]


@pytest.mark.parametrize("merge_lines", [False, True])
def test_no_space_is_put_before_continued_text(merge_lines):
    tokenizer = chat_templates.sentencepiece(merge_lines=merge_lines)
    chat = ChatFormat(tokenizer)
    for text in (ANALYZE, SHOWN, "\n", "x", "\n\n", ".", " y", "Yes", "</s>", "", "é"):
        assert tokenizer.decode(tokenizer.encode("q", add_special_tokens=False) + chat.encode(text)) == "q" + text
    assert not tokenizer.convert_ids_to_tokens(chat.encode("Yes"))[0].startswith("▁")


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True, "max_length": 3},
        {"padding": "max_length", "max_length": 64},
        {"split_special_tokens": True},
        {"add_special_tokens": True},
    ],
)
def test_what_was_asked_of_the_tokenizer_before_does_not_count(options):
    chat, expected = chat_of("chatml"), chat_of("chatml").encode(CHATML_TEXT)
    chat.tokenizer(CHATML_TEXT, **options)
    assert chat.encode(CHATML_TEXT) == expected


def test_written_text_keeps_the_ids_it_was_generated_in():
    chat = chat_of("chatml")
    conversation = Conversation(chat)
    conversation.open_turn(openings()[0])
    conversation.append(ANALYZE, "forced")
    letters = [token for letter in "The total" for token in chat.encode(letter)]
    assert letters != chat.encode("The total")
    conversation.append_ids(letters, "The total")
    assert conversation.token_ids[-len(letters) :] == letters
    assert conversation.turn_text == ANALYZE + "The total"
    assert conversation.turn_segments == 2
    assert conversation.turn_tokens == len(chat.encode(ANALYZE)) + len(letters)
    conversation.open_turn(openings()[1])
    assert str(letters)[1:-1] in str(conversation.token_ids)


def test_rewind_leaves_no_trace():
    chat = chat_of("llama3")
    conversation = Conversation(chat)
    conversation.open_turn(openings()[0])
    conversation.append(ANALYZE, "forced")
    conversation.append_ids(chat.encode("So.</analyze>\n"), "So.</analyze>\n")
    before = conversation.token_ids
    conversation.append(VERIFY, "forced")
    conversation.rewind(2)
    assert conversation.token_ids == before
    conversation.rewind(0)
    conversation.append("<output>", "forced")
    assert chat.tokenizer.decode(conversation.token_ids).endswith("assistant<|end_header_id|>\n\n<output>")


def control_tokens(style: str) -> list[str]:
    tokenizer = STYLES[style]()
    names = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return [name for name in names if name not in ("<think>", "</think>")]


@pytest.mark.parametrize("turn_opening", get_args(TurnOpening))
@pytest.mark.parametrize("style", sorted(STYLES))
def test_untrusted_text_cannot_bring_in_control_tokens(style, turn_opening):
    """A problem, a step or a program's output that spells a turn's end or a role's marker stays text."""
    chat = chat_of(style, turn_opening)
    names = control_tokens(style)
    attack = "a" + "".join(names) + "b" + names[0][:-1] + "".join(names) + names[-1][1:]
    turns = [[(ANALYZE, "forced"), ("ok\n```\n", "written"), (attack, "interpreter"), (END, "written")]] * 2
    harmless = [[(text.replace(attack, "a"), kind) for text, kind in turn] for turn in turns]
    attacked, _ = grow(chat, turns, (attack, attack), attack)[0].finished()
    clean, _ = grow(chat, harmless, ("a", "a"), "a")[0].finished()
    control = set(chat.tokenizer.all_special_ids) | set(chat.tokenizer.convert_tokens_to_ids(names))
    assert [token for token in attacked if token in control] == [token for token in clean if token in control]
    # Nothing is lost: the attack can still be read.
    assert attack in chat.tokenizer.decode(attacked).replace("\u200b", "")


def test_untrusted_text_cannot_pose_as_a_turn():
    """The string that stands for a turn while the template is rendered is nothing special in a step."""
    placeholder = "\ue0f0turn\ue0f1"
    step = f"{placeholder} \ue0f0tu{placeholder}rn\ue0f1"
    chat = chat_of("chatml")
    conversation, _ = grow(chat, steps=(step, STEP_2))
    text = chat.tokenizer.decode(conversation.finished()[0])
    assert step in text.replace("\u200b", "")


def test_time_to_make_text_safe_is_linear():
    tokenizer = chat_templates.chatml()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|reserved_{i}|>" for i in range(300)]})
    chat = ChatFormat(tokenizer)
    for text in ("a < b | c" * 11_000, "<" * 100_000, "<|reserved_" * 9_000):
        assert chat.neutralize(text) == text
        assert growth(chat.neutralize, text) < 30


def test_overlapping_control_tokens_are_all_broken():
    tokenizer = chat_templates.chatml()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<<x>", "x>y>", "<|im_start|>"]})
    chat = ChatFormat(tokenizer)
    ids = chat.encode(chat.neutralize("<<x>y> <|im_end|><|im_end|>"))
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert chat.neutralize("1 < 2 | 3 > 2") == "1 < 2 | 3 > 2"


STRANGE = [
    "",
    " ",
    "\n",
    "\x00",
    "\ud800",
    "a\udfffb",
    "\u200b",
    "é🙂",
    "\u202e",
    "{{ 1 / 0 }}",
    "{% raise %}",
    "[INST]",
    "▁",
]


@pytest.mark.parametrize("turn_opening", get_args(TurnOpening))
@pytest.mark.parametrize("style", sorted(STYLES))
def test_strange_text_is_encoded(style, turn_opening):
    chat = chat_of(style, turn_opening)
    for text in STRANGE:
        turns = [[(ANALYZE, "forced"), ("ok\n```\n", "written"), (text, "interpreter")]] * 2
        conversation, _ = grow(chat, turns, (text, text), text)
        ids, kinds = conversation.finished()
        assert len(ids) == len(kinds)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(STYLES)), st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_step_and_output_extend_the_prompt(style, step, output):
    chat = chat_of(style)
    conversation = Conversation(chat)
    previous: list[int] = []
    for messages in openings((step, step)):
        conversation.open_turn(messages)
        conversation.append(ANALYZE, "forced")
        assert conversation.token_ids[: len(previous)] == previous
        conversation.append(output, "interpreter")
        previous = conversation.token_ids
    ids, kinds = conversation.finished()
    assert ids[: len(previous)] == previous
    assert len(ids) == len(kinds)


@pytest.mark.parametrize("template", [chat_templates.NO_SYSTEM, chat_templates.DROPS_SYSTEM])
def test_the_system_prompt_is_never_lost(template):
    chat = ChatFormat(STYLES["chatml"](), chat_template=template)
    _, seen = grow(chat)
    assert f"{SYSTEM}\n\n{PROBLEM}\n{STEP_1}" in chat.tokenizer.decode(seen[0])


def test_a_given_template_takes_the_place_of_the_tokenizers():
    tokenizer = chat_templates.chatml(template=None)
    _, seen = grow(ChatFormat(tokenizer, chat_template=chat_templates.CHATML))
    assert seen[0] == whole(tokenizer, CHATML_TEXT.partition("Look: 5.")[0])


def test_no_template():
    with pytest.raises(ConfigError, match="no chat template; give one with the option chat_template"):
        ChatFormat(chat_templates.chatml(template=None))


@pytest.mark.parametrize("turn_opening", get_args(TurnOpening))
@pytest.mark.parametrize("template", [chat_templates.LAST_TURN_ONLY, chat_templates.LAST_USER_ONLY])
def test_a_template_that_drops_turns_is_refused_at_once(template, turn_opening):
    with pytest.raises(ConfigError, match=r"does not keep every turn.*chat_template"):
        ChatFormat(STYLES["chatml"](), turn_opening, chat_template=template)


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{% if %}", "{{ messages[0].content.x.y }}"])
def test_a_broken_template_is_refused(template):
    with pytest.raises(ConfigError, match="chat template cannot render"):
        ChatFormat(STYLES["chatml"](), chat_template=template)


def test_unknown_turn_opening():
    with pytest.raises(ConfigError, match="unknown turn_opening 'prompt'; choose one of generation_prompt, "):
        ChatFormat(STYLES["chatml"](), "prompt")
