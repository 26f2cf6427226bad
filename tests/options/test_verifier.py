"""The options that every command with a verifier shares."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.errors import ConfigError
from genprm_trl.generation.backends import open_generator
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.parser import OptionParser
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.protocol.genprm import MODES
from genprm_trl.sandbox import FusionSandbox
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from tests.helpers.chat_templates import CHATML, DATED
from tests.helpers.fusion_server import FusionServer
from tests.helpers.http_thread import Quiet, answering
from tests.helpers.tiny_models import save_tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_tiny(tmp_path_factory.mktemp("models") / "tiny-genprm")
    ModelSettings(modes=("direct",)).save(path)
    return path


def test_options_reach_the_verifier(model_dir: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]")
    words = ["--model", str(model_dir), "--n", "3", "--stop", "first_error", "--threshold", "0.4", "--seed", "5"]
    words += ["--temperature", "0.9", "--top_p", "0.8", "--top_k", "7", "--max_step_tokens", "99"]
    words += ["--max_context", "512", "--max_chains", "11", "--batch_size", "13", "--device", "cpu"]
    words += ["--dtype", "bfloat16", "--first_turn", "demonstration", "--turn_opening", "as_published"]
    words += ["--chat_template_path", str(template)]
    [options] = OptionParser([VerifierOptions], prog="test").parse(words)
    with load_verifier(options) as prm:
        assert (prm.n, prm.stop, prm.threshold, prm.seed, prm.max_chains) == (3, "first_error", 0.4, 5, 11)
        assert (prm.sampling.temperature, prm.sampling.top_p, prm.sampling.top_k) == (0.9, 0.8, 7)
        assert (prm.protocol.max_step_tokens, prm.protocol.first_turn) == (99, "demonstration")  # type: ignore[attr-defined]
        assert prm.protocol.mode == MODES["direct"]  # type: ignore[attr-defined]
        assert (prm.generator.max_context, prm.generator.max_concurrent) == (512, 13)
        assert str(prm.generator.model.dtype) == "torch.bfloat16"  # type: ignore[attr-defined]
        assert prm.chat.turn_opening == "as_published"
        assert prm.chat.render([{"role": "user", "content": "x"}], open_turn=True) == ["[user]x[assistant]"]


def test_every_option_is_either_part_of_the_settings_or_known_to_change_no_verdict(model_dir: Path) -> None:
    names = {field.name for field in dataclasses.fields(VerifierOptions)}
    decisive = set(VerifierOptions(model=str(model_dir)).what_decides_verdicts())
    assert names - decisive == {"max_chains", "batch_size", "device", "server_url", "api_key_variable"} | {
        field.name for field in dataclasses.fields(SandboxOptions)
    }


def test_servers_and_their_backend_go_together(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="server_url is for --backend server, not for transformers"):
        load_verifier(VerifierOptions(model=str(model_dir), server_url=["http://localhost:8000"]))
    with pytest.raises(ConfigError, match="--backend server needs server_url"):
        load_verifier(VerifierOptions(model=str(model_dir), backend="server"))
    options = VerifierOptions(
        model=str(model_dir), backend="server", server_url=["http://localhost:1"], backend_options={"timeout": 9}
    )
    assert options.generator_options() == {"urls": ["http://localhost:1"], "timeout": 9}
    # Where the text is made, and how patiently one waits for it, changes no verdict.
    assert options.what_decides_verdicts()["backend_options"] == {}


def test_a_verifier_that_cannot_be_made_leaves_no_open_generator(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_and_keep(*args, **kwargs):  # type: ignore[no-untyped-def]
        opened.append(open_generator(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr("genprm_trl.verifier.genprm.open_generator", open_and_keep)
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% if %}")
    with pytest.raises(ConfigError, match="chat template"):
        load_verifier(VerifierOptions(model=str(model_dir), chat_template_path=str(broken)))
    [generator] = opened
    assert generator._closed


def test_code_runs_where_the_option_says(model_dir: Path) -> None:
    with (
        FusionServer().running() as server,
        load_verifier(VerifierOptions(model=str(model_dir), sandbox=server.endpoint)) as prm,
    ):
        assert isinstance(prm.sandbox, FusionSandbox)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_verifier(VerifierOptions(model=str(model_dir), sandbox="http://127.0.0.1:1"))
    with pytest.raises(ConfigError, match="sandbox must be local or an address"):
        load_verifier(VerifierOptions(model=str(model_dir), sandbox="127.0.0.1:1"))


def test_a_dated_chat_template_gets_a_day(tmp_path: Path, day: Callable[[str], None]) -> None:
    """The day that is given comes first, then that of the run which is resumed, the model's, and today."""
    day("2026-12-01")
    model, settings, output = tmp_path / "model", tmp_path / "settings.json", tmp_path / "verdicts.jsonl"
    model.mkdir()

    def frozen(name: str = "template_date", **options: str) -> str | None:
        made = GeneratorOptions(str(model), **options)  # type: ignore[arg-type]
        made.freeze_date(settings, output, name)
        assert made.what_decides_text()["template_date"] == made.template_date
        return made.template_date

    assert frozen() is None
    (model / "chat_template.jinja").write_text(DATED, encoding="utf-8")
    assert frozen() == "2026-12-01"
    settings.write_text(json.dumps({"template_date": "2026-11-28", "policy_template_date": "2026-11-27"}))
    assert (frozen(), frozen("policy_template_date")) == ("2026-11-28", "2026-11-27")
    ModelSettings(template_date="2026-11-29").save(model)
    assert frozen() == "2026-11-28"
    assert frozen(template_date="2026-11-30") == "2026-11-30"
    settings.unlink()
    assert frozen() == "2026-11-29"
    # An output without settings is not this run's, so nothing is looked up for it.
    output.write_text("{}\n", encoding="utf-8")
    assert frozen() is None
    output.unlink()
    undated = tmp_path / "undated.jinja"
    undated.write_text(CHATML, encoding="utf-8")
    assert frozen(chat_template_path=str(undated)) is None
    (model / "chat_template.jinja").rename(model / "elsewhere")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": DATED}))
    assert frozen() == "2026-11-29"
    with pytest.raises(ConfigError, match="template_date must be a day such as 2026-12-01"):
        frozen(template_date="yesterday")


