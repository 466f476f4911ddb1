"""
Promise 4: after an acknowledged write every read of that user shows it.

On another process than the one that took the write, with the cache cold, warm or
being filled by a slow reader, and with the worker stopped, at work, or dead between
its commit and all that follows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from redis.asyncio import Redis

from api.gate import Visitor
from api.reads import Snapshot
from shared.connections import Pool
from shared.keys import Keys, shard_of
from shared.settings import Settings
from shared.streams import BatchWork, Checkpoint
from tests.fronts import Front, front
from tests.plays import add_foreign, deps_of, drain_all, record
from tests.plays import clear as clear_event
from tests.plays import save as save_event
from tests.waiting import until
from worker.batches import Batch
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

USER = "ann"
#: Of both shards.
CROWD = ("amy", "bob", "cat", "dora", "eve", "fay")


@dataclass(frozen=True, slots=True)
class Site:
    """Two fronts over the same stores, and what a worker needs."""

    near: Front
    far: Front
    deps: Deps

    @property
    def keys(self) -> Keys:
        return self.deps.keys

    async def forget_cached(self, user: str = USER) -> None:
        shard = shard_of(user, self.deps.settings.shards)
        await self.deps.redis.delete(self.keys.play_records(shard, user).cached)


@pytest.fixture(name="site")
async def _site(migrated: Settings, redis: Redis, pool: Pool) -> AsyncIterator[Site]:
    settings = replace(migrated, flush_interval_ms=0)
    async with front(settings) as near, front(settings) as far:
        yield Site(near, far, deps_of(settings, redis, pool))


class DyingDrain(ShardDrain):
    """A worker that dies after each commit: nothing is published or cleaned up."""

    async def settle(self, checkpoint: Checkpoint, batch: Batch, work: BatchWork) -> None:
        return


async def stopped(_deps: Deps) -> None:
    """No worker."""


async def at_work(deps: Deps) -> None:
    """A worker that drains all there is."""
    await drain_all(deps)


async def dead(deps: Deps) -> None:
    """A worker that commits all there is and does nothing more."""
    for shard in range(deps.settings.shards):
        await DyingDrain(deps, PlaysSink(deps.settings), shard).run(slice_s=60)


async def save(site: Front) -> Any:
    return await site.save(USER, "s+1", record(play_time=99))


async def delete(site: Front) -> Any:
    return await site.delete(USER, "s+1")


async def clear(site: Front) -> Any:
    return await site.clear(USER)


#: What a user with s+1 and s+2 at position 10 sees after each write: key -> play_time.
WRITES: list[tuple[Callable[[Front], Awaitable[Any]], dict[str, int]]] = [
    (save, {"s+1": 99, "s+2": 10}),
    (delete, {"s+2": 10}),
    (clear, {}),
]


@asynccontextmanager
async def a_cold_cache(site: Site) -> AsyncIterator[None]:
    await site.forget_cached()
    yield


@asynccontextmanager
async def a_warm_cache(site: Site) -> AsyncIterator[None]:
    await site.near.records(USER)
    yield


@asynccontextmanager
async def a_slow_reader(site: Site) -> AsyncIterator[None]:
    """A reader that has read MySQL before the write and goes on when it is drained."""
    await site.forget_cached()
    reads = site.far.site.reads
    load, has_read, may_go_on = reads.load, asyncio.Event(), asyncio.Event()

    async def slow_load(username: str) -> dict[bytes, dict[str, Any]]:
        stored = await load(username)
        has_read.set()
        await may_go_on.wait()
        return stored

    reads.load = slow_load
    reader = asyncio.create_task(site.far.records(USER))
    await has_read.wait()
    reads.load = load
    yield
    may_go_on.set()
    await reader


async def positions(front: Front) -> dict[str, int]:
    return {key: fields["play_time"] for key, fields in (await front.records(USER)).items()}


@pytest.mark.parametrize("worker", [stopped, at_work, dead], ids=lambda w: w.__name__)
@pytest.mark.parametrize(
    "cache", [a_cold_cache, a_warm_cache, a_slow_reader], ids=lambda c: c.__name__
)
@pytest.mark.parametrize(("write", "expected"), WRITES, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_write_is_in_every_later_read(
    site: Site,
    write: Callable[[Front], Awaitable[Any]],
    expected: dict[str, int],
    cache: Callable[[Site], Any],
    worker: Callable[[Deps], Awaitable[None]],
) -> None:
    """Whatever the cache held and however far the worker came, another process shows it."""
    for key in ("s+1", "s+2"):
        await site.near.save(USER, key, record())
    await drain_all(site.deps)

    async with cache(site):
        assert 200 == (await write(site.near)).status_code
        await worker(site.deps)
        seen_at_once = await positions(site.far)
    seen_later = await positions(site.far)
    await drain_all(site.deps)
    await site.forget_cached()

    assert expected == seen_at_once
    assert expected == seen_later
    assert expected == await positions(site.near)


@pytest.mark.parametrize("worker", [stopped, at_work, dead], ids=lambda w: w.__name__)
@pytest.mark.parametrize(("write", "expected"), WRITES, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_slow_reader_that_ends_last_leaves_nothing_stale(
    site: Site,
    write: Callable[[Front], Awaitable[Any]],
    expected: dict[str, int],
    worker: Callable[[Deps], Awaitable[None]],
) -> None:
    """Nobody else read meanwhile: what it read before the write must not become the copy."""
    for key in ("s+1", "s+2"):
        await site.near.save(USER, key, record())
    await drain_all(site.deps)

    async with a_slow_reader(site):
        await write(site.near)
        await worker(site.deps)

    assert expected == await positions(site.far)


async def test_only_reads_make_a_cached_copy(site: Site, redis: Redis) -> None:
    """An append keeps a copy up to date and never begins one, which would have no end."""
    await site.near.save(USER, "s+1", record())
    cached = site.keys.play_records(shard_of(USER, site.deps.settings.shards), USER).cached

    assert 0 == await redis.exists(cached)
    await site.near.records(USER)
    await site.near.save(USER, "s+1", record())
    assert 0 < await redis.pttl(cached) <= 3_600_000


async def test_an_overlay_left_behind_never_hides_what_came_after_it(
    site: Site, redis: Redis
) -> None:
    """A field at or below the published checkpoint does not count, and a read removes it."""
    await site.near.save(USER, "s+1", record())
    shard = shard_of(USER, site.deps.settings.shards)
    pending = site.keys.play_records(shard, USER).pending
    left_behind = await redis.hgetall(pending)  # type: ignore[misc]
    await drain_all(site.deps)
    # As a worker leaves it that died before its last step; another producer went on.
    await redis.hset(pending, mapping=left_behind)  # type: ignore[misc]
    await add_foreign(site.deps.settings, redis, [("*", clear_event(USER))])
    await drain_all(site.deps)

    assert {} == await site.far.records(USER)
    assert {} == await redis.hgetall(pending)  # type: ignore[misc]


async def test_a_reader_that_began_before_a_stranger_wrote_fills_nothing(site: Site) -> None:
    """An entry of another producer moves the version when it is drained, not when added."""
    async with a_slow_reader(site):
        await add_foreign(site.deps.settings, site.deps.redis, [("*", save_event(USER, "9"))])
        await drain_all(site.deps)

    assert ["s+9"] == list(await site.far.records(USER))


async def test_no_records_can_be_cached_too(site: Site) -> None:
    """A user without records costs MySQL one read, not one per read."""
    assert {} == await site.near.records(USER)

    async def no_load(_username: str) -> dict[bytes, dict[str, Any]]:
        raise AssertionError("MySQL was read again")

    site.far.site.reads.load = no_load
    assert {} == await site.far.records(USER)


async def test_readers_of_one_version_share_one_load(site: Site) -> None:
    """Fifty readers who miss at the same time ask MySQL once."""
    reads = site.near.site.reads
    load, calls, all_wait = reads.load, 0, asyncio.Event()

    async def counted(username: str) -> dict[bytes, dict[str, Any]]:
        nonlocal calls
        calls += 1
        await all_wait.wait()
        return await load(username)

    reads.load = counted
    await site.near.save(USER, "s+1", record())
    readers = [asyncio.create_task(site.near.records(USER)) for _ in range(50)]
    await until(lambda: calls == 1, "a reader asks MySQL")
    # Whoever missed after a new write must not be given what was read before it.
    await site.near.save(USER, "s+2", record())
    late = asyncio.create_task(site.near.records(USER))
    await until(lambda: calls == 2, "the late reader asks MySQL too")
    all_wait.set()
    seen = await asyncio.gather(*readers)

    assert 2 == calls
    assert all("s+1" in records for records in seen)
    assert {"s+1", "s+2"} == set(await late)


async def test_a_reader_who_goes_away_leaves_the_load_to_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling the first of two readers does not fail the second."""
    reads = site.near.site.reads
    load, loading, may_go_on = reads.load, asyncio.Event(), asyncio.Event()

    async def slow_load(username: str) -> dict[bytes, dict[str, Any]]:
        loading.set()
        await may_go_on.wait()
        return await load(username)

    reads.load = slow_load
    visitor = site.near.site.gate.visitor([(b"cookie", site.near.cookie(USER)["cookie"].encode())])
    take_snapshot, snapshots = reads._snapshot, 0

    async def counted(visitor: Visitor) -> Snapshot:
        nonlocal snapshots
        snapshot = await take_snapshot(visitor)
        snapshots += 1
        return snapshot

    monkeypatch.setattr(reads, "_snapshot", counted)
    first = asyncio.create_task(reads.play_records(visitor))
    await loading.wait()
    second = asyncio.create_task(reads.play_records(visitor))
    await until(lambda: snapshots == 2, "the second has missed too")
    first.cancel()
    await asyncio.wait([first])
    may_go_on.set()

    assert b"{}" == await second


