"""What happens when Redis forgets what it acknowledged: counted, and nothing else is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from shared.appends import AppendConnection
from shared.mysql import Pool
from shared.published import STAMPS_KEPT, read_published
from shared.settings import Settings
from shared.streams import BEGINNING, RawEntry, entry_id, mark_stream, trim
from shared.witness import Witness
from tests.fronts import Front, front
from tests.mysql_state import books
from tests.pasts import RedisPast, back_up, incidents, promote, restore
from tests.plays import (
    STREAM,
    add_foreign,
    append_of,
    delete,
    deps_of,
    drain_all,
    record,
    rows,
    save,
)
from worker import checkpoints
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.rewind import reconcile
from worker.sinks.plays import PlaysSink
from worker.takeover import publish_committed


@dataclass(slots=True)
class Site:
    """One shard of plays, and a front that appends to it and remembers."""

    deps: Deps
    witness: Witness
    connection: AppendConnection

    @property
    def stream(self) -> str:
        return self.deps.keys.stream(STREAM, 0)

    async def append(self, *given: dict[str, Any]) -> None:
        made = [append_of(self.deps.keys, 1, event) for event in given]
        [refusals] = await self.connection.append([made])
        assert refusals == [None] * len(made)

    async def plays(self, events: int, user: str = "ann") -> None:
        """So many plays of so many contents: each counts one play."""
        await self.append(*(save(user, f"{number:05}") for number in range(events)))

    async def drain(self) -> None:
        await drain_all(self.deps)

    async def drain_one_batch(self, entries: int) -> None:
        limited = replace(
            self.deps, settings=replace(self.deps.settings, batch_max_entries=entries)
        )
        await ShardDrain(limited, PlaysSink(limited.settings), 0).run(slice_s=0)

    async def testify(self) -> None:
        await self.witness.report(self.deps.redis, self.deps.keys, STREAM)

    async def notice(self) -> None:
        """The front looks at the stream again, and says what it finds missing."""
        for shard in self.witness.due(()):
            assert shard == 0
        self.witness._looked_s.clear()
        await self.connection.append([])
        await self.testify()

    async def books(self) -> tuple[int, int, int, int]:
        return await books(self.deps.pool)

    async def counted_plays(self) -> int:
        [(count,)] = await rows(
            self.deps.pool, "SELECT CAST(COALESCE(SUM(play_count), 0) AS SIGNED) FROM content_stats"
        )
        return int(count)


@asynccontextmanager
async def site_of(deps: Deps) -> AsyncIterator[Site]:
    witness = Witness(shards=1)
    site = Site(deps, witness, AppendConnection(deps.redis, deps.keys, STREAM, witness=witness))
    try:
        await site.testify()
        yield site
    finally:
        await site.connection.close()


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    settings = replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    return deps_of(settings, redis, pool)


@pytest.fixture(name="site")
async def _site(deps: Deps) -> AsyncIterator[Site]:
    async with site_of(deps) as site:
        yield site


@pytest.fixture(name="other")
async def _other(deps: Deps) -> AsyncIterator[Site]:
    """A second front."""
    async with site_of(deps) as site:
        yield site


async def add_with_ids(site: Site, ids: Sequence[str], user: str = "ann") -> None:
    """Entries of moonwake's own with chosen ids: those of a master whose clock is ahead."""
    stamp = await mark_stream(site.deps.redis, site.stream)
    for number, identity in enumerate(ids):
        body = orjson.dumps(save(user, f"ahead{number}"))
        await site.deps.redis.xadd(site.stream, {"d": body, "i": stamp}, id=identity)


async def put_between(site: Site, entry: RawEntry) -> None:
    """Make the stream anew with one entry more, where its id belongs."""
    redis, stream = site.deps.redis, site.stream
    groups = await redis.xinfo_groups(stream)
    entries: list[RawEntry] = [*await redis.xrange(stream), entry]
    await redis.delete(stream)
    for each, values in sorted(entries, key=lambda entry: entry_id(entry[0])):
        await redis.execute_command("XADD", stream, each, *values)  # type: ignore[no-untyped-call]
    for group in groups:
        await redis.xgroup_create(stream, group["name"])