def test_a_name_that_a_backend_of_ones_own_knows_is_not_looked_up() -> None:
    options = GeneratorOptions("my-model", backend="some.module:Generator")
    options.freeze_date()
    assert options.template_date is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, ""), (403, "GatedRepo"), (404, "RepoNotFound"), (404, "EntryNotFound"), (429, ""), (503, "")],
)
def test_a_day_is_left_out_where_loading_fails_for_sure(
    answer: int | None, reason: str, tmp_path: Path, day: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy Hub may answer when loading asks again; a repository without this file may have others."""
    asked, tokenizer = [], copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = DATED
    is_there = answer in (429, 503) or reason == "EntryNotFound"

    class Hub(Quiet, BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            if answer is not None:
                self.send_response(answer)
                self.send_header("X-Error-Code", reason)
                self.end_headers()

    def load(source: str) -> object:
        if is_there:
            return tokenizer
        raise AssertionError(f"{source} cannot be loaded, and loading waits long")

    # Loading itself would ask again and again, with pauses.
    monkeypatch.setattr("genprm_trl.generation.loading.load_tokenizer", load)
    monkeypatch.setattr("genprm_trl.conversation.settings.named_date", lambda model: None)
    day("2026-12-01")
    with answering(Hub) as url:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        options = GeneratorOptions("lab/model")
        options.freeze_date()
    assert options.template_date == ("2026-12-01" if is_there else None)
    assert asked == ["/lab/model/resolve/main/tokenizer_config.json"]


def test_the_threshold_in_the_settings_is_that_of_the_verdicts(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "ppm")
    StepScorerSettings("ppm", "\n\n", threshold=0.625).save(model)

    def threshold(**options: Any) -> float:
        return VerifierOptions(model=str(model), **options).what_decides_verdicts()["threshold"]  # type: ignore[no-any-return]

    assert threshold() == threshold(template_date="2026-11-30") == 0.625
    assert threshold(threshold=0.5) == 0.5
    assert threshold(kind_options={"step_separator": " ;"}) == 0.5  # other scores
    assert threshold(kind="genprm") == 0.5
    assert VerifierOptions(model="no/such/dir", kind="genprm").what_decides_verdicts()["threshold"] == 0.5


def test_an_ensemble_shows_one_day_unless_a_member_names_another(tmp_path: Path, day: Callable[[str], None]) -> None:
    dated = copy.deepcopy(tiny_tokenizer())
    dated.chat_template = DATED
    undated = save_tiny(tmp_path / "undated")
    models = [save_tiny(tmp_path / name, dated) for name in ("any", "own")]
    StepScorerSettings("implicit", "\n\n", reference=str(undated), template_date="2026-11-29").save(models[1])
    members = [{"model": str(model), "kind": "implicit", "reference": str(undated)} for model in models]
    first = {"kind": "implicit", "reference": str(undated)}
    day("2026-12-01")
    options = VerifierOptions(str(undated), kind="ensemble", kind_options={"first": first, "members": members})
    options.freeze_date()
    assert options.what_decides_verdicts()["template_date"] == "2026-12-01"
    day("2027-02-03")
    with load_verifier(options) as ensemble:
        texts = [dated.decode(each.encode("1 + 1?", ["2."]).input_ids) for each in ensemble.members]  # type: ignore[attr-defined]
    assert [text.partition("Today: ")[2][:11] for text in texts] == ["", "01 Dec 2026", "29 Nov 2026"]
