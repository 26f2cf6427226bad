"""What every request gets: an id, a check of access, a log line, metrics, and an answer even to a bug."""

from __future__ import annotations

import contextvars
import logging
import re
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genprm_trl.service.auth import check_access
from genprm_trl.service.connections import REFUSED
from genprm_trl.service.core import VerifierService
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.scheduler import log_defect

logger = logging.getLogger(__name__)
_refused_logger = logging.getLogger(REFUSED)

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("genprm_request_id", default="-")

ROUTES = ("/verify", "/health", "/health/live", "/metrics", "/openapi.json")
_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REFUSED = (400, 401, 403, 404, 405)  # what anybody can have without access
_CLIENT_GONE = 499  # nginx's number for a client that hung up; no client ever sees it


class RequestIdFilter(logging.Filter):
    """Gives every log record the id of the request it belongs to, as `request_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Sets the record's `request_id` and lets every record pass."""
        record.request_id = request_id.get()
        return True


class RequestMiddleware:
    """The outermost layer of the application.

    A caller's `X-Request-ID` is kept if it is short and plain, so that it can be followed from service to service.
    Logs hold no content of requests or answers, only the numbers that handlers leave in `state["notes"]`. A method is
    content, too, unless it is a known one.
    """

    def __init__(self, app: ASGIApp, service: VerifierService, token: str | None):
        self.app, self.service, self._token = app, service, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gives a request its id, checks, counts and times it, and logs how it ended; other scopes pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = HTTPConnection(scope).headers.get("x-request-id", "")
        identity = given if _USABLE_ID.fullmatch(given) else secrets.token_hex(8)
        token = request_id.set(identity)
        route = scope["path"] if scope["path"] in ROUTES else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        notes: dict[str, Any] = {}
        scope.setdefault("state", {})["notes"] = notes
        metrics, started, code = self.service.metrics, time.monotonic(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity.encode())]
            await send(message)

        metrics.requests_in_progress.labels(route).inc()
        self.service.requests += route == "/verify"
        try:
            check_access(scope, self._token)
            await self.app(scope, receive, send_and_note)
        except ServiceRefusal as refused:
            await refused.response()(scope, receive, send_and_note)
        except ClientDisconnect:
            code = _CLIENT_GONE
        except Exception as error:
            log_defect(f"{method} {route}", error)
            if code:  # the answer has begun: all that is left is to break it off, and the server does on an exception
                raise RuntimeError("the answer was broken off; see the error above") from None
            refusal = ServiceRefusal(500, "internal", "internal error; the server's log says where")
            await refusal.response()(scope, receive, send_and_note)
        finally:
            seconds = time.monotonic() - started
            metrics.requests_in_progress.labels(route).dec()
            self.service.requests -= route == "/verify"
            metrics.requests.labels(route, str(code)).inc()
            metrics.request_seconds.labels(route).observe(seconds)
            # Those that monitoring asks for every few seconds would drown the rest.
            level = logging.INFO if route in ("/verify", "other") else logging.DEBUG
            details = "".join(f", {name} {value}" for name, value in notes.items())
            # The message without its arguments is what a flood's lines have in common.
            shown_by = _refused_logger if code in _REFUSED else logger
            shown_by.log(level, f"{method} {route}: {code} in %.3f s%s", seconds, details)
            request_id.reset(token)
