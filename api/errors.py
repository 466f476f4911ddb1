"""
Every error a client sees, rendered in one place: `{"error": text, ...}` and its status.

Only a missing login is plain text, as real front ends expect it (facts section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from shared.errors import (
    Closed,
    Conflict,
    InvalidField,
    MoonwakeError,
    NotFound,
    Refused,
    TooManyAttempts,
    Unavailable,
)

log = structlog.get_logger()

#: A shard above its mark needs seconds to drain; a store that restarts comes back sooner.
CLOSED_RETRY_S, RETRY_S = 5, 2

Headers = Sequence[tuple[bytes, bytes]]
#: What one user or one moment sees is nobody else's: proxies have cached such lists.
NO_STORE = (b"cache-control", b"no-store")


class Unauthorized(MoonwakeError):
    """No valid login cookie."""


class Denied(MoonwakeError):
    """Who asks may not: *status* and text as real front ends know them."""

    def __init__(self, text: str = "权限不足", status: int = 401) -> None:
        super().__init__(text)
        self.status = status


class TooLarge(MoonwakeError):
    """The body is longer than any record."""


class Disconnected(Exception):
    """The client went away in the middle of its body."""


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """What every error but a missing login says; *field* and *allowed* name a broken rule."""

    error: str
    field: str | None = None
    allowed: str | None = None


class Answer:
    """A whole answer, encoded once: two ASGI messages."""

    __slots__ = ("body", "headers", "messages", "status")

    def __init__(
        self, status: int, body: bytes, kind: bytes = b"application/json", headers: Headers = ()
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        self.messages: tuple[Any, Any] = (
            {"type": "http.response.start", "status": status, "headers": self.headers},
            {"type": "http.response.body", "body": body},
        )


_UNAUTHORIZED = Answer(401, b"Unauthorized", b"text/plain; charset=utf-8")
_INTERNAL = Answer(500, orjson.dumps({"error": "Internal Server Error"}))


def answer_of(error: Exception) -> Answer:
    """What the client gets for *error*; whatever is not expected is logged and hidden."""
    for kind, tell in _TELLING:
        if isinstance(error, kind):
            return tell(error)
    log.error("request_failed", exc_info=error)
    return _INTERNAL


def handle(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler."""
    return response_of(answer_of(error))


def response_of(answer: Answer) -> Response[bytes]:
    """*answer* as Litestar sends it."""
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers)


def _unavailable(error: Unavailable) -> Answer:
    closed = isinstance(error, Closed)
    # Why a store fails is for the log: the text of a driver names hosts and ports.
    text = str(error) if closed else "Service temporarily unavailable"
    retry_s = CLOSED_RETRY_S if closed else RETRY_S
    return _refusal(503, text, headers=[(b"retry-after", b"%d" % retry_s)])


def _refusal(
    status: int,
    error: str,
    *,
    field: str | None = None,
    allowed: str | None = None,
    headers: Headers = (),
) -> Answer:
    body = msgspec.json.encode(ErrorBody(error, field, allowed))
    return Answer(status, body, headers=headers)


def _http(error: HTTPException) -> Answer:
    if error.status_code >= 500:
        log.error("request_failed", exc_info=error)
        return _INTERNAL
    headers = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
    return _refusal(error.status_code, error.detail, headers=headers)


def _too_many(error: TooManyAttempts) -> Answer:
    wait = (b"retry-after", b"%d" % error.retry_after_s)
    return _refusal(429, str(error), headers=[wait])


def _with(status: int) -> Callable[[Exception], Answer]:
    """*status* and the error's own text, which is for the user."""
    return lambda error: _refusal(status, str(error))


#: The first that fits.
_TELLING: tuple[tuple[type[Exception], Callable[[Any], Answer]], ...] = (
    (Unauthorized, lambda _: _UNAUTHORIZED),
    (InvalidField, lambda e: _refusal(400, e.error, field=e.field, allowed=e.allowed)),
    (Denied, lambda e: _refusal(e.status, str(e))),
    (NotFound, _with(404)),
    (Conflict, _with(409)),
    (Refused, _with(400)),
    (TooLarge, _with(413)),
    (Disconnected, _with(499)),  # for the figures: nobody hears it
    (TooManyAttempts, _too_many),
    (Unavailable, _unavailable),
    (HTTPException, _http),
)
