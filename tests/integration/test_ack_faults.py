"""INGEST_ACK under faults: what was acknowledged is there afterwards, and nothing is early."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ops.redis_server import RedisServer
from shared.redis import open_redis
from tests.acks import follow, master_and_replica, redis_of, root_of, settings_on
from tests.flushers import Flusher, flusher, ids_in, outcome_of, running
from tests.fronts import Front, front
from tests.loads import new_random, nonces_in, under_load
from tests.plays import STREAM, record
from tests.power import disk_without_battery, mounted
from tests.waiting import until

EVENTS = 200


@pytest.mark.parametrize(
    ("kind", "appendfsync", "events"),
    [("older", "always", 500), ("newer", "always", 500), ("newer", "everysec", 24)],
)
async def test_a_killed_redis_has_every_event_acknowledged_as_fsynced(
    kind: str, appendfsync: str, events: int
) -> None:
    """SIGKILL under load, several times: nothing that was acknowledged is missing."""
    async with redis_of(kind, appendfsync) as (server, redis):
        settings = settings_on(server, "fsync")
        async with under_load(settings, new_random()) as load:
            for _ in range(3):
                await load.grow(events)
                server.kill()
                server.start()
            await load.grow(1)
        kept = await nonces_in(settings, redis)

    assert len(load.acknowledged) > 3 * events
    assert set() == set(load.acknowledged) - kept


@pytest.mark.parametrize(
    ("kind", "appendfsync", "level", "loses"),
    [
        ("older", "always", "fsync", False),
        ("newer", "always", "fsync", False),
        ("newer", "everysec", "fsync", False),
        # Without this one the others would prove nothing.
        ("older", "no", "memory", True),
    ],
)
async def test_a_power_cut_takes_nothing_acknowledged_as_fsynced(
    kind: str, appendfsync: str, level: str, *, loses: bool
) -> None:
    """The disk as it is at the moment of the last acknowledgement holds every event."""
    root = root_of(kind)
    with disk_without_battery(root) as disk:
        server = _redis_on(disk.folder, appendfsync, root)
        try:
            async with open_redis(server.url) as redis:
                it = flusher(settings_on(server, level), redis, ack=level)
                async with running(it):
                    assert {"kept"} == await _outcomes(it, EVENTS)
            server.pause()
            after = disk.lost_power()
        finally:
            server.kill()
        with mounted(after):
            found = await _ids_found(it, after.folder, root)

    assert loses == (found != {str(number) for number in range(EVENTS)})


async def test_a_frozen_replica_is_503_until_it_goes_on() -> None:
    """Nothing is acknowledged that only the master has, the probe follows, and so does the end.

    Of four groups only the first, which finds out, is in Redis.
    """
    async with (
        master_and_replica() as (master, replica),
        front(settings_on(master, "replica")) as site,
        open_redis(master.url) as redis,
    ):
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        before = await _added(site, redis)
        replica.pause()
        refused = [await site.save("ann", "s+2", record()) for _ in range(4)]
        ready = await site.client.get("/readyz")
        added = await _added(site, redis) - before
        replica.resume()

        async def taken() -> bool:
            return (await site.save("ann", "s+1", record())).status_code == 200

        await until(taken, "writes are taken again")

    assert {503} == {response.status_code for response in [*refused, ready]}
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert 1 == added


async def test_a_replica_that_is_gone_is_503_until_one_is_in_step() -> None:
    """With no replica left nothing is acknowledged; what follows the first is not even sent."""
    async with (
        master_and_replica() as (master, replica),
        front(settings_on(master, "replica")) as site,
        open_redis(master.url) as redis,
    ):
        replica.kill()
        statuses = [(await site.save("ann", "s+1", record())).status_code for _ in range(3)]
        ready = await site.client.get("/readyz")
        added = await _added(site, redis)
        replica.start()
        await follow(replica, master)
        again = await site.save("ann", "s+1", record())

    assert ([503, 503, 503], 503, 200) == (statuses, ready.status_code, again.status_code)
    assert added <= 1


async def test_what_goes_again_after_noscript_is_confirmed_too() -> None:
    """The confirmation that counts is the one that follows the write, not the refused call."""
    async with master_and_replica() as (master, replica), open_redis(master.url) as redis:
        it = flusher(settings_on(master, "replica"), redis, ack="replica")
        async with running(it):
            assert "kept" == await outcome_of(it.append(it.event("1")))
            await redis.script_flush()
            await until(lambda: _has_reported(redis), "the replica has reported all of it")
            replica.pause()
            refused = await outcome_of(it.append(it.event("2")))
            replica.resume()

    assert "INGEST_ACK is replica" in refused


@pytest.mark.parametrize("how", ["the master is killed", "the master lives on"])
async def test_a_failover_to_the_replica_has_every_event_acknowledged_as_replicated(
    how: str,
) -> None:
    """Whether the old master dies or goes on alone: whatever it answered for is on the new one."""
    async with master_and_replica() as (master, replica):
        settings = settings_on(master, "replica")
        async with under_load(settings, new_random()) as load, open_redis(replica.url) as there:
            await load.grow(500)
            if how == "the master is killed":
                master.kill()
            await there.replicaof("NO", "ONE")
            refused = load.refused
            await until(lambda: load.refused > refused, "the old master acknowledges nothing")
            load.stop()
            kept = await nonces_in(settings, there)

    assert len(load.acknowledged) >= 500
    assert set() == set(load.acknowledged) - kept


# --- helpers ----------------------------------------------------------------------


def _redis_on(folder: Path, appendfsync: str, root: Path | None) -> RedisServer:
    server = RedisServer(
        folder / "redis", appendfsync=appendfsync, root=root, death_signal=signal.SIGKILL
    )
    server.start()
    return server


async def _outcomes(it: Flusher, events: int) -> set[str]:
    tasks = [it.append(it.event(str(number))) for number in range(events)]
    return {await outcome_of(task) for task in tasks}


async def _ids_found(it: Flusher, folder: Path, root: Path | None) -> set[str]:
    """The content ids that a Redis started on *folder* still has."""
    server = _redis_on(folder, "no", root)
    try:
        async with open_redis(server.url) as redis:
            return set(await ids_in(it, redis))
    finally:
        server.kill()


async def _has_reported(redis: Redis) -> bool:
    """Does the master know that its replica has everything?"""
    about = await redis.info("replication")
    return bool(about["slave0"]["offset"] == about["master_repl_offset"])


async def _added(site: Front, redis: Redis) -> int:
    """Entries in all streams of *site*."""
    shards = range(site.settings.shards)
    return sum([await redis.xlen(site.site.keys.stream(STREAM, shard)) for shard in shards])
