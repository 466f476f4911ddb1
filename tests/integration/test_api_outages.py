"""Appends to a Redis that is frozen, gone, full, demoted or emptied."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.keys import shard_of
from shared.redis import open_redis
from shared.settings import Settings
from tests.flushers import flusher, ids_in, outcome_of, running
from tests.fronts import front
from tests.plays import STREAM, record
from tests.servers import OwnServers
from tests.waiting import until
from worker.letters import stamp_in


async def test_an_append_that_reaches_redis_late_is_refused_there(
    own_servers: OwnServers,
) -> None:
    """A frozen Redis runs the command when it wakes: the script sees it is too late."""
    async with open_redis(own_servers.redis.url) as redis:
        it = flusher(own_servers.settings, redis, timeout_s=2.0)
        async with running(it):
            await it.append(it.event("before"))
            own_servers.redis.pause()
            late = await outcome_of(it.append(it.event("late")))
            own_servers.redis.resume()
            await it.append(it.event("after"))

        assert "did not answer in time" in late
        await until(lambda: _is_idle(redis), "Redis has run what was sent while it was frozen")
        assert ["before", "after"] == await ids_in(it, redis)


async def _is_idle(redis: Redis) -> bool:
    clients = await redis.client_list()
    return all(client["qbuf"] == "0" or client["cmd"] == "client|list" for client in clients)


async def test_an_unknown_outcome_is_told_only_when_it_can_no_longer_come_true(
    settings: Settings, redis: Redis
) -> None:
    """The connection dies before the answer: the refusal waits for the not-after time."""
    it = flusher(settings, redis, timeout_s=0.5)
    async with running(it):
        await it.append(it.event("first"))
        connection = it.group_commit._connection
        await redis.client_pause(10_000, all=False)
        task = it.append(it.event("unknown"))
        not_after_ms = connection._clock.now_ms() + 400
        await until(lambda: connection._connection is not None, "a connection is open")
        [[mine]] = [
            [client for client in await redis.client_list() if client["cmd"].startswith("evalsha")]
        ]
        await redis.client_kill_filter(_id=mine["id"])
        refused = await outcome_of(task)

        assert "did not answer in time" in refused
        assert connection._clock.now_ms() >= not_after_ms
        await redis.client_unpause()


async def test_redis_down_is_503_until_it_is_back(own_servers: OwnServers) -> None:
    """Writes are refused with Retry-After, taken again by themselves, and none counts twice."""
    settings = replace(own_servers.settings, flush_interval_ms=0)
    async with front(settings) as site:
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        own_servers.redis.kill()
        refused = [await site.save("ann", "s+2", record()), await site.clear("ann")]
        own_servers.redis.start()

        async def taken() -> bool:
            return (await site.save("ann", "s+3", record())).status_code == 200

        await until(taken, "writes are taken again")
        keys = set(await site.records("ann"))
        stream = site.site.keys.stream(STREAM, shard_of("ann", settings.shards))
        [[_, last]] = await site.site.redis.xrevrange(stream, count=1)
        about = await site.site.redis.info("replication")

    assert [503, 503] == [response.status_code for response in refused]
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert {"error"} == set(refused[0].json())
    assert {"s+1", "s+3"} == keys
    # Another run of Redis is another incarnation: its entries carry its own stamp.
    assert about["master_replid"][:8].encode() == last[b"i"][:8]


@pytest.mark.parametrize(
    "setting", [{"maxmemory": "1"}, {"min-replicas-to-write": "1"}], ids=lambda s: next(iter(s))
)
async def test_a_redis_that_takes_no_writes_is_503(
    own_servers: OwnServers, setting: dict[str, str]
) -> None:
    """Full memory or missing replicas: Retry-After, nothing kept, and it ends with the cause."""
    async with front(own_servers.settings) as site, open_redis(own_servers.redis.url) as redis:
        [(name, value)] = setting.items()
        await redis.config_set(name, value)
        refused = await site.save("ann", "s+1", record())
        ready = await site.client.get("/readyz")
        await redis.config_set(name, "0")

        assert (503, 503) == (refused.status_code, ready.status_code)
        assert "retry-after" in refused.headers
        assert {} == await site.records("ann")
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        assert 200 == (await site.client.get("/readyz")).status_code


async def test_a_master_that_became_a_replica_is_left(own_servers: OwnServers) -> None:
    """READONLY closes the append connection; the next one finds whoever is master then."""
    async with front(own_servers.settings) as site, open_redis(own_servers.redis.url) as redis:
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        connection = site.site.group_commit._connection
        await redis.replicaof("127.0.0.1", "1")
        refused = await site.save("ann", "s+2", record())
        left = connection._connection is None
        await redis.replicaof("NO", "ONE")
        taken = await site.save("ann", "s+3", record())

        assert (503, True, 200) == (refused.status_code, left, taken.status_code)
        # A promotion is a new incarnation, and entries say so.
        stream = site.site.keys.stream(STREAM, shard_of("ann", site.settings.shards))
        entries = await redis.xrange(stream)
        assert 2 == len({stamp_in(entry) for entry in entries})