async def ahead(site: Site, by_ms: int) -> int:
    seconds, _ = await site.deps.redis.time()
    return int(seconds) * 1000 + by_ms


# --- failover ----------------------------------------------------------------------


async def test_a_tail_that_no_worker_read_is_lost_exactly(site: Site) -> None:
    """
    The replica lacked 4 of 10; the front knows that it had 10 acknowledged.
    """
    await site.plays(6)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(4, "bob")
    await past.take_over()
    await site.notice()

    await site.drain()
    await site.plays(3, "cat")
    await site.drain()

    assert [("master_changed", 4, True)] == await incidents(site.deps.pool)
    assert (13, 9, 0, 4) == await site.books()
    assert 9 == await site.counted_plays()


async def test_a_tail_that_was_applied_already_is_no_loss(site: Site) -> None:
    """
    MySQL has it; only what comes after it counts, once.
    """
    await site.plays(6)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(4, "bob")
    await site.drain()
    await past.take_over()
    await site.plays(3, "cat")
    await site.testify()

    await site.drain()

    assert [("master_changed", 0, True)] == await incidents(site.deps.pool)
    assert (13, 13, 0, 0) == await site.books()
    assert 13 == await site.counted_plays()


async def test_an_entry_that_was_lost_and_comes_back_doubles_nothing(site: Site) -> None:
    """
    Redis 7.0 may replay the cut end of an append-only file at its second start: the entry
    stands in the middle of applied ones, is counted as lost, and stays so.
    """
    await site.plays(6)
    await site.drain()
    past = await RedisPast.of(site.deps.redis)
    await site.plays(1, "bob")
    lost = (await site.deps.redis.xrange(site.stream))[-1]
    await past.take_over()
    await site.plays(3, "cat")
    await site.testify()
    await site.drain()
    await site.notice()
    await put_between(site, lost)
    await promote(site.deps.redis)
    await site.notice()

    await site.drain()
    await site.plays(2, "dan")
    await site.drain()

    assert [("master_changed", 1, True), ("master_changed", 0, True)] == await incidents(
        site.deps.pool
    )
    assert (12, 11, 0, 1) == await site.books()
    assert 11 == await site.counted_plays()


@pytest.mark.parametrize("lost", [0, 5])
async def test_new_entries_with_ids_below_the_checkpoint_are_applied(site: Site, lost: int) -> None:
    """
    The old master's clock was 30 s ahead: ids say nothing, stamps do.
    """
    start_ms = await ahead(site, 30_000)
    await site.plays(2)
    past = await RedisPast.of(site.deps.redis)
    await add_with_ids(site, [f"{start_ms + n}-0" for n in range(4)], "bob")
    await site.drain()
    await add_with_ids(site, [f"{start_ms + 100 + n}-0" for n in range(lost)], "dan")
    await past.take_over()
    await site.plays(3, "cat")
    before = await site.deps.redis.xrange(site.stream)

    await site.drain()
    await site.plays(2, "eve")
    await site.drain()

    assert 5 == len(before)  # two that the replica had, and three that are new
    assert 11 == await site.counted_plays()
    committed = await checkpoints.load(site.deps.pool, STREAM, 0)
    assert (2, 11) == (committed.incarnation, committed.applied)
    after = await site.deps.redis.xrange(site.stream)
    assert after[-1][0] > f"{start_ms}".encode()


async def test_the_last_acknowledged_write_wins_though_the_clock_is_behind(site: Site) -> None:
    """
    The new master's time is before that of the record it replaces.
    """
    past = await RedisPast.of(site.deps.redis)
    start_ms = await ahead(site, 30_000)
    await add_with_ids(site, [f"{start_ms}-0"])
    await site.drain()
    await past.take_over()
    await site.append(save("ann", "ahead0", play_time=777), save("ann", "other"))
    await site.append(delete("ann", "other"))

    await site.drain()

    assert [("ahead0", 777)] == await rows(
        site.deps.pool, "SELECT content_id, play_time FROM play_records"
    )