@pytest.mark.parametrize("damage", ["overlay", "overlay key", "cached", "cached key"])
async def test_damaged_values_are_read_around(site: Site, redis: Redis, damage: str) -> None:
    """Whatever somebody wrote into the overlay or the cached copy, MySQL's records are served."""
    await site.near.save(USER, "s+1", record())
    await drain_all(site.deps)
    await site.near.records(USER)
    shard = shard_of(USER, site.deps.settings.shards)
    user = site.keys.play_records(shard, USER)
    if damage == "overlay":
        await site.forget_cached()
        junk = {"s+1": "junk", "s+2": "9999999999999-1 x s", "s+3": b"9999999999999-1 x s x 1 {"}
        await redis.hset(user.pending, mapping=junk)  # type: ignore[misc]
    elif damage == "overlay key":
        await site.forget_cached()
        await redis.set(user.pending, "junk")
    elif damage == "cached":
        await redis.hset(user.cached, "s+1", "junk")  # type: ignore[misc]
    else:
        await redis.set(user.cached, "junk")

    assert {"s+1": 10} == await positions(site.near)
    assert {"s+1": 10} == await positions(site.far)


async def test_a_damaged_overlay_stops_no_write_and_no_drain(site: Site, redis: Redis) -> None:
    """A save over a damaged field is taken, drained and cleaned up as any other."""
    shard = shard_of(USER, site.deps.settings.shards)
    pending = site.keys.play_records(shard, USER).pending
    await redis.hset(pending, mapping={"s+1": "junk", "clear": "junk"})  # type: ignore[misc]

    assert 200 == (await site.near.save(USER, "s+1", record())).status_code

    await redis.hset(pending, "s+1", "junk")  # type: ignore[misc]
    await drain_all(site.deps)

    assert {"s+1": 10} == await positions(site.near)
    assert {} == await redis.hgetall(pending)  # type: ignore[misc]


texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 2**31 - 1)
required = {"title": texts, "source_name": texts, "index": st.integers(1, 2**31 - 1)}
optional = {
    "cover": st.none() | texts,
    "year": st.none() | st.text("0123456789", max_size=20),
    "search_title": st.none() | texts,
    "remarks": st.none() | texts,
    "douban_id": st.none() | st.integers(0, 2**62),
    "type": st.none() | texts,
    "save_time": st.none() | st.integers(0, 253_402_300_799_999),
    "original_episodes": st.none() | counts,
}
#: As browsers send them: every number is there and whole.
tidy_records = st.fixed_dictionaries(
    {**required, "total_episodes": counts, "play_time": counts, "total_time": counts},
    optional=optional,
)
untidy_records = st.builds(
    lambda known, unknown: {**unknown, **known},
    known=st.fixed_dictionaries(
        required,
        optional={
            **optional,
            "total_episodes": st.none() | counts,
            "play_time": st.none() | st.floats(0, 1e6) | counts,
            "total_time": counts,
            "cover": st.just("https://example.org/" + "x" * 2000),
            "year": st.integers(1900, 2100),
            "remarks": st.just("更新至第12集" * 100),
            "douban_id": texts,
        },
    ),
    unknown=st.dictionaries(texts, json_values, max_size=2),
)
sent_records = st.lists(tidy_records | untidy_records, min_size=1, max_size=12)


