"""Redis: how it opens, how it is spoken to, and how it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio import Connection as RedisConnection
from redis.exceptions import RedisError, ResponseError

from shared.errors import StoreDown, is_reset, text_of

#: Of one client. Appends and other long-lived connections are not of its pool.
_CONNECTIONS_MAX = 64


class PackedConnection(RedisConnection):
    """Packs commands with hiredis: redis-py itself takes a microsecond an argument."""

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *values = args
        words = name.split() if isinstance(name, str) else [name]
        return [pack_command((*words, *values))]


def open_redis(url: str, *, timeout_s: float = 5.0) -> Redis:
    """A client that answers in bytes, never retries by itself and gives up after *timeout_s*.

    Where more than `_CONNECTIONS_MAX` ask at once, some wait for as long for a connection.
    """
    # The ordinary pool opens one connection at a time: behind a Redis that does not answer,
    # each of those who ask would wait for the time-outs of all before it.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS_MAX,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, 2.0),
        connection_class=PackedConnection,  # for redis://; others have a class of their own
    )
    client: Redis = Redis.from_pool(pool)
    # Entries are read by the hundred thousand: a dictionary each would be most of the cost.
    for command in ("XREAD", "XRANGE"):
        client.set_response_callback(command, _as_sent)  # type: ignore[arg-type]
    return client


def _as_sent(reply: Any, **_options: Any) -> Any:
    return reply


#: A command for `exchange`: its words.
Command = tuple[Any, ...]


@asynccontextmanager
async def connected(redis: Redis) -> AsyncIterator[RedisConnection]:
    """A connection to *redis* of the caller's own, closed afterwards, whatever happens."""
    connection: RedisConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def exchange(connection: RedisConnection, commands: Sequence[Command]) -> list[Any]:
    """Send *commands* in one write; their replies as sent, errors among them, in order."""
    await connection.send_packed_command(b"".join(pack_command(each) for each in commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def sound(reply: Any) -> Any:
    """*reply*, one of a pipeline's. Raises `StoreDown` if it is an error."""
    if isinstance(reply, Exception):
        raise StoreDown(f"Redis: {reply}") from reply
    return reply


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise `StoreDown` for whatever keeps Redis from answering."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreDown(f"Redis: {text_of(error)}") from error
    except RuntimeError as error:
        if not is_reset(error):
            raise
        raise StoreDown(f"Redis: {error}") from error
