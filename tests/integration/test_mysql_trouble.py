"""MySQL in trouble that passes: the batch is tried again, and is applied once all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from shared.mysql import Cursor, MySQLError, Pool, open_mysql, reading
from shared.redis import open_redis
from shared.settings import Settings
from tests.databases import admin
from tests.faults.mysql_wire import CommitKiller, CommitLoss, packets
from tests.faults.tcp_proxy import running_proxy
from tests.mysql_state import assert_mysql_equals, books
from tests.plays import append, deps_of, drain_all, save, select
from tests.servers import OwnServers
from tests.sessions import until_somebody_waits
from tests.taps import tapped
from tests.waiting import until
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.pace import Pace
from worker.sinks.plays import PlaysSink

EVENTS = [save("ann", play_time=10), save("bob", play_time=5), save("ann", play_time=25)]

Logs = list[MutableMapping[str, Any]]


@pytest.fixture(name="logs")
def _logs() -> Iterator[Logs]:
    with capture_logs() as logs:
        yield logs


@pytest.fixture(name="plain")
def _plain(migrated: Settings) -> Settings:
    return replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)


@pytest.fixture(name="deps")
async def _deps(plain: Settings, redis: Redis) -> AsyncIterator[Deps]:
    async with open_mysql(plain, drain=True) as pool:
        yield deps_of(plain, redis, pool)


def failures(logs: Logs) -> list[str]:
    """What MySQL's passing failures said, oldest first."""
    return [str(event["error"]) for event in logs if event["event"] == "mysql_failed"]


@asynccontextmanager
async def draining(deps: Deps, pace: Pace | None = None) -> AsyncIterator[None]:
    """A drain of shard 0 beside the block; afterwards it has caught up, and all is exact."""
    drain = ShardDrain(deps, PlaysSink(deps.settings), 0, pace)
    running = asyncio.create_task(drain.run(slice_s=60))
    try:
        yield
        assert await running is False
    finally:
        drain.stop()
        await asyncio.wait([running])
    await assert_exact(deps)


async def assert_exact(deps: Deps) -> None:
    oracle = await tapped(deps)
    await assert_mysql_equals(deps.pool, oracle)
    assert (oracle.applied, oracle.applied, 0, 0) == await books(deps.pool)


@asynccontextmanager
async def locked(pool: Pool, query: str) -> AsyncIterator[Cursor]:
    """Another session's transaction that holds the rows of *query* while the block lasts."""
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await connection.begin()
        await cursor.execute(query)
        await cursor.fetchall()
        yield cursor
        await connection.rollback()


# --- locks -------------------------------------------------------------------------


async def test_a_batch_that_waited_too_long_for_a_lock_is_tried_again_smaller(
    deps: Deps, pool: Pool, logs: Logs
) -> None:
    """
    Limits halve with every failure, and are full again after as many successes.
    """
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)
    await append(deps.settings, deps.redis, EVENTS)
    pace = Pace(deps.settings)
    full = pace.limits
    fence = "SELECT * FROM stream_checkpoints FOR UPDATE"
    async with locked(pool, fence) as other, draining(deps, pace):
        await until(lambda: pace.limits.entries < full.entries, "the limits are smaller")
        assert (full.rows // 2, full.entries // 2) == (pace.limits.rows, pace.limits.entries)
        await other.execute("ROLLBACK")

    assert all("1205" in failure for failure in failures(logs))
    assert pace.limits == full


async def test_a_deadlocks_victim_tries_again(deps: Deps, pool: Pool, logs: Logs) -> None:
    """
    The server rolls the batch back to let another session go on; nothing of it stays.
    """
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)
    await append(deps.settings, deps.redis, EVENTS)
    async with locked(pool, "SELECT * FROM content_stats FOR UPDATE") as other:
        # The victim is whoever changed less.
        values = ",".join(f"('ann','x','{n}',1)" for n in range(500))
        await other.execute(
            "INSERT INTO content_viewers (username, source, content_id, first_seen_ms)"
            f" VALUES {values}"
        )
        async with draining(deps):
            await until_somebody_waits(other)
            await other.execute("SELECT * FROM stream_checkpoints FOR UPDATE")
            await other.execute("ROLLBACK")

    assert "1213" in failures(logs)[0]


# --- connections -------------------------------------------------------------------


async def test_a_connection_killed_inside_a_statement_is_replaced(
    deps: Deps, pool: Pool, logs: Logs
) -> None:
    """
    KILL of the session that works on a batch: the next session applies all of it, and the
    limits stay as they are, or every outage would end with batches of one entry.
    """
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)
    await append(deps.settings, deps.redis, EVENTS)
    pace = Pace(deps.settings)
    full = pace.limits
    stats = "SELECT * FROM content_stats FOR UPDATE"
    async with locked(pool, stats) as other, draining(deps, pace):
        [session] = await until_somebody_waits(other)
        await other.execute(f"KILL {session}")
        await until(lambda: bool(failures(logs)), "the drain notices")
        assert full == pace.limits
        await other.execute("ROLLBACK")


