"""`moonwake doctor`: faults of Redis, made on a real one, are found and come with their remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from ops.checks.findings import Level
from ops.checks.redis_facts import read_redis
from ops.doctor import examine
from ops.redis_server import RedisServer
from ops.servers import free_port
from shared.keys import Keys
from shared.settings import Settings
from tests.findings import finding
from tests.plays import append, save
from tests.servers import temporary_directory

Configure = Callable[[str, str], Awaitable[None]]


@pytest.fixture(name="keys")
def _keys(migrated: Settings) -> Keys:
    return Keys(migrated.key_prefix)


@pytest.fixture(name="configure")
async def _configure(redis: Redis) -> AsyncIterator[Configure]:
    """CONFIG SET that is taken back after the test."""
    before: dict[str, str] = {}

    async def configure(name: str, value: str) -> None:
        before.update(await redis.config_get(name))
        await redis.config_set(name, value)

    yield configure
    for name, value in before.items():
        await redis.config_set(name, value)


@pytest.mark.parametrize(
    ("name", "value", "check", "level"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis-eviction", Level.ERROR),
        ("maxmemory-policy", "volatile-ttl", "redis-eviction", Level.ERROR),
        ("appendonly", "no", "redis-durability", Level.ERROR),
        ("appendfsync", "no", "redis-durability", Level.WARNING),
        ("maxmemory", "64mb", "redis-memory", Level.WARNING),
    ],
)
async def test_a_redis_that_does_not_keep_what_it_acknowledged_is_found(
    migrated: Settings, configure: Configure, name: str, value: str, check: str, level: Level
) -> None:
    """Each setting that loses events, or stops them, is found under its own name."""
    assert Level.OK is (await finding(migrated, check)).level

    await configure(name, value)

    found = await finding(migrated, check)
    assert level is found.level
    assert value.removesuffix("mb") in found.found or "append-only file off" in found.found


async def test_memory_for_a_full_backlog_counts_what_already_waits(
    migrated: Settings, redis: Redis, configure: Configure
) -> None:
    """A backlog within the limit is no fault, and is not counted twice while it waits."""
    await configure("maxmemory", "64mb")
    small = replace(migrated, max_lag_entries=1_000)

    assert Level.OK is (await finding(small, "redis-memory")).level
    facts = await read_redis(small)
    await append(small, redis, [save("ann")])
    assert facts.entries + 1 == (await read_redis(small)).entries


async def test_a_replica_is_found(migrated: Settings, redis: Redis) -> None:
    """Pointed to a replica nothing could be written; the master is named."""
    port = free_port()
    await cast("Awaitable[Any]", redis.execute_command("REPLICAOF", "127.0.0.1", port))  # type: ignore[no-untyped-call]
    try:
        found = await finding(migrated, "redis-role")
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]

    assert Level.ERROR is found.level
    assert f"127.0.0.1:{port}" in found.found


class ClusterNode(RedisServer):
    """A Redis that is a node of a cluster."""

    def prepare(self) -> None:
        super().prepare()
        more = f"cluster-enabled yes\ncluster-port {free_port()}\n"
        self._config.write_text(self._config.read_text() + more)


async def test_a_cluster_is_found_on_either_url(migrated: Settings) -> None:
    """Neither arq nor shards on several nodes would work."""
    with temporary_directory() as directory:
        node = ClusterNode(directory)
        node.start()
        try:
            arq = await finding(replace(migrated, arq_redis_url=node.url), "arq-redis")
            role = await finding(replace(migrated, redis_url=node.url), "redis-role")
        finally:
            node.kill()

    assert (Level.ERROR, Level.ERROR) == (arq.level, role.level)
    assert "cluster" in arq.why
    assert "Cluster" in role.found


async def test_arqs_redis_must_answer(migrated: Settings) -> None:
    """Its jobs go through it; that it is down is told by its own variable's name."""
    down = replace(migrated, arq_redis_url=f"redis://127.0.0.1:{free_port()}/0")

    found = await finding(down, "arq-redis")

    assert Level.ERROR is found.level
    assert "ARQ_REDIS_URL" in found.remedy


async def test_where_config_is_denied_the_rest_is_checked(migrated: Settings, redis: Redis) -> None:
    """Hosted servers deny CONFIG: INFO tells the policy, and what stays unknown is said."""
    await redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "hosted", "on", ">hosted-secret", "~*", "&*", "+@all", "-config"
    )
    try:
        url = migrated.redis_url.replace("redis://", "redis://hosted:hosted-secret@")
        report = await examine(replace(migrated, redis_url=url))
    finally:
        await redis.execute_command("ACL", "DELUSER", "hosted")  # type: ignore[no-untyped-call]
    levels = {each.check: each.level for each in report.findings}

    assert Level.OK is levels["redis-eviction"]
    assert Level.WARNING is levels["redis-durability"]


async def test_ids_ahead_of_the_clock_are_found_from_a_minute_on(
    migrated: Settings, redis: Redis, keys: Keys
) -> None:
    """One such id pins every later one; clocks that differ by seconds are no incident."""
    now_ms = (await read_redis(migrated)).clock.server_ms
    await redis.xadd(keys.stream("plays", 0), {"d": b"{}"}, id=f"{now_ms + 30_000}-0")
    assert Level.OK is (await finding(migrated, "entry-ids")).level

    await redis.xadd(keys.stream("plays", 1), {"d": b"{}"}, id=f"{now_ms + 600_000}-0")

    found = await finding(migrated, "entry-ids")
    assert Level.ERROR is found.level
    assert "plays:1" in found.found
    assert "plays:0" not in found.found


async def test_a_stopped_shard_is_found_with_its_reason(
    migrated: Settings, redis: Redis, keys: Keys
) -> None:
    """An operator who only types `doctor` learns of it too."""
    await redis.set(keys.stopped("plays", 1), "MySQL refused 60 of 120 entries")

    found = await finding(migrated, "stopped-shards")

    assert Level.ERROR is found.level
    assert "plays:1: MySQL refused 60 of 120 entries" == found.found
    assert "moonwake resume" in found.remedy


async def test_only_live_workers_count(migrated: Settings, redis: Redis, keys: Keys) -> None:
    """A worker not heard of for seconds drains nothing."""
    now_ms = (await read_redis(migrated)).clock.server_ms
    about = {"host": "h", "pid": 7, "started_ms": now_ms, "shards": []}
    gone = orjson.dumps({**about, "seen_ms": now_ms - 60_000}).decode()
    await cast("Awaitable[int]", redis.hset(keys.workers, "gone", gone))
    assert Level.WARNING is (await finding(migrated, "workers")).level

    live = orjson.dumps({**about, "seen_ms": now_ms + 60_000}).decode()
    await cast("Awaitable[int]", redis.hset(keys.workers, "live", live))

    assert "1 live: h:7" == (await finding(migrated, "workers")).found
