"""Offer a GenPRM to other programs over HTTP: solutions in, verdicts out as they finish.

POST /verify takes solutions and streams verdicts, /health says whether it is ready, /metrics is for Prometheus. It
listens only on this machine unless a token guards it: put the token into the environment variable
GENPRM_SERVICE_TOKEN, or into a file that --token_file names. After SIGTERM or Ctrl-C it finishes what is in progress
and ends. `genprm_trl.client.VerifierClient` is its client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import get_args

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, MissingExtraError, check_at_least
from genprm_trl.generation.backends import Backend, local_directory
from genprm_trl.options.verifier import VerifierOptions, load_verifier
from genprm_trl.service.limits import ServiceLimits


@dataclass
class ServeOptions:
    """Where `genprm serve` listens, and how it ends."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at. Any other needs a token."})
    port: int = field(default=8000, metadata={"help": "Port to listen at; 0 takes a free one."})
    token_file: str | None = field(
        default=None,
        metadata={"help": "File with the bearer token that requests must carry. Default: $GENPRM_SERVICE_TOKEN"},
    )
    ssl_certfile: str | None = field(
        default=None, metadata={"help": "PEM file with the certificate chain for TLS. Default: plain HTTP."}
    )
    ssl_keyfile: str | None = field(
        default=None,
        metadata={"help": "PEM file with the certificate's key, without a password. Default: in ssl_certfile."},
    )
    shutdown_seconds: float = field(
        default=30.0, metadata={"help": "Seconds that requests in progress may take after SIGTERM or Ctrl-C."}
    )

    def __post_init__(self) -> None:
        check_at_least(0, shutdown_seconds=self.shutdown_seconds)


def run(options: ServeOptions, limits: ServiceLimits, verifier: VerifierOptions) -> None:
    """Serves a verifier over HTTP until a signal ends it.

    Raises:
        MissingExtraError: A package of the extra `serve` is not installed.
        ConfigError: The verifier's N is above what the limits let a request ask for, or there is no such model.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "genprm serve")

    from genprm_trl.service.app import create_app
    from genprm_trl.service.auth import read_token
    from genprm_trl.service.middleware import RequestIdFilter
    from genprm_trl.service.server import check_certificate, listen, serve

    if verifier.n > limits.max_n:
        raise ConfigError(f"--n is {verifier.n}, and requests may ask for {limits.max_n} (--max_n)")
    if verifier.backend in get_args(Backend):
        local_directory(verifier.model)  # the model is loaded while the service answers already
        verifier.found_kind()
    check_certificate(options.ssl_certfile, options.ssl_keyfile)
    token = read_token(options.token_file)
    listener = listen(options.host, options.port, guarded=token is not None)
    console.set_log_format("%(asctime)s [%(request_id)s] %(name)s: %(message)s", RequestIdFilter())
    app = create_app(limits=limits, token=token)
    asyncio.run(
        serve(
            app,
            listener,
            lambda: load_verifier(verifier),
            shutdown_seconds=options.shutdown_seconds,
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile=options.ssl_keyfile,
        )
    )