@given(first=sent_records, second=sent_records)
@effort(max_examples=25, suppress_health_check=list(HealthCheck))
async def test_a_record_looks_the_same_before_and_after_it_is_drained(
    site: Site, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    """Read from the cached copy, the overlay or MySQL, each record is the same JSON object."""
    await site.near.clear(USER)
    # The second go over the first, which MySQL holds: original_episodes has a past.
    for sent in (first, second):
        await site.near.records(USER)  # so that appends update a cached copy
        for number, fields in enumerate(sent):
            response = await site.near.save(USER, f"s+{number}", fields)
            assert 200 == response.status_code, response.text
        cached = await site.far.records(USER)
        await site.forget_cached()
        pending = await site.far.records(USER)
        await drain_all(site.deps)
        await site.forget_cached()
        drained = await site.far.records(USER)

        assert cached == pending
        assert pending == drained
    assert max(len(first), len(second)) == len(await site.near.records(USER))


class Stress:
    """Random writes and reads of several users, each checked against what it must be."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._random = random.Random(seed)
        self._over = False
        self.reads = 0

    async def run(self, steps: int) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._live(user, steps)) for user in CROWD]
            group.create_task(self._disturb())
            group.create_task(self._work())
            try:
                await asyncio.wait(tasks)
            finally:
                self._over = True

    async def _live(self, user: str, steps: int) -> None:
        mine: dict[str, int] = {}
        for step in range(steps):
            front, key = self._front(), f"s+{self._random.randrange(3)}"
            choice = self._random.randrange(10)
            if choice < 6:
                mine[key] = step
                response = await front.save(user, key, record(play_time=step))
            elif choice < 9:
                mine.pop(key, None)
                response = await front.delete(user, key)
            else:
                mine.clear()
                response = await front.clear(user)
            assert 200 == response.status_code
            records = await self._front().records(user)
            self.reads += 1
            assert mine == {key: fields["play_time"] for key, fields in records.items()}

    def _front(self) -> Front:
        return self._random.choice((self._site.near, self._site.far))

    async def _disturb(self) -> None:
        """Drop cached copies, and read beside everybody to fill them again."""
        while not self._over:
            user = self._random.choice(CROWD)
            await self._site.forget_cached(user)
            await self._front().records(user)

    async def _work(self) -> None:
        """Drain all the time; every other time die after the commit."""
        while not self._over:
            await self._random.choice((at_work, dead))(self._site.deps)


async def test_everybody_reads_their_own_writes_while_workers_drain_and_die(site: Site) -> None:
    """Six users on two fronts, caches dropped and filled beside them: no stale read."""
    stress = Stress(site, seed=4)
    async with asyncio.timeout(60):
        await stress.run(steps=40)

    assert len(CROWD) * 40 == stress.reads
    assert 0 == sum([await site.deps.redis.hlen(key) async for key in _overlays(site)])  # type: ignore[misc]


async def _overlays(site: Site) -> AsyncIterator[str]:
    await drain_all(site.deps)
    for user in CROWD:
        shard = shard_of(user, site.deps.settings.shards)
        await site.forget_cached(user)
        await site.near.records(user)
        yield site.keys.play_records(shard, user).pending
