"""The options of a policy beside a verifier: where its text comes from and how it is asked, each with a prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genprm_trl.options.generator import GeneratorOptions
from genprm_trl.options.solver import SolverOptions

if TYPE_CHECKING:
    from genprm_trl.generation.base import Generator
    from genprm_trl.solving.solver import SolverSettings


@dataclass
class PolicyOptions:
    """A policy and how it is asked. A command's `run` takes it beside the verifier's options."""

    policy: str = field(metadata={"help": "Model directory or Hub id of the policy, which writes solutions."})
    policy_backend: str = field(
        default="transformers", metadata={"help": "What generates the policy's text; as --backend is the verifier's."}
    )
    policy_server_url: list[str] | None = field(
        default=None, metadata={"help": "Base URLs of servers that have the policy, for --policy_backend server."}
    )
    policy_tokenizer: str | None = field(
        default=None, metadata={"help": "Where to load the policy's tokenizer from. Default: the policy."}
    )
    policy_max_context: int | None = field(
        default=None, metadata={"help": "Bound on the tokens of the policy's conversation. Default: the model's."}
    )
    policy_batch_size: int | None = field(
        default=None, metadata={"help": "Requests the policy's generator (or each server) works on at once."}
    )
    policy_device: str | None = field(default=None, metadata={"help": "Device of the policy, e.g. cuda:1."})
    policy_dtype: str = field(default="auto", metadata={"help": "Precision of the policy's weights, e.g. bfloat16."})
    policy_backend_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Further arguments of the policy's generator, as a mapping."}
    )
    policy_chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the policy's chat template."}
    )
    policy_temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the policy."})
    policy_top_p: float = field(default=1.0, metadata={"help": "Nucleus filter of the policy."})
    policy_top_k: int = field(default=0, metadata={"help": "Top-k filter of the policy; 0 is none."})
    policy_max_tokens: int = field(default=2048, metadata={"help": "Bound on the tokens that one request asks for."})
    policy_system_prompt: str | None = field(
        default=None,
        metadata={
            "help": "The policy's system message; an empty one for none. Default: to reason step by step and to put "
            "the final answer within \\boxed{}."
        },
    )
    policy_max_requests: int = field(default=256, metadata={"help": "Requests to the policy in flight at once."})

    def generator(self) -> GeneratorOptions:
        """The options of the policy's generator."""
        return GeneratorOptions(
            model=self.policy,
            backend=self.policy_backend,
            server_url=self.policy_server_url,
            tokenizer=self.policy_tokenizer,
            max_context=self.policy_max_context,
            batch_size=self.policy_batch_size,
            device=self.policy_device,
            dtype=self.policy_dtype,
            backend_options=self.policy_backend_options,
            chat_template_path=self.policy_chat_template_path,
        )

    def _solver(self) -> SolverOptions:
        return SolverOptions(
            temperature=self.policy_temperature,
            top_p=self.policy_top_p,
            top_k=self.policy_top_k,
            max_tokens=self.policy_max_tokens,
            system_prompt=self.policy_system_prompt,
            max_requests=self.policy_max_requests,
        )

    def opener(self) -> Callable[[], Generator]:
        """Opens the policy's generator when it is called.

        Raises:
            ConfigError: Its options contradict one another.
        """
        return self.generator().opener()

    def settings(self) -> SolverSettings:
        """How the policy is asked.

        Raises:
            ConfigError: A value is out of range, or the chat template cannot be read.
        """
        return self._solver().settings(self.generator().chat_template())

    def what_decides_text(self) -> dict[str, Any]:
        """The settings that rows in one file must share, as JSON values. The seed is the command's."""
        settings = {**self.generator().what_decides_text(), **self._solver().what_decides_text()}
        del settings["seed"]
        return {f"policy_{name}": value for name, value in settings.items()}
