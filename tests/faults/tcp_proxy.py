"""
A TCP proxy under a test's control: one loopback address before whatever stands behind it.

What clients meet is decided from outside, while they are connected: nothing, a lost
connection, a silence, late replies, half replies, or another server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

CHUNK_BYTES = 65_536

#: How a client's bytes are taken apart: `chunks` as they come, or a protocol's messages.
Split = Callable[[asyncio.StreamReader], AsyncIterator[bytes]]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Link:
    """One client's connection and the one made to the server for it."""

    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    answering: asyncio.Task[None] | None = None

    async def stop_answers(self) -> None:
        """From now on nothing the server says reaches the client; `server` may be read."""
        if self.answering is not None:
            self.answering.cancel()
            await asyncio.wait([self.answering])

    def drop(self) -> None:
        """Reset both connections, whatever is on its way."""
        self.to_client.transport.abort()
        self.to_server.transport.abort()


#: Sees every message before the server does; True: it was dealt with and is not passed on.
Watch = Callable[[Link, bytes], Awaitable[bool]]


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Bytes as they arrive."""
    while data := await reader.read(CHUNK_BYTES):
        yield data


class TcpProxy:
    """Listens on `port` once started and leads to `target_port` on loopback.

    `target_port`, `refusing`, `delay_replies_s` and `watch` may be set at any time; a new
    target is for new connections (`drop_all` sends the old ones there).
    """

    def __init__(self, target_port: int, split: Split = chunks) -> None:
        self.target_port = target_port
        #: New connections are closed at once.
        self.refusing = False
        self.delay_replies_s = 0.0
        self.watch: Watch | None = None
        #: Replies delayed, and replies cut half-way, so far.
        self.delayed = 0
        self.cut = 0
        self._cut_after_bytes: int | None = None
        self._split = split
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where clients connect."""
        assert self._listener is not None, "the proxy is not started"
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    @property
    def links(self) -> int:
        """How many connections it serves now."""
        return len(self._links)

    @property
    def source_ports(self) -> set[int]:
        """The ports that the server sees its clients come from."""
        return {link.to_server.get_extra_info("sockname")[1] for link in self._links}

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Drop everything and listen no more."""
        if self._listener is not None:
            self._listener.close()
        self.refusing = True
        self.thaw()
        self.drop_all()
        await asyncio.gather(*self._serving)

    # --- what clients meet ---------------------------------------------------------

    def drop_all(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self._links)
        for link in links:
            link.drop()
        return len(links)

    def freeze(self) -> None:
        """Pass nothing on, either way; connections stay open."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what was held back, and all that follows."""
        self._flowing.set()

    def cut_replies(self, after_bytes: int) -> None:
        """Each reply longer than *after_bytes* ends there, and its connection with it."""
        self._cut_after_bytes = after_bytes

    def heal(self) -> None:
        """Back to a plain wire; connections that were lost stay lost."""
        self.refusing = False
        self.delay_replies_s = 0.0
        self.watch = None
        self._cut_after_bytes = None
        self.thaw()

    # --- the two directions ----------------------------------------------------------

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(client, to_client))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self.refusing:
            to_client.transport.abort()
            return
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            to_client.transport.abort()
            return
        if self.refusing:  # since a moment ago
            to_client.transport.abort()
            to_server.transport.abort()
            return
        link = Link(client, to_client, server, to_server)
        self._links.add(link)
        link.answering = asyncio.create_task(self._answer(link))
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._ask(link)
        finally:
            await link.stop_answers()
            link.drop()
            self._links.discard(link)

    async def _ask(self, link: Link) -> None:
        async for message in self._split(link.client):
            await self._flowing.wait()
            if self.watch is not None and await self.watch(link, message):
                continue
            link.to_server.write(message)
            await link.to_server.drain()

    async def _answer(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while reply := await link.server.read(CHUNK_BYTES):
                await self._flowing.wait()
                if self.delay_replies_s:
                    self.delayed += 1
                    await asyncio.sleep(self.delay_replies_s)
                if self._cut_after_bytes is not None and len(reply) > self._cut_after_bytes:
                    self.cut += 1
                    link.to_client.write(reply[: self._cut_after_bytes])
                    break
                link.to_client.write(reply)
                await link.to_client.drain()
        # The client hears what is written so far, then the end.
        link.to_client.close()


@contextlib.asynccontextmanager
async def running_proxy(target_port: int, split: Split = chunks) -> AsyncIterator[TcpProxy]:
    """A proxy that listens while the block lasts."""
    proxy = TcpProxy(target_port, split)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
