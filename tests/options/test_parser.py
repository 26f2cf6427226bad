"""Values of options that are JSON or YAML: what cannot be read is named."""

from __future__ import annotations

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.parser import OptionParser
from genprm_trl.rewards.configured import read_config


def parse(*words: str) -> object:
    return OptionParser([GeneratorOptions], prog="genprm test").parse(["--model", "m", *words])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'bad'", "\"{'bad'\": is not valid JSON"),
        ("[1]", "'[1]' is no JSON object"),
        ('{"a": 1, "a": 2}', "key 'a': is given twice"),
    ],
)
def test_options_that_are_json(capsys, text, message):
    with pytest.raises(SystemExit) as ended:
        parse("--backend_options", text)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["device: cpu\nn: 1\ndevice: cuda\n", "backend_options:\n  a: 1\n  a: 2\n", "{dtype: a, dtype: b}"]
)
def test_a_key_that_is_given_twice(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"line \d: is not valid YAML: the key '\w+' is given twice"):
        parse("--config", str(path))
    with pytest.raises(ConfigError, match="is given twice"):
        read_config(path)


def test_merged_keys_may_be_given_again(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("verifier: &v {a: 1}\noptions: {<<: *v, a: 2}\n")
    assert read_config(path)["options"] == {"a": 2}


DIGITS = "9" * 5000


def test_numbers_and_dates_that_cannot_be_read(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    for text in (f"batch_size: {DIGITS}", "tokenizer: 2024-02-31"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"a number or date cannot be read .*give it as text, in quotes"):
            parse("--config", str(path))
        with pytest.raises(ConfigError, match=r"a number or date cannot be read .*give it as text, in quotes"):
            read_config(path)
    with pytest.raises(SystemExit):
        parse("--backend_options", f'{{"a": {DIGITS}}}')
    assert "an integer of more than 4300 digits; give it as text, in quotes" in capsys.readouterr().err