async def test_a_restart_that_lost_nothing_is_told_as_exactly_nothing(site: Site) -> None:
    """
    Another replication id, every entry still there: what waits is applied.
    """
    await site.plays(5)
    await site.drain_one_batch(2)
    await promote(site.deps.redis)
    await site.notice()

    await site.drain()

    assert [("master_changed", 0, True)] == await incidents(site.deps.pool)
    assert (5, 5, 0, 0) == await site.books()


async def test_two_failovers_that_no_worker_saw_between_are_at_least_counted(site: Site) -> None:
    """
    Of the second one nobody can tell how much the first had left.
    """
    await site.plays(6)
    await site.drain()
    first = await RedisPast.of(site.deps.redis)
    await site.plays(4, "bob")
    await first.take_over()
    await site.plays(3, "cat")
    second = await RedisPast.of(site.deps.redis)
    await site.plays(2, "dan")
    await second.take_over()
    await site.plays(1, "eve")
    await site.testify()

    await site.drain()

    [(cause, lost, exact)] = await incidents(site.deps.pool)
    assert ("master_changed", False) == (cause, exact)
    assert 4 <= lost <= 6
    assert 10 == await site.counted_plays()


async def test_before_the_first_batch_a_loss_is_counted_too(site: Site) -> None:
    """
    MySQL knows nothing of the stream yet: the fronts alone do.
    """
    await site.plays(2)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(3, "bob")
    await past.take_over()
    await site.plays(1, "cat")
    await site.testify()

    await site.drain()

    assert [("master_changed", 3, True)] == await incidents(site.deps.pool)
    assert (6, 3, 0, 3) == await site.books()
    assert 3 == await site.counted_plays()


async def test_a_stream_that_no_worker_ever_saw_is_counted_when_a_front_tells_of_it(
    site: Site,
) -> None:
    """
    Nothing in Redis or MySQL knows of it: the testimony comes after the first batch.
    """
    past = await RedisPast.of(site.deps.redis)
    await site.plays(3, "bob")
    await past.take_over()
    await site.plays(1, "cat")
    await site.drain()
    first = await site.books()

    await site.testify()
    await site.drain()

    assert (1, 1, 0, 0) == first
    assert [("master_changed", 3, True)] == await incidents(site.deps.pool)
    assert (4, 1, 0, 3) == await site.books()


@pytest.mark.parametrize("testifies_first", [True, False])
async def test_a_replica_that_lacked_a_tail_nobody_read_is_counted_whenever_it_is_told(
    site: Site, testifies_first: bool
) -> None:
    """
    Stamps alone show that there was another master, before any checkpoint knows one.
    """
    await site.plays(2)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(3, "bob")
    await past.take_over()
    await site.plays(1, "cat")
    if testifies_first:
        await site.testify()
    await site.drain()
    await site.testify()
    await site.drain()

    assert [("master_changed", 3, True)] == await incidents(site.deps.pool)
    assert (6, 3, 0, 3) == await site.books()


async def test_a_worker_that_missed_the_failover_trims_nothing(site: Site) -> None:
    """
    An id below its checkpoint may be that of a new entry.
    """
    await site.plays(3)
    await site.drain()
    zombie = await checkpoints.load(site.deps.pool, STREAM, 0)
    await promote(site.deps.redis)

    await trim(site.deps.redis, site.stream, zombie.replid, zombie.last, 2**60)

    assert 3 == await site.deps.redis.xlen(site.stream)


# --- emptied ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL"])
async def test_what_is_deleted_before_it_was_read_is_lost_exactly(site: Site, how: str) -> None:
    """
    The front saw 10, 4 of them are in MySQL.
    """
    await site.plays(4)
    await site.drain()
    await site.plays(6, "bob")
    if how == "FLUSHALL":
        await site.deps.redis.flushall()
    else:
        await site.deps.redis.delete(site.stream)
    await site.plays(2, "cat")
    await site.testify()

    await site.drain()

    assert [("recreated", 6, True)] == await incidents(site.deps.pool)
    assert (12, 6, 0, 6) == await site.books()
    assert 6 == await site.counted_plays()


