"""A verifier from a mapping of arguments, as the harness's command line gives them: in this process or a server's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genprm_trl._loops import run
from genprm_trl.errors import ConfigError
from genprm_trl.options.parser import OptionParser
from genprm_trl.options.verifier import VerifierOptions, ask_servers, load_verifier
from genprm_trl.rows.secrets import mask
from genprm_trl.verifier.client import REQUEST_OPTIONS, VerifierClient

if TYPE_CHECKING:
    from genprm_trl.verifier.base import Verifier

NEEDS_ALL_STEPS = "this task scores every step, so the verifier must judge all of them: leave out stop=first_error"
_SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Judge:
    """Which verifier judges, and how it is asked.

    Attributes:
        options: The options of `genprm verify`, of a verifier in this process; None for one on servers.
        servers: Addresses of `genprm serve`.
        requested: What servers are asked for.
    """

    options: VerifierOptions | None
    servers: tuple[str, ...] = ()
    requested: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _opened: list[Verifier] = dataclasses.field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, arguments: Mapping[str, Any], where: str = "--model_args") -> Judge:
        """Checks the arguments.

        Args:
            arguments: `pretrained` (or `model`) and any option of `genprm verify`; or `server`, an address of
                `genprm serve` or several with blanks between, and n, mode, stop, adaptive, threshold, seed.
            where: What messages call the arguments.

        Raises:
            ConfigError: An argument is unknown, missing or of the wrong type.
        """
        given = dict(arguments)
        servers = given.pop("server", None)
        if servers is not None:
            listed = servers.split() if isinstance(servers, str) else servers
            if not isinstance(listed, list) or not listed or not all(isinstance(url, str) for url in listed):
                raise ConfigError(f"{where}: server must be the address of a `genprm serve`, not {servers!r}")
            for name in given:
                if name not in REQUEST_OPTIONS:
                    raise ConfigError(
                        f"{where}: '{name}' is the server's to say; a request may have {', '.join(REQUEST_OPTIONS)}"
                    )
            # Checked here, since a server would refuse it only after a policy has sampled all solutions.
            return cls(None, tuple(listed), _checked(given, where))
        if "pretrained" in given:
            given["model"] = given.pop("pretrained")
        if not given.get("model"):
            raise ConfigError(f"{where}: needs pretrained=MODEL, or server=URL of a `genprm serve`")
        return cls(VerifierOptions(**_checked(given, where)))

    def settings(self) -> dict[str, Any]:
        """What decides the verdicts, as JSON values without secrets."""
        if self.options is not None:
            self.options.freeze_date()
            decisive = self.options.what_decides_verdicts()
        else:
            decisive = {"server": list(self.servers), **self.requested}
        masked: dict[str, Any] = mask(decisive)
        return masked

    def check_all_steps(self) -> None:
        """Checks that every step is judged, for a task that scores them all.

        Raises:
            ConfigError: The settings leave out steps.
        """
        if self.settings().get("stop") == "first_error":
            raise ConfigError(NEEDS_ALL_STEPS)

    def with_sampling(self, changes: Mapping[str, Any]) -> Judge:
        """The judge with another temperature, top_p or top_k.

        Raises:
            ConfigError: Another setting is to change, or the judge is on a server.
        """
        if not changes:
            return self
        for name in changes:
            if name not in _SAMPLING:
                raise ConfigError(
                    f"--gen_kwargs: the model genprm takes {', '.join(_SAMPLING)}, not '{name}'; everything else is a "
                    "model argument, such as max_step_tokens"
                )
        if self.options is None:
            raise ConfigError("--gen_kwargs: sampling is the server's to say")
        values = _checked(changes, "--gen_kwargs")
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **values), _opened=[])

    def wait_until_ready(self, seconds: float) -> None:
        """Waits for every server; a model in this process, which is loaded later, is checked where that is quick.

        A verifier that generates on servers is opened for good, so that they are tried out once.

        Raises:
            ServiceError: A server is not ready after so many seconds.
            ConfigError: The model, a server or the sandbox cannot be used.
        """
        if self.options is not None:
            self.options.check_model()
            self.options.freeze_date()
            if self.options.backend == "server":
                self._opened.append(load_verifier(self.options))
            else:
                ask_servers(self.options)
            return
        run(VerifierClient(list(self.servers)).wait_until_ready(seconds))

    def open(self) -> Verifier:
        """The verifier, ready to judge; its caller closes it."""
        if self._opened:
            return self._opened.pop()
        if self.options is not None:
            return load_verifier(self.options)
        return VerifierClient(list(self.servers), **self.requested)


def _checked(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments as options of `genprm verify`, with the same checks; the harness reads `n=8` as a number."""
    given: dict[str, Any] = {"model": "", **arguments}
    # The harness splits at commas, so what an option has several of is set apart by blanks.
    for name in ("server_url", "sandbox_require"):
        if isinstance(words := given.get(name), str):
            given[name] = words.split()
    [options] = OptionParser([VerifierOptions], prog="the model genprm").parse([], given, where)
    return {name: getattr(options, name) for name in arguments}
