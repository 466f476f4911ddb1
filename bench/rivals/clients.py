"""HTTP clients that remember which events were acknowledged, by nonce."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from bench.rivals.heartbeats import PATH, body, cookie_of, record
from bench.wrk import CONNECTIONS

_AGAIN_S = 0.02
_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Beat:
    """One event to send; *nonce* goes as its save_time, which every contender keeps."""

    nonce: int
    key: int
    index: int
    play_time: int

    @property
    def fields(self) -> dict[str, object]:
        return record(self.key, self.index, self.play_time, self.nonce)

    @property
    def request(self) -> bytes:
        content = body(self.key, self.fields)
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie_of(self.key)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class Clients:
    """64 connections that send events, each once, whatever becomes of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        #: Nonces of the events that were answered with 200.
        self.acknowledged: set[int] = set()
        #: Statuses of all other answers.
        self.refusals: list[int] = []

    async def send(self, beats: Iterator[Beat]) -> None:
        """Send all of *beats*, each connection the next one as soon as it has an answer."""
        await asyncio.gather(*(self._connection(beats) for _ in range(CONNECTIONS)))

    async def _connection(self, beats: Iterator[Beat]) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for beat in beats:
            while streams is None:
                try:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(_AGAIN_S)
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    status = await _exchange(*streams, beat.request)
            except (OSError, EOFError, TimeoutError):
                streams[1].close()
                streams = None
            else:
                if status == 200:
                    self.acknowledged.add(beat.nonce)
                else:
                    self.refusals.append(status)
        if streams is not None:
            streams[1].close()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    """The status that *request* is answered with."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, rest = head.partition(b"content-length:")
    await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    return int(head.split(b" ", 2)[1])
