"""The streams' verbs on a real Redis: each changes what it says, and only if it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.errors import Rewound, StoreDown
from shared.keys import Keys
from shared.published import BatchWork, Checkpoint, clear_pending, publish, read_published
from shared.streams import (
    BEGINNING,
    EntryId,
    mark_stream,
    read_chunk,
    read_range,
    stream_info,
    trim,
)
from tests.pasts import promote

STREAM, CHECKPOINT = "{0}:s", "{0}:checkpoint"
#: Above 2^53, where Lua's numbers begin to round, and of different lengths.
BIG = 18_014_398_509_481_984
ANN = Keys("t:").play_records(0, "ann")


async def add(redis: Redis, *identities: str) -> None:
    for identity in identities:
        await redis.xadd(STREAM, {"d": identity}, id=identity)


# --- reading -----------------------------------------------------------------------


async def test_a_chunk_and_its_figures_are_of_one_moment(redis: Redis) -> None:
    """
    The entries after the position, how many there are at all, and how many ever were.
    """
    await add(redis, "1-1", "2-1", "2-2", "10-1")
    await redis.xtrim(STREAM, minid="2-1", approximate=False)

    chunk = await read_chunk(redis, STREAM, EntryId(2, 1), 1)

    assert [(b"2-2", [b"d", b"2-2"])] == [tuple(entry) for entry in chunk.entries]
    assert (4, 3, EntryId(10, 1), EntryId(2, 1)) == (
        chunk.info.added,
        chunk.info.length,
        chunk.info.last,
        chunk.info.first,
    )
    assert chunk.now_ms > 1_600_000_000_000


async def test_a_stream_that_does_not_exist_is_empty(redis: Redis) -> None:
    """
    Nobody creates streams ahead: the first append does.
    """
    chunk = await read_chunk(redis, STREAM, BEGINNING, 10)

    assert (0, 0, 0) == (len(chunk.entries), chunk.info.added, chunk.info.length)


async def test_a_key_that_is_no_stream_is_an_outage_not_an_empty_stream(redis: Redis) -> None:
    """
    Taking it for empty would count everything in it as lost.
    """
    await redis.set(STREAM, "x")

    with pytest.raises(StoreDown):
        await read_chunk(redis, STREAM, BEGINNING, 10)


async def test_a_range_is_open_at_its_beginning_and_closed_at_its_end(redis: Redis) -> None:
    """
    As checkpoints are: the entry at one is applied already.
    """
    await add(redis, "1-1", "1-2", "2-1", "3-1")

    found = await read_range(redis, STREAM, EntryId(1, 1), EntryId(2, 1), 10)

    assert [b"1-2", b"2-1"] == [identity for identity, _ in found]


def test_a_server_without_entries_added_is_refused() -> None:
    """
    Without that figure neither lag nor loss could be known.
    """
    with pytest.raises(StoreDown, match="entries-added"):
        stream_info({"length": 1, "last-generated-id": b"1-1"})


# --- trimming ----------------------------------------------------------------------


async def stamp(redis: Redis) -> str:
    return await mark_stream(redis, STREAM)


@pytest.mark.parametrize(
    ("checkpoint", "keep_after_ms", "left"),
    [
        (EntryId(3, 1), 10, [b"3-1", b"4-1", b"5-1"]),
        (EntryId(5, 1), 3, [b"3-1", b"4-1", b"5-1"]),
        (BEGINNING, 10, [b"1-1", b"2-1", b"3-1", b"4-1", b"5-1"]),
        (EntryId(5, 1), -1_000, [b"1-1", b"2-1", b"3-1", b"4-1", b"5-1"]),
    ],
)
async def test_what_is_not_applied_or_not_old_enough_is_never_trimmed(
    redis: Redis, checkpoint: EntryId, keep_after_ms: int, left: list[bytes]
) -> None:
    """
    The older of checkpoint and retention decides, to the very entry.
    """
    await add(redis, "1-1", "2-1", "3-1", "4-1", "5-1")

    trimmed = await trim(redis, STREAM, await stamp(redis), checkpoint, keep_after_ms)

    assert left == [identity for identity, _ in await redis.xrange(STREAM)]
    assert 5 - len(left) == trimmed


async def test_a_trim_removes_any_number_at_once(redis: Redis) -> None:
    """
    Redis' own default would stop after some thousand.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1, 12_002):
            pipe.xadd(STREAM, {"d": "x"}, id=f"{number}-0")
        await pipe.execute()

    assert 12_000 == await trim(redis, STREAM, await stamp(redis), EntryId(12_001, 0), 20_000)


# --- publishing --------------------------------------------------------------------


KEYS = (CHECKPOINT, STREAM)


def checkpoint_at(batch_no: int, incarnation: int = 1) -> Checkpoint:
    return Checkpoint(
        incarnation=incarnation,
        batch_no=batch_no,
        last=EntryId(BIG + batch_no, batch_no),
        base=BIG + 3,
        applied=BIG,
        dead=1,
        lost=2,
        floor_ms=BIG,
        stamps={"abc": EntryId(BIG, 1), "def": EntryId(2, 3)},
        over=frozenset({"abc"}),
    )


async def test_a_published_checkpoint_is_read_back_whole(redis: Redis) -> None:
    """
    Every figure survives, also those that Lua could not count with.
    """
    assert await publish(redis, KEYS, checkpoint_at(3), "token")

    assert checkpoint_at(3) == await read_published(redis, CHECKPOINT)


async def test_nothing_is_published_at_first(redis: Redis) -> None:
    """
    And a hash that holds other things, such as a holder, is no checkpoint.
    """
    assert await read_published(redis, CHECKPOINT) is None
    await redis.hset(CHECKPOINT, "holder", "w1")  # type: ignore[misc]

    assert await read_published(redis, CHECKPOINT) is None


