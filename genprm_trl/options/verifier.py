"""The options that say which verifier to use, shared by every command that needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genprm_trl.conversation.template import TurnOpening, today
from genprm_trl.errors import ConfigError
from genprm_trl.generation.logprobs import RewardsFrom
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.protocol.genprm import MODES, FirstTurn, GenPRMProtocol
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.outputs import Input, inputs
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.settings import decisive
from genprm_trl.verifier.opening import AUTO, KINDS, check_options, find_kind, kind_named, open_verifier
from genprm_trl.verifier.scorer_settings import found_reference, load_scorer_settings

if TYPE_CHECKING:
    from genprm_trl.verifier.base import Verifier


_SAMPLING = ("temperature", "top_p", "top_k")
# What every verifier has; other options are the kind's, whose module has to be imported to know them.
_OF_ALL_KINDS = {"threshold", "stop", "seed"}
DEFAULT_THRESHOLD = 0.5
# Arguments of kinds for which options with another name stand.
_OTHER_NAMES = {
    "generator_kwargs": "backend_options",
    "chat_template": "chat_template_path",
    "sampling": "temperature",
}


@dataclass
class VerifierOptions(SandboxOptions, GeneratorOptions):
    """A verifier and its settings. A command's `run` takes it beside the command's own options."""

    model: str = field(metadata={"help": "Model directory or Hub id of the verifier.", "reads": "model"})
    kind: str = field(
        default=AUTO,
        metadata={
            "help": f"What kind of verifier it is: {', '.join(KINDS)}, or module:Class of your own. Default: as its "
            "files or its name say."
        },
    )
    kind_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "More arguments of the kind's class, for example step_separator."}
    )
    n: int = field(
        default=1,
        metadata={
            "help": "Rationales sampled per solution, by kinds that write them. Their rewards are averaged (Maj@N)."
        },
    )
    mode: str | None = field(
        default=None,
        metadata={
            "help": f"Parts of a rationale: {', '.join(MODES)}. Default: the mode that the model was trained in."
        },
    )
    stop: Literal["never", "first_error"] = field(
        default="never", metadata={"help": "first_error: skip the steps after the first one judged wrong."}
    )
    adaptive: Literal["off", "exact"] = field(
        default="off",
        metadata={
            "help": "off: sample all N rationales. exact: stop when the others can no longer change the prediction."
        },
    )
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "A step is judged wrong if its reward is below this. Default: the one in the model's directory "
            f"(step_scorer.json), or else {DEFAULT_THRESHOLD}."
        },
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same verdicts."})
    temperature: float = field(default=0.6, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(
        default=0.95,
        metadata={"help": "Sample from the most likely tokens whose probabilities add up to this; 1: from all."},
    )
    top_k: int = field(default=20, metadata={"help": "Sample from this many of the most likely tokens; 0: from all."})
    max_step_tokens: int = field(default=2048, metadata={"help": "Maximum tokens of one step's rationale."})
    max_chains: int | None = field(
        default=None,
        metadata={
            "help": "Rationales in progress at once. Default: enough to keep the generator busy.",
            "operational": True,
        },
    )
    turn_opening: TurnOpening | None = field(
        default=None,
        metadata={
            "help": "How the model is asked. as_published: as in the published inference, for the checkpoints of the "
            "paper's authors. as_published_ids_kept: the same, but text keeps the token ids in which it was "
            "generated. Default: as the model's directory says."
        },
    )
    first_turn: FirstTurn | None = field(
        default=None, metadata={"help": "Form of the first turn. Default: as the model's directory says."}
    )
    rewards_from: RewardsFrom | None = field(
        default=None,
        metadata={
            "help": "Log-probabilities that make the rewards. model: the model's own. sampler: those after "
            "temperature, top_k and top_p. Default: sampler for a genprm that is asked as published, else model."
        },
    )

    def __post_init__(self) -> None:
        from genprm_trl.generation.base import SamplingParams
        from genprm_trl.verifier.genprm import check_options

        kind_named(self.kind if self.kind != AUTO else "genprm")
        GeneratorOptions.__post_init__(self)
        SandboxOptions.__post_init__(self)
        GenPRMProtocol("full" if self.mode is None else self.mode, max_step_tokens=self.max_step_tokens)
        SamplingParams(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        max_chains = "auto" if self.max_chains is None else self.max_chains
        threshold = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        check_options(self.n, threshold, self.stop, self.adaptive, max_chains, self.rewards_from)

    def _frozen_date(self) -> str | None:
        # Any member of an ensemble may have a template that shows the day.
        return super()._frozen_date() or (today() if self.found_kind() == "ensemble" else None)

    def found_kind(self) -> str:
        """The kind that is named, or else the model's.

        Raises:
            ConfigError: It cannot be told, or has not all of the options that are given.
        """
        kind = find_kind(self.model) if self.kind == AUTO else self.kind
        given = self.given().keys() - _OF_ALL_KINDS
        if given and "sampling" in kind_named(kind).options():
            given -= set(_SAMPLING)
        check_options(kind, sorted(given))
        return kind

    def given(self) -> dict[str, Any]:
        """The options of the verifier that have another value than the default, and those of `kind_options`.

        Raises:
            ConfigError: `kind_options` names an option of the command line, which may be given there, too.
        """
        if not isinstance(self.kind_options, Mapping):
            raise ConfigError(f"--kind_options must be names and values, got {self.kind_options!r}")
        names = {each.name: each.name for each in fields(VerifierOptions)} | _OTHER_NAMES
        for name in self.kind_options:
            if name in names:
                raise ConfigError(f"--kind_options names {name}, which is an option of its own: give --{names[name]}")
        others = {each.name for part in (GeneratorOptions, SandboxOptions) for each in fields(part)}
        own = {
            each.name: getattr(self, each.name)
            for each in fields(VerifierOptions)
            if each.name not in others and getattr(self, each.name) != each.default
        }
        own.pop("kind", None)
        own.pop("kind_options", None)
        if self.chat_template_path is not None:
            own["chat_template"] = self.chat_template()
        if self.sandbox != "local":
            own["sandbox"] = self.sandbox
        return own | self.kind_options

    def needs_sandbox(self) -> bool:
        """Whether the verifier runs code, or a server is named for it that is to be asked."""
        from genprm_trl.verifier.ensemble import may_run_code

        return self.sandbox != "local" or may_run_code(self._as_member())

    def kinds_of_models(self) -> list[tuple[str, str]]:
        """Model and kind, or those of each member of an ensemble.

        Raises:
            ConfigError: A kind cannot be told, or an option cannot be used.
        """
        from genprm_trl.verifier.ensemble import single_members

        return [(str(each["model"]), each["kind"]) for each in single_members(self._as_member())]

    def _as_member(self) -> dict[str, Any]:
        return {**self.kind_options, "model": self.model, "kind": self.found_kind(), "mode": self.mode}

    def check_model(self) -> None:
        """Finds what would keep the verifier from being opened, as far as that takes no model.

        Raises:
            ConfigError: The kind, backend, model directory, tokenizer, chat template or device cannot be used.
            MissingExtraError: The backend's package is not installed.
        """
        kind = self.found_kind()
        if kind == "genprm" or "chat_template" in kind_named(kind).options():
            super().check_model()
            return
        from genprm_trl.generation.loading import check_device, load_config, load_tokenizer

        load_tokenizer(self.model if self.tokenizer is None else self.tokenizer)
        load_config(self.model)
        check_device(self.device)

    def reads_also(self) -> list[Input]:
        """The models and files that `kind_options` names, which `inputs_of` cannot see."""
        named = self.kind_options if isinstance(self.kind_options, Mapping) else {}
        return inputs("model", paths_of_options({"kind": self.kind, "model": self.model, **named}))

    def what_decides_verdicts(self) -> dict[str, Any]:
        """The settings that all verdicts of a file must share, as JSON values."""
        kind = self.found_kind()
        # None where earlier versions, which had one kind, wrote nothing.
        of_kind = {"kind": None if kind == "genprm" else kind, "kind_options": self.kind_options or None}
        files = files_of_options({"kind": kind, "model": self.model, **self.kind_options})
        threshold = self.threshold
        if threshold is None:  # the one that the verdicts have
            saved = load_scorer_settings(self.model)
            if saved is not None and saved.kind == kind:
                threshold = saved.threshold_with(self.given())
            threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        return {**decisive(self), **self.what_decides_text(), **of_kind, **files, "threshold": threshold}


def files_of_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes of the files that arguments of `open_verifier` name besides the model, as JSON values.

    What is at a path may be another thing when a run is resumed.

    Args:
        options: The arguments, `kind` among them. A member of an ensemble may be one, too.

    Returns:
        `tokenizer_files`, `reference_files`, `prompt_text`, `member_files` and `first_files`, each if something is
        named. The reference is the one that the model's directory names, unless another one is given.

    Raises:
        ConfigError: The prompt of a critic cannot be read, or the members of an ensemble cannot be used.
    """
    found: dict[str, Any] = {}
    if isinstance(tokenizer := options.get("tokenizer"), str):
        found["tokenizer_files"] = model_fingerprint(tokenizer)
    if reference := _reference(options):
        found["reference_files"] = model_fingerprint(reference)
    if "prompt_file" in options:
        from genprm_trl.verifier.kinds.critic import read_prompt

        found["prompt_text"] = content_digest(read_prompt(options["prompt_file"]))
    if options.get("kind") == "ensemble":
        first, *others = _members(options)
        if of_first := files_of_options(first):
            found["first_files"] = of_first
        found["member_files"] = [
            {"model_files": model_fingerprint(each["model"]), **files_of_options(each)} for each in others
        ]
    return found


