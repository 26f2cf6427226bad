"""The options that say where code runs, and behind which wall: declared here for all that runs code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox.base import Sandbox
from genprm_trl.sandbox.guest.isolation import NAMES
from genprm_trl.sandbox.remedies import WALL


@dataclass(kw_only=True)
class SandboxOptions:
    """Where code runs. A command's `run` takes it, alone or as a part of other options.

    Raises:
        ConfigError: The place is neither local nor an address, or there is no such protection.
    """

    sandbox: str = field(
        default="local",
        metadata={
            "help": "Where code runs: local (this machine), or the address of a SandboxFusion server (extra: fusion).",
            "operational": True,
        },
    )
    sandbox_require: list[str] | None = field(
        default=None,
        metadata={
            "help": "Protections without which the local sandbox refuses to start, besides those that it always "
            "requires. `genprm doctor` lists all names.",
            "operational": True,
        },
    )
    allow_weak_sandbox: bool = field(
        default=False,
        metadata={
            "help": "Run code also where this machine gives no protection of files and network. Programs that a model "
            "writes may then read, change and send your files.",
            "operational": True,
        },
    )

    def __post_init__(self) -> None:
        place = self.sandbox
        if place != "local" and not place.startswith(("http://", "https://")):
            raise ConfigError(
                f"sandbox must be local or an address that starts with http:// or https://, not {place!r}"
            )
        if place != "local" and self.sandbox_require:
            raise ConfigError("sandbox_require is about this machine, not about a server")
        unknown = [name for name in self.sandbox_require or () if name not in NAMES]
        if unknown:
            raise ConfigError(f"sandbox_require: unknown protection {', '.join(unknown)}; known: {', '.join(NAMES)}")

    def required(self) -> tuple[str, ...]:
        """The protections without which the local sandbox refuses to start."""
        from genprm_trl.sandbox.local import REQUIRED

        always = [name for name in REQUIRED if not (self.allow_weak_sandbox and name in WALL)]
        return tuple(dict.fromkeys([*always, *(self.sandbox_require or ())]))

    def open_sandbox(self) -> Sandbox:
        """The sandbox; its caller closes it. Nothing is started or asked yet: see `Sandbox.check`.

        Raises:
            MissingExtraError: The client of a server is not installed.
        """
        if self.sandbox == "local":
            from genprm_trl.sandbox.local import LocalSandbox

            return LocalSandbox(required=self.required())
        from genprm_trl.sandbox.fusion import FusionSandbox

        return FusionSandbox(self.sandbox)

    @classmethod
    def of(cls, options: Any) -> SandboxOptions:
        """These options out of a mapping or another object that has them; what is missing has its default."""
        given = options if isinstance(options, Mapping) else vars(options)
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})
