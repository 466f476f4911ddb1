"""Who drains what: leases, shares, slices, and workers that stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

import worker.dispatch
from shared.mysql import Pool
from shared.settings import Settings
from shared.streams import now_ms_of
from tests.loads import new_random, under_load
from tests.mysql_state import books
from tests.plays import STREAM, add_foreign, append, deps_of, rows, save
from tests.waiting import until
from worker import leases
from worker.deps import Deps
from worker.dispatch import Dispatcher
from worker.sinks.plays import PlaysSink


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=20, stream_retention_s=3600), redis, pool)


@pytest.fixture(name="patient")
def _patient(deps: Deps) -> Deps:
    """Its drains end where nothing comes for seconds, not when a busy machine pauses the load."""
    settings = replace(deps.settings, flush_interval_ms=5_000, batch_max_entries=10)
    return replace(deps, settings=settings)


#: The age of a report that stays fresh, however busy the machine is.
LASTING = -600_000


class Worker:
    """A dispatcher, and the jobs that it enqueued and nobody took yet."""

    def __init__(self, deps: Deps) -> None:
        self.jobs: list[tuple[str, int, str]] = []
        self.dispatcher = Dispatcher(deps, {STREAM: PlaysSink(deps.settings)}, self._enqueue)

    async def _enqueue(self, stream: str, shard: int, lease_id: str) -> None:
        self.jobs.append((stream, shard, lease_id))

    async def tick(self) -> set[int]:
        """Look once; the shards it leased."""
        await self.dispatcher.tick()
        return {shard for _, shard, _ in self.jobs}

    async def work(self) -> None:
        """Run every job it enqueued, all at once as arq does."""
        jobs, self.jobs = self.jobs, []
        await asyncio.gather(*(self.dispatcher.drain(*job) for job in jobs))

    async def visit_all(self) -> None:
        """Visit every shard, so that none is due for a while."""
        await self.tick()
        await self.work()


@asynccontextmanager
async def at_work_on_both(busy: Worker) -> AsyncIterator[None]:
    """It drains both shards when the block begins, and is stopped afterwards."""
    await busy.tick()
    working = asyncio.create_task(busy.work())
    await until(lambda: len(busy.dispatcher.drains) == 2, "it drains both shards")
    yield
    await busy.dispatcher.stop()
    await working


async def applied(deps: Deps) -> dict[int, int]:
    """shard -> applied events, of the shards that have any."""
    found = await rows(deps.pool, "SELECT shard, applied FROM stream_checkpoints WHERE applied")
    return {row[0]: row[1] for row in found}


async def report_worker(deps: Deps, name: str, age_ms: int = 0, shards: int = 0) -> None:
    """What another worker would have reported *age_ms* ago."""
    seen_ms = now_ms_of(await deps.redis.time()) - age_ms
    about = {"seen_ms": seen_ms, "shards": [f"{STREAM}:{n}" for n in range(shards)], "pid": 1}
    report = orjson.dumps(about).decode()
    await deps.redis.hset(deps.keys.workers, name, report)  # type: ignore[misc]


# --- leases ------------------------------------------------------------------------


async def test_only_its_holder_renews_a_lease_or_gives_it_back(redis: Redis) -> None:
    """
    A lease carries the id of the job it was taken for; no other id moves it.
    """
    assert await leases.take(redis, "lease", "mine")
    assert not await leases.take(redis, "lease", "yours")
    assert not await leases.renew(redis, "lease", "yours")
    await leases.give_back(redis, "lease", "yours")
    assert await leases.renew(redis, "lease", "mine")

    await leases.give_back(redis, "lease", "mine")

    assert await leases.take(redis, "lease", "yours")


async def test_a_lease_runs_out_and_is_not_brought_back(redis: Redis) -> None:
    """
    Whoever forgot to renew has to take it like everybody else.
    """
    await leases.take(redis, "lease", "mine")
    await redis.pexpire("lease", leases.LEASE_MS // 2)
    await leases.renew(redis, "lease", "mine")
    assert leases.LEASE_MS // 2 < await redis.pttl("lease") <= leases.LEASE_MS
    await redis.pexpire("lease", 1)

    async def is_free() -> bool:
        return not await redis.exists("lease")

    await until(is_free, "the lease runs out")
    assert not await leases.renew(redis, "lease", "mine")
    assert not await redis.exists("lease")


# --- jobs --------------------------------------------------------------------------


async def test_a_job_drains_its_shard_and_gives_the_lease_back(deps: Deps) -> None:
    """
    The shards that wait are leased and enqueued, and afterwards they are free.
    """
    worker = Worker(deps)
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    assert {0, 1} == await worker.tick()
    assert [1, 1] == [await deps.redis.exists(deps.keys.lease(STREAM, n)) for n in (0, 1)]

    await worker.work()

    assert {0: 1, 1: 1} == await applied(deps)
    assert [0, 0] == [await deps.redis.exists(deps.keys.lease(STREAM, n)) for n in (0, 1)]


async def test_a_job_whose_lease_is_lost_returns_at_once(deps: Deps) -> None:
    """
    It was enqueued for a worker that died: whoever leased the shard since is not disturbed.
    """
    await append(deps.settings, deps.redis, [save("bob")])
    await leases.take(deps.redis, deps.keys.lease(STREAM, 0), "another")

    await Worker(deps).dispatcher.drain(STREAM, 0, "mine")

    assert {} == await applied(deps)
    assert b"another" == await deps.redis.get(deps.keys.lease(STREAM, 0))


async def test_jobs_over_a_workers_share_are_handed_on(deps: Deps) -> None:
    """
    Even when they all come at the same moment: the other worker has room for them, and
    gets a job at once.
    """
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await report_worker(deps, "other", LASTING)
    worker = Worker(deps)
    assert {0, 1} == await worker.tick()

    await worker.work()

    [done] = await applied(deps)
    [(_, shard, lease_id)] = worker.jobs
    assert 1 - done == shard
    assert lease_id.encode() == await deps.redis.get(deps.keys.lease(STREAM, shard))


async def test_jobs_that_nobody_has_room_for_are_handed_back(deps: Deps) -> None:
    """
    They do not go round and round: the shard is free for whoever has room first.
    """
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    worker = Worker(deps)
    assert {0, 1} == await worker.tick()
    await report_worker(deps, "other", LASTING, shards=2)
    await worker.tick()

    await worker.work()

    [done] = await applied(deps)
    assert [] == worker.jobs
    assert not await deps.redis.exists(deps.keys.lease(STREAM, 1 - done))


async def test_a_shard_that_is_leased_or_drained_is_not_leased_again(deps: Deps) -> None:
    """
    However often the dispatchers look, a shard has one job.
    """
    first, second = Worker(deps), Worker(deps)
    await append(deps.settings, deps.redis, [save("bob")])
    await first.tick()
    assert {0, 1} == await first.tick()
    assert set() == await second.tick()
    assert 2 == len(first.jobs)


async def test_a_stopped_shard_is_left_alone(deps: Deps) -> None:
    """
    Until the operator resumes it.
    """
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await deps.redis.set(deps.keys.stopped(STREAM, 0), "MySQL refused 50 of 50 entries")

    assert {1} == await Worker(deps).tick()


async def test_workers_not_heard_of_do_not_count_and_are_forgotten(deps: Deps) -> None:
    """
    A dead worker's share is the others' after a few seconds, its name is gone after a minute.
    """
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await report_worker(deps, "dead", age_ms=4_000)
    await report_worker(deps, "long dead", age_ms=120_000)
    worker = Worker(deps)

    await worker.visit_all()

    assert {0: 1, 1: 1} == await applied(deps)
    names = set(await deps.redis.hkeys(deps.keys.workers))  # type: ignore[misc]
    assert {b"dead", worker.dispatcher.worker_id.encode()} == names


async def test_a_worker_over_its_share_passes_a_shard_on(
    patient: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It need not wait for a slice to end: a worker with room is waiting.
    """
    monkeypatch.setattr(worker.dispatch, "PATIENCE_S", 0)
    busy = Worker(patient)
    async with under_load(patient.settings, new_random()) as load:
        await load.grow(50)
        async with at_work_on_both(busy):
            await report_worker(patient, "idle", LASTING)
            await busy.tick()
            await until(lambda: len(busy.dispatcher.drains) == 1, "it drains one shard")
            assert set() == await busy.tick()  # nor does it take it back