async def test_a_front_that_died_leaves_a_count_of_at_least(site: Site, other: Site) -> None:
    """
    It may have acknowledged what nobody else saw.
    """
    await site.testify()  # knows of the other now
    await site.plays(4)
    await site.deps.redis.flushall()
    await site.plays(1, "cat")
    await site.testify()

    await site.drain()

    assert [("recreated", 4, False)] == await incidents(site.deps.pool)


async def test_a_front_that_testifies_late_amends_the_count(site: Site, other: Site) -> None:
    """
    It was frozen while the loss was counted: its own appends are added, and all is known.
    """
    await site.testify()
    await site.plays(4)
    await other.plays(3, "bob")
    await site.deps.redis.flushall()
    await site.plays(1, "cat")
    await site.testify()
    await site.drain()
    first = await incidents(site.deps.pool)

    await other.notice()
    await site.drain()
    await site.plays(2, "dan")
    await site.drain()

    assert [("recreated", 4, False)] == first
    assert [("recreated", 7, True)] == await incidents(site.deps.pool)
    assert (10, 3, 0, 7) == await site.books()
    assert [] == await site.deps.redis.keys("*testimonies")


async def test_a_flush_under_a_clock_that_went_back_loses_nothing_new(site: Site) -> None:
    """
    Ids begin below the checkpoint again, under the same master: nothing of it is applied.
    """
    start_ms = await ahead(site, 3_600_000)
    await add_with_ids(site, [f"{start_ms + n}-0" for n in range(6)], "bob")
    await site.drain()
    await site.deps.redis.flushall()
    await site.plays(3, "cat")

    await site.drain()

    assert (9, 9, 0, 0) == await site.books()
    assert 9 == await site.counted_plays()


# --- a stranger trims ------------------------------------------------------------------


async def test_what_a_stranger_trims_is_an_incident_of_its_own(site: Site) -> None:
    """
    Exactly so many, between the checkpoint and the first that is left.
    """
    await site.plays(2)
    await site.drain()
    await site.plays(5, "bob")
    entries = await site.deps.redis.xrange(site.stream)
    await site.deps.redis.xtrim(site.stream, maxlen=2, approximate=False)

    await site.drain()

    assert [("trimmed", 3, True)] == await incidents(site.deps.pool)
    [(after, before)] = await rows(site.deps.pool, "SELECT after_id, before_id FROM incidents")
    assert (entries[1][0], entries[5][0]) == (after.encode(), before.encode())
    assert (7, 4, 0, 3) == await site.books()


# --- MySQL restored --------------------------------------------------------------------


async def test_a_restored_backup_is_brought_up_to_date_by_what_is_retained(site: Site) -> None:
    """
    Redis still has every entry since the backup: each is applied, to the backup's rows.
    """
    await site.plays(3)
    await site.drain()
    await back_up(site.deps.pool)
    await site.plays(4, "bob")
    await site.drain()
    await restore(site.deps.pool)
    await site.plays(2, "cat")

    await site.drain()

    assert [("mysql_restored", 0, True)] == await incidents(site.deps.pool)
    assert (9, 9, 0, 0) == await site.books()
    assert 9 == await site.counted_plays()
    published = await read_published(site.deps.redis, site.deps.keys.checkpoint(STREAM, 0))
    committed = await checkpoints.load(site.deps.pool, STREAM, 0)
    assert published == replace(committed, again_through=BEGINNING)


