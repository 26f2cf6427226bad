"""Opening any verifier by its name or directory: the table of kinds, and how a model's kind is found.

Another kind is a class with `from_pretrained`, and a line in `KINDS`. Torch is imported when a verifier is opened.
"""

from __future__ import annotations

import inspect
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genprm_trl.conversation.settings import SETTINGS_FILE
from genprm_trl.errors import ConfigError
from genprm_trl.generation.backends import load_class
from genprm_trl.generation.base import SamplingParams
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.scorer_settings import STEP_SCORER_FILE

AUTO = "auto"
# Not options: what every kind is given, and what stands for others.
_NO_OPTIONS = {"self", "cls", "model", "model_or_path", "generator", "args", "kwargs", "options"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of verifier, and how its checkpoints are known.

    Attributes:
        home: `module:Class` of its verifier, which has `from_pretrained`.
        architectures: Pattern of what `architectures` in `config.json` names. Empty where that says nothing.
        names: Pattern of the names of published checkpoints, with `OWNER/` on the Hub and without it for directories.
        weight: A weight that only such checkpoints have.
    """

    home: str
    architectures: str = ""
    names: str = ""
    weight: str = ""

    def load(self) -> Any:
        """The class.

        Raises:
            ConfigError: It cannot be imported, or cannot be opened.
        """
        provider = load_class(self.home, "kind")
        if not issubclass(provider, Verifier) or not hasattr(provider, "from_pretrained"):
            raise ConfigError(f"the kind {self.home} is no Verifier with from_pretrained, which open_verifier needs")
        return provider

    def options(self) -> list[str]:
        """The names of what `from_pretrained` takes besides the model."""
        provider = self.load()
        takers = [provider.from_pretrained]
        for each in inspect.getmro(provider):
            # What takes any option passes it on to the next.
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(takers[-1]).parameters.values()):
                break
            if "__init__" in vars(each):
                takers.append(vars(each)["__init__"])
        names = [name for taker in takers for name in inspect.signature(taker).parameters]
        return [name for name in dict.fromkeys(names) if name not in _NO_OPTIONS]


# In the order in which they are tried. `genprm` is also what any other causal language model is taken for.
KINDS: Mapping[str, Kind] = {
    "genprm": Kind("genprm_trl.verifier.genprm:GenPRM", names=r"(GenPRM/)?GenPRM-[0-9.]+B"),
    "thinkprm": Kind("genprm_trl.verifier.kinds.thinkprm:ThinkPRM", names=r"(launch/)?ThinkPRM-[0-9.]+B"),
    "critic": Kind("genprm_trl.verifier.kinds.critic:Critic"),
    "token_classifier": Kind(
        "genprm_trl.verifier.kinds.token_classifier:PRMScorer",
        architectures=r"\w+ForTokenClassification",
        names=r"(jinachris/)?PURE-PRM-7B|jinachris/Qwen2\.5-Math-7B-PRM800K",
    ),
    "qwen_prm": Kind(
        "genprm_trl.verifier.kinds.qwen_prm:QwenPRM",
        architectures=r"Qwen2ForProcessRewardModel",
        names=r"(Qwen/)?Qwen2\.5-Math-(PRM-\d+B|7B-PRM800K)",
    ),
    "skywork_prm": Kind(
        "genprm_trl.verifier.kinds.skywork_prm:SkyworkPRM",
        names=r"(Skywork/)?Skywork-o1-Open-PRM-.+",
        weight="v_head.summary.weight",
    ),
    "math_shepherd": Kind(
        "genprm_trl.verifier.kinds.math_shepherd:MathShepherd", names=r"(peiyi9979/)?math-shepherd-mistral-7b-prm"
    ),
    "rlhflow_prm": Kind(
        "genprm_trl.verifier.kinds.rlhflow_prm:RLHFlowPRM", names=r"(RLHFlow/)?Llama3\.1-8B-PRM-\w+-Data"
    ),
    "implicit": Kind("genprm_trl.verifier.kinds.implicit:ImplicitScorer"),
    "ppm": Kind("genprm_trl.verifier.kinds.ppm:PreferenceScorer"),
    "ensemble": Kind("genprm_trl.verifier.ensemble:Ensemble"),
}
_CAUSAL = re.compile(r"\w*(ForCausalLM|LMHeadModel|ForConditionalGeneration)")


def open_verifier(
    model: str | Path,
    kind: str = AUTO,
    *,
    tokenizer: Any = None,
    backend: str = "transformers",
    generator_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Verifier:
    """Loads a verifier of any kind; its caller closes it.

    Args:
        model: A directory, or a name on the Hub.
        kind: A name in `KINDS`, or `module:Class` of your own. `auto` finds it, see `find_kind`.
        tokenizer: The tokenizer, or where it is. Default: the model's.
        backend: What runs the model; see `generation.backends.open_generator`. Discriminative kinds know
            `transformers`, and some `vllm`.
        generator_kwargs: Passed to the backend: `device`, `dtype`, `max_batch_size`, `max_context` and others.
        **options: Options of the kind: those of its class, such as `threshold`, `stop` and `seed`, which all have.
            `sampling` may be names and values, such as `{"temperature": 0.0}`.

    Raises:
        ConfigError: The kind cannot be told, has no such option, or cannot use the model.
        MissingExtraError: The backend's package is not installed.

    Example:
        ```python
        from genprm_trl.verifier import open_verifier

        with open_verifier("Qwen/Qwen2.5-Math-PRM-7B") as verifier:
            verdicts = list(verifier.verify_all(solutions))
        ```
    """
    name = find_kind(model) if kind == AUTO else kind
    check_options(name, options)
    if isinstance(sampling := options.get("sampling"), Mapping):  # of JSON or YAML
        options["sampling"] = SamplingParams.of(sampling)
    verifier: Verifier = (
        kind_named(name)
        .load()
        .from_pretrained(
            model, tokenizer=tokenizer, backend=backend, generator_kwargs=dict(generator_kwargs or {}), **options
        )
    )
    return verifier


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ConfigError: There is none.
    """
    if name in KINDS:
        return KINDS[name]
    if ":" in name:
        return Kind(name)
    raise ConfigError(f"unknown kind {name!r}; choose {', '.join([AUTO, *KINDS])}, or give module:Class")


def check_options(kind: str, options: Iterable[str]) -> None:
    """Checks that a kind has some options.

    Args:
        kind: Its name.
        options: The options' names.

    Raises:
        ConfigError: There is no such kind, or it has no such option.
    """
    found = kind_named(kind)
    if not (options := list(options)):
        return
    known = found.options()
    for option in options:
        if option not in known:
            instead = "give another kind"
            if kind == "ensemble":
                instead = 'give it to its members: --kind_options \'{"first": {...}, "members": [{"model": ...}]}\''
            raise ConfigError(
                f"verifiers of the kind {kind} have no option '{option}'; leave it out, or {instead}. "
                f"They have {', '.join(known)}"
            )


def find_kind(model: str | Path) -> str:
    """The kind of a model, by its files and its name.

    In this order: `step_scorer.json` in its directory names the kind. `genprm.json` names the protocol that it was
    trained in, or else is a GenPRM's. `architectures` in its `config.json`, the name of a published checkpoint and
    weights can tell a kind. Any other causal language model is taken for a GenPRM, and so is a model without a
    `config.json`, whose backend may know it.

    Args:
        model: A directory, or a name on the Hub.

    Raises:
        ConfigError: It is another model, of no known kind.
    """
    files = _Files(model)
    if files.is_local:
        return _kind_of_files(files)
    name = str(model)
    if name in _found_on_hub:
        return _found_on_hub[name]
    kind = _kind_of_name(model_names(name)) or _kind_of_files(files)  # a known name spares requests
    if files.is_reachable:  # else it is a guess, and the next call may know better
        _found_on_hub[name] = kind
    return kind


_found_on_hub: dict[str, str] = {}


def _kind_of_files(files: _Files) -> str:
    config = files.json("config.json")
    architectures = [str(each) for each in (config or {}).get("architectures") or ()]
    # A `config.json` beside an adapter is the base model's.
    if (adapter := files.json("adapter_config.json")) is not None:
        config = config or adapter
        architectures = ["AdapterForTokenClassification" if adapter.get("task_type") == "TOKEN_CLS" else "ForCausalLM"]
    if (scorer := files.json(STEP_SCORER_FILE)) is not None:
        if not isinstance(named := scorer.get("kind"), str) or named not in KINDS:
            raise ConfigError(
                f"{files.model}: its {STEP_SCORER_FILE} names the kind {named!r}, which is not known here: "
                f"give --kind, one of {', '.join(KINDS)}"
            )
        return named
    if files.has(SETTINGS_FILE):
        # Of what it should not name, opening it says more.
        return "thinkprm" if (files.json(SETTINGS_FILE) or {}).get("protocol") == "thinkprm" else "genprm"
    for name, kind in KINDS.items():
        if kind.architectures and any(re.fullmatch(kind.architectures, each) for each in architectures):
            return name
    if known := _kind_of_name(model_names(files.model)):
        return known
    for name, kind in KINDS.items():
        if kind.weight and files.has_weight(kind.weight):
            return name
    if config is None or any(_CAUSAL.fullmatch(each) for each in architectures):
        return "genprm"
    named = f"names {', '.join(architectures)}" if architectures else "names no architecture"
    raise ConfigError(
        f"cannot tell what kind of verifier {files.model} is (its config.json {named}): "
        f"give --kind, one of {', '.join(KINDS)}"
    )


def _kind_of_name(names: Sequence[str]) -> str | None:
    found = (kind for kind, row in KINDS.items() if row.names and any(re.fullmatch(row.names, each) for each in names))
    return next(found, None)


def model_names(model: str | Path) -> list[str]:
    """What a model is called: its id, or its directory's name and the id of which that is the Hub's cache."""
    directory = Path(model).expanduser()
    if not directory.is_dir():
        return [str(model)]
    directory = directory.resolve()
    of_cache = directory.parent.parent.name if directory.parent.name == "snapshots" else ""
    return [directory.name, of_cache.removeprefix("models--").replace("--", "/")]


class _Files:
    """The small files of a model, in its directory or on the Hub."""

    def __init__(self, model: str | Path):
        self.model = str(model)
        self._directory = Path(model).expanduser()
        self.is_local = self._directory.is_dir()
        self.is_reachable = "/" in self.model.strip("/") and not self.model.startswith((".", "/", "~"))

    def path(self, name: str) -> Path | None:
        if self.is_local:
            path = self._directory / name
            return path if path.is_file() else None
        if not self.is_reachable:
            return None
        from transformers.utils import cached_file

        try:
            found = cached_file(
                self.model,
                name,
                _raise_exceptions_for_missing_entries=False,
            )
        except (OSError, ValueError):  # no such repository, or no connection: loading will say it better
            self.is_reachable = False
            return None
        return None if found is None else Path(found)

    def has(self, name: str) -> bool:
        return self.path(name) is not None

    def json(self, name: str) -> dict[str, Any] | None:
        path = self.path(name)
        if path is None:
            return None
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def has_weight(self, name: str) -> bool:
        """Whether a local directory's safetensors files hold a weight; their list of contents is read alone."""
        if not self.is_local:
            return False
        if (index := self.json("model.safetensors.index.json")) is not None:
            return name in index.get("weight_map", {})
        path = self.path("model.safetensors")
        if path is None:
            return False
        try:
            with path.open("rb") as file:
                [length] = struct.unpack("<Q", file.read(8))
                return name in json.loads(file.read(min(length, 100_000_000)))
        except (OSError, ValueError, struct.error):
            return False
