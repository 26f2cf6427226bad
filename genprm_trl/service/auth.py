"""Who may use the service: callers with the token or, without a token, callers on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from genprm_trl.errors import ConfigError
from genprm_trl.service.errors import ServiceRefusal

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "GENPRM_SERVICE_TOKEN"
_MIN_CHARACTERS = 16

_bearer = HTTPBearer(auto_error=False, description="The server's token, if it was started with one.")


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


def is_loopback(host: str) -> bool:
    """Whether an address or host name is this machine as seen from itself."""
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def require_access(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Lets a request through that carries the token.

    Without a token only requests that name this machine are taken. Otherwise a web page could reach the service under
    its own name, by resolving that name to 127.0.0.1.

    Raises:
        ServiceRefusal: 401 or 403.
    """
    expected: str | None = request.app.state.token
    if expected is None:
        if not is_loopback(request.url.hostname or ""):
            raise ServiceRefusal(
                403, "forbidden", "a server without a token answers to localhost and 127.0.0.1 alone, by these names"
            )
        return
    given = credentials.credentials if credentials is not None else ""
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode()):
        raise ServiceRefusal(
            401,
            "unauthorized",
            "the header 'Authorization: Bearer TOKEN' is missing or its token is wrong",
            headers={"WWW-Authenticate": "Bearer"},
        )
