"""The proxy before the servers: each trouble really reaches those behind it, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncmy
import pytest
from asyncmy.cursors import Cursor
from asyncmy.errors import OperationalError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.redis_server import RedisServer
from shared.redis import open_redis
from shared.settings import Settings
from tests.faults.mysql_wire import Refusal, packets
from tests.faults.tcp_proxy import TcpProxy, running_proxy
from tests.servers import running_redis
from tests.waiting import until


@pytest.fixture(name="proxy")
async def _proxy(empty_redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with running_proxy(empty_redis_server.port) as proxy:
        yield proxy


@pytest.fixture(name="client")
async def _client(proxy: TcpProxy) -> AsyncIterator[Redis]:
    async with open_redis(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=2.0) as client:
        yield client


async def is_set(redis: Redis, value: bytes) -> bool:
    return bool(value == await redis.get("key"))


async def test_a_plain_proxy_changes_nothing(client: Redis, redis: Redis) -> None:
    """A value of a megabyte goes in through it and comes out of it whole."""
    value = b"0123456789" * 100_000
    await client.set("key", value)

    assert value == await client.get("key") == await redis.get("key")


async def test_dropped_connections_are_lost_and_new_ones_work(
    proxy: TcpProxy, client: Redis
) -> None:
    """Whoever was connected meets an error once, and connects again."""
    await client.ping()
    assert 1 == proxy.drop_all()

    with pytest.raises(RedisConnectionError):
        await client.ping()
    assert await client.ping()


async def test_a_proxy_that_refuses_lets_nobody_in(proxy: TcpProxy, client: Redis) -> None:
    """Every new connection ends at once, until it is healed."""
    proxy.refusing = True

    with pytest.raises(RedisConnectionError):
        await client.ping()
    proxy.heal()
    assert await client.ping()


async def test_a_frozen_proxy_holds_commands_back_and_loses_none(
    proxy: TcpProxy, client: Redis, redis: Redis
) -> None:
    """The client hears nothing; the command arrives when the proxy thaws."""
    await client.ping()
    proxy.freeze()
    with pytest.raises(RedisTimeoutError):
        await client.set("key", "late")
    assert await redis.get("key") is None

    # The client gave that connection up; what it had sent is on its way all the same.
    proxy.thaw()

    await until(lambda: is_set(redis, b"late"), "the command arrives")
    assert await client.ping()


async def test_delayed_replies_come_late_and_are_counted(proxy: TcpProxy, client: Redis) -> None:
    """Commands are done at once; a client less patient than the delay gives up."""
    proxy.delay_replies_s = 60

    with pytest.raises(RedisTimeoutError):
        await client.ping()
    assert 1 == proxy.delayed


async def test_a_reply_cut_half_way_was_a_command_that_was_done(
    proxy: TcpProxy, client: Redis, redis: Redis
) -> None:
    """The client cannot know it: its connection ends in the middle of the answer."""
    await client.ping()
    proxy.cut_replies(after_bytes=2)

    with pytest.raises(RedisConnectionError):
        await client.set("key", "done")
    assert 1 == proxy.cut
    assert await is_set(redis, b"done")


async def test_a_switched_proxy_leads_new_connections_elsewhere(
    proxy: TcpProxy, client: Redis
) -> None:
    """As the address of a master does after a failover; old connections are dropped."""
    await client.set("where", "old")
    with running_redis() as other:
        proxy.target_port = other.port
        assert b"old" == await client.get("where")

        proxy.drop_all()
        with pytest.raises(RedisConnectionError):
            await client.get("where")

        assert await client.get("where") is None


async def test_a_server_that_is_down_ends_connections_at_once(
    proxy: TcpProxy, client: Redis
) -> None:
    """The proxy itself listens on: clients meet an error, not a silence."""
    proxy.target_port = 1

    with pytest.raises(RedisConnectionError):
        await client.ping()


async def test_a_closed_proxy_leaves_no_connection_behind(proxy: TcpProxy, client: Redis) -> None:
    """Also one that is frozen, with replies under way."""
    await client.ping()
    proxy.freeze()

    await proxy.close()

    assert 0 == proxy.links


async def test_refused_statements_never_reach_the_server(settings: Settings) -> None:
    """A disk-full error comes back as the server would send it; all else passes."""
    refusal = Refusal(1021, "Disk full (simulated)", (b"INSERT",))
    async with running_proxy(settings.mysql_port, packets) as proxy:
        connection = await asyncmy.connect(
            host="127.0.0.1",
            port=proxy.port,
            user=settings.mysql_user,
            password=settings.mysql_password,
            db=settings.mysql_database,
            autocommit=True,
        )
        cursor: Cursor
        async with connection, connection.cursor() as cursor:
            await cursor.execute("CREATE TABLE kept (number INT)")
            proxy.watch = refusal
            with pytest.raises(OperationalError, match="Disk full") as failed:
                await cursor.execute("INSERT INTO kept VALUES " + ",".join(["(1)"] * 100_000))
            assert 1021 == failed.value.args[0]
            proxy.heal()
            await cursor.execute("INSERT INTO kept VALUES (2)")
            await cursor.execute("SELECT number FROM kept")

            assert ((2,),) == tuple(await cursor.fetchall())
    assert 1 == refusal.refused


async def test_nobody_waits_for_a_client_that_left(proxy: TcpProxy) -> None:
    """A connection that its client closed is closed towards the server too."""
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await until(lambda: proxy.links == 1, "the proxy serves it")

    writer.close()

    await until(lambda: proxy.links == 0, "the proxy has closed it")
