"""Poison: what can never be applied is kept alone with its reason, its neighbours are applied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256

import orjson
import pytest
from redis.asyncio import Redis

from shared.errors import ShardStopped
from shared.mysql import Pool, transaction
from shared.published import read_published
from shared.settings import Settings
from tests.mysql_state import books
from tests.plays import add_foreign, append, deps_of, drain_all, rows, save
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.letters import KEPT_BYTES_MAX, pack_fields, unpack_fields
from worker.pace import Pace
from worker.sinks.plays import PlaysSink


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, shards=1, flush_interval_ms=0), redis, pool)


@asynccontextmanager
async def refusing(pool: Pool) -> AsyncIterator[None]:
    """While this lasts MySQL refuses records with the title `poison`."""
    async with transaction(pool) as cursor:
        await cursor.execute(
            "ALTER TABLE play_records ADD CONSTRAINT chk_poison CHECK (title <> 'poison')"
        )
    try:
        yield
    finally:
        async with transaction(pool) as cursor:
            await cursor.execute("ALTER TABLE play_records DROP CONSTRAINT chk_poison")


POISON = [
    ({"d": b"{"}, "invalid_entry"),
    ({"d": b"\xff\xfe"}, "invalid_entry"),
    ({"x": b"1"}, "missing_field"),
    ({"d": orjson.dumps({"v": 1, "op": "explode", "user": "ann"})}, "unknown_op"),
    ({"d": orjson.dumps({"v": 1, "op": "save", "user": "ann"})}, "invalid_entry"),
    ({"d": orjson.dumps(save("ann", index=0))}, "invalid_record_data"),
    ({"d": orjson.dumps(save("ann "))}, "invalid_entry"),
    ({"d": orjson.dumps(save("a" * 51))}, "invalid_entry"),
    ({"d": b'{"v":1,"op":"clear","user":"ann","pad":"' + b"x" * 300_000 + b'"}'}, "invalid_entry"),
    # Its op comes last: whoever looks for it has to step over all of that.
    ({"d": b'{"record":' + b"[" * 9_000 + b"]" * 9_000 + b',"op":"save"}'}, "invalid_entry"),
]


@pytest.mark.parametrize(("fields", "reason"), POISON)
async def test_an_entry_that_cannot_be_decoded_is_kept_alone(
    deps: Deps, fields: dict[str, bytes], reason: str
) -> None:
    """
    A dead letter holds the raw fields and says why; the events beside it are applied.
    """
    await append(deps.settings, deps.redis, [save("bob")])
    await deps.redis.xadd(deps.keys.stream("plays", 0), fields)  # type: ignore[arg-type]
    await append(deps.settings, deps.redis, [save("cat")])

    await drain_all(deps)

    raw = pack_fields([part for name, value in fields.items() for part in (name.encode(), value)])
    assert [(reason, raw[:KEPT_BYTES_MAX], len(raw), sha256(raw).hexdigest(), "dead")] == (
        await rows(
            deps.pool,
            "SELECT reason, fields, fields_length, fields_sha256, state FROM dead_letters",
        )
    )
    assert [("bob",), ("cat",)] == await rows(
        deps.pool, "SELECT username FROM play_records ORDER BY 1"
    )
    assert (3, 2, 1, 0) == await books(deps.pool)


async def test_an_entry_of_another_shards_user_is_a_dead_letter(deps: Deps) -> None:
    """
    A producer that computes the shard wrongly cannot put one user into two shards.
    """
    two = replace(deps, settings=replace(deps.settings, shards=2))
    for shard in (0, 1):
        await deps.redis.xadd(deps.keys.stream("plays", shard), {"d": orjson.dumps(save("ann"))})

    await drain_all(two)

    assert [("wrong_shard", "ann")] == await rows(
        deps.pool, "SELECT reason, username FROM dead_letters"
    )
    assert [(1,)] == await rows(deps.pool, "SELECT play_count FROM content_stats")


async def test_an_id_beyond_the_calendar_is_a_dead_letter(deps: Deps) -> None:
    """
    MySQL's DATETIME ends with the year 9999.
    """
    await add_foreign(deps.settings, deps.redis, [("253402300800000-0", save("ann"))])

    await drain_all(deps)

    assert [("id_out_of_range",)] == await rows(deps.pool, "SELECT reason FROM dead_letters")


async def test_the_last_ids_of_the_calendar_are_counted(deps: Deps) -> None:
    """
    In UTC the year 9999 is not over then; in the zone of the statistics it is.
    """
    await add_foreign(deps.settings, deps.redis, [("253402300799999-0", save("ann"))])

    await drain_all(deps)

    assert (1, 1, 0, 0) == await books(deps.pool)
    assert [(1,)] == await rows(deps.pool, "SELECT plays FROM user_watch_daily")


@pytest.mark.parametrize("at", [0, 7, 19])
async def test_an_entry_that_mysql_refuses_is_found_and_kept_alone(deps: Deps, at: int) -> None:
    """
    Wherever it stands in its batch, every other entry of the batch is applied once.
    """
    given = [save(f"u{n:02}", title="poison" if n == at else "fine") for n in range(20)]
    async with refusing(deps.pool):
        await append(deps.settings, deps.redis, given)
        await drain_all(deps)

    assert [("refused_by_mysql", f"u{at:02}")] == await rows(
        deps.pool, "SELECT reason, username FROM dead_letters"
    )
    assert [(19, 19)] == await rows(
        deps.pool,
        "SELECT CAST(play_count AS SIGNED), (SELECT COUNT(*) FROM play_records) FROM content_stats",
    )
    assert (20, 19, 1, 0) == await books(deps.pool)


async def test_many_refusals_by_mysql_stop_the_shard(deps: Deps) -> None:
    """
    When MySQL refuses a large share, the fault is ours: nothing more is made a dead letter.
    """
    async with refusing(deps.pool):
        await append(
            deps.settings, deps.redis, [save(f"u{n:02}", title="poison") for n in range(80)]
        )
        with pytest.raises(ShardStopped):
            await ShardDrain(deps, PlaysSink(deps.settings), 0).run(slice_s=60)

    assert [(49,)] == await rows(deps.pool, "SELECT COUNT(*) FROM dead_letters")
    assert (49, 0, 49, 0) == await books(deps.pool)


async def test_refusals_in_small_batches_stop_the_shard_too(deps: Deps) -> None:
    """
    With little traffic no batch holds many entries, and every one would be a dead letter.
    """
    pace = Pace(deps.settings)
    async with refusing(deps.pool):
        for start in range(0, 50, 10):
            batch = [save(f"u{start + n}", title="poison") for n in range(10)]
            await append(deps.settings, deps.redis, batch)
            with pytest.raises(ShardStopped) if start == 40 else nullcontext():
                while await ShardDrain(deps, PlaysSink(deps.settings), 0, pace).run(slice_s=60):
                    pass

    assert (49, 0, 49, 0) == await books(deps.pool)


async def test_many_undecodable_entries_never_stop_the_shard(deps: Deps) -> None:
    """
    A broken producer fills the dead letters and nothing else.
    """
    async with deps.redis.pipeline(transaction=False) as pipe:
        for _ in range(200):
            pipe.xadd(deps.keys.stream("plays", 0), {"d": b"?"})
        await pipe.execute()
    await append(deps.settings, deps.redis, [save("ann")])

    await drain_all(deps)

    assert (201, 1, 200, 0) == await books(deps.pool)


@pytest.mark.parametrize("given", ["a,b", "a=b", "1!", "x" * 5_000, "\udcff"])
async def test_what_a_producer_puts_into_the_stamps_field_stops_no_shard(
    deps: Deps, given: str
) -> None:
    """
    It would be kept with the checkpoint, and read again by every worker and front.
    """
    body, stamp = orjson.dumps(save("ann")), given.encode(errors="surrogateescape")
    await deps.redis.xadd(deps.keys.stream("plays", 0), {"d": body, "i": stamp})

    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("bob")])
    await drain_all(deps)

    assert (2, 2, 0, 0) == await books(deps.pool)
    published = await read_published(deps.redis, deps.keys.checkpoint("plays", 0))
    assert published is not None
    assert 1 == len(published.stamps)


def test_packed_fields_unpack_to_themselves() -> None:
    """
    Whatever bytes an entry held, its dead letter gives them back.
    """
    fields = [b"d", b'{"a":1}', b"i", b"12:,34", b"", b"\xff\x00"]

    assert fields == unpack_fields(pack_fields(fields))
