"""The options that say which verifier to use, shared by every command that needs one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from genprm_trl.errors import ConfigError
from genprm_trl.options.generator import OPERATIONAL, GeneratorOptions

if TYPE_CHECKING:
    from genprm_trl.sandbox.base import Sandbox
    from genprm_trl.verifier.genprm import GenPRM

# What changes how fast verdicts come, or where they are made, and not what they say.
_OPERATIONAL = (*OPERATIONAL, "max_chains", "sandbox")


@dataclass
class VerifierOptions(GeneratorOptions):
    """A GenPRM and how it is asked. A command's `run` takes it beside its own options."""

    n: int = field(default=1, metadata={"help": "Rationales sampled a solution and averaged (Maj@N)."})
    mode: str | None = field(
        default=None,
        metadata={
            "help": "Parts of a rationale: full, analysis_code, analysis, code_execution, code or direct. Default: "
            "what the model was trained for."
        },
    )
    stop: Literal["never", "first_error"] = field(
        default="never", metadata={"help": "first_error: do not judge what follows the first step judged wrong."}
    )
    adaptive: Literal["off", "exact"] = field(
        default="off",
        metadata={
            "help": "off: sample all N rationales. exact: stop once the others can no longer change the prediction."
        },
    )
    threshold: float = field(default=0.5, metadata={"help": "A step whose reward is below this is judged wrong."})
    seed: int = field(default=0, metadata={"help": "Verdicts repeat with the same seed."})
    temperature: float = field(default=0.6, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus filter."})
    top_k: int = field(default=20, metadata={"help": "Top-k filter; 0 is none."})
    max_step_tokens: int = field(default=2048, metadata={"help": "Bound on the tokens of one step's rationale."})
    max_chains: int | None = field(
        default=None, metadata={"help": "Rationales in flight at once. Default: what keeps the generator busy."}
    )
    sandbox: str = field(
        default="local",
        metadata={
            "help": "Where code runs: local, on this machine, or the address of a SandboxFusion server (extra: "
            "fusion)."
        },
    )
    turn_opening: str | None = field(
        default=None,
        metadata={
            "help": "How an assistant's turn opens: generation_prompt, or as_published for the checkpoints of the "
            "paper's authors. Default: what the model's directory says."
        },
    )
    first_turn: str | None = field(
        default=None, metadata={"help": "Form of the first turn: evaluation or demonstration."}
    )

    def what_decides_verdicts(self) -> dict[str, object]:
        """The settings that verdicts in one file must share, as JSON values."""
        settings = {**asdict(self), **self.what_decides_text()}
        return {name: value for name, value in settings.items() if name not in _OPERATIONAL}


def load_verifier(options: VerifierOptions) -> GenPRM:
    """The verifier that the options describe; its caller closes it.

    Raises:
        ConfigError: An option or the model cannot be used.
        MissingExtraError: The backend's package is not installed.
    """
    from genprm_trl.generation.base import SamplingParams
    from genprm_trl.verifier.genprm import GenPRM

    return GenPRM.from_pretrained(
        options.model,
        tokenizer=options.tokenizer,
        backend=options.backend,
        mode=options.mode,
        turn_opening=options.turn_opening,  # type: ignore[arg-type]
        first_turn=options.first_turn,  # type: ignore[arg-type]
        chat_template=options.chat_template(),
        generator_kwargs=options.generator_options(),
        max_step_tokens=options.max_step_tokens,
        n=options.n,
        sampling=SamplingParams(temperature=options.temperature, top_p=options.top_p, top_k=options.top_k),
        threshold=options.threshold,
        stop=options.stop,
        adaptive=options.adaptive,
        seed=options.seed,
        max_chains="auto" if options.max_chains is None else options.max_chains,
        sandbox=_open_sandbox(options.sandbox),
    )


def _open_sandbox(place: str) -> Sandbox | None:
    """The sandbox of an option; None leaves it to the verifier, which starts a local one if its mode executes code."""
    if place == "local":
        return None
    if not place.startswith(("http://", "https://")):
        raise ConfigError(f"sandbox must be local or an address that starts with http:// or https://, not {place!r}")
    from genprm_trl.sandbox import FusionSandbox

    return FusionSandbox(place)
