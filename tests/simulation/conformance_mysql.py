"""The cases that hold the model of MySQL against a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from shared.errors import InvalidField
from shared.mysql import Pool, reading, transaction
from shared.published import Checkpoint
from shared.streams import (
    EntryId,
    StreamInfo,
    entry_id,
)
from tests.simulation.conformance import Case, Stores, outcome
from tests.simulation.sink import STREAM
from worker import checkpoints, incidents
from worker.deps import Deps
from worker.incidents import Cause, Incident
from worker.letters import insert_letters, letter_of

ROW = "SELECT batch_no, last_ms, applied, ordinal, seen_added FROM stream_checkpoints"


async def _select(pool: Pool, query: str) -> list[tuple[Any, ...]]:
    async with reading(pool) as cursor:
        await cursor.execute(query)
        return [tuple(row) for row in await cursor.fetchall()]


@asynccontextmanager
async def _begun(deps: Deps) -> AsyncIterator[Any]:
    async with transaction(deps.pool) as cursor:
        yield cursor


async def _advance(cursor: Any, old: Checkpoint, new: Checkpoint) -> None:
    await checkpoints.advance(cursor, STREAM, 0, old, new, StreamInfo(9, 4, EntryId(8, 0)))


async def the_fence_lets_one_through(stores: Stores) -> list[Any]:
    """The checkpoint row: made once, moved by whoever knows it, unseen until committed."""
    deps, pool = stores.deps, stores.deps.pool
    seen: list[Any] = [await checkpoints.load(pool, STREAM, 0) for _ in range(2)]
    old = Checkpoint()
    new = Checkpoint(
        *(1, 1, EntryId(5, 2), 0, 3, 0, 0, "abcdefgh"),
        stamps={"abcdefgh": EntryId(5, 2), "hgfedcba": EntryId(4, 0)},
        over=frozenset({"hgfedcba"}),
        floor_ms=4,
    )
    async with _begun(deps) as cursor:
        await _advance(cursor, old, new)
        seen += [await _select(stores.other.pool, ROW)]
        await cursor.execute(ROW)
        seen.append([tuple(row) for row in await cursor.fetchall()])
    seen.append(await checkpoints.load(stores.other.pool, STREAM, 0))
    for stale in (
        old,
        replace(new, batch_no=0),
        replace(new, incarnation=2),
        replace(new, last=EntryId(5, 1)),
    ):

        async def move(stale: Checkpoint = stale) -> None:
            async with _begun(deps) as cursor:
                await _advance(cursor, stale, replace(new, batch_no=2))

        seen.append(await outcome(move()))
    return [*seen, await _select(pool, ROW)]


async def an_error_rolls_back(stores: Stores) -> list[Any]:
    """What a strict session refuses, and that nothing of the transaction stays."""
    await checkpoints.load(stores.deps.pool, STREAM, 0)
    new = Checkpoint(1, 1, EntryId(5, 2), applied=3)
    seen: list[Any] = []
    for wrong in (
        replace(new, applied=-1),
        replace(new, replid="x" * 41),
        replace(new, stamps={"y" * 4_000: EntryId(1, 1)}),
        replace(new, base=-1),
    ):

        async def move(wrong: Checkpoint = wrong) -> None:
            async with _begun(stores.deps) as cursor:
                await _advance(cursor, Checkpoint(), replace(new, replid="first"))
                await _advance(cursor, replace(new, replid="first"), replace(wrong, batch_no=2))

        seen.append(await outcome(move()))
        seen.append(await _select(stores.other.pool, ROW))
    return seen


async def rows_are_counted_as_mysql_does(stores: Stores) -> list[Any]:
    """1 for a new row, 2 for a changed one, 0 for one that stays the same."""
    seen: list[Any] = []
    insert = (
        "INSERT INTO simulated_entries (shard, number, times) VALUES (%s, %s, %s), (%s, %s, %s)"
        " ON DUPLICATE KEY UPDATE times = simulated_entries.times + VALUES(times)"
    )
    async with reading(stores.deps.pool) as cursor:
        for values in (
            (0, 1, 1, 0, 2, 1),
            (0, 1, 1, 0, 3, 1),
            (0, 1, 0, 0, 2, 5),
            (0, 1, 0, 0, 2, 0),
        ):
            seen += [await cursor.execute(insert, values)]
        update = "UPDATE simulated_entries SET times = %s WHERE shard = %s AND number = %s"
        for update_values in ((9, 0, 1), (9, 0, 1), (9, 0, 99)):
            seen += [await cursor.execute(update, update_values)]
        seen.append(await cursor.execute("SELECT shard, number, times FROM simulated_entries"))
        seen.append([tuple(row) for row in await cursor.fetchall()])
    return [*seen, await outcome(_refused_entry(stores)), await _select(stores.deps.pool, COUNT)]


COUNT = "SELECT COUNT(*) FROM simulated_entries"


async def _refused_entry(stores: Stores) -> None:
    async with _begun(stores.deps) as cursor:
        insert = "INSERT INTO simulated_entries (shard, number, times) VALUES (%s, %s, %s)"
        await cursor.execute(insert, (0, 50, 1))
        await cursor.execute(insert, (0, 51, -1))


async def letters_are_kept_as_they_are(stores: Stores) -> list[Any]:
    """A dead letter's bytes and words, and one that comes twice."""
    error = InvalidField("Odd  event", "d", 'it\'s "50%" %s, \\ and 播放')
    entries = [
        (b"5-1", [b"d", b'{"user":"an\'n"}']),
        (b"5-2", [b"\xff\x00'\"", b"\\"]),
        (b"5-1", [b"d", b'{"user":"bob"}']),
    ]
    for entry in entries:
        async with _begun(stores.deps) as cursor:
            await insert_letters(cursor, STREAM, 0, 1, [letter_of(entry, error)])
    query = (
        "SELECT entry_id, username, reason, detail, fields, fields_length, state FROM dead_letters"
    )
    return await _select(stores.deps.pool, query)


