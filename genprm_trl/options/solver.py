"""The options that say how a model is asked for solutions, shared by `genprm rollout` and `genprm label`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genprm_trl.solving.solver import SolverSettings


@dataclass
class SolverOptions:
    """How a model is asked for solutions. A command's `run` takes it beside its own options."""

    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus filter."})
    top_k: int = field(default=0, metadata={"help": "Top-k filter; 0 is none."})
    max_tokens: int = field(default=2048, metadata={"help": "Bound on the tokens of a solution, or the rest of one."})
    system_prompt: str | None = field(
        default=None,
        metadata={
            "help": "The system message; an empty one for none. Default: to reason step by step and to put the final "
            "answer within \\boxed{}."
        },
    )
    max_requests: int = field(default=256, metadata={"help": "Requests in flight at once, in each worker."})
    seed: int = field(default=0, metadata={"help": "Rows repeat with the same seed."})

    def settings(self, chat_template: str | None) -> SolverSettings:
        """How the model is asked.

        Raises:
            ConfigError: A value is out of range.
        """
        from genprm_trl.solving.solver import SYSTEM_PROMPT, SolverSettings

        return SolverSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            system_prompt=self.system_prompt if self.system_prompt is not None else SYSTEM_PROMPT,
            chat_template=chat_template,
            max_requests=self.max_requests,
        )

    def what_decides_text(self) -> dict[str, Any]:
        """The settings that rows in one file must share, as JSON values."""
        names = ("temperature", "top_p", "top_k", "max_tokens", "system_prompt", "seed")
        return {name: getattr(self, name) for name in names}
