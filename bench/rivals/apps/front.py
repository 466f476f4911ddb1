"""The HTTP front of every rival in Python: check, hand on, answer once that has returned."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, NamedTuple

import msgspec

from shared import events
from shared.cookies import verify
from shared.errors import InvalidField
from shared.events import PlayRecord
from shared.settings import Settings, from_env

_OK = b'{"success":true}'


class Heartbeat(NamedTuple):
    """One accepted event: checked, and as the JSON that queues carry."""

    user: str
    source: str
    content_id: str
    record: PlayRecord
    body: bytes
    ms: int


Accept = Callable[[Heartbeat], Awaitable[None]]
#: Opens what a rival needs, and gives what it does with an event.
Opened = Callable[[Settings], AbstractAsyncContextManager[Accept]]


class _Body(msgspec.Struct):
    key: str
    record: msgspec.Raw


_decode = msgspec.json.Decoder(_Body).decode


class Front:
    """An ASGI app that answers 200 once the rival has accepted the event."""

    def __init__(self, opened: Opened) -> None:
        self._settings = from_env()
        self._opened = opened
        self._stack = AsyncExitStack()
        self._accept: Accept | None = None
        self._known: dict[bytes, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, content = await self._answer(scope, receive)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(content)),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Any, receive: Any) -> tuple[int, bytes]:
        body = b"".join([part async for part in _parts(receive)])
        if scope["method"] != "POST":
            return 404, b'{"error":"Not found"}'
        user = self._user(scope["headers"])
        if user is None or self._accept is None:
            return 401, b'{"error":"Unauthorized"}'
        try:
            heartbeat = heartbeat_of(user, body)
        except (InvalidField, *events.UNREADABLE) as error:
            return 400, msgspec.json.encode({"error": str(error)})
        await self._accept(heartbeat)
        return 200, _OK

    def _user(self, headers: Any) -> str | None:
        cookie = next((value for name, value in headers if name == b"cookie"), b"")
        known = self._known.get(cookie)
        if known is None and (known := verify(cookie, self._settings.password)) is not None:
            self._known[cookie] = known
        return known

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self._accept = await self._stack.enter_async_context(self._opened(self._settings))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def heartbeat_of(user: str, body: bytes) -> Heartbeat:
    """The event in a request's *body*. Raises `InvalidField` or what msgspec raises."""
    request = _decode(body)
    record, raw = events.check_record(bytes(request.record))
    source, content_id = events.split_key(request.key)
    entry, _ = events.encode_save(user, source, content_id, raw)
    return Heartbeat(user, source, content_id, record, entry, time.time_ns() // 1_000_000)


async def _parts(receive: Any) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)