async def incidents_are_found_again(stores: Stores) -> list[Any]:
    """An incident with all that it says; amended, and counted on in later ones."""
    incident = Incident(
        incarnation=1,
        cause=Cause.RECREATED,
        lost=3,
        is_exact=False,
        after=EntryId(5, 1),
        before=EntryId(9, 0),
        position=EntryId(5, 1),
        ended_stamp="abcdefgh",
        stamp="12345678",
        base=-2,
        seen_added=9,
        heard=frozenset({"b", "a"}),
        expected=frozenset(),
    )
    more = replace(incident, lost=5, is_exact=True, seen_added=11)
    seen: list[Any] = []
    async with _begun(stores.deps) as cursor:
        await incidents.insert(cursor, STREAM, 0, incident)
        await incidents.insert(cursor, STREAM, 0, replace(incident, incarnation=2))
        await incidents.insert(cursor, STREAM, 0, replace(incident, cause=Cause.TRIMMED))
        found = await incidents.find_end(cursor, STREAM, 0, 1)
        seen += [found, await incidents.find_end(cursor, STREAM, 0, 7)]
        assert found is not None
        await incidents.amend(cursor, STREAM, 0, found, replace(more, id=found.id))
        seen += [await incidents.find_end(cursor, STREAM, 0, each) for each in (1, 2)]
    return seen


async def a_locked_row_is_waited_for(stores: Stores) -> list[Any]:
    """The second on a row waits for the first, by UPDATE and by FOR UPDATE, and sees its work."""
    await checkpoints.load(stores.deps.pool, STREAM, 0)
    new = Checkpoint(1, 1, EntryId(5, 2), applied=3)
    seen: list[Any] = []

    async def lock() -> Checkpoint:
        async with _begun(stores.other) as cursor:
            return await checkpoints.lock(cursor, STREAM, 0)

    async def move() -> None:
        async with _begun(stores.other) as cursor:
            await _advance(cursor, new, replace(new, batch_no=2))

    async with _begun(stores.deps) as cursor:
        await _advance(cursor, Checkpoint(), new)
        waiting = asyncio.create_task(outcome(lock()))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        seen.append(len(done))
    seen.append(await waiting)
    async with _begun(stores.deps) as cursor:
        await checkpoints.lock(cursor, STREAM, 0)
        waiting = asyncio.create_task(outcome(move()))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        seen.append(len(done))
    return [*seen, await waiting, await _select(stores.deps.pool, ROW)]


async def nobody_waits_for_ever(stores: Stores) -> list[Any]:
    """A lock wait ends with an error that passes; so does one of two who wait for each other."""
    await checkpoints.load(stores.deps.pool, STREAM, 0)
    await checkpoints.load(stores.deps.pool, STREAM, 1)

    async def both(deps: Deps, first: int, met: asyncio.Barrier) -> str:
        async with _begun(deps) as cursor:
            await checkpoints.lock(cursor, STREAM, first)
            await met.wait()
            await checkpoints.lock(cursor, STREAM, 1 - first)
        return "done"

    met = asyncio.Barrier(2)
    crossed = await asyncio.gather(
        outcome(both(stores.deps, 0, met)), outcome(both(stores.other, 1, met))
    )
    async with _begun(stores.deps) as cursor:
        await checkpoints.lock(cursor, STREAM, 0)
        alone = asyncio.Barrier(1)
        late = await outcome(both(stores.other, 0, alone))
    return [sorted(crossed), late, entry_id(b"5-1")]


MYSQL_CASES: Sequence[Case] = (
    the_fence_lets_one_through,
    an_error_rolls_back,
    rows_are_counted_as_mysql_does,
    letters_are_kept_as_they_are,
    incidents_are_found_again,
    a_locked_row_is_waited_for,
    nobody_waits_for_ever,
)
