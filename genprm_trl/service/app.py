"""The FastAPI application: `/verify`, `/health`, `/health/live` and `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from genprm_trl.service.auth import BEARER
from genprm_trl.service.core import VerifierService
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.limits import ServiceLimits
from genprm_trl.service.middleware import RequestMiddleware
from genprm_trl.service.responses import NDJSON, VerdictResponse, wants_stream
from genprm_trl.service.schemas import VerifyRequest, parse_work
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.client import REQUEST_OPTIONS
from genprm_trl.version import __version__

_VERIFY_BODY = {"required": True, "content": {"application/json": {"schema": VerifyRequest.model_json_schema()}}}

_VERIFY_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Verdicts, and errors of single solutions.", "content": {NDJSON: {}, "application/json": {}}},
    **{
        status: {"description": text, "content": {"application/json": {}}}
        for status, text in {
            400: "The body is not JSON, or the request names no host.",
            401: "The token is missing or wrong.",
            403: "A server without a token is asked under a name that is not this machine's.",
            408: "The body did not arrive in time.",
            413: "The body is too large.",
            415: "The body has another content type or encoding.",
            422: "A row or an option cannot be used; the answer names it.",
            429: "The server is busy; Retry-After says when to come back.",
            503: "The model is being loaded, engine or sandbox fail, the server is stopping, or has no room.",
        }.items()
    },
}


def create_app(
    prm: Verifier | None = None, *, limits: ServiceLimits | None = None, token: str | None = None
) -> FastAPI:
    """The application that serves a verifier.

    It owns the verifier and closes it when it is shut down.

    Args:
        prm: Any verifier; its options are the defaults of requests. None while it is still being loaded: give it to
            `app.state.service.attach` then, and meanwhile `/health` and `/verify` answer 503.
        limits: What a caller may ask.
        token: The bearer token that requests must carry. None answers only requests that name this machine.

    Raises:
        ConfigError: The verifier asks for more chains than the limits allow.
    """
    service = VerifierService(limits or ServiceLimits())
    if prm is not None:
        service.attach(prm)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await service.close()

    app = FastAPI(
        title="genprm-trl verifier",
        version=__version__,
        lifespan=lifespan,
        # The pages would load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A redirect would lead to wherever the request's Host says.
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(RequestMiddleware, service=service, token=token)

    @app.exception_handler(ServiceRefusal)
    async def refuse(_: Request, error: ServiceRefusal) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def refuse_route(_: Request, error: HTTPException) -> Response:
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return ServiceRefusal(error.status_code, kind, str(error.detail), headers=error.headers).response()

    @app.post(
        "/verify",
        dependencies=[Depends(BEARER)],
        openapi_extra={"requestBody": _VERIFY_BODY},
        responses=_VERIFY_ANSWERS,
        summary="Judge solutions",
    )
    async def verify(request: Request) -> Response:
        """Verdicts as NDJSON lines as they finish, or as one JSON object with `verdicts` and `errors`."""
        await service.admit()
        body = await _read_body(request, service.limits)
        # In a thread, because a large body takes a while and other requests' lines should not wait for it.
        work = await asyncio.to_thread(parse_work, body, service.limits)
        wanted = work.request
        stream = wants_stream(request.headers.get("accept", "")) if wanted.stream is None else wanted.stream
        return VerdictResponse(service, service.submit(work), stream=stream, rationales=wanted.rationales)

    @app.get("/health", summary="Whether requests are accepted")
    async def health() -> Response:
        """200 once the model is loaded and as long as the engine answers and the sandbox can run code, else 503."""
        if trouble := await service.trouble():
            return JSONResponse({"status": "not_ready", "reason": trouble}, 503, {"Retry-After": "5"})
        assert service.prm is not None
        prm = service.prm
        options: dict[str, Any] = {name: getattr(prm, name) for name in REQUEST_OPTIONS if hasattr(prm, name)}
        return JSONResponse({"status": "ready", "version": __version__, "defaults": options})

    @app.get("/health/live", summary="Whether the process is alive")
    async def live() -> Response:
        """200 as long as the server answers at all, also while the model is being loaded."""
        return JSONResponse({"status": "alive"})

    @app.get("/metrics", dependencies=[Depends(BEARER)], summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _read_body(request: Request, limits: ServiceLimits) -> bytes:
    """The body, refused as soon as it is known to be too large, or not JSON at all.

    Raises:
        ServiceRefusal: 408, 413 or 415.
    """
    # Asked for by name, since a web page may send other content types to any address without being asked first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ServiceRefusal(
            415, "unsupported_media_type", "send JSON with the header 'Content-Type: application/json'"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServiceRefusal(415, "unsupported_media_type", "send the body without a content encoding")
    too_large = ServiceRefusal(
        413, "too_large", f"the body is larger than {limits.max_body_bytes:,} bytes; send fewer solutions at once"
    )
    declared = request.headers.get("content-length", "0")
    if len(declared) > 18 or (declared.isdecimal() and int(declared) > limits.max_body_bytes):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.max_body_bytes:
                    raise too_large
    except TimeoutError:
        raise ServiceRefusal(
            408,
            "timeout",
            f"the body did not arrive within {limits.body_seconds:g} s",
            headers={"Connection": "close"},
        ) from None
    return bytes(body)
