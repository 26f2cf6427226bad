"""Who may use the service: callers with the token or, without a token, callers on this machine."""

from __future__ import annotations

import hmac
import logging
import os
import re
from pathlib import Path

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from genprm_trl.errors import ConfigError
from genprm_trl.generation.replicas import is_loopback
from genprm_trl.service.errors import ServiceRefusal

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "GENPRM_SERVICE_TOKEN"
_MIN_CHARACTERS = 16

# What a server with a token answers without it: probes have none.
OPEN_PATHS = ("/health", "/health/live")
# For /openapi.json alone; `check_access` checks.
BEARER = HTTPBearer(auto_error=False, description="The server's token, if it was started with one.")

_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*\.?))(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


def read_token(path: str | None = None) -> str | None:
    """The token from a file or, without one, from the environment variable GENPRM_SERVICE_TOKEN; None if neither.

    It is never taken from the command line, which every user of a machine can read.

    Raises:
        ConfigError: The file cannot be read, or the token is empty, too short to be safe, or not printable ASCII.
    """
    if path is not None:
        where = path
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
            if Path(path).stat().st_mode & 0o077:
                logger.warning("other users of this machine may read the token in %s (chmod 600 makes it yours)", path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token file {path} cannot be read: {error}") from None
    else:
        where = TOKEN_VARIABLE
        if TOKEN_VARIABLE not in os.environ:
            return None
        token = os.environ[TOKEN_VARIABLE].strip()
    if len(token) < _MIN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token in {where} must be at least {_MIN_CHARACTERS} printable ASCII characters without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


def check_access(scope: Scope, token: str | None) -> None:
    """Lets a request through that may be answered.

    With a token, requests must carry it; those for the server's health need not. Without one, only requests that name
    this machine are taken, whatever they ask for. Otherwise a web page could reach the service under its own name, by
    resolving that name to 127.0.0.1.

    Args:
        scope: The request (ASGI). Its headers are read as they came.
        token: The server's token, or None.

    Raises:
        ServiceRefusal: 400, 401 or 403.
    """
    headers = Headers(scope=scope)
    hosts = [_host_of(given) for given in headers.getlist("host")]
    if len(hosts) != 1 or hosts[0] is None:
        raise ServiceRefusal(400, "invalid_request", "the request needs one header 'Host: NAME' or 'Host: NAME:PORT'")
    if not scope["path"].startswith("/"):  # a proxy's form, whose host counts in place of the header's
        raise ServiceRefusal(400, "invalid_request", "the request must name a path, such as /verify")
    if token is None:
        origins = [_host_of(re.sub("^https?://", "", origin)) for origin in headers.getlist("origin")]
        if not all(host is not None and is_loopback(host) for host in [*hosts, *origins]):
            raise ServiceRefusal(
                403, "forbidden", "a server without a token answers to localhost and 127.0.0.1 alone, by these names"
            )
        return
    if scope["path"] in OPEN_PATHS:
        return
    given = headers.getlist("authorization")
    scheme, _, presented = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not hmac.compare_digest(presented.strip().encode(), token.encode()):
        raise ServiceRefusal(
            401,
            "unauthorized",
            "the header 'Authorization: Bearer TOKEN' is missing or its token is wrong",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _host_of(authority: str) -> str | None:
    """The host of `HOST` or `HOST:PORT`, without the brackets of an IPv6 address; None if it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not 1 <= int(match["port"] or 1) <= 65535:
        return None
    return match["address"] or match["name"]