async def test_a_copy_filled_between_a_restore_and_what_redis_retains_is_dropped(
    site: Site,
) -> None:
    """
    The overlay has no field of what was applied once: until it is applied again, MySQL's is shown.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await back_up(site.deps.pool)
        await it.save("ann", "s+1", record(play_time=2))
        await site.drain()
        await restore(site.deps.pool)
        await reconcile(site.deps, STREAM, 0)
        await publish_committed(
            site.deps,
            PlaysSink(site.deps.settings),
            0,
            await checkpoints.load(site.deps.pool, STREAM, 0),
        )
        between = (await it.records("ann"))["s+1"]["play_time"]

        await site.drain()

        assert 1 == between
        assert 2 == (await it.records("ann"))["s+1"]["play_time"]


async def test_a_failover_to_a_replica_that_missed_a_flush_applies_nothing_twice(
    site: Site,
) -> None:
    """
    Every entry that was applied is there again, under a mark that is known.
    """
    await site.plays(5)
    await site.drain()
    past = await RedisPast.of(site.deps.redis)
    await site.deps.redis.flushall()
    await site.plays(2, "bob")
    await site.testify()
    await site.drain()
    await past.take_over()
    await site.plays(3, "cat")
    await site.testify()

    await site.drain()

    assert 10 == await site.counted_plays()
    [_, (cause, lost, _)] = await incidents(site.deps.pool)
    assert ("master_changed", 0) == (cause, lost)


async def test_an_entry_that_comes_back_makes_nothing_count_twice(site: Site) -> None:
    """
    It was lost and counted; what was appended after it is applied long since.
    """
    await site.plays(2)
    [*_, (lost_id, lost)] = await site.deps.redis.xrange(site.stream)
    await site.drain_one_batch(1)
    await site.deps.redis.xdel(site.stream, lost_id)
    await promote(site.deps.redis)
    await site.notice()
    await site.drain()
    await site.plays(5, "bob")
    await site.drain()
    entries = await site.deps.redis.xrange(site.stream)
    await site.deps.redis.delete(site.stream)
    for identity, fields in sorted(
        [*entries, (lost_id, lost)], key=lambda entry: entry_id(entry[0])
    ):
        given = dict(zip(fields[::2], fields[1::2], strict=True))
        await site.deps.redis.xadd(site.stream, given, id=identity)
    before = await site.books()

    await site.drain()
    await site.plays(1, "cat")
    await site.drain()

    assert 6 + 1 == await site.counted_plays()
    ordinal, applied, _, gone = await site.books()
    assert (before[1] + 1, before[3]) == (applied, gone)
    assert ordinal == before[0] + 1


async def test_a_strangers_entry_below_the_checkpoint_hides_no_new_one(site: Site) -> None:
    """
    By its id it may be applied; what stands before it is new by its stamp.
    """
    past = await RedisPast.of(site.deps.redis)
    start_ms = await ahead(site, 30_000)
    await add_with_ids(site, [f"{start_ms}-0"])
    await site.drain()
    await past.take_over()
    await add_with_ids(site, [f"{await ahead(site, 0)}-0"], "cat")
    await add_foreign(site.deps.settings, site.deps.redis, [("*", save("dan"))])

    await site.drain()

    assert ("cat",) in await rows(site.deps.pool, "SELECT username FROM play_records")


async def test_any_number_of_restarts_within_the_retention_applies_nothing_twice(
    site: Site,
) -> None:
    """
    Entries of every one of them are still there: each has its stamp, and all are known.
    """
    restarts = STAMPS_KEPT + 5
    for number in range(restarts):
        await site.plays(1, f"u{number}")
        await site.drain()
        await promote(site.deps.redis)

    await site.drain()

    assert restarts == await site.counted_plays()
    committed = await checkpoints.load(site.deps.pool, STREAM, 0)
    assert restarts == len([last for last in committed.stamps.values() if last > BEGINNING])


async def test_a_loss_among_entries_of_other_producers_is_at_least_counted(site: Site) -> None:
    """
    Fronts cannot witness what others add.
    """
    await site.plays(2)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(3, "bob")
    await past.take_over()
    await add_foreign(site.deps.settings, site.deps.redis, [("*", save("cat"))])
    await site.notice()

    await site.drain()

    assert [("master_changed", 3, False)] == await incidents(site.deps.pool)
    assert 3 == await site.counted_plays()


async def test_what_a_restored_backup_lacks_and_redis_no_longer_has_is_counted(site: Site) -> None:
    """
    It was applied, trimmed, and is gone with the database: exactly so many.
    """
    await site.plays(3)
    await site.drain()
    await back_up(site.deps.pool)
    await site.plays(4, "bob")
    await site.drain()
    await site.deps.redis.xtrim(site.stream, maxlen=1, approximate=False)
    await site.plays(2, "cat")
    await restore(site.deps.pool)

    await site.drain()

    assert [("mysql_restored", 3, True)] == await incidents(site.deps.pool)
    assert (9, 6, 0, 3) == await site.books()
    assert 6 == await site.counted_plays()


async def test_a_backup_from_before_a_failover_is_brought_up_to_date_too(site: Site) -> None:
    """
    Its incarnation is over; stamps tell which entries it cannot have.
    """
    await site.plays(3)
    await site.drain()
    await back_up(site.deps.pool)
    past = await RedisPast.of(site.deps.redis)
    await site.plays(2, "bob")
    await site.drain()
    await past.take_over()
    await site.plays(4, "cat")
    await site.testify()
    await site.drain()
    await restore(site.deps.pool)
    await site.plays(1, "dan")

    await site.drain()

    [(cause, lost, exact)] = await incidents(site.deps.pool)
    assert ("mysql_restored", 2, True) == (cause, lost, exact)
    assert 8 == await site.counted_plays()
    assert (10, 8, 0, 2) == await site.books()


# --- readers ------------------------------------------------------------------------------


async def test_an_acknowledged_write_is_shown_before_any_worker_saw_the_failover(
    site: Site,
) -> None:
    """
    Its id is below the published checkpoint; its stamp tells that it is pending.
    """
    start_ms = await ahead(site, 30_000)
    await add_with_ids(site, [f"{start_ms}-0"], "ann")
    await site.drain()
    await promote(site.deps.redis)
    published = await site.deps.redis.hgetall(site.deps.keys.checkpoint(STREAM, 0))  # type: ignore[misc]
    await site.deps.redis.delete(site.stream)

    async with front(site.deps.settings) as it:
        assert 200 == (await it.save("ann", "s+new", record(play_time=5))).status_code
        assert published == await site.deps.redis.hgetall(site.deps.keys.checkpoint(STREAM, 0))  # type: ignore[misc]
        assert 5 == (await it.records("ann"))["s+new"]["play_time"]


async def test_a_copy_of_the_past_is_not_shown_once_the_loss_is_counted(site: Site) -> None:
    """
    The replica's cached copy lacks what MySQL has.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        assert 1 == (await it.records("ann"))["s+1"]["play_time"]
        past = await RedisPast.of(site.deps.redis)
        await it.save("ann", "s+1", record(play_time=2))
        await site.drain()
        await past.take_over()

        await site.drain()

        assert 2 == (await it.records("ann"))["s+1"]["play_time"]


