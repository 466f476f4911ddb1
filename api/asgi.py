"""ASGI as this front uses it: plain types, and a request's body within bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from api.errors import Disconnected, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_BYTES_MAX = 65_536


def _exceeds(digits: bytes, limit: int) -> bool:
    return len(digits) > 18 or int(digits) > limit  # Python refuses numbers of 4,301 digits


async def read_body(scope: Scope, receive: Receive, limit: int = BODY_BYTES_MAX) -> bytes:
    """The request's body. Raises `TooLarge` without reading further, or `Disconnected`."""
    for name, value in scope["headers"]:
        # What is no number is the server's to refuse; what comes is counted anyway.
        if name == b"content-length" and value.isdigit() and _exceeds(value, limit):
            raise TooLarge(f"Body over {limit} bytes")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part: bytes = message.get("body", b"")
        body = body + part if body else part
        if len(body) > limit:
            raise TooLarge(f"Body over {limit} bytes")
        if not message.get("more_body"):
            return body
