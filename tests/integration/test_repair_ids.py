"""`moonwake repair-ids`: after an id of the future, events are dated by the clock again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from ops import rebase
from ops.attention import attention
from ops.doctor import examine
from ops.overview import look
from shared.mysql import Pool
from shared.published import read_published
from shared.settings import Settings
from shared.streams import now_ms_of
from tests.commands import moonwake
from tests.mysql_state import books
from tests.plays import add_foreign, append, deps_of, drain_all, rows, save
from worker import checkpoints
from worker.deps import Deps
from worker.sinks.plays import PlaysSink

HOUR_MS = 3_600_000
#: With two shards ann belongs to 1 and bob to 0.
ANN = 1

RECORDS = "SELECT username, play_time FROM play_records ORDER BY username"


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


@pytest.fixture(name="pinned")
async def _pinned(deps: Deps) -> Deps:
    """Ann's shard is an hour ahead, with a record and a left-over overlay field; all is drained."""
    ahead_ms = await now_ms(deps) + HOUR_MS
    await add_foreign(deps.settings, deps.redis, [(f"{ahead_ms}-0", save("ann", play_time=1))])
    await append(deps.settings, deps.redis, [save("ann", play_time=10), save("bob", play_time=5)])
    overlay = deps.keys.play_records(ANN, "ann").pending
    left = await cast("Awaitable[dict[bytes, bytes]]", deps.redis.hgetall(overlay))
    await drain_all(deps)
    await cast("Awaitable[int]", deps.redis.hset(overlay, mapping=cast("Any", left)))
    return deps


async def now_ms(deps: Deps) -> int:
    return now_ms_of(await deps.redis.time())


async def repair(deps: Deps) -> tuple[int, str]:
    """(exit code, output) of the command."""
    done = await moonwake(deps.settings, "repair-ids")
    return done.exit_code, done.output


async def is_found(deps: Deps) -> bool:
    """Does the doctor find ids ahead?"""
    report = await examine(deps.settings)
    return any(each.check == "entry-ids" and each.why for each in report.findings)


async def assert_later_events_count(deps: Deps) -> None:
    """What is saved now is applied, though the stored record had a time of the future."""
    await append(deps.settings, deps.redis, [save("ann", play_time=99), save("bob", play_time=98)])
    await drain_all(deps)

    assert [("ann", 99), ("bob", 98)] == await rows(deps.pool, RECORDS)
    latest = await rows(deps.pool, "SELECT MAX(event_ms) FROM play_records")
    assert latest[0][0] <= await now_ms(deps)
    view = await look(deps.redis, deps.pool, deps.settings)
    assert [0, 0] == [shard.difference for shard in view.shards]
    assert [] == [told for told in attention(view) if "worker" not in told]


async def test_without_the_repair_later_ids_stay_in_the_future(pinned: Deps) -> None:
    """The fault that the others mend: Redis gives out ids after the last one."""
    assert await is_found(pinned)
    await append(pinned.settings, pinned.redis, [save("ann")])

    info = await pinned.redis.xinfo_stream(pinned.keys.stream("plays", ANN))
    assert int(info["last-generated-id"].split(b"-")[0]) > await now_ms(pinned) + HOUR_MS // 2


async def test_the_repair_brings_ids_records_and_overlays_back(pinned: Deps) -> None:
    """The shard begins a new incarnation at now; the other one is left alone."""
    before = await checkpoints.load(pinned.pool, "plays", 0)

    code, told = await repair(pinned)

    assert 0 == code
    assert "plays:1 had ids 3,5" in told
    assert "plays:0" not in told
    assert not await is_found(pinned)
    committed = await checkpoints.load(pinned.pool, "plays", ANN)
    assert 2 == committed.incarnation
    assert committed == await read_published(pinned.redis, pinned.keys.checkpoint("plays", ANN))
    assert before == await checkpoints.load(pinned.pool, "plays", 0)
    assert 0 == await pinned.redis.exists(pinned.keys.play_records(ANN, "ann").pending)
    assert 0 == await pinned.redis.exists(pinned.keys.stopped("plays", ANN))
    assert (3, 3, 0, 0) == await books(pinned.pool)
    await assert_later_events_count(pinned)


async def test_repeating_the_repair_changes_nothing(pinned: Deps) -> None:
    """Nor does it on a site whose ids were never ahead."""
    await repair(pinned)
    after_first = await checkpoints.load(pinned.pool, "plays", ANN)

    assert (0, "no id of plays is ahead\n") == await repair(pinned)
    assert after_first == await checkpoints.load(pinned.pool, "plays", ANN)


async def test_a_live_worker_is_left_alone(pinned: Deps) -> None:
    """Its batch in hand would be fenced out, or read a stream that changes under it."""
    about = {"seen_ms": await now_ms(pinned) + HOUR_MS, "host": "h", "pid": 7}
    told = orjson.dumps(about).decode()
    await cast("Awaitable[int]", pinned.redis.hset(pinned.keys.workers, "live", told))

    assert (1, "moonwake: stop the workers first: h:7\n") == await repair(pinned)
    assert await is_found(pinned)


async def test_entries_that_wait_are_not_dropped(pinned: Deps) -> None:
    """Emptying a stream that is not drained would lose them: it is refused, nothing changes."""
    await append(pinned.settings, pinned.redis, [save("ann", play_time=20)])

    code, told = await repair(pinned)

    assert 1 == code
    assert "1 entries of moontv:{1}:plays wait" in told
    assert 0 == await pinned.redis.exists(pinned.keys.stopped("plays", ANN))
    await drain_all(pinned)
    assert [("ann", 20), ("bob", 5)] == await rows(pinned.pool, RECORDS)


async def test_a_repair_cut_off_half_way_is_finished_by_the_next(
    pinned: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was emptied and MySQL not moved: events that came since are applied, each once."""

    async def die(*_arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("worker.checkpoints.advance", die)
        with pytest.raises(Killed):
            await rebase.rebase(pinned, PlaysSink(pinned.settings))
    assert await pinned.redis.exists(pinned.keys.stopped("plays", ANN))
    await append(pinned.settings, pinned.redis, [save("ann", play_time=30)])

    code, told = await repair(pinned)

    assert 0 == code
    assert "plays:1" in told
    assert 0 == await pinned.redis.exists(pinned.keys.stopped("plays", ANN))
    await drain_all(pinned)
    assert [("ann", 30), ("bob", 5)] == await rows(pinned.pool, RECORDS)
    assert (4, 4, 0, 0) == await books(pinned.pool)
    await assert_later_events_count(pinned)


async def test_an_id_beyond_every_date_is_brought_back_too(deps: Deps) -> None:
    """Such an id makes every later entry a dead letter until it is repaired."""
    beyond = f"{2**60}-0"
    await add_foreign(deps.settings, deps.redis, [(beyond, save("ann"))])
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await drain_all(deps)
    assert (3, 1, 2, 0) == await books(deps.pool)

    assert 0 == (await repair(deps))[0]

    await assert_later_events_count(deps)
    assert (5, 3, 2, 0) == await books(deps.pool)


async def test_an_id_ahead_of_the_clock_delays_nobody(deps: Deps) -> None:
    """A batch closes after its linger time, however young its oldest entry claims to be."""
    lingering = replace(deps, settings=replace(deps.settings, flush_interval_ms=50))
    ahead_ms = await now_ms(deps) + HOUR_MS
    await add_foreign(deps.settings, deps.redis, [(f"{ahead_ms}-0", save("ann", play_time=7))])

    async with asyncio.timeout(60):
        await drain_all(lingering)

    assert [("ann", 7)] == await rows(deps.pool, RECORDS)
