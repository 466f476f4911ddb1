"""Worker processes start, wait, refuse and stop as an operator expects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.mysql import reading
from tests.e2e.processes import Site, running_site
from tests.loads import new_random, under_load
from tests.plays import rows
from tests.servers import OwnServers, empty_redis
from tests.waiting import until


@pytest.fixture(name="site")
async def _site(own_servers: OwnServers, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(own_servers, tmp_path, workers=0) as site:
        yield site


# --- stopping ----------------------------------------------------------------------


async def test_a_stop_under_load_finishes_the_batch_in_hand(site: Site) -> None:
    """
    SIGTERM ends a worker with status 0, and the server never had to roll back a batch.
    """
    workers = [site.start_worker(), site.start_worker()]
    async with under_load(site.settings, new_random()) as load:
        await site.until_workers_hold(2)
        before = await rollbacks(site)
        for worker in workers:
            await load.grow(300)
            worker.terminate()
            assert 0 == await worker.ended()
        assert before == await rollbacks(site)
        site.start_worker()

    await site.assert_exact(load.acknowledged)


async def rollbacks(site: Site) -> int:
    """How many transactions the server rolled back, whatever for."""
    [(_, count)] = await rows(site.deps.pool, "SHOW GLOBAL STATUS LIKE 'Handler_rollback'")
    return int(count)


async def test_a_stop_while_mysql_is_frozen_waits_for_the_batch_in_hand(site: Site) -> None:
    """
    A worker that was told to stop takes nothing more, and ends once MySQL answers again.
    """
    worker = site.start_worker()
    async with under_load(site.settings, new_random()) as load:
        await site.until_workers_hold(1)
        site.servers.mysql.pause()
        await load.grow(300)
        worker.terminate()

        async def is_silent() -> bool:
            return not await site.held()

        await until(is_silent, "the worker reports no more")
        assert worker.pid is not None
        site.servers.mysql.resume()
        assert 0 == await worker.ended()
        site.start_worker()

    await site.assert_exact(load.acknowledged)


# --- starting ----------------------------------------------------------------------


async def test_a_worker_waits_for_stores_that_are_down_and_then_works(site: Site) -> None:
    """
    In which order servers and workers start does not matter; SIGTERM ends the waiting.
    """
    async with under_load(site.settings, new_random()) as load:
        await load.grow(100)
    site.servers.redis.kill()
    site.servers.mysql.kill()
    impatient, patient = site.start_worker(), site.start_worker()
    await impatient.says("waiting_for_store")
    impatient.terminate()
    assert 0 == await impatient.ended()

    await patient.says("waiting_for_store", "Redis")
    site.servers.redis.start()
    await patient.says("waiting_for_store", "MySQL")
    site.servers.mysql.start()

    await site.assert_exact(load.acknowledged)


async def test_a_worker_that_waits_for_a_frozen_mysql_can_be_stopped(site: Site) -> None:
    """
    A server that takes connections and says nothing does not keep a worker from ending.
    """
    site.servers.mysql.pause()
    worker = site.start_worker()
    await worker.says("waiting_for_store")
    worker.terminate()

    assert 0 == await worker.ended()


@pytest.mark.parametrize("store", ["this Redis", "this database"])
async def test_another_shard_count_is_refused(site: Site, store: str) -> None:
    """
    The count is fixed in both stores: neither of them alone, made anew, lets another in.
    """
    await site.start_worker().says("worker_started")
    if store == "this database":
        await empty_redis(site.servers.redis)

    refused = site.start_worker(replace(site.settings, shards=5))

    assert 2 == await refused.ended()
    assert store in refused.tail()
    assert "SHARDS is 5" in refused.tail()


async def test_a_schema_that_is_not_this_programs_is_refused(site: Site) -> None:
    """
    Workers do not touch a database that lacks a file, and say what to do.
    """
    async with reading(site.deps.pool) as cursor:
        await cursor.execute("DELETE FROM schema_migrations ORDER BY version DESC LIMIT 1")

    refused = site.start_worker()

    assert 1 == await refused.ended()
    assert "run `python -m schema`" in refused.tail()
    assert [] == refused.events("worker_started")


async def test_a_wrong_setting_is_refused_by_name(site: Site) -> None:
    """
    Status 2 tells a service manager that another start would not help.
    """
    refused = site.start_worker(replace(site.settings, batch_max_bytes=1))

    assert 2 == await refused.ended()
    assert "BATCH_MAX_BYTES must be a whole number from 1024" in refused.tail()