@pytest.mark.parametrize(
    ("incarnation", "batch_no", "taken"),
    [(1, 4, True), (1, 10, True), (2, 1, True), (1, 3, False), (1, 2, False), (0, 9, False)],
)
async def test_only_a_later_checkpoint_is_published(
    redis: Redis, incarnation: int, batch_no: int, taken: bool
) -> None:
    """
    A zombie sets nothing back, and drops nobody's copy either.
    """
    await publish(redis, KEYS, checkpoint_at(3), "first")
    await redis.set(ANN.version, "before")
    await redis.hset(ANN.cached, "cached", "1")  # type: ignore[misc]
    new = checkpoint_at(batch_no, incarnation)

    assert taken is await publish(redis, KEYS, new, "second", [ANN])

    assert (new if taken else checkpoint_at(3)) == await read_published(redis, CHECKPOINT)
    assert (b"second" if taken else b"before") == await redis.get(ANN.version)
    assert taken is not bool(await redis.exists(ANN.cached))


@pytest.mark.parametrize("how", ["another master", "made anew"])
async def test_a_checkpoint_of_another_stream_is_not_published(redis: Redis, how: str) -> None:
    """
    Readers would take the entries of the one that is there now for applied.
    """
    first = replace(checkpoint_at(3), replid=await stamp(redis))
    await publish(redis, KEYS, first, "first")
    if how == "made anew":
        await redis.delete(STREAM)
        await add(redis, "1-1")
    else:
        await promote(redis)

    with pytest.raises(Rewound):
        await publish(redis, KEYS, replace(first, batch_no=4), "second")

    assert first == await read_published(redis, CHECKPOINT)


async def test_the_work_of_batches_is_summed_up_beside_the_checkpoint(redis: Redis) -> None:
    """
    Metrics of all workers come from there; a takeover publishes without having worked.
    """
    await publish(redis, KEYS, checkpoint_at(1), "t", work=BatchWork(10, 4, 7))
    await publish(redis, KEYS, checkpoint_at(2), "t", work=BatchWork(20, 5, 8))
    await publish(redis, KEYS, checkpoint_at(3), "t")
    names = ["batches", "entries", "rows", "write_ms", "batch_entries", "batch_rows", "batch_ms"]

    figures = await redis.hmget(CHECKPOINT, names)  # type: ignore[misc]

    assert [2, 30, 9, 15, 20, 5, 8] == [int(figure) for figure in figures]


# --- overlay -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "stays"),
    [
        ("99-5", False),
        ("100-4", False),
        ("100-5", False),
        ("100-6", True),
        ("100-10", True),
        ("101-0", True),
        ("1000-1", True),
        ("9-9", False),
        (f"{BIG}-1", True),
    ],
)
async def test_an_overlay_field_goes_when_its_entry_is_committed(
    redis: Redis, at: str, stays: bool
) -> None:
    """
    Positions compare as pairs of numbers, not as text; a field written again meanwhile stays.
    """
    await redis.hset(ANN.pending, "s+1", f"{at} stamp d")  # type: ignore[misc]

    await clear_pending(redis, Checkpoint(last=EntryId(100, 5)), [(ANN, [b"s+1"])])

    assert stays is bool(await redis.hexists(ANN.pending, "s+1"))  # type: ignore[misc]


async def test_an_overlay_field_of_a_stream_that_is_gone_stays(redis: Redis) -> None:
    """
    It counts for nothing, but a backup of Redis may bring its entry back.
    """
    gone, here = "gone" * 4, "here" * 4
    await redis.hset(ANN.pending, mapping={"s+1": f"9-0 {gone} d", "s+2": f"9-0 {here} d"})  # type: ignore[misc]
    upto = Checkpoint(stamps={gone: EntryId(5, 0), here: EntryId(9, 0)}, over=frozenset({gone}))

    await clear_pending(redis, upto, [(ANN, [b"s+1", b"s+2"])])

    assert [b"s+1"] == await redis.hkeys(ANN.pending)  # type: ignore[misc]


async def test_big_positions_are_compared_exactly(redis: Redis) -> None:
    """
    Two neighbours above 2^53 are different positions.
    """
    await redis.hset(  # type: ignore[misc]
        ANN.pending, mapping={"s+1": f"{BIG}-1 x d", "s+2": f"{BIG + 1}-1 x d"}
    )

    await clear_pending(redis, Checkpoint(last=EntryId(BIG, 1)), [(ANN, [b"s+1", b"s+2"])])

    assert [b"s+2"] == await redis.hkeys(ANN.pending)  # type: ignore[misc]


async def test_only_the_named_fields_of_the_named_users_go(redis: Redis) -> None:
    """
    However many there are: neither a script's nor Lua's limits cut them short.
    """
    users = [Keys("t:").play_records(0, f"u{number}") for number in range(1_200)]
    fields = [f"s+{number}".encode() for number in range(2_500)]
    async with redis.pipeline(transaction=False) as pipe:
        for user in users:
            pipe.hset(user.pending, mapping={"s+1": "1-1 x d", "kept": "1-1 x d"})
        pipe.hset(ANN.pending, mapping=dict.fromkeys([*fields, b"kept"], "1-1 x d"))
        await pipe.execute()
    written: list[tuple[Any, list[bytes]]] = [(user, [b"s+1", b"absent"]) for user in users]

    await clear_pending(redis, Checkpoint(last=EntryId(1, 1)), [*written, (ANN, fields)])

    for user in (users[0], users[-1], ANN):
        assert [b"kept"] == await redis.hkeys(user.pending)  # type: ignore[misc]
    assert 1_201 == len(await redis.keys("*:pending"))
