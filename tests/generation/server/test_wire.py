"""The wire format: what is sent, and that nothing a server can answer gets past the checks."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.generation import GenerationResult, SamplingParams
from genprm_trl.generation.assembly import Assembler
from genprm_trl.generation.server.wire import (
    Abilities,
    BadAnswer,
    Tokens,
    error_message,
    join_chunks,
    read_answer,
    read_chunk,
    request_body,
    says_too_long,
)
from genprm_trl.generation.tokens import Detokenizer
from tests.helpers.chat_templates import sentencepiece
from tests.helpers.tiny_models import tiny_tokenizer

PARAMS = SamplingParams(max_new_tokens=10, stop=("</analyze>\n",), logprobs=2, seed=2**40 + 5)
DETOKENIZER = Detokenizer(tiny_tokenizer())
TOKENS = Tokens(tiny_tokenizer(), DETOKENIZER)


def read(answer: Any, params: SamplingParams = PARAMS, limit: int = 10) -> GenerationResult:
    return read_answer(answer, params, limit, TOKENS, Assembler(DETOKENIZER))


def test_the_body_has_what_the_server_understands() -> None:
    full = request_body("m", [1, 2], PARAMS, 7, Abilities())
    assert (full["prompt"], full["max_tokens"], full["top_k"], full["stop"]) == ([1, 2], 7, 20, ["</analyze>\n"])
    assert (full["logprobs"], full["seed"]) == (2, 5)
    assert full["samplers"] == ["temperature", "top_k", "top_p"]
    plain = request_body("m", "text", PARAMS, 7, Abilities("text", "streamed", extras=False, bare_ids=False))
    assert plain == {
        "model": "m",
        "prompt": "text",
        "max_tokens": 7,
        "temperature": 0.6,
        "top_p": 0.95,
        "logprobs": 2,
        "seed": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    of_transformers = Abilities("text", "streamed", extras=False, generation_config=True, bare_ids=False)
    assert request_body("m", "text", PARAMS, 7, of_transformers) == plain | {
        "generation_config": '{"do_sample": true, "top_k": 20, "min_p": 0.0, "repetition_penalty": 1.0}'
    }
    greedy = request_body("m", "text", SamplingParams(temperature=0.0), 7, of_transformers)
    assert '"do_sample": false' in greedy["generation_config"]
    assert request_body("m", [1], SamplingParams(top_k=0), 7, Abilities())["top_k"] == -1
    # Ids come with log-probabilities alone: one is asked for where none is wanted.
    none = SamplingParams(logprobs=0)
    assert request_body("m", [1], none, 7, Abilities(bare_ids=False))["logprobs"] == 1
    assert "logprobs" not in request_body("m", [1], none, 7, Abilities(bare_ids=False, logprobs=0))


def test_ids_of_tokens_by_what_servers_call_them() -> None:
    yes = tiny_tokenizer().encode("Yes")[-1]
    assert TOKENS.id_of(DETOKENIZER.decode([yes])) == yes
    assert TOKENS.id_of("<|im_end|>") == tiny_tokenizer().eos_token_id
    assert TOKENS.id_of("\ufffd") is None  # hundreds of tokens look like this
    assert TOKENS.id_of("no token at all") is None


def test_text_without_ids_or_log_probabilities_is_encoded() -> None:
    result = read({"choices": [{"text": "so it is right", "finish_reason": "length"}]})
    assert DETOKENIZER.decode(result.token_ids) == result.text == "so it is right"
    assert result.top_logprobs == [{}] * len(result.token_ids)
    assert result.finish_reason == "length"
    assert read({"choices": [{"text": "x", "finish_reason": "length"}]}, limit=4).finish_reason == "context"


def test_bytes_of_a_character_are_read_from_the_text() -> None:
    text = "x \U0001f600 y"
    ids = tiny_tokenizer().encode(text)
    names = [DETOKENIZER.decode([i]) for i in ids]
    assert names.count("\ufffd") == 2
    for names_of_bytes in (names, [name.replace("\ufffd", "bytes:\\xf0") for name in names]):
        reported = {"tokens": names_of_bytes, "token_logprobs": [-1.0] * len(names)}
        result = read({"choices": [{"text": text, "finish_reason": "length", "logprobs": reported}]})
        assert (result.text, result.token_ids) == (text, ids)
        assert result.top_logprobs[0] == {ids[0]: -1.0}
        assert result.top_logprobs[-1] == {ids[-1]: -1.0}


# One text, told of in ways that all say less than it does.
UNICODE = "so √2 · √2 = 2 ✓ and ∠ABC 😀, “x ≤ y”. It is {Yes}$\n</output>\n"
OUTPUT = SamplingParams(max_new_tokens=200, stop=("</output>\n",), logprobs=2)
IDS = tiny_tokenizer().encode(UNICODE)
VERDICT = next(place for place, token in enumerate(IDS) if "Yes" in DETOKENIZER.decode([token]))
NO = tiny_tokenizer().encode(UNICODE.replace("Yes", "No"))[VERDICT]


def lists(keys: list[Any], no: Any) -> dict[str, Any]:
    top = [{str(key): -0.5, str(no): -1.5} for key in keys]
    return {"logprobs": {"tokens": keys, "token_logprobs": [-0.5] * len(keys), "top_logprobs": top}}


def content(entries: list[tuple[int | None, str]], no: tuple[int | None, str]) -> dict[str, Any]:
    def one(token: tuple[int | None, str], logprob: float) -> dict[str, Any]:
        return {"token": token[1], "logprob": logprob} | ({} if token[0] is None else {"id": token[0]})

    listed = [{**one(entry, -0.5), "top_logprobs": [one(entry, -0.5), one(no, -1.5)]} for entry in entries]
    return {"logprobs": {"content": listed}}


def whole_characters() -> list[tuple[int | None, str]]:
    """The entries of llama.cpp: one for all tokens of a character, with the id of the last."""
    entries: list[tuple[int | None, str]] = []
    run: list[int] = []
    for token in IDS:
        run.append(token)
        if not (text := DETOKENIZER.decode(run)).endswith("\ufffd"):
            entries.append((token, text))
            run.clear()
    return entries


SHOWN = [DETOKENIZER.decode([token]) for token in IDS]
NAMES = [str(name) for name in tiny_tokenizer().convert_ids_to_tokens(IDS)]
NO_SHOWN, NO_NAME = DETOKENIZER.decode([NO]), str(tiny_tokenizer().convert_ids_to_tokens(NO))
BYTES = [f"bytes:\\x{place:02x}" if "\ufffd" in text else text for place, text in enumerate(SHOWN)]
FORMS: dict[str, dict[str, Any]] = {
    "ids": {"token_ids": IDS, **lists([f"token_id:{token}" for token in IDS], f"token_id:{NO}")},
    "ids without a name": lists(IDS, NO),
    "ids with pairs": {
        "logprobs": {
            "tokens": IDS,
            "token_logprobs": [-0.5] * len(IDS),
            "top_logprobs": [[[token, -0.5], [NO, -1.5]] for token in IDS],
        }
    },
    "ids in strings": lists([f"token_id:{token}" for token in IDS], f"token_id:{NO}"),
    "texts": lists(SHOWN, NO_SHOWN),
    "texts and bytes": lists(BYTES, NO_SHOWN),
    "names of the vocabulary": lists(NAMES, NO_NAME),
    "contents with ids": content(list(zip(IDS, SHOWN, strict=True)), (NO, NO_SHOWN)),
    "contents with texts": content([(None, text) for text in SHOWN], (None, NO_SHOWN)),
    "contents with names": content([(None, name) for name in NAMES], (None, NO_NAME)),
    "whole characters": content(whole_characters(), (NO, NO_SHOWN)),
    "whole characters without ids": content([(None, text) for _, text in whole_characters()], (None, NO_SHOWN)),
    "whole characters beside all ids": {"token_ids": IDS, **content(whole_characters(), (NO, NO_SHOWN))},
    "ids of another vocabulary": {"token_ids": [token + 3 for token in IDS], **lists(SHOWN, NO_SHOWN)},
    "too few ids": {"token_ids": IDS[5:], **lists(SHOWN, NO_SHOWN)},
    "too many ids": {"token_ids": [*IDS, 300, 301], **lists(SHOWN, NO_SHOWN)},
    "the first tokens missing": lists(SHOWN[7:], NO_SHOWN),
    "a token missing": lists(SHOWN[:9] + SHOWN[10:], NO_SHOWN),
    "a token twice": lists([*SHOWN[:9], SHOWN[8], *SHOWN[9:]], NO_SHOWN),
    "an end of text that has a name": lists([*SHOWN, "<|im_end|>"], NO_SHOWN),
    "an end of text without": lists([*SHOWN, ""], NO_SHOWN),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_text_counts_and_its_log_probabilities_are_found(form: str) -> None:
    result = read({"choices": [{"text": UNICODE, "finish_reason": "stop", **FORMS[form]}]}, OUTPUT, 200)
    assert (result.text, result.finish_reason) == (UNICODE, "stop")
    assert DETOKENIZER.decode(result.token_ids) == UNICODE
    [at] = [place for place, token in enumerate(result.token_ids) if token == IDS[VERDICT]]
    assert result.top_logprobs[at] == {IDS[VERDICT]: -0.5, NO: -1.5}
    assert len(result.top_logprobs) == len(result.token_ids)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_where_the_stop_string_was_cut_off_and_named(form: str) -> None:
    choice = {
        "text": UNICODE.removesuffix("</output>\n"),
        "finish_reason": "stop",
        "matched_stop": "</output>\n",
        **FORMS[form],
    }
    result = read({"choices": [choice]}, OUTPUT, 200)
    assert result.text == DETOKENIZER.decode(result.token_ids) == UNICODE
    [at] = [place for place, token in enumerate(result.token_ids) if token == IDS[VERDICT]]
    assert result.top_logprobs[at] == {IDS[VERDICT]: -0.5, NO: -1.5}


@pytest.mark.parametrize("top", [None, [], [{} for _ in SHOWN], [[] for _ in SHOWN]])
def test_the_written_token_counts_where_there_are_no_alternatives(top: Any) -> None:
    told = {"tokens": SHOWN, "token_logprobs": [-0.5] * len(SHOWN), "top_logprobs": top}
    result = read({"choices": [{"text": UNICODE, "finish_reason": "stop", "logprobs": told}]}, OUTPUT, 200)
    assert result.top_logprobs[VERDICT] == {IDS[VERDICT]: -0.5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_logprobs": [{"a": -1.0}] * (len(SHOWN) - 1)},
        {"top_logprobs": {"a": -1.0}},
        {"token_logprobs": [0.7] * len(SHOWN)},
        {"top_logprobs": [{"a": 0.7}] * len(SHOWN)},
        {"top_logprobs": [{"a": float("nan")}] * len(SHOWN)},
    ],
)
def test_log_probabilities_that_cannot_be_are_a_bad_answer(wrong: dict[str, Any]) -> None:
    told = {"tokens": SHOWN, "token_logprobs": [0.001] * len(SHOWN), "top_logprobs": None}
    answer = {"choices": [{"text": UNICODE, "finish_reason": "stop", "logprobs": told}]}
    read(answer, OUTPUT, 200)
    told |= wrong
    with pytest.raises(BadAnswer):
        read(answer, OUTPUT, 200)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_that_says_another_verdict_has_no_log_probabilities_for_it(form: str) -> None:
    text = UNICODE.replace("Yes", "No")
    result = read({"choices": [{"text": text, "finish_reason": "stop", **FORMS[form]}]}, OUTPUT, 200)
    assert result.text == DETOKENIZER.decode(result.token_ids) == text
    [at] = [place for place, token in enumerate(result.token_ids) if token == NO]
    assert result.top_logprobs[at] == {}


@pytest.mark.parametrize("kind", ["ids", "names", "texts", "texts without spaces", "whole characters"])
@pytest.mark.parametrize("first", [" ", ""])
def test_tokens_of_another_kind(kind: str, first: str) -> None:
    """Spaces are letters there, bytes have names, and some servers drop the space that a text begins with."""
    tokenizer = sentencepiece()
    detokenizer = Detokenizer(tokenizer)
    tokens = Tokens(tokenizer, detokenizer)
    text = " It is √2 · 😀 ✓. So {Yes}$\n</output>\n"
    ids = detokenizer.encode(text)
    at = max(place for place in range(len(ids)) if detokenizer.decode(ids[place:]).startswith("Y"))
    shown = [detokenizer.decode([token]) for token in ids]
    forms: dict[str, dict[str, Any]] = {
        "ids": {"token_ids": ids, **lists([f"token_id:{token}" for token in ids], "token_id:7")},
        "names": lists(tokenizer.convert_ids_to_tokens(ids), "<s>"),
        "texts": lists(shown, "<s>"),
        "texts without spaces": lists([tokenizer.decode([token]) for token in ids], "<s>"),
        "whole characters": content(list(zip(ids, shown, strict=True))[-8:], (7, "x")),
    }
    answer = {"choices": [{"text": first + text[1:], "finish_reason": "stop", **forms[kind]}]}
    result = read_answer(answer, OUTPUT, 200, tokens, Assembler(detokenizer))
    assert result.text.lstrip() == detokenizer.decode(result.token_ids).lstrip() == text[1:]
    left = len(ids) - at  # the verdict is as far from the end as it was
    assert result.token_ids[-left] == ids[at]
    assert result.top_logprobs[-left][ids[at]] == -0.5


def test_ids_count_where_the_server_could_not_show_a_character() -> None:
    for lossy in ("so \ufffd2", "so \ufffd\ufffd\ufffd2"):
        ids = tiny_tokenizer().encode("so √2")
        result = read({"choices": [{"text": lossy, "finish_reason": "length", "token_ids": ids}]})
        assert (result.text, result.token_ids) == ("so √2", ids)


def test_what_a_server_holds_back_until_a_character_is_complete() -> None:
    # vLLM shows nothing of a token that ends within a character, not even the letters before it.
    half = next(
        token for token in range(len(tiny_tokenizer())) if DETOKENIZER.token_text(token).rstrip("\ufffd").isalpha()
        and DETOKENIZER.token_text(token).endswith("\ufffd")
    )  # fmt: skip
    before = tiny_tokenizer().encode("so it is ")
    for ids, text in (([half], ""), ([*before, half], "so it is ")):
        result = read({"choices": [{"text": text, "finish_reason": "length", "token_ids": ids}]})
        assert (result.token_ids, result.text) == (ids, text + DETOKENIZER.token_text(half))
    result = read({"choices": [{"text": "so it", "finish_reason": "length", "token_ids": [*before, half]}]})
    assert result.text == "so it"


def test_special_tokens_that_are_spelled_out_are_no_text() -> None:
    result = read({"choices": [{"text": "It is right.<|im_end|>", "finish_reason": "stop"}]})
    assert result.text == "It is right."
    ids = tiny_tokenizer().encode("It is right.")
    assert (result.token_ids, result.num_generated) == (ids, len(ids) + 1)


@pytest.mark.parametrize("count", [None, 0, -3, "9", 4.0, True])
def test_a_count_that_is_none_is_made_here(count: Any) -> None:
    answer = {"choices": [{"text": "It is right.", "finish_reason": "stop"}], "usage": {"completion_tokens": count}}
    assert read(answer).num_generated == len(tiny_tokenizer().encode("It is right."))


def test_a_text_that_ends_before_its_bound_has_filled_the_context() -> None:
    for count, reason in ((3, "context"), (10, "length"), (11, "length")):
        answer = {"choices": [{"text": "so", "finish_reason": "length"}], "usage": {"completion_tokens": count}}
        assert read(answer).finish_reason == reason


def test_a_stop_string_that_was_cut_off_is_put_back() -> None:
    for key in ("stop_reason", "matched_stop"):
        result = read({"choices": [{"text": "right.", "finish_reason": "stop", key: "</analyze>\n"}]})
        assert result.text == "right.</analyze>\n"
        assert DETOKENIZER.decode(result.token_ids) == result.text


def test_chunks_join_to_what_one_answer_says() -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"text": "a", "finish_reason": None, "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]},
        {"choices": [{"text": "", "finish_reason": None, "logprobs": None}]},
        {"choices": [{"text": "b", "finish_reason": "stop", "logprobs": {"tokens": ["b"], "token_logprobs": [-2.0]}}]},
        {"choices": [], "usage": {"completion_tokens": 2}},
    ]
    assert join_chunks(chunks) == {
        "choices": [
            {"text": "ab", "finish_reason": "stop", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}}
        ],
        "usage": {"completion_tokens": 2},
    }


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 300 tokens. However, you requested 310",
        "the request exceeds the available context size, try increasing it",
        "The input (400 tokens) is longer than the model's context length (300 tokens).",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 12 `max_new_tokens`",
        "Prompt exceeds max prompt token limit: prompt_tokens=9, max_prompt_tokens=8",
        "prompt length (9) should not exceed max_seq_len (8)",
        "the prompt is too long",
    ],
)
def test_refusals_of_long_prompts_are_recognised(message: str) -> None:
    assert says_too_long(message)
    assert not says_too_long("top_k must be positive")


def test_error_bodies_on_one_line() -> None:
    assert error_message('{"error": {"message": "too\\nbad", "code": 400}}') == "too\\nbad"
    assert error_message("<html>\n  <b>oops</b>\n</html>") == "<html> <b>oops</b> </html>"
    assert len(error_message("x" * 10_000)) == 500


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.sampled_from(["stop", "length", "</analyze>\n", "token_id:7", "token_id:99999999999", "token_id:²", "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
logprobs = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.lists(st.sampled_from(["a", "token_id:7", "\ud800", "", "token_id:9" * 30]), max_size=3) | values,
        "token_logprobs": st.lists(st.floats(allow_nan=True) | st.none(), max_size=3) | values,
        "top_logprobs": st.lists(st.dictionaries(st.sampled_from(["a", "b", "token_id:3"]), values), max_size=3)
        | values,
        "content": st.lists(
            st.fixed_dictionaries({"id": values, "logprob": values}, optional={"top_logprobs": values}), max_size=3
        )
        | values,
    },
)
choices = st.fixed_dictionaries(
    {"text": st.text(max_size=8) | values, "finish_reason": st.sampled_from(["stop", "length"]) | values},
    optional={
        "logprobs": logprobs | values,
        "token_ids": st.lists(st.integers(-1, 700), max_size=4) | values,
        "stop_reason": values,
    },
)
answers = st.fixed_dictionaries(
    {"choices": st.lists(choices, min_size=1, max_size=2) | values}, optional={"usage": values}
)


@settings(max_examples=400, deadline=None)
@given(answers | values)
def test_any_answer_is_a_result_or_a_bad_answer(answer: Any) -> None:
    try:
        result = read(answer)
    except BadAnswer:
        return
    assert result.finish_reason in ("stop", "length", "context")
    assert len(result.top_logprobs) == len(result.token_ids)
    assert all(type(token) is int and 0 <= token < 2**31 for token in result.token_ids)
    assert all(value < math.inf for reported in result.top_logprobs for value in reported.values())
    assert result.num_generated >= 0


@settings(max_examples=200, deadline=None)
@given(st.lists(answers, max_size=4))
def test_any_chunks_can_be_joined(chunks: list[Any]) -> None:
    with contextlib.suppress(BadAnswer):
        read(join_chunks([read_chunk(json.dumps(chunk).encode())[0] for chunk in chunks]))
