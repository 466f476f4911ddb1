"""Players: HTTP clients that post their positions at a steady pace, and note every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from urllib.parse import urlsplit

import orjson

from bench.servers import OWNER, RunFailed
from bench.workload import CONTENTS_PER_USER, key_of, record
from shared.cookies import sign

CONNECTIONS = 32
#: A player's heartbeat comes every five seconds.
HEARTBEAT_S = 5
_TIMEOUT_S = 10
_SIGNED_MS = 1_716_000_000_000


class Heartbeats:
    """A load of *events_per_s*, each player posting every `HEARTBEAT_S`."""

    def __init__(self, url: str, events_per_s: int) -> None:
        self._address = urlsplit(url)
        self._events_per_s = events_per_s
        self._players = events_per_s * HEARTBEAT_S
        self._requests = _requests(self._players)
        self._stopping = False
        self.acknowledged = 0
        self.refused = 0
        #: Of the answers since they were last taken.
        self._waits_ms: list[float] = []

    def stop(self) -> None:
        self._stopping = True

    def take_waits_ms(self) -> list[float]:
        """How long each answer took since this was last called."""
        taken, self._waits_ms = self._waits_ms, []
        return taken

    async def run(self) -> None:
        """Post until `stop` is called. Raises `RunFailed` if the front goes away."""
        begun_s = time.monotonic()
        due = count()
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(CONNECTIONS):
                    clients.create_task(self._client(begun_s, due))
        except ExceptionGroup as errors:
            raise RunFailed(f"the front went away: {errors.exceptions[0]!r}") from errors

    async def _client(self, begun_s: float, due: Iterator[int]) -> None:
        """One connection: the next event that is due, then the next."""
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        try:
            while not self._stopping:
                number = next(due)
                early_s = begun_s + number / self._events_per_s - time.monotonic()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                await self._post(reader, writer, next(self._requests))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _post(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> None:
        sent_s = time.monotonic()
        writer.write(request)
        async with asyncio.timeout(_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(head))
        self._waits_ms.append((time.monotonic() - sent_s) * 1000)
        if head.startswith(b"HTTP/1.1 200 "):
            self.acknowledged += 1
        else:
            self.refused += 1


def _length(head: bytes) -> int:
    """The body's length in an answer's *head*."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise RunFailed(f"an answer without a length: {head!r}")


def _requests(players: int) -> Iterator[bytes]:
    """Every player's heartbeat in turn, without end; each watches one content."""
    heads = [_head(player) for player in range(players)]
    for beat in count(1):
        for player, head in enumerate(heads):
            number = player * CONTENTS_PER_USER
            _, source, content_id = key_of(number)
            given = record(number, beat * HEARTBEAT_S, _SIGNED_MS)
            body = orjson.dumps({"key": f"{source}+{content_id}", "record": given})
            yield b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def _head(player: int) -> bytes:
    user, *_ = key_of(player * CONTENTS_PER_USER)
    cookie = sign(user, "user", OWNER["PASSWORD"], _SIGNED_MS)
    return (
        "POST /api/playrecords HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Cookie: user_auth={cookie}\r\nContent-Type: application/json\r\n"
    ).encode()
