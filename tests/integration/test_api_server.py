"""The front behind a real server: bodies in pieces, too long, broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import pytest
import uvicorn
from redis.asyncio import Redis

from api.app import App
from api.asgi import BODY_BYTES_MAX
from ops.servers import free_port
from shared.cookies import sign
from shared.keys import Keys, shard_of
from shared.settings import Settings
from tests.plays import STREAM, record
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Server:
    """A listening front."""

    settings: Settings
    port: int

    def head(self, *headers: str, target: str = "/api/playrecords") -> bytes:
        """A POST's request line and headers, by ann."""
        cookie = "cookie: user_auth=" + sign("ann", "user", self.settings.password, 0)
        return "\r\n".join(
            [f"POST {target} HTTP/1.1", "host: front", cookie, *headers, "", ""]
        ).encode()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture(name="server")
async def _server(settings: Settings) -> AsyncIterator[Server]:
    port = free_port()
    app = App(settings)
    config = uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started, "the server listens")
    yield Server(settings, port)
    server.should_exit = True
    await serving


async def answer_in(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(status, body) of the next answer on a connection."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        [length] = [
            int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")
        ]
        return int(head.split(b" ")[1]), await reader.readexactly(length)


async def length_of(server: Server, redis: Redis) -> int:
    keys = Keys(server.settings.key_prefix)
    return int(await redis.xlen(keys.stream(STREAM, shard_of("ann", server.settings.shards))))


def body_of(size: int) -> bytes:
    """A valid body of exactly *size* bytes."""
    empty = orjson.dumps({"key": "s+1", "record": record(note="")})
    return orjson.dumps({"key": "s+1", "record": record(note="x" * (size - len(empty)))})


def chunked(body: bytes, size: int) -> list[bytes]:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]


async def test_a_body_over_64_kb_is_refused_before_it_is_sent(server: Server, redis: Redis) -> None:
    """413 comes for the announced length alone; the connection goes on once it is skipped."""
    size = BODY_BYTES_MAX + 1
    async with server.connection() as (reader, writer):
        writer.write(server.head(f"content-length: {size}"))
        status, told = await answer_in(reader)
        assert (413, {"error": "Body over 65536 bytes"}) == (status, orjson.loads(told))

        good = body_of(400)
        writer.write(b"x" * size + server.head("content-length: 400") + good)
        assert 200 == (await answer_in(reader))[0]
    assert 1 == await length_of(server, redis)


async def test_the_longest_body_allowed_is_taken(server: Server, redis: Redis) -> None:
    """Exactly 64 KB passes."""
    async with server.connection() as (reader, writer):
        writer.write(server.head(f"content-length: {BODY_BYTES_MAX}") + body_of(BODY_BYTES_MAX))

        assert (200, b'{"success":true}') == await answer_in(reader)
    assert 1 == await length_of(server, redis)


async def test_a_body_in_chunks_is_put_together(server: Server, redis: Redis) -> None:
    """Without a length, in small pieces that arrive one by one."""
    async with server.connection() as (reader, writer):
        writer.write(server.head("transfer-encoding: chunked"))
        for part in [*chunked(body_of(400), 50), b"0\r\n\r\n"]:
            writer.write(part)
            await writer.drain()

        assert 200 == (await answer_in(reader))[0]
    assert 1 == await length_of(server, redis)


async def test_chunks_that_never_end_are_refused_at_64_kb(server: Server) -> None:
    """The answer does not wait for the end of the body."""
    async with server.connection() as (reader, writer):
        writer.write(server.head("transfer-encoding: chunked"))
        for part in chunked(b"x" * (BODY_BYTES_MAX + 1_000), 8_192):
            writer.write(part)
        await writer.drain()

        assert 413 == (await answer_in(reader))[0]


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(
    server: Server, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """No event, no error in the log, and the next client is served."""
    body = body_of(400)
    async with server.connection() as (_, writer):
        writer.write(server.head("content-length: 400") + body[:200])
        await writer.drain()
    async with server.connection() as (reader, writer):
        writer.write(server.head("content-length: 400") + body)

        assert 200 == (await answer_in(reader))[0]
    assert 1 == await length_of(server, redis)
    assert [] == [entry for entry in caplog.records if entry.levelname == "ERROR"]


async def test_requests_one_after_the_other_on_one_connection(server: Server, redis: Redis) -> None:
    """Sent together without waiting, refused and taken ones in turn: answered in order."""
    bad = b'{"key":"s+1","record":{}}'
    parts = [
        server.head("content-length: 400") + body_of(400),
        server.head(f"content-length: {len(bad)}") + bad,
        server.head("content-length: 400", target="/api/playrecords/") + body_of(400),
        server.head("content-length: 400", "cookie: broken=1") + body_of(400),
    ]
    async with server.connection() as (reader, writer):
        writer.write(b"".join(parts))
        statuses = [(await answer_in(reader))[0] for _ in parts]

    assert [200, 400, 200, 200] == statuses
    assert 3 == await length_of(server, redis)
