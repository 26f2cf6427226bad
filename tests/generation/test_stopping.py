"""Stop strings over any sequence of tokens: the incremental search against the plain one over the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.generation.stopping import GeneratedText, StopStrings
from genprm_trl.generation.tokens import Detokenizer
from tests.helpers.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DETOKENIZER = Detokenizer(TOKENIZER)

token_ids = st.lists(st.integers(0, len(TOKENIZER) - 1), min_size=1, max_size=40)
# Few characters, so that stop strings are found; several bytes each for two of them.
letters = st.text(alphabet="a`\n>é数 ", min_size=1, max_size=12)


def decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def first_end(text: str, stops: tuple[str, ...]) -> int:
    return min((text.index(stop) + len(stop) for stop in stops if stop in text), default=-1)


def check(ids: list[int], stops: tuple[str, ...]) -> None:
    stop_strings = StopStrings(stops, DETOKENIZER)
    generated = GeneratedText(stop_strings, DETOKENIZER)
    for count, token in enumerate(ids, start=1):
        generated.ids.append(token)
        expected = first_end(decode(ids[:count]), stops)
        found = generated.find_stop() if stop_strings.may_end_with(token) else -1
        assert found == expected
        if found >= 0:
            assert generated.find_stop() == found
            text, kept_ids, kept = generated.cut(found)
            assert text == decode(ids[:count])[:found]
            assert kept_ids[:kept] == ids[:kept]
            assert decode(kept_ids) == text
            break
    else:
        assert generated.text() == decode(ids)


@given(ids=token_ids, stops=st.lists(letters, min_size=1, max_size=3))
def test_any_tokens(ids: list[int], stops: list[str]) -> None:
    check(ids, tuple(stops))


@given(text=st.text(alphabet="a`\n>é数 ", min_size=1, max_size=40), data=st.data())
def test_text_that_holds_the_stop_string(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : data.draw(st.integers(start + 1, len(text)))]
    # Byte by byte, every character outside ASCII is split over tokens.
    alphabet = {chr_: token for chr_, token in TOKENIZER.get_vocab().items() if len(chr_) == 1}
    byte_tokens = [alphabet[c] for c in byte_characters(text)]
    for ids in (TOKENIZER.encode(text), byte_tokens):
        check(ids, (stop,))


def byte_characters(text: str) -> str:
    """The characters that stand for the text's UTF-8 bytes in a byte-level vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in text.encode())


def test_few_tokens_need_decoding() -> None:
    stops = StopStrings(("</analyze>\n", "\n```\n", "</output>\n"), DETOKENIZER)
    candidates = [token for token in range(len(TOKENIZER)) if stops.may_end_with(token)]
    assert 0 < len(candidates) < 0.05 * len(TOKENIZER)
    assert all("\n" in decode([token]) for token in candidates)


def test_no_stop_strings() -> None:
    stops = StopStrings((), DETOKENIZER)
    assert not any(stops.may_end_with(token) for token in range(len(TOKENIZER)))
    generated = GeneratedText(stops, DETOKENIZER)
    generated.ids += TOKENIZER.encode("a\nb")
    assert generated.find_stop() == -1
    assert generated.text() == "a\nb"
