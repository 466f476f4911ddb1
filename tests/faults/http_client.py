"""An HTTP/1.1 connection that knows whether a request it lost can have been carried out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


class NotSent(Exception):
    """Nobody took the connection: the request was certainly not carried out."""


class NoAnswer(Exception):
    """The request went out and no whole answer came: it may have been carried out, or will be."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class HttpClient:
    """One kept-alive connection to `port` on loopback; a lost one is made anew by the next call."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, cookie: str, body: bytes = b"") -> Answer:
        """Send one request. Raises `NotSent` or `NoAnswer`; cancelling closes the connection."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        sent = False
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = self._streams or await self._connect()
                sent = True
                writer.write(head.encode() + body)
                await writer.drain()
                answer, keep = await _read_answer(reader)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise (NoAnswer if sent else NotSent)(repr(error)) from error
        except BaseException:
            self.close()
            raise
        if not keep:
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """(answer, whether the connection may be used again)."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(fields["content-length"]))
    keep = fields.get("connection", "").lower() != "close"
    return Answer(int(head[0].split(" ")[1]), body), keep
