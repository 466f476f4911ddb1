"""Worker processes under load and under attack: whatever is killed, every event counts once."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ops.redis_server import RedisServer
from shared.mysql import MySQLError
from tests.databases import admin
from tests.e2e.processes import Site, running_site
from tests.loads import Load, new_random, under_load
from tests.plays import STREAM, select
from tests.servers import OwnServers, running_redis
from tests.waiting import until
from worker.dispatch import SLICE_S

#: MariaDB's own processes are in its list too; a session of a worker has a database.
_SESSIONS = "SELECT id FROM information_schema.processlist WHERE db = %s AND user = %s"


@pytest.fixture(name="site")
async def _site(own_servers: OwnServers, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(own_servers, tmp_path, workers=2) as site:
        yield site


# --- everything dies ---------------------------------------------------------------


async def test_workers_killed_at_random_moments_apply_each_event_once(site: Site) -> None:
    """
    SIGKILL again and again, each time with a new worker to follow.
    """
    randomness = new_random()
    site.start_worker()
    async with under_load(site.settings, randomness) as load:
        for _ in range(5):
            await load.grow(randomness.randrange(500, 3000))
            site.kill_worker(randomness.choice(site.workers))
            site.start_worker()

    await site.assert_exact(load.acknowledged)


async def test_mysql_restarted_inside_commits_applies_each_event_once(site: Site) -> None:
    """
    A crash of MySQL, a clean restart and killed connections: unknown outcomes are resolved.
    """
    randomness = new_random()
    async with under_load(site.settings, randomness) as load:
        for number in (signal.SIGKILL, signal.SIGTERM):
            for _ in range(5):
                await load.grow(randomness.randrange(50, 500))
                await kill_sessions(site)
            await load.grow(randomness.randrange(500, 1500))
            await site.restart(site.servers.mysql, number)

    await site.assert_exact(load.acknowledged)


async def kill_sessions(site: Site) -> None:
    """KILL every connection to the site's database."""
    async with admin(site.servers.mysql) as cursor:
        sessions = await select(
            cursor, _SESSIONS, site.settings.mysql_database, site.settings.mysql_user
        )
        for (session,) in sessions:
            with suppress(MySQLError):  # it went by itself meanwhile
                await cursor.execute(f"KILL {session}")


async def test_redis_restarted_from_its_aof_loses_and_doubles_nothing(site: Site) -> None:
    """
    Redis crashes and comes back with what it acknowledged; workers and appends go on.
    """
    randomness = new_random()
    async with under_load(site.settings, randomness) as load:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            await load.grow(randomness.randrange(500, 2000))
            await site.restart(site.servers.redis, number)
        await load.grow(500)

    await site.assert_exact(load.acknowledged)
    assert all(worker.pid is not None for worker in site.workers)


async def test_workers_frozen_past_their_leases_change_nothing_when_they_thaw(site: Site) -> None:
    """
    A zombie wakes up in the middle of whatever it did, long after another took over.
    """
    randomness = new_random()
    async with under_load(site.settings, randomness) as load:
        for _ in range(2):
            await load.grow(randomness.randrange(500, 2000))
            zombie = await site.holder()
            zombie.pause()
            await site.until_others_hold_all(zombie)
            await load.grow(200)
            zombie.resume()

    await site.assert_exact(load.acknowledged)


# --- shards move -------------------------------------------------------------------


async def test_shards_are_shared_and_a_killed_workers_shards_are_taken_over(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    """
    Every worker gets shards, also one that comes later, though the two before it hold no
    more than four shards for three workers allow; the dead one's go on elsewhere.
    """
    async with running_site(own_servers, tmp_path, workers=2, shards=4) as site:
        async with under_load(site.settings, new_random()) as load:
            await site.until_workers_hold(2)
            third = site.start_worker()
            await site.until_workers_hold(3)
            orphans = (await site.held())[third.pid or 0]
            before = await site.batch_numbers()
            site.kill_worker(third)

            async def orphans_go_on() -> bool:
                now = await site.batch_numbers()
                return all(now[shard] > before[shard] + 1 for shard in orphans)

            took_s = await until(orphans_go_on, "the dead worker's shards go on")

        # The aim is 5 s; a busy machine is no failure.
        print(f"{len(orphans)} shards went on {took_s:.1f} s after the SIGKILL")  # noqa: T201
        await site.assert_exact(load.acknowledged)


async def test_drains_go_on_after_arqs_own_redis_died_and_came_back(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    """
    ARQ_REDIS_URL names a Redis that holds nothing of value: it may come back empty.
    """
    with running_redis() as jobs:
        settings = replace(own_servers.settings, arq_redis_url=jobs.url)
        async with running_site(replace(own_servers, settings=settings), tmp_path, 2) as site:
            async with under_load(site.settings, new_random()) as load:
                await site.until_workers_hold(2)
                jobs.kill()
                for worker in site.workers:
                    await worker.says("arq_stopped")
                shutil.rmtree(jobs.data)
                await load.grow(500)
                jobs.start()
                await load.grow(500)

            await site.assert_exact(load.acknowledged)
            assert all(worker.pid is not None for worker in site.workers)


async def test_workers_outlive_jobs_that_arq_cancels_while_they_end(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    """
    arq's Redis is silent, so that jobs hang in their last step, and then its connections end.
    """
    with running_redis() as jobs:
        settings = replace(own_servers.settings, arq_redis_url=jobs.url, log_level="DEBUG")
        async with running_site(replace(own_servers, settings=settings), tmp_path, 2) as site:
            async with under_load(site.settings, new_random()) as load:
                await site.until_workers_hold(2)
                async with asyncio.timeout(120):
                    while not await _hangs_jobs(site, jobs, load):
                        jobs.resume()
                        await site.until_workers_hold(2)
                jobs.kill()
                jobs.start()
                for worker in site.workers:
                    await worker.says("arq_stopped")
                await load.grow(500)

            await site.assert_exact(load.acknowledged)
            assert all(worker.pid is not None for worker in site.workers)


async def _hangs_jobs(site: Site, jobs: RedisServer, load: Load) -> bool:
    """Freeze arq's Redis: has each worker a job then whose work is over, all but the last step?

    Not if one of them had caught up at that moment, and had no job to end.
    """
    told = {worker: len(worker.events("drain_goes_on")) for worker in site.workers}
    jobs.pause()
    await load.grow(500)
    try:
        await until(
            lambda: all(len(each.events("drain_goes_on")) > told[each] for each in told),
            "each worker's jobs hang",
            timeout_s=2 * SLICE_S,
        )
    except AssertionError:
        return False
    return True


async def test_the_jobs_of_killed_workers_do_not_stand_in_the_way(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    """
    arq keeps a killed worker's jobs at the head of its queue for a while, untouchable.
    """
    async with running_site(own_servers, tmp_path, workers=0) as site:
        redis, queue = site.deps.redis, site.deps.keys.arq_queue("drain")
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(400):  # a worker in a crash loop, killed a hundred times
                job = f"drain:{STREAM}:0:dead{number}"
                pipe.zadd(queue, {job: number})
                pipe.set(f"arq:in-progress:{job}", 1, px=600_000)
            await pipe.execute()
        site.start_worker()
        async with under_load(site.settings, new_random()) as load:
            await load.grow(500)

        await site.assert_exact(load.acknowledged)