def paths_of_options(options: Mapping[str, Any]) -> list[str]:
    """The directories and files, or names on the Hub, that arguments of `open_verifier` name besides the model.

    Args:
        options: As for `files_of_options`.

    Raises:
        ConfigError: The members of an ensemble cannot be used.
    """
    found = [path for name in ("tokenizer", "prompt_file") if isinstance(path := options.get(name), str)]
    found += filter(None, [_reference(options)])
    if options.get("kind") == "ensemble":
        for each in _members(options):
            found += [str(each["model"]), *paths_of_options(each)]
    return [name for name in found if name]


def _reference(options: Mapping[str, Any]) -> str | None:
    """Where the reference of an implicit PRM is; None where there is none."""
    reference, model = options.get("reference"), options.get("model")
    # On the Hub nothing changes that a hash of files would show.
    if reference is None and model and Path(model).is_dir() and options.get("kind", AUTO) in (AUTO, "implicit"):
        saved = load_scorer_settings(model)
        if saved is not None and saved.kind == "implicit" and saved.reference is not None:
            return found_reference(model, saved.reference)
    return reference if isinstance(reference, str) else None


def _members(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    from genprm_trl.verifier.ensemble import named_members

    return named_members(options.get("model", ""), options.get("members"), options.get("first"))


def ask_servers(options: VerifierOptions) -> None:
    """Asks the sandbox and the servers that a verifier needs, for a command that would load another model before it.

    Raises:
        ConfigError: The sandbox, or a server that generates, cannot be used.
    """
    if options.needs_sandbox():
        options.check_sandbox()
    options.ask_servers()


def load_verifier(options: VerifierOptions) -> Verifier:
    """Loads the verifier that the options describe; its caller closes it.

    Raises:
        ConfigError: An option or the model cannot be used.
        MissingExtraError: The backend's package is not installed.
    """
    kind = options.found_kind()
    known, own = kind_named(kind).options(), options.given()
    if {name for name in _SAMPLING if own.pop(name, None) is not None}:
        from genprm_trl.generation.base import SamplingParams

        own["sampling"] = SamplingParams(**{name: getattr(options, name) for name in _SAMPLING})
    # Set by the run itself, so it says nothing of what the kind has.
    if options.template_date is not None and "template_date" in known:
        own["template_date"] = options.template_date
    if options.needs_sandbox():
        own["sandbox"] = options.open_sandbox()
    return open_verifier(
        options.model,
        kind,
        tokenizer=options.tokenizer,
        backend=options.backend,
        generator_kwargs=options.generator_options(),
        **own,
    )
