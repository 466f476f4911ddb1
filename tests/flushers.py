"""A group commit without a front around it, for tests that look at single groups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from redis.asyncio import Redis

from api.group_commit import GroupCommit
from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.keys import Keys
from shared.settings import Settings
from shared.streams import Append
from tests.plays import STREAM, append_of, save


@dataclass(slots=True)
class Flusher:
    """A group commit over one Redis, and the sizes of the groups it sent."""

    group_commit: GroupCommit
    settings: Settings
    keys: Keys
    groups: list[float] = field(default_factory=list)

    def event(self, content_id: str = "1", user: str = "ann", note: str = "") -> Append:
        given = save(user, content_id, note=note)
        return append_of(self.keys, self.settings.shards, given)

    def append(self, event: Append) -> asyncio.Task[None]:
        return asyncio.create_task(self.group_commit.append(event))


def flusher(
    settings: Settings,
    redis: Redis,
    *,
    timeout_s: float = 2.0,
    queue_events_max: int = 10_000,
    ack: str = "memory",
) -> Flusher:
    keys = Keys(settings.key_prefix)
    groups: list[float] = []
    connection = AppendConnection(redis, keys, STREAM, timeout_s=timeout_s, ack=ack)
    commit = GroupCommit(connection, groups.append, queue_events_max=queue_events_max)
    return Flusher(commit, settings, keys, groups)


@asynccontextmanager
async def running(it: Flusher) -> AsyncIterator[None]:
    task = asyncio.create_task(it.group_commit.run())
    try:
        yield
    finally:
        it.group_commit.stop()
        await task


async def ids_in(it: Flusher, redis: Redis) -> list[str]:
    """The content ids in all streams, in the order of each."""
    found: list[str] = []
    for shard in range(it.settings.shards):
        for _, fields in await redis.xrange(it.keys.stream(STREAM, shard)):
            found.append(fields[1].split(b'"id":"')[1].split(b'"')[0].decode())
    return found


async def outcome_of(task: asyncio.Task[None]) -> str:
    try:
        await task
    except AppendRefused as error:
        return str(error)
    return "kept"


@asynccontextmanager
async def slowed(url: str, pieces: Callable[[bytes], AsyncIterator[bytes]]) -> AsyncIterator[str]:
    """The address of a way to *url* on which what is sent passes in *pieces*."""
    address = urlsplit(url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(address.hostname, address.port)
        back = asyncio.create_task(_copy(far_reader, writer))
        while sent := await reader.read(1_000_000):
            async for piece in pieces(sent):
                far_writer.write(piece)
                await far_writer.drain()
        far_writer.close()
        await back

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield address._replace(netloc=address.netloc.replace(str(address.port), str(port))).geturl()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while answered := await reader.read(1_000_000):
        writer.write(answered)
    writer.close()
