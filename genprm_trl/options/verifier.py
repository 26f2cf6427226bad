"""The options that say which verifier to use, shared by every command that needs one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from genprm_trl.conversation.template import TurnOpening
from genprm_trl.generation.logprobs import RewardsFrom
from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.protocol.genprm import MODES, FirstTurn, GenPRMProtocol
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.settings import decisive

if TYPE_CHECKING:
    from genprm_trl.verifier.base import Verifier


@dataclass
class VerifierOptions(SandboxOptions, GeneratorOptions):
    """A GenPRM and its settings. A command's `run` takes it beside the command's own options."""

    model: str = field(metadata={"help": "Model directory or Hub id of the verifier.", "reads": "model"})
    n: int = field(
        default=1, metadata={"help": "Rationales sampled per solution. Their rewards are averaged (Maj@N)."}
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
    threshold: float = field(default=0.5, metadata={"help": "A step is judged wrong if its reward is below this."})
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
            "temperature, top_k and top_p. Default: sampler if the model is asked as published, else model."
        },
    )

    def __post_init__(self) -> None:
        from genprm_trl.generation.base import SamplingParams
        from genprm_trl.verifier.genprm import check_options

        GeneratorOptions.__post_init__(self)
        SandboxOptions.__post_init__(self)
        GenPRMProtocol("full" if self.mode is None else self.mode, max_step_tokens=self.max_step_tokens)
        SamplingParams(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        max_chains = "auto" if self.max_chains is None else self.max_chains
        check_options(self.n, self.threshold, self.stop, self.adaptive, max_chains, self.rewards_from)

    def needs_sandbox(self) -> bool:
        """Whether the verifier runs code, or a server is named for it that is to be asked."""
        from genprm_trl.verifier.genprm import runs_code

        return self.sandbox != "local" or runs_code(self.model, self.mode)

    def what_decides_verdicts(self) -> dict[str, Any]:
        """The settings that all verdicts of a file must share, as JSON values."""
        return {**decisive(self), **self.what_decides_text()}


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
    from genprm_trl.generation.base import SamplingParams
    from genprm_trl.verifier.genprm import GenPRM

    others = {field.name for part in (GeneratorOptions, SandboxOptions) for field in fields(part)}
    own = {field.name: getattr(options, field.name) for field in fields(VerifierOptions)}
    own = {name: value for name, value in own.items() if name not in others}
    own["sampling"] = SamplingParams(**{name: own.pop(name) for name in ("temperature", "top_p", "top_k")})
    if options.max_chains is None:
        own["max_chains"] = "auto"
    return GenPRM.from_pretrained(
        options.model,
        tokenizer=options.tokenizer,
        backend=options.backend,
        chat_template=options.chat_template(),
        template_date=options.template_date,
        generator_kwargs=options.generator_options(),
        sandbox=options.open_sandbox() if options.needs_sandbox() else None,
        **own,
    )
