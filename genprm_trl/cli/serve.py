"""Offer a GenPRM to other programs over HTTP: solutions in, verdicts out as they finish.

POST /verify takes solutions and streams verdicts, /health says whether it is ready, /metrics is for Prometheus. It
listens on this machine alone unless a token guards it: put one into the environment variable GENPRM_SERVICE_TOKEN, or
into a file and name that with --token_file. SIGTERM or Ctrl-C ends it once what is in progress is finished.
`genprm_trl.verifier.client.VerifierClient` is its client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from importlib.util import find_spec

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.options.verifier import VerifierOptions, load_verifier


@dataclass
class ServeOptions:
    """Options of `genprm serve`. Those of the verifier are the defaults of requests."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at. Others need a token."})
    port: int = field(default=8000, metadata={"help": "Port to listen at; 0 takes a free one."})
    token_file: str | None = field(
        default=None,
        metadata={"help": "File with the bearer token that requests must carry. Default: $GENPRM_SERVICE_TOKEN"},
    )
    max_n: int = field(default=32, metadata={"help": "Rationales a solution that a request may ask for."})
    max_solutions: int = field(default=256, metadata={"help": "Solutions of one request."})
    max_steps: int = field(default=512, metadata={"help": "Steps of one solution."})
    max_characters: int = field(default=200_000, metadata={"help": "Characters of one solution and its problem."})
    max_body_mb: float = field(default=8.0, metadata={"help": "Size of a request's body in MiB."})
    max_requests: int = field(default=128, metadata={"help": "Requests in progress at once; more get status 429."})
    max_queue: int = field(
        default=4096, metadata={"help": "Rationales that may wait; while so many do, requests get status 429."}
    )
    shutdown_seconds: float = field(
        default=30.0, metadata={"help": "How long requests in progress may go on after SIGTERM or Ctrl-C."}
    )


def run(options: ServeOptions, verifier: VerifierOptions) -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "genprm serve")

    from genprm_trl.service.app import create_app
    from genprm_trl.service.auth import read_token
    from genprm_trl.service.limits import ServiceLimits
    from genprm_trl.service.middleware import RequestIdFilter
    from genprm_trl.service.server import listen, serve

    limits = ServiceLimits(
        max_body_bytes=int(options.max_body_mb * 2**20),
        max_solutions=options.max_solutions,
        max_steps=options.max_steps,
        max_characters=options.max_characters,
        max_n=options.max_n,
        max_requests=options.max_requests,
        max_queue=options.max_queue,
    )
    if verifier.n > limits.max_n:
        raise ConfigError(f"--n is {verifier.n}, and requests may ask for {limits.max_n} (--max_n)")
    if options.shutdown_seconds < 0:
        raise ConfigError(f"--shutdown_seconds must not be negative, got {options.shutdown_seconds}")
    token = read_token(options.token_file)
    listener = listen(options.host, options.port, guarded=token is not None)
    console.set_log_format("%(asctime)s [%(request_id)s] %(name)s: %(message)s", RequestIdFilter())
    app = create_app(limits=limits, token=token)
    asyncio.run(serve(app, listener, lambda: load_verifier(verifier), shutdown_seconds=options.shutdown_seconds))