async def test_an_outage_leaves_the_limits_full(own_servers: OwnServers, logs: Logs) -> None:
    """
    Its backlog needs full batches: nothing is read again with one entry at a time.
    """
    settings = replace(own_servers.settings, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    async with open_redis(settings.redis_url) as redis, open_mysql(settings, drain=True) as pool:
        deps = deps_of(settings, redis, pool)
        await append(settings, redis, EVENTS)
        own_servers.mysql.kill()
        pace = Pace(settings)
        full = pace.limits
        async with draining(deps, pace):
            await until(lambda: len(failures(logs)) > 2, "the drain tries again and again")
            assert full == pace.limits
            own_servers.mysql.start()


@pytest.mark.parametrize("loss", list(CommitLoss))
async def test_a_commit_of_unknown_outcome_is_resolved_by_reading_the_checkpoint(
    plain: Settings, redis: Redis, logs: Logs, loss: CommitLoss
) -> None:
    """
    The connection is lost inside COMMIT, before or after the server did it: applied once.
    """
    async with running_proxy(plain.mysql_port, packets) as proxy:
        proxy.watch = killer = CommitKiller(loss)
        beyond = replace(plain, mysql_port=proxy.port)
        async with open_mysql(beyond, drain=True) as pool:
            deps = deps_of(beyond, redis, pool)
            await append(beyond, redis, EVENTS)
            await drain_all(deps)

            assert killer.lost == 1
            assert len(failures(logs)) == 1
            await assert_exact(deps)


async def test_the_pool_recovers_from_a_restart_without_an_error(
    own_servers: OwnServers, logs: Logs
) -> None:
    """
    Connections that lay idle while the server restarted are replaced before they are used.
    """
    settings = replace(own_servers.settings, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    async with open_redis(settings.redis_url) as redis, open_mysql(settings, drain=True) as pool:
        deps = deps_of(settings, redis, pool)
        await append(settings, redis, EVENTS)
        await drain_all(deps)
        own_servers.mysql.restart()
        await append(settings, redis, EVENTS)
        await drain_all(deps)

        assert [] == failures(logs)
        await assert_exact(deps)


async def test_a_connection_closed_for_idleness_is_reopened_without_an_error(
    deps: Deps, pool: Pool, logs: Logs
) -> None:
    """
    wait_timeout is short for drains, so it strikes whenever a shard is idle for a while.
    """
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)
    async with reading(deps.pool) as cursor:
        await cursor.execute("SET wait_timeout = 1")
        [(session,)] = await select(cursor, "SELECT CONNECTION_ID()")

    async def is_closed() -> bool:
        return session not in await sessions(pool)

    await until(is_closed, "the server closes the idle connection")
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)

    assert [] == failures(logs)
    await assert_exact(deps)


async def sessions(pool: Pool) -> set[int]:
    """The ids of the server's sessions."""
    async with reading(pool) as cursor:
        return {row[0] for row in await select(cursor, "SHOW PROCESSLIST")}


async def test_a_worker_frozen_inside_a_transaction_does_not_keep_its_shard(
    deps: Deps, plain: Settings
) -> None:
    """
    The server itself ends a drain's session that says nothing, and another worker goes on.
    """
    await append(deps.settings, deps.redis, EVENTS)
    await drain_all(deps)
    await append(deps.settings, deps.redis, EVENTS)
    async with open_mysql(plain, drain=True) as frozen, frozen.acquire() as connection:
        await connection.begin()
        async with connection.cursor() as cursor:
            await cursor.execute("UPDATE stream_checkpoints SET batch_no = batch_no + 1")
        async with draining(deps):
            pass
        with pytest.raises(MySQLError):
            await connection.commit()


# --- the server ----------------------------------------------------------------------


async def test_a_server_that_is_read_only_for_a_while_is_waited_for(
    own_servers: OwnServers, logs: Logs
) -> None:
    """
    As during a planned switch of primaries: nothing is lost, nothing becomes a dead letter.
    """
    settings = replace(
        own_servers.settings,
        shards=1,
        flush_interval_ms=0,
        stream_retention_s=3600,
        mysql_user="plain",  # administrators may write all the same
    )
    async with admin(own_servers.mysql) as cursor:
        await cursor.execute("DROP USER IF EXISTS plain")
        await cursor.execute(f"CREATE USER plain IDENTIFIED BY '{settings.mysql_password}'")
        await cursor.execute(f"GRANT ALL ON {settings.mysql_database}.* TO plain")
        await cursor.execute("SET GLOBAL read_only = 1")
    try:
        async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
            deps = deps_of(settings, redis, pool)
            await append(settings, redis, EVENTS)
            async with draining(deps):
                await until(lambda: bool(failures(logs)), "the drain notices")
                async with admin(own_servers.mysql) as cursor:
                    await cursor.execute("SET GLOBAL read_only = 0")
    finally:
        async with admin(own_servers.mysql) as cursor:
            await cursor.execute("SET GLOBAL read_only = 0")

    assert "1290" in failures(logs)[0]