WRITES = {
    "save": lambda it: it.save("ann", "s+1", record(play_time=99)),
    "delete": lambda it: it.delete("ann", "s+1"),
    "clear": lambda it: it.clear("ann"),
}


async def shown_to(it: Front, user: str) -> dict[str, int]:
    """Where *user* is in each content."""
    return {key: each["play_time"] for key, each in (await it.records(user)).items()}


@pytest.mark.parametrize("lost", WRITES)
async def test_a_lost_write_hides_nothing_once_its_loss_is_counted(site: Site, lost: str) -> None:
    """
    Its overlay field outlives the stream it was in, and would count as pending for ever.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await WRITES[lost](it)
        await site.deps.redis.delete(site.stream)
        await it.save("ann", "s+2", record(play_time=2))

        await site.drain()

        assert {"s+1": 1, "s+2": 2} == await shown_to(it, "ann")


@pytest.mark.parametrize("lost", WRITES)
@pytest.mark.parametrize("others", [True, False], ids=["others write", "nobody writes"])
async def test_a_write_that_a_stranger_trimmed_is_shown_no_more_once_its_loss_is_counted(
    site: Site, lost: str, *, others: bool
) -> None:
    """
    The cached copy and the overlay took it in when it was acknowledged.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await it.records("ann")
        await WRITES[lost](it)
        assert {"s+1": 1} != await shown_to(it, "ann")
        await site.deps.redis.xtrim(site.stream, maxlen=0, approximate=False)
        if others:
            await it.save("bob", "s+2", record(play_time=2))

        await site.drain()

        assert {"s+1": 1} == await shown_to(it, "ann")
        assert [("trimmed", 1, True)] == await incidents(site.deps.pool)


