"""A TCP proxy before MySQL that loses a connection where only chance would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import Enum

from shared.settings import Settings

#: The packet that asks for a commit: its length, its number, COM_QUERY and the text.
_COMMIT = b"\x07\x00\x00\x00\x03COMMIT"


class CommitLoss(Enum):
    """When the connection is lost."""

    BEFORE = "before the server gets the commit"
    AFTER = "after the server did it, before it is heard of"


@asynccontextmanager
async def mysql_proxy(
    settings: Settings, loss: CommitLoss
) -> AsyncIterator[tuple[Settings, list[bytes]]]:
    """(*settings* that lead through the proxy, the commits that it lost so far: at most one)."""
    losses: list[bytes] = []

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(settings.mysql_host, settings.mysql_port)
        answering = asyncio.create_task(_pass_on(server, to_client))
        try:
            while sent := await client.read(65_536):
                if sent == _COMMIT and not losses:
                    losses.append(sent)
                    answering.cancel()
                    if loss is CommitLoss.AFTER:
                        to_server.write(sent)
                        await server.read(65_536)
                    return
                to_server.write(sent)
        finally:
            to_server.close()
            to_client.close()
            await asyncio.wait([answering])

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield replace(settings, mysql_host="127.0.0.1", mysql_port=port), losses


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        target.write(data)
    target.close()
