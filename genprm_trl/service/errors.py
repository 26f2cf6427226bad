"""The service's error answers: one JSON shape for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from genprm_trl.rows.jsonl import encode_line


class ServiceRefusal(Exception):
    """A request that is not carried out.

    Args:
        status: HTTP status code.
        kind: A word for programs: `invalid_request`, `too_large`, `busy`, `not_ready`, ...
        message: A sentence for the caller.
        row: The row of `solutions` at fault, from 1; None if none is.
        field: The field at fault; None if none is.
        retry_after: Seconds after which trying again may help.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        row: int | None = None,
        field: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.row, self.field, self.retry_after = row, field, retry_after
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Returns the refusal as an HTTP response: the error as JSON, and Retry-After in whole seconds if known."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.row is not None:
            error["row"] = self.row
        if self.field is not None:
            error["field"] = self.field
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        # Messages may quote a caller's field names, which need not be valid Unicode: `encode_line` copes.
        return Response(encode_line({"error": error}), self.status, headers, media_type="application/json")