async def test_a_write_of_an_earlier_stream_that_a_stranger_trimmed_is_shown_no_more(
    site: Site,
) -> None:
    """
    Its stamp is not that of the entries which go on.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await it.clear("ann")
        await promote(site.deps.redis)
        await it.save("bob", "s+2", record(play_time=2))
        await reconcile(site.deps, STREAM, 0)
        await site.deps.redis.xtrim(site.stream, maxlen=0, approximate=False)

        await site.drain()

        assert {"s+1": 1} == await shown_to(it, "ann")


async def test_a_write_that_was_deleted_before_a_restart_is_shown_no_more(site: Site) -> None:
    """
    Other entries of its stream are retained, and all of them are applied.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await it.clear("ann")
        [(identity, _)] = await site.deps.redis.xrevrange(site.stream, count=1)
        await site.deps.redis.xdel(site.stream, identity)
        await promote(site.deps.redis)
        await it.save("bob", "s+2", record(play_time=2))

        await site.drain()

        assert {"s+1": 1} == await shown_to(it, "ann")


async def test_a_lost_write_that_comes_back_with_its_overlay_is_shown_no_more(site: Site) -> None:
    """
    Redis 7.0 revives the end of an append-only file that was cut, overlay and all.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        past = await RedisPast.of(site.deps.redis)
        await it.clear("ann")
        [_, lost] = await site.deps.redis.xrange(site.stream)
        overlay = await pending_of(site, "ann")
        await past.take_over()
        await it.save("bob", "s+2", record(play_time=2))
        await site.drain()
        await put_between(site, lost)
        key = site.deps.keys.play_records(0, "ann").pending
        await site.deps.redis.hset(key, mapping=overlay)  # type: ignore[misc]
        await promote(site.deps.redis)
        await it.save("bob", "s+3", record(play_time=3))

        await site.drain()

        assert {"s+1": 1} == await shown_to(it, "ann")


async def test_a_stream_that_is_brought_back_brings_its_writes_back(site: Site) -> None:
    """
    They were counted as lost; nobody may have taken their overlay fields away.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await it.save("ann", "s+1", record(play_time=99))
        await site.deps.redis.rename(site.stream, "aside")
        await it.save("bob", "s+2", record(play_time=2))
        await site.drain()
        assert {"s+1": 1} == await shown_to(it, "ann")
        await site.deps.redis.rename("aside", site.stream)

        await publish_committed(
            site.deps,
            PlaysSink(site.deps.settings),
            0,
            await reconcile(site.deps, STREAM, 0),
        )
        assert {"s+1": 99} == await shown_to(it, "ann")
        await site.drain()

        assert {"s+1": 99} == await shown_to(it, "ann")


async def test_a_restored_mysql_still_knows_which_writes_are_lost(site: Site) -> None:
    """
    The backup is older than the stream that they were in.
    """
    async with front(site.deps.settings) as it:
        await it.save("ann", "s+1", record(play_time=1))
        await site.drain()
        await back_up(site.deps.pool)
        await site.deps.redis.delete(site.stream)
        await it.save("bob", "s+2", record(play_time=2))
        await site.drain()
        await it.clear("ann")
        await site.deps.redis.delete(site.stream)
        await site.drain()
        await restore(site.deps.pool)

        await site.drain()

        assert {"s+1": 1} == await shown_to(it, "ann")


async def pending_of(site: Site, user: str) -> dict[bytes, bytes]:
    """A user's overlay."""
    key = site.deps.keys.play_records(0, user).pending
    fields: dict[bytes, bytes] = await site.deps.redis.hgetall(key)  # type: ignore[misc]
    return fields
