"""The answer to `/verify`: verdicts as lines while they finish, or all of them as one JSON object."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from genprm_trl.rows.fields import json_safe
from genprm_trl.service.core import VerifierService
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.scheduler import Batch, Failure, Outcome

NDJSON = "application/x-ndjson"


class VerdictResponse(Response):
    """Sends a batch's verdicts; cancels what is unfinished when the client goes away.

    Args:
        service: The service that took the batch.
        batch: The batch.
        stream: True for one line per verdict, False for one object with all.
        rationales: Whether verdicts hold texts and code.

    Raises:
        ServiceRefusal: When it is sent: 503 if no solution has a verdict and another attempt may bring one, unless the
            answer has begun.
    """

    def __init__(self, service: VerifierService, batch: Batch, *, stream: bool, rationales: bool):
        super().__init__(media_type=NDJSON if stream else "application/json")
        del self.headers["content-length"]
        # A proxy that buffers answers would hold the verdicts back.
        self.headers["X-Accel-Buffering"] = "no"
        self.headers["Cache-Control"] = "no-store"
        self._service, self._batch, self._stream, self._rationales = service, batch, stream, rationales

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request (ASGI)."""
        notes = scope["state"]["notes"]
        notes |= {"solutions": len(self._batch.solutions), "n": self._batch.n, "verdicts": 0, "errors": 0}
        answer = self._send_lines(send, notes) if self._stream else self._send_object(send, notes)
        try:
            await _unless_disconnected(receive, answer)
        finally:
            self._service.drop(self._batch)

    async def _send_lines(self, send: Send, notes: dict[str, Any]) -> None:
        early: list[tuple[int, Failure]] | None = []  # while nothing else has come; None once the answer has begun
        async with contextlib.aclosing(self._batch.outcomes(self._service.limits.heartbeat_seconds)) as outcomes:
            async for item in outcomes:
                if early is not None:
                    if item is not None and (failure := _passing(item[1])):
                        early.append((item[0], failure))
                        continue
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    for failed in early:
                        await self._send_line(send, _encode(self._row(*failed, notes)))
                    early = None
                await self._send_line(send, b"\n" if item is None else _encode(self._row(*item, notes)))
        if early is not None:
            raise self._unavailable(early[0][1], notes)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_object(self, send: Send, notes: dict[str, Any]) -> None:
        found: dict[int, Outcome] = {}
        async with contextlib.aclosing(self._batch.outcomes(self._service.limits.heartbeat_seconds)) as outcomes:
            async for item in outcomes:
                if item is not None:
                    found[item[0]] = item[1]
        passing = [failure for outcome in found.values() if (failure := _passing(outcome))]
        if len(passing) == len(found):
            raise self._unavailable(passing[0], notes)
        in_order = [self._row(index, found[index], notes) for index in sorted(found)]
        body = _encode(
            {
                "verdicts": [row for row in in_order if "error" not in row],
                "errors": [row for row in in_order if "error" in row],
            }
        )
        headers = [*self.raw_headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _unavailable(self, failure: Failure, notes: dict[str, Any]) -> ServiceRefusal:
        """The answer in place of one that would hold no verdict for a reason that may pass."""
        notes["errors"] = len(self._batch.solutions)
        return ServiceRefusal(503, failure.kind, failure.message, retry_after=5)

    async def _send_line(self, send: Send, line: bytes) -> None:
        await send({"type": "http.response.body", "body": line, "more_body": True})

    def _row(self, index: int, outcome: Outcome, notes: dict[str, Any]) -> dict[str, Any]:
        if isinstance(outcome, Failure):
            notes["errors"] += 1
            error = {"type": outcome.kind, "message": outcome.message}
            return {"id": self._batch.solutions[index].id, "error": error}
        notes["verdicts"] += 1
        row = outcome.to_dict()
        if not self._rationales:
            for chain in row["chains"]:
                for judgement in chain:
                    judgement |= {"rationale": "", "code_rounds": []}
        return row


def _passing(outcome: Outcome) -> Failure | None:
    return outcome if isinstance(outcome, Failure) and outcome.is_passing else None


def _encode(row: dict[str, Any]) -> bytes:
    # In ASCII: many clients split lines at whatever Unicode counts as a line's end, which JSON need not escape.
    text = json.dumps(row, allow_nan=False)
    if "\\ud" in text:  # half a surrogate pair that a program printed, perhaps
        text = json.dumps(json_safe(row), allow_nan=False)
    return text.encode() + b"\n"


async def _unless_disconnected(receive: Receive, answer: Coroutine[Any, Any, None]) -> None:
    """Carries out `answer`, and breaks it off when the client hangs up.

    Raises:
        ClientDisconnect: The client hung up.
    """
    answering = asyncio.ensure_future(answer)
    hanging_up = asyncio.ensure_future(_cancel_on_disconnect(receive, answering))
    try:
        await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() or answering.cancelled():
            raise ClientDisconnect
        answering.result()
    finally:
        for task in (answering, hanging_up):
            task.cancel()
        await asyncio.gather(answering, hanging_up, return_exceptions=True)


async def _cancel_on_disconnect(receive: Receive, answering: asyncio.Future[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()  # at once: otherwise it would go on sending to nobody, and perhaps come to its end


def wants_stream(accept: str) -> bool:
    """Whether an Accept header asks for lines rather than one object. Lines are the default."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    return NDJSON in kinds or "application/json" not in kinds
