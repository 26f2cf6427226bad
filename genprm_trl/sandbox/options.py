"""The options that say where code runs, and behind which wall: declared here for all that runs code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from genprm_trl._loops import run
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
        require = [self.sandbox_require] if isinstance(self.sandbox_require, str) else self.sandbox_require or []
        # Where lists are not at hand, one text has all names.
        self.sandbox_require = [name for text in require for name in str(text).replace(",", " ").split()] or None
        if not isinstance(self.allow_weak_sandbox, bool):
            raise ConfigError(f"allow_weak_sandbox must be true or false, not {self.allow_weak_sandbox!r}")
        if place != "local" and not str(place).startswith(("http://", "https://")):
            raise ConfigError(
                f"sandbox must be local or an address that starts with http:// or https://, not {place!r}"
            )
        if place != "local" and self.sandbox_require:
            raise ConfigError("sandbox_require is about this machine, not about a server")
        unknown = [name for name in self.sandbox_require or () if name not in NAMES]
        if unknown:
            raise ConfigError(f"sandbox_require: unknown protection {', '.join(unknown)}; known: {', '.join(NAMES)}")

    def given_sandbox(self) -> dict[str, Any]:
        """Those of these options that are not at their default, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(SandboxOptions)}
        return {each.name: values[each.name] for each in fields(SandboxOptions) if values[each.name] != each.default}

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

    def check_sandbox(self) -> None:
        """Starts a sandbox and ends it, for a command that opens it later, perhaps in other processes.

        Raises:
            ConfigError: It cannot run code.
            MissingExtraError: The client of a server is not installed.
        """
        sandbox = self.open_sandbox()

        async def check() -> None:
            try:
                await sandbox.check()
            finally:
                await sandbox.close()

        run(check())

    @classmethod
    def of(cls, options: Any) -> SandboxOptions:
        """These options out of a mapping or another object that has them; what is missing has its default."""
        given = options if isinstance(options, Mapping) else vars(options)
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})
