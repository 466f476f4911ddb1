"""INGEST_ACK: a level that Redis cannot keep is told by name, and never silently weakened."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from ops.redis_server import RedisServer
from shared.redis import open_redis
from tests.acks import (
    HOSTED,
    calls_of,
    configure,
    deny_config,
    master_and_replica,
    redis_of,
    settings_on,
)
from tests.flushers import flusher, running
from tests.fronts import Front, Refused, front
from tests.plays import record
from tests.waiting import until


async def refusal(server: RedisServer, level: str) -> str:
    """What a front at *level* says instead of starting."""
    with pytest.raises(Refused) as refused:
        async with front(settings_on(server, level)):
            pass
    return str(refused.value)


async def state(site: Front) -> tuple[int, int]:
    """Statuses of a write and of what proxies probe."""
    saved = await site.save("ann", "s+1", record())
    return saved.status_code, (await site.client.get("/readyz")).status_code


@pytest.mark.parametrize(
    ("kind", "level", "values", "told"),
    [
        ("older", "fsync", {"appendonly": "no"}, "append-only file is off"),
        ("older", "fsync", {"appendfsync": "no"}, "appendfsync is no"),
        ("older", "fsync", {"appendfsync": "everysec"}, "is everysec, and it has no WAITAOF"),
        ("older", "fsync", {"no-appendfsync-on-rewrite": "yes"}, "no-appendfsync-on-rewrite"),
        ("newer", "fsync", {"appendonly": "no"}, "append-only file is off"),
        ("older", "replica", {}, "no replica that is in step"),
    ],
)
async def test_a_level_that_cannot_be_kept_is_refused_at_the_start(
    kind: str, level: str, values: dict[str, str], told: str
) -> None:
    """The front does not start, and names the setting, the fault and what to do."""
    async with redis_of(kind, "always") as (server, _):
        await configure(server, **values)
        said = await refusal(server, level)

    assert said.startswith(f"INGEST_ACK is {level}, but the server of REDIS_URL cannot keep that:")
    assert told in said
    assert "; " in said.partition(told)[2]


async def test_everysec_keeps_an_fsync_where_waitaof_is_known() -> None:
    """A newer Redis confirms the fsync itself, whatever its settings are."""
    async with (
        redis_of("newer", "everysec") as (server, redis),
        front(settings_on(server, "fsync")) as site,
    ):
        before = await calls_of(redis, "waitaof")
        assert (200, 200) == await state(site)
        assert before < await calls_of(redis, "waitaof")


@pytest.mark.parametrize("level", ["memory", "fsync", "replica"])
async def test_every_level_acknowledges_where_it_is_kept(level: str) -> None:
    """Writes are taken, probes are green, and metrics say that the level is met."""
    async with master_and_replica() as (master, _):
        await configure(master, appendfsync="always")
        async with front(settings_on(master, level)) as site:
            assert (200, 200) == await state(site)
            metrics = (await site.client.get("/metrics")).text

    assert f'moonwake_ack_level_met{{level="{level}"}} 1.0' in metrics


@pytest.mark.parametrize(
    ("kind", "name", "value", "mended"),
    [
        ("older", "appendfsync", "everysec", "always"),
        ("older", "no-appendfsync-on-rewrite", "yes", "no"),
        ("older", "appendonly", "no", "yes"),
        ("newer", "appendonly", "no", "yes"),
    ],
)
async def test_a_change_under_way_weakens_no_promise(
    kind: str, name: str, value: str, mended: str
) -> None:
    """From the change on nothing is acknowledged, though Redis takes it, until it is mended."""
    async with (
        redis_of(kind, "always") as (server, redis),
        front(settings_on(server, "fsync")) as site,
    ):
        assert (200, 200) == await state(site)

        await redis.config_set(name, value)
        refused = await site.save("ann", "s+1", record())
        ready = await site.client.get("/readyz")
        health = await site.client.get("/api/health")
        metrics = (await site.client.get("/metrics")).text

        assert (503, 503, 503) == (
            refused.status_code,
            ready.status_code,
            health.status_code,
        )
        assert int(refused.headers["retry-after"]) > 0
        assert "INGEST_ACK is fsync" in ready.json()["reason"]
        assert "degraded" == health.json()["services"]["redis"]["status"]
        assert 'moonwake_ack_level_met{level="fsync"} 0.0' in metrics

        await redis.config_set(name, mended)
        await until_taken(site)


async def test_while_a_level_is_not_kept_nothing_more_is_sent_to_redis() -> None:
    """One group finds out; those after it are refused before they reach the stream."""
    async with (
        redis_of("older", "always") as (server, redis),
        front(settings_on(server, "fsync")) as site,
    ):
        await configure(server, appendfsync="everysec")
        statuses = [
            (await site.save("ann", f"s+{number}", record())).status_code for number in range(5)
        ]
        stream = site.site.keys.stream("plays", 0), site.site.keys.stream("plays", 1)
        added = sum([await redis.xlen(name) for name in stream])

    assert [503] * 5 == statuses
    assert added <= 1


async def test_a_file_that_is_switched_on_counts_once_it_is_written() -> None:
    """
    Redis says `appendonly yes` while the first file is in the making: a crash would lose it all.
    """
    async with redis_of("older", "always") as (server, redis):
        await redis.mset({f"k{number}": 1 for number in range(1_000)})
        # Once rewritten, the size that INFO tells outlives the file being off.
        await redis.bgrewriteaof()  # type: ignore[no-untyped-call]
        await until(lambda: has_a_base(redis), "the file was rewritten")
        await redis.config_set("rdb-key-save-delay", "3000")  # microseconds a key
        async with front(settings_on(server, "fsync")) as site:
            await redis.config_set("appendonly", "no")
            assert 503 == (await site.save("ann", "s+1", record())).status_code
            await redis.config_set("appendonly", "yes")
            early = await site.save("ann", "s+2", record())
            about = await redis.info("persistence")

            assert (1, 503) == (about["aof_rewrite_in_progress"], early.status_code)
            await until_taken(site)
            about = await redis.info("persistence")
            assert 0 == about["aof_rewrite_in_progress"]


async def test_what_a_hosted_server_does_not_show_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where CONFIG is denied the front starts, says what nobody knows, and still minds the file."""
    async with redis_of("older", "always") as (server, redis):
        await deny_config(redis)
        url = server.url.replace("redis://", f"redis://{HOSTED}@")
        async with front(replace(settings_on(server, "fsync"), redis_url=url)) as site:
            assert (200, 200) == await state(site)
            assert "appendfsync" in capsys.readouterr().out
            await redis.config_set("appendonly", "no")
            assert (503, 503) == await state(site)


async def test_a_group_is_confirmed_once_however_many_events_it_has() -> None:
    """The cost of a level is one more command a group, not one an event."""
    async with master_and_replica() as (master, _), open_redis(master.url) as redis:
        it = flusher(settings_on(master, "replica"), redis, ack="replica")
        async with running(it):
            await it.append(it.event("first"))
            before = await calls_of(redis, "wait")
            await asyncio.gather(*(it.append(it.event(str(n))) for n in range(300)))
            waits = await calls_of(redis, "wait") - before

    assert 300 == sum(it.groups[1:])
    assert len(it.groups) - 1 == waits
    assert waits < 10


async def has_a_base(redis: Redis) -> bool:
    about = await redis.info("persistence")
    return bool(about["aof_base_size"] > 0)


async def until_taken(site: Front) -> None:
    """Return once a write is acknowledged, and the probe says so too."""

    async def taken() -> bool:
        return await state(site) == (200, 200)

    await until(taken, "writes are taken again")
