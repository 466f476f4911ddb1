"""
MySQL's wire as a proxy needs it: statements seen as they pass, errors answered in its name.

Two watches for a `TcpProxy` whose split is `packets`: one loses the connection where only
chance would, one refuses what the server never gets to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum
from weakref import WeakSet

from tests.faults.tcp_proxy import Link

_HEADER_BYTES = 4
_COM_QUERY = b"\x03"
_BEGIN, _COMMIT = b"BEGIN", b"COMMIT"


async def packets(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """A client's packets, each whole, its header (length and number) included."""
    while True:
        try:
            header = await reader.readexactly(_HEADER_BYTES)
        except asyncio.IncompleteReadError:
            return
        yield header + await reader.readexactly(int.from_bytes(header[:3], "little"))


def statement_of(packet: bytes) -> bytes:
    """The text that *packet* asks the server to run; empty for anything else."""
    is_first = packet[3:4] == b"\x00"
    return packet[5:] if is_first and packet[4:5] == _COM_QUERY else b""


def error_packet(code: int, message: str) -> bytes:
    """The server's answer to a first packet: error *code* with the general SQLSTATE."""
    body = b"\xff" + code.to_bytes(2, "little") + b"#HY000" + message.encode()
    return len(body).to_bytes(3, "little") + b"\x01" + body


class CommitLoss(Enum):
    """When the connection is lost."""

    BEFORE = "before the server gets the commit"
    AFTER = "after the server did it, before it is heard of"


class CommitKiller:
    """Loses the connections of the next *times* commits at the moment *loss* says.

    The driver commits too when it has opened a connection: only what follows a BEGIN counts.
    """

    def __init__(self, loss: CommitLoss, times: int = 1) -> None:
        self._loss = loss
        self._times = times
        self._begun: WeakSet[Link] = WeakSet()
        self.lost = 0

    async def __call__(self, link: Link, packet: bytes) -> bool:
        statement = statement_of(packet)
        if statement == _BEGIN:
            self._begun.add(link)
        if self.lost >= self._times or statement != _COMMIT or link not in self._begun:
            return False
        self.lost += 1
        await link.stop_answers()
        if self._loss is CommitLoss.AFTER:
            link.to_server.write(packet)
            await link.server.read(1)  # it answers when it is done
        link.drop()
        return True


class Refusal:
    """Answers every statement that begins with one of *starts* with error *code* itself."""

    def __init__(self, code: int, message: str, starts: tuple[bytes, ...]) -> None:
        self._answer = error_packet(code, message)
        self._starts = starts
        self.refused = 0

    async def __call__(self, link: Link, packet: bytes) -> bool:
        if not statement_of(packet).lstrip().upper().startswith(self._starts):
            return False
        self.refused += 1
        link.to_client.write(self._answer)
        await link.to_client.drain()
        return True
