"""What operators ask of a front: start, probes, metrics, MySQL away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from ops.servers import free_port
from shared.keys import shard_of
from shared.mysql import Pool
from shared.settings import Settings
from tests.fronts import Front, Refused, front
from tests.plays import STREAM, deps_of, drain_all, record
from tests.servers import OwnServers

DAILY = "/api/admin/play-stats/daily"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[Front]:
    async with front(replace(migrated, flush_interval_ms=0)) as site:
        yield site


def without_mysql(settings: Settings) -> Settings:
    return replace(settings, mysql_port=free_port())


async def test_it_starts_and_takes_writes_with_redis_alone(settings: Settings) -> None:
    """MySQL down: writes are acknowledged and cached lists served, a miss is 503."""
    async with front(settings) as site, front(without_mysql(settings)) as alone:
        taken = await alone.save("ann", "s+1", record())
        missed = await alone.read("ann")
        statistics = await alone.client.get(DAILY, headers=alone.cookie("admin"))
        assert [200, 503, 503] == [response.status_code for response in (taken, missed, statistics)]
        assert int(missed.headers["retry-after"]) > 0
        assert {"error": "Service temporarily unavailable"} == missed.json()

        async def nothing(_username: str) -> dict[bytes, dict[str, Any]]:
            return {}

        site.site.reads.load = nothing
        await site.records("ann")  # another process could read and filled the cache
        await alone.save("ann", "s+2", record())
        assert {"s+1", "s+2"} == set(await alone.records("ann"))


async def test_another_shard_count_is_refused_by_name(settings: Settings) -> None:
    """The count is fixed at the first start; the refusal is one line, no traceback."""
    async with front(settings):
        pass
    with pytest.raises(Refused) as refused:
        async with front(replace(settings, shards=settings.shards + 1)):
            pass

    told = str(refused.value)
    assert told.startswith("SHARDS is 3, but this Redis was first used with 2")
    assert "Traceback" not in told


async def test_a_redis_that_evicts_is_refused(own_servers: OwnServers) -> None:
    """It may throw acknowledged events away."""
    async with Redis.from_url(own_servers.redis.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(Refused, match="maxmemory-policy is allkeys-lru"):
                async with front(own_servers.settings):
                    pass
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")


async def test_without_redis_it_does_not_start(settings: Settings) -> None:
    """Nothing could be acknowledged; the message says why."""
    away = replace(settings, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Refused, match="Redis"):
        async with front(away):
            pass


async def test_probes_while_all_is_well(site: Front) -> None:
    """Open to everybody: nobody logs a load balancer in."""
    answers = {path: await site.client.get(path) for path in ("/livez", "/readyz", "/api/health")}
    health = answers["/api/health"].json()

    assert {200} == {answer.status_code for answer in answers.values()}
    assert {"no-store"} == {answer.headers["cache-control"] for answer in answers.values()}
    assert {"status", "timestamp", "storage", "services"} == set(health)
    assert ("ok", "mysql-redis") == (health["status"], health["storage"])
    for service in health["services"].values():
        assert ("ok", True) == (service["status"], service["connected"])
        assert service["latency"] >= 0


async def test_mysql_down_is_degraded_but_ready(settings: Settings) -> None:
    """Writes go on, so proxies must keep sending them."""
    async with front(without_mysql(settings)) as site:
        health = await site.client.get("/api/health")
        ready = await site.client.get("/readyz")

    services = health.json()["services"]
    assert (503, "degraded") == (health.status_code, health.json()["status"])
    assert {"status": "down", "connected": False, "latency": None} == services["mysql"]
    assert services["redis"]["connected"]
    assert 200 == ready.status_code


async def test_redis_down_is_alive_but_not_ready(own_servers: OwnServers) -> None:
    """The process need not be restarted, but gets no requests."""
    async with front(own_servers.settings) as site:
        own_servers.redis.kill()
        paths = ("/livez", "/readyz", "/api/health")
        answers = [(await site.client.get(path)).status_code for path in paths]
        own_servers.redis.start()
        ready = await site.client.get("/readyz")

    assert [200, 503, 503] == answers
    assert 200 == ready.status_code


async def metrics_of(site: Front) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values (without le) -> value."""
    response = await site.client.get("/metrics")
    assert 200 == response.status_code
    assert response.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_metrics_tell_requests_groups_streams_and_stores(
    site: Front, redis: Redis, pool: Pool
) -> None:
    """Counts by route, method and status; per shard what the workers did and what is left."""
    request_count = "moonwake_http_request_duration_seconds_count"
    labels = ("POST", "/api/playrecords", "200")
    before = (await metrics_of(site)).get(request_count, {}).get(labels, 0.0)
    for number in range(4):
        await site.save("ann", f"s+{number}", record())
    await drain_all(deps_of(site.settings, redis, pool))
    await site.save("ann", "s+1", record())
    await site.client.request("BREW", "/no/such/path")
    found = await metrics_of(site)
    shard = str(shard_of("ann", site.settings.shards))
    of_shard = {
        name.removeprefix("moonwake_"): values[shard, STREAM]
        for name, values in found.items()
        if (shard, STREAM) in values
    }

    assert before + 5 == found[request_count][labels]
    assert 1 <= found[request_count]["other", "unmatched", "404"]
    assert 5 <= found["moonwake_append_group_events_sum"][()]
    assert (1, 1) == (found["moonwake_redis_up"][()], found["moonwake_mysql_up"][()])
    expected = {
        "stream_lag_entries": 1,
        "stream_pending_entries": 1,
        "stream_books_difference_entries": 0,
        "stream_dead_entries": 0,
        "stream_closed": 0,
        "drain_last_batch_entries": 4,
        "stream_added_entries_total": 5,
        "stream_ordinal_entries_total": 4,
        "stream_applied_entries_total": 4,
        "stream_lost_entries_total": 0,
        "drain_batches_total": 1,
        "drain_entries_total": 4,
        "mysql_ordinal_entries_total": 4,
    }
    assert expected == {name: of_shard[name] for name in expected}
    assert {"stream_lag_seconds", "drain_rows_total", "drain_write_seconds_total"} <= set(of_shard)
    assert {"drain_last_batch_rows", "drain_last_batch_seconds"} <= set(of_shard)
    assert "drain_takeovers_total" in of_shard


async def test_metrics_answer_without_either_store(own_servers: OwnServers) -> None:
    """A scrape in an outage tells the outage."""
    async with front(without_mysql(own_servers.settings)) as site:
        own_servers.redis.kill()
        found = await metrics_of(site)
        own_servers.redis.start()

    assert (0, 0) == (found["moonwake_redis_up"][()], found["moonwake_mysql_up"][()])


async def test_a_frozen_mysql_is_503_in_time_and_the_front_recovers(
    own_servers: OwnServers,
) -> None:
    """A miss waits a bounded time; when MySQL is back, so are the reads, without a restart."""
    async with front(own_servers.settings) as site:
        await site.records("ann")  # a connection is in the pool
        await site.save("bob", "s+1", record())
        own_servers.mysql.pause()
        frozen = await site.read("bob")
        own_servers.mysql.kill()
        down = await site.read("bob")
        own_servers.mysql.start()
        back = await site.read("bob")

    assert [503, 503, 200] == [response.status_code for response in (frozen, down, back)]
    assert {"s+1"} == set(back.json())
