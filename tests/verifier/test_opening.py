"""How the kind of a model is found, and what its verifier is opened with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2ForTokenClassification

from genprm_trl.cli.grpo import _decisive as reward_settings
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.errors import ConfigError
from genprm_trl.options.parser import OptionParser
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.records import Solution
from genprm_trl.rewards import GenPRMReward, VerifierReward
from genprm_trl.rows.outputs import Input
from genprm_trl.training.prm.scorer import PRMScorer
from genprm_trl.verifier import GenPRM, open_verifier
from genprm_trl.verifier.opening import KINDS, find_kind
from genprm_trl.verifier.scorer_settings import StepScorerSettings
from tests.helpers.tiny_models import save_tiny, tiny_model, tiny_tokenizer

SOLUTION = Solution("1", "Anna has 3 apples.", ["She buys 2 books.", "She sells 4 eggs.", "She has 1 coin."])


@pytest.fixture(scope="module")
def classifier_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "math-prm"
    config = tiny_model().config.to_dict() | {"num_labels": 2, "architectures": None}
    Qwen2ForTokenClassification(type(tiny_model().config)(**config)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def genprm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_tiny(tmp_path_factory.mktemp("models") / "genprm")
    ModelSettings(modes=("direct",)).save(path)
    return path


def directory(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_kind_is_found_in_the_files_and_by_the_name(tmp_path: Path) -> None:
    causal = {"architectures": ["Qwen2ForCausalLM"]}
    classifier = {"architectures": ["LlamaForTokenClassification"]}
    assert find_kind(directory(tmp_path / "a", **causal)) == "genprm"
    assert find_kind(directory(tmp_path / "b", **classifier)) == "token_classifier"
    ModelSettings().save(tmp_path / "b")
    assert find_kind(tmp_path / "b") == "genprm"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"task_type": "TOKEN_CLS"}')
    assert find_kind(adapter) == "token_classifier"
    for number, named in enumerate(("a later kind", ["ppm"])):
        later = directory(tmp_path / f"later{number}", **causal)
        (later / "step_scorer.json").write_text(json.dumps({"kind": named, "step_separator": ";"}))
        with pytest.raises(ConfigError, match=r"step_scorer.json names the kind .* give --kind"):
            find_kind(later)
    # A backend may know a name that is no directory.
    assert find_kind("my-model") == "genprm"
    for config in ({"architectures": ["LlamaForSequenceClassification"]}, {}):
        unknown = directory(tmp_path / f"unknown{len(config)}", **config)
        with pytest.raises(ConfigError, match=r"cannot tell what kind of verifier .* give --kind, one of genprm, "):
            find_kind(unknown)


def test_a_guess_made_without_the_hub_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = directory(tmp_path / "published", architectures=["LlamaForTokenClassification"])
    asked = []

    def unreachable(model: str, name: str, **_: object) -> None:
        raise OSError("no connection")

    def answers(model: str, name: str, **_: object) -> str | None:
        asked.append(name)
        return str(published / name) if (published / name).is_file() else None

    monkeypatch.setattr("transformers.utils.cached_file", unreachable)
    assert find_kind("me/my-prm") == "genprm"
    monkeypatch.setattr("transformers.utils.cached_file", answers)
    assert find_kind("me/my-prm") == "token_classifier"
    asked.clear()
    assert find_kind("me/my-prm") == "token_classifier"
    assert not asked, "what the Hub said is kept"


def test_commands_take_any_kind_and_refuse_options_that_it_does_not_have(
    classifier_dir: Path, genprm_dir: Path
) -> None:
    def options(*words: str, model: Path = classifier_dir) -> VerifierOptions:
        [parsed] = OptionParser([VerifierOptions], prog="test").parse(["--model", str(model), *words])
        return parsed  # type: ignore[no-any-return]

    words = ["--threshold", "0.4", "--stop", "first_error", "--seed", "3", "--batch_size", "3", "--max_context", "99"]
    given = options(*words, "--kind_options", '{"step_separator": " ;"}', "--dtype", "bfloat16")
    assert not given.needs_sandbox()
    given.check_model()
    with load_verifier(given) as scorer:
        assert isinstance(scorer, PRMScorer)
        assert (scorer.threshold, scorer.stop, scorer.seed) == (0.4, "first_error", 3)
        assert (scorer.batch_size, scorer.max_length, scorer.step_separator) == (3, 99, " ;")
        assert str(scorer.model.dtype) == "torch.bfloat16"
    for word, value in (("n", "8"), ("mode", "direct"), ("temperature", "0.1"), ("adaptive", "exact")):
        wrong = options(f"--{word}", value)
        for use in (load_verifier, VerifierOptions.what_decides_verdicts, VerifierOptions.check_model):
            with pytest.raises(ConfigError, match=f"kind token_classifier have no option '{word}'; leave it out"):
                use(wrong)
    with pytest.raises(ConfigError, match="give the backend transformers or vllm, not some:Generator"):
        load_verifier(options("--backend", "some:Generator"))
    with pytest.raises(ConfigError, match="no option 'step_separator'"):
        load_verifier(options("--kind_options", '{"step_separator": "x"}', model=genprm_dir))
    with pytest.raises(ConfigError, match=r"names n, which is an option of its own: give --n$"):
        load_verifier(options("--n", "2", "--kind_options", '{"n": 3}', model=genprm_dir))
    for given, said in (
        ('{"backend": "vllm"}', "names backend, which is an option of its own: give --backend$"),
        ('{"tokenizer": "X"}', "names tokenizer, which is an option of its own: give --tokenizer$"),
        ('{"batch_size": 2}', "names batch_size, which is an option of its own: give --batch_size$"),
        ('{"generator_kwargs": {}}', "names generator_kwargs, .*: give --backend_options$"),
        ('{"max_length": 50}', "is given max_length twice, also as max_context$"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_verifier(options("--batch_size", "4", "--max_context", "99", "--kind_options", given))
    for given, said in (
        ('{"step_separator": 2}', "step_separator must be a text, got 2"),
        ('{"max_length": "50"}', "max_length must be a number, got '50'"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_verifier(options("--kind_options", given))
    with pytest.raises(ConfigError, match=r"unknown kind 'prm'; choose auto, genprm, .* or give module:Class"):
        options("--kind", "prm")
    with pytest.raises(ConfigError, match="is no Verifier with from_pretrained"):
        load_verifier(options("--kind", "genprm_trl.records:Solution"))
    own = options("--kind", "genprm_trl.verifier.kinds.token_classifier:PRMScorer")
    with load_verifier(own) as scorer:
        assert isinstance(scorer, PRMScorer)
    with load_verifier(options("--n", "3", "--temperature", "0", model=genprm_dir)) as prm:
        assert isinstance(prm, GenPRM)
        assert (prm.n, prm.sampling.temperature, prm.sampling.top_k) == (3, 0, 20)


def test_the_settings_of_verdicts_name_the_kind_that_was_found(classifier_dir: Path, genprm_dir: Path) -> None:
    def decisive(model: Path, kind: str) -> object:
        return VerifierOptions(str(model), kind=kind).what_decides_verdicts()["kind"]

    assert decisive(classifier_dir, "auto") == decisive(classifier_dir, "token_classifier") == "token_classifier"
    # Runs from before there were kinds go on.
    assert decisive(genprm_dir, "auto") is None


def test_the_settings_of_verdicts_hold_the_files_of_an_ensembles_members(classifier_dir: Path, tmp_path: Path) -> None:
    member, tokenizer = directory(tmp_path / "b", size=1), directory(tmp_path / "t", size=1)
    nested = {"model": str(classifier_dir), "kind": "ensemble", "members": [str(member)]}

    def settings(members: list[Any]) -> tuple[Any, Any]:
        options = VerifierOptions(str(classifier_dir), kind="ensemble", kind_options={"members": members})
        # In a reward's configuration, too.
        reward = {"verifier": str(classifier_dir), "kind": "ensemble", "members": members}
        return options.what_decides_verdicts()["member_files"], reward_settings(reward)["verifier_member_files"]

    for changed, members in (
        (member, [str(member)]),
        (member, [{"model": str(member), "seed": 3}]),
        (tokenizer, [{"model": str(classifier_dir), "tokenizer": str(tokenizer)}]),
        (member, [str(classifier_dir), nested]),
    ):
        before = settings(members)
        assert settings(members) == before
        (changed / "config.json").write_text((changed / "config.json").read_text() + " ")
        assert settings(members)[0] != before[0]
        assert settings(members)[1] != before[1]
    assert "member_files" not in VerifierOptions(str(classifier_dir)).what_decides_verdicts()


def test_the_settings_of_verdicts_hold_the_files_of_a_reference(tmp_path: Path) -> None:
    model, named, other = (directory(tmp_path / name, size=1) for name in ("m", "r", "o"))
    StepScorerSettings("implicit", "\n\n", 0.05, reference=str(named)).save(model)

    def settings(**options: Any) -> list[Any]:
        ensemble = {"kind": "ensemble", "members": [{"model": str(model), **options}]}
        kinds = [({"kind": "auto"}, options), ({"kind": "ensemble"}, {"members": ensemble["members"]})]
        ours = [VerifierOptions(str(model), **kind, kind_options=more) for kind, more in kinds]
        reward = reward_settings({"verifier": str(model), "kind": "implicit", **options})
        return [*(each.what_decides_verdicts() for each in ours), reward, [each.reads_also() for each in ours]]

    for changed, options in ((named, {}), (other, {"reference": str(other)})):
        before = settings(**options)
        assert settings(**options) == before
        assert [Input(changed, "model") in each for each in before[-1]] == [True, True]
        (changed / "config.json").write_text((changed / "config.json").read_text() + " ")
        assert all(now != then for now, then in zip(settings(**options)[:-1], before[:-1], strict=True))
    # A folder of the model's own, which holds the adapter that training started from.
    (model / "ref").mkdir()
    (model / "ref" / "adapter_config.json").write_text("{}")
    StepScorerSettings("implicit", "\n\n", 0.05, reference="ref").save(model)
    assert Input(model / "ref", "model") in settings()[-1][0]
    assert "reference_files" not in VerifierOptions(str(other), kind="token_classifier").what_decides_verdicts()


async def test_a_verifier_is_opened_by_name_in_rewards_too(classifier_dir: Path) -> None:
    with open_verifier(classifier_dir, threshold=0.3) as scorer:
        verdict = await scorer.verify(SOLUTION)
    assert VerifierReward is GenPRMReward
    reward = VerifierReward(classifier_dir, generator_kwargs={"max_batch_size": 2})
    assert isinstance(reward.verifier, PRMScorer)
    [rewards] = await reward.step_rewards([SOLUTION.problem], [""], [SOLUTION.steps])
    assert rewards == pytest.approx(verdict.rewards, abs=1e-5)
    with pytest.raises(ConfigError, match="no option 'n', and neither has the kind token_classifier"):
        VerifierReward(classifier_dir, n=8)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_the_options_that_all_have(name: str) -> None:
    assert {"threshold", "stop", "seed", "tokenizer", "backend", "generator_kwargs"} <= {*KINDS[name].options()}


@pytest.mark.usefixtures("offline")
def test_a_reference_in_a_repository_of_the_hub_is_to_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of a Hub that has an implicit PRM whose adapter went on from another one."""
    repository = tmp_path / "models--lab--tiny"
    snapshot = save_tiny(repository / "snapshots" / ("1" * 40))
    (snapshot / "ref").mkdir()
    (snapshot / "ref" / "adapter_config.json").write_text("{}")
    StepScorerSettings("implicit", "\n\n", 0.05, reference="ref").save(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"hf download lab/tiny --local-dir DIRECTORY"):
        open_verifier("lab/tiny", "implicit")