async def test_a_busy_shard_stays_where_it_is(
    patient: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However many slices pass: nobody else would do better, and each move costs freshness.
    """
    monkeypatch.setattr(worker.dispatch, "SLICE_S", 0)
    monkeypatch.setattr(worker.dispatch, "PATIENCE_S", 0)
    busy = Worker(patient)
    async with under_load(patient.settings, new_random()) as load:
        await load.grow(50)
        await busy.tick()
        await report_worker(patient, "other", LASTING, shards=1)
        await busy.work()
        drains = dict(busy.dispatcher.drains)
        for _ in range(5):
            await load.grow(50)
            await busy.tick()
            await busy.work()

        assert 2 == len(drains)
        assert drains == busy.dispatcher.drains
        assert not any(drain.is_stopping for drain in drains.values())
        await busy.dispatcher.stop()


async def test_one_shards_backlog_does_not_keep_another_one_waiting(deps: Deps) -> None:
    """
    A worker drains all it holds at once: nobody waits for the end of a slice.
    """
    deps = replace(deps, settings=replace(deps.settings, batch_max_entries=1))
    worker_ = Worker(deps)
    backlog = [("*", save("bob", play_time=n)) for n in range(2_000)]
    await add_foreign(deps.settings, deps.redis, backlog)
    await worker_.tick()
    working = asyncio.create_task(worker_.work())
    await append(deps.settings, deps.redis, [save("ann")])

    async def is_applied() -> bool:
        return 1 in await applied(deps)

    await until(is_applied, "the event of the other shard is applied")
    assert 2_000 > (await applied(deps)).get(0, 0)
    await worker_.dispatcher.stop()
    await working


async def test_uneven_shares_of_a_moment_move_nothing(patient: Deps) -> None:
    """
    Shards in which little happens come and go; a busy one need not move for them.
    """
    busy = Worker(patient)
    async with under_load(patient.settings, new_random()) as load:
        await load.grow(50)
        async with at_work_on_both(busy):
            await report_worker(patient, "idle", LASTING)
            await busy.tick()
            assert not any(drain.is_stopping for drain in busy.dispatcher.drains.values())


async def test_the_end_of_a_drain_leaves_its_successors_name(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A frozen worker that ends late must not hide that the one after it died.
    """
    monkeypatch.setattr(worker.dispatch, "RENEW_S", 0.05)
    slow, key = Worker(deps), deps.keys.checkpoint(STREAM, 0)
    async with under_load(deps.settings, new_random()) as load:
        await leases.take(deps.redis, deps.keys.lease(STREAM, 0), "mine")
        draining = asyncio.create_task(slow.dispatcher.drain(STREAM, 0, "mine"))
        await load.grow(100)
        await deps.redis.hset(key, "holder", "successor")  # type: ignore[misc]
        await deps.redis.set(deps.keys.lease(STREAM, 0), "another")
        await until(lambda: not slow.dispatcher.drains, "the drain ends")
        await draining

    assert b"successor" == await deps.redis.hget(key, "holder")  # type: ignore[misc]


async def test_a_drain_that_lost_its_lease_ends_after_its_batch(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Two workers on one shard do no harm, but they do the work twice.
    """
    monkeypatch.setattr(worker.dispatch, "RENEW_S", 0.05)
    slow, key = Worker(deps), deps.keys.lease(STREAM, 0)
    async with under_load(deps.settings, new_random()) as load:
        await load.grow(50)
        await leases.take(deps.redis, key, "mine")
        draining = asyncio.create_task(slow.dispatcher.drain(STREAM, 0, "mine"))
        await load.grow(100)
        await deps.redis.set(key, "another")

        await until(lambda: not slow.dispatcher.drains, "the drain ends")
        await draining

    assert b"another" == await deps.redis.get(key)
    assert {0} == set(await applied(deps))


async def test_idle_shards_are_visited_and_trimmed_after_the_retention(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is applied and old enough goes, even if nothing new ever comes.
    """
    await append(deps.settings, deps.redis, [save("bob", play_time=n) for n in range(5)])
    first = Worker(deps)
    await first.visit_all()
    await first.dispatcher.stop()
    assert 5 == await deps.redis.xlen(deps.keys.stream(STREAM, 0))
    worker_ = Worker(replace(deps, settings=replace(deps.settings, stream_retention_s=1)))
    await worker_.visit_all()
    assert set() == await worker_.tick()
    monkeypatch.setattr(worker.dispatch, "IDLE_VISIT_S", 0)

    async def is_trimmed() -> bool:
        await worker_.visit_all()
        return bool(1 == await deps.redis.xlen(deps.keys.stream(STREAM, 0)))

    await until(is_trimmed, "only the entry at the checkpoint is left")
    assert (5, 5, 0, 0) == await books(deps.pool)


# --- stopping ----------------------------------------------------------------------


async def test_a_stop_waits_for_a_job_that_has_just_come(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Once `stop` has returned nothing touches MySQL: its connections are closed next.
    """
    await append(deps.settings, deps.redis, [save("bob")])
    worker_ = Worker(deps)
    await leases.take(deps.redis, deps.keys.lease(STREAM, 0), "mine")
    came, go_on = asyncio.Event(), asyncio.Event()

    async def renew_slowly(*_arguments: Any) -> bool:
        came.set()
        await go_on.wait()
        return True

    monkeypatch.setattr(leases, "renew", renew_slowly)
    job = asyncio.create_task(worker_.dispatcher.drain(STREAM, 0, "mine"))
    await came.wait()
    stopping = asyncio.create_task(worker_.dispatcher.stop())
    await asyncio.wait([stopping], timeout=0.2)  # long enough for one that does not wait
    go_on.set()
    await stopping
    when_stopped = await applied(deps)
    await job

    assert when_stopped == await applied(deps)


async def test_a_drain_outlives_its_job(patient: Deps) -> None:
    """
    arq cancels jobs when its Redis goes away: nobody could take the shard over then.
    """
    worker_ = Worker(patient)
    async with under_load(patient.settings, new_random()) as load:
        await load.grow(50)
        await worker_.tick()
        job = asyncio.create_task(worker_.work())
        await until(lambda: len(worker_.dispatcher.drains) == 2, "both shards are drained")
        job.cancel()
        await asyncio.wait([job])
        before = sum((await applied(patient)).values())
        await load.grow(100)

        async def goes_on() -> bool:
            return sum((await applied(patient)).values()) > before + 50

        await until(goes_on, "the drains go on")
        assert 2 == len(worker_.dispatcher.drains)
        await worker_.dispatcher.stop()
        ordinal, whole, _, _ = await books(patient.pool)

    assert ordinal == whole
    assert not await patient.redis.exists(patient.keys.lease(STREAM, 0))
