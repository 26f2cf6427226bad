"""What counts as a secret, and that none reaches a file, a page, a card or the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.cards.model_card import arguments_block
from genprm_trl.cli import console
from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError
from genprm_trl.options.verifier import VerifierOptions
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import write_json, write_jsonl
from genprm_trl.rows.secrets import is_secret_name, mask, mask_text
from genprm_trl.stages.verdict_file import VerdictFile
from tests.helpers.verdict_examples import verdict

pytestmark = pytest.mark.usefixtures("offline")
SECRET = "s3cr3t-v4lue"
OPTIONS = {
    "model_kwargs": {"token": SECRET, "use_safetensors": True},
    "hf_token": SECRET,
    "api_key": SECRET,
    "credentials": {"user": "me", "keys": [SECRET]},
    "hub": f"https://me:{SECRET}@hub.example/x?access_token={SECRET}",
    "extra": [f"--hf_token {SECRET}", f"OPENAI_API_KEY={SECRET}", f'{{"password": "{SECRET}"}}'],
    "max_model_len": 4096,
}


@pytest.mark.parametrize(
    "name",
    [
        *("token", "hf_token", "hub_token", "use_auth_token", "accessToken", "HF_TOKEN", "hftoken"),
        *("api_key", "apiKey", "apikey", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "private_key", "api_keys"),
        *("openai_key", "wandb_key", "api_tokens", "hf_tokens", "access_tokens", "api_key_2", "token1", "hfToken2"),
        *("basic_auth", "jwt", "bearer", "db_pass", "X-Api-Key", "Proxy-Authorization", "Set-Cookie"),
        *("password", "db_password", "DB_PWD", "client_secret", "Authorization", "auth", "credentials"),
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("eos_token", "pad_token", "step_token", "begin_of_text_token", "image_break_token", "stop_token"),
        *("max_new_tokens", "tokens", "tokenizer", "token_ids", "token_file", "api_key_variable", "sort_key", "key"),
        *(
            "max_tokens",
            "num_tokens",
            "prompt_tokens",
            "new_tokens_2",
            "forward_pass",
            "pass",
            "sort_keys",
            "top_key_2",
        ),
        *("PWD", "author", "keys", "monkey", ""),
    ],
)
def test_names_of_other_things(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://u:p@h:1/v1 http://u@h ftp://a:b%40c@h", "http://***@h:1/v1 http://***@h ftp://***@h"),
        ("http://u:p@ss@h/", "http://***@h/"),
        ("/v1?api_key=a&n=1#token=b", "/v1?api_key=***&n=1#token=***"),
        ("run --api_key abc --hf_token=abc --n 8", "run --api_key *** --hf_token=*** --n 8"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("hf_" + "a1" * 17, "***"),
        ("key sk-" + "a1" * 17 + ".", "key ***."),
        ("{'token': 'a\\'b', 'n': 1}", "{'token': '***', 'n': 1}"),
        ('{"token": "cut off', '{"token": "***'),
        ("pretrained=m,token=a b,n=2", "pretrained=m,token=*** b,n=2"),
        ("f(api_key=\"abc\", token='abc def', n=1)", "f(api_key=\"***\", token='***', n=1)"),
        ("run --api-key 'a b' --api_key \"c\" --n 8", "run --api-key '***' --api_key \"***\" --n 8"),
        ("api_key = abc\ntoken = 'a'", "api_key = ***\ntoken = '***'"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("curl -H 'X-Api-Key: abc' -H 'authorization: abc'", "curl -H 'X-Api-Key: ***' -H 'authorization: ***'"),
        ("a: 1\napi_key: abc\n  - token: 'a b'\nn: 2", "a: 1\napi_key: ***\n  - token: '***'\nn: 2"),
        ("use_auth_token: true\napi_key: null\nhub_token:\n", None),
        ('{"api_key": ["abc", "d, e"], "n": ["f"]}', '{"api_key": ["***", "***"], "n": ["f"]}'),
        ('{"credentials": {"user": "me", "id": 3}}', '{"credentials": {"user": "***", "id": 3}}'),
        ("hf_tokens: [abc, def], api_tokens=['a']", "hf_tokens: [***, ***], api_tokens=['***']"),
        (r'"{\"token\": \"a\", \"n\": \"b\"}"', r'"{\"token\": \"***\", \"n\": \"b\"}"'),
        ('args="--api_key abc --n 8", text="token=b"', 'args="--api_key *** --n 8", text="token=***"'),
        ("http://me:p/w@host/v1 http://me:p@w/x@host", "http://***@host/v1 http://***@host"),
        ("http://me:p@h1,http://me:p/w@h2", "http://***@h1,http://***@h2"),
        ("http://host:8000/a@b http://[::1]:80/a@b", None),
        ("https://h/b?sv=1&sig=a%2Bb&n=1", "https://h/b?sv=1&sig=***&n=1"),
        ("https://h/b?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/b?X-Amz-Signature=***&X-Amz-Date=1"),
        ("AIza" + "a1" * 17 + "b gsk_" + "a1" * 20, "*** ***"),
        ("nvapi-" + "a1" * 20 + ", sk_live_" + "a1" * 12, "***, ***"),
        ("max_tokens=5, num_tokens: 7, token_ids=[1], tokenizer='t', author: me, pad_token: <pad>", None),
        ('token == "a", a token: b', None),
        ("stop token: </s>, eos_token='</s>', a password is missing", None),
        ("name the environment variable OPENAI_API_KEY with --api_key_variable OPENAI_API_KEY", None),
        ("me@example.org wrote http://host/a@b", None),
    ],
)
def test_secrets_in_text(text, masked):
    assert mask_text(text) == (masked or text)


def test_values_of_the_environment(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("SHORT_TOKEN", "true")
    assert mask_text(f"true: {SECRET}!") == "true: ***!"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
)


@given(_JSON)
def test_masking_keeps_the_shape_and_is_done_once(value):
    masked = mask(value)
    assert mask(masked) == masked
    assert type(masked) is type(value)


def test_settings_files_hold_none_and_a_new_token_is_no_other_setting(tmp_path, capsys):
    path, rows = tmp_path / "v.jsonl", [Solution("a", "What is 1 + 1?", ["1 + 1 = 2"])]
    settings = VerifierOptions(model="lab/m", backend_options=OPTIONS).what_decides_verdicts()
    assert settings["backend_options"]["hf_token"] == SECRET  # the generator gets it
    with VerdictFile(path, settings, rows) as file:
        file.write(verdict("a", [[0.9]]))
    kept = Path(f"{path}.settings.json").read_text()
    assert SECRET not in kept
    assert json.loads(kept)["backend_options"]["max_model_len"] == 4096
    renewed = json.loads(json.dumps(settings).replace(SECRET, "another-one"))
    VerdictFile(path, renewed, rows).close()
    # One that an earlier version wrote.
    write = Path(f"{path}.settings.json").write_text
    write(json.dumps(settings))
    VerdictFile(path, renewed, rows).close()
    write(json.dumps(settings))
    with pytest.raises(ConfigError, match="max_model_len") as refused:
        VerdictFile(path, {**settings, "backend_options": {**OPTIONS, "max_model_len": 8}}, rows)
    assert SECRET not in str(refused.value)


def test_a_page_of_older_settings_shows_none(tmp_path):
    path, page = tmp_path / "v.jsonl", tmp_path / "page.html"
    write_jsonl(path, [verdict("a", [[0.9]])])
    Path(f"{path}.settings.json").write_text(json.dumps({"backend_options": OPTIONS}))
    assert main(["report", str(path), "--output", str(page)]) == 0
    assert "4096" in page.read_text()
    assert SECRET not in page.read_text()


def test_cards_and_other_files_hold_none(tmp_path):
    assert SECRET not in arguments_block({"model_init_kwargs": OPTIONS, "dataset": OPTIONS["hub"]})
    write_json(tmp_path / "training.json", {"settings": {"model_init_kwargs": OPTIONS}})
    assert SECRET not in (tmp_path / "training.json").read_text()


def test_log_lines_and_errors_hold_none(capsys, tmp_path):
    model = tmp_path / "model"
    words = ["verify", str(tmp_path / "none.jsonl"), "--model", str(model), "--sandbox", f"ftp://me:{SECRET}@host"]
    assert main(words) == 2
    assert main([*words, "--backend_options", f'{{"hf_token": "{SECRET}']) == 2
    console.configure()
    shallow = {name: value for name, value in OPTIONS.items() if name != "credentials"}
    logging.getLogger("genprm_trl").warning("asking %s with %s", OPTIONS["hub"], shallow)
    try:
        raise ValueError(f"http://me:{SECRET}@host")
    except ValueError:
        logging.getLogger("elsewhere").exception("failed")
    shown = capsys.readouterr().err
    assert "asking https://***@hub.example" in shown
    assert "ValueError" in shown
    assert SECRET not in shown
