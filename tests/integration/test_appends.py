"""The append script: each event of a group has its own outcome, whatever the others' is."""

from __future__ import annotations

from redis.asyncio import Redis

from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.keys import Keys, shard_of
from shared.streams import Append
from tests.plays import STREAM, append_of, save

SHARDS = 4


async def test_an_event_that_cannot_be_written_is_refused_alone(redis: Redis) -> None:
    """
    One user's damaged key takes nobody else's event with it: those before and after are kept.
    """
    keys = Keys("t:")
    await redis.set(keys.play_records(0, "bob").pending, "no hash")
    group = [append_of(keys, 1, save(user)) for user in ("ann", "bob", "cat")]
    connection = AppendConnection(redis, keys, STREAM)
    try:
        [answers] = await connection.append([group])
    finally:
        await connection.close()

    assert [None, AppendRefused, None] == [
        answer if answer is None else type(answer) for answer in answers
    ]
    for user in ("ann", "cat"):
        assert await redis.exists(keys.play_records(0, user).pending)


async def test_a_shard_that_cannot_be_appended_to_keeps_no_other_from_it(redis: Redis) -> None:
    """
    One script appends to all shards.
    """
    keys = Keys("t:")
    groups = groups_of(keys)
    await redis.set(keys.checkpoint(STREAM, groups[1][0].shard), "no hash")
    connection = AppendConnection(redis, keys, STREAM)
    try:
        answers = await connection.append(groups)
    finally:
        await connection.close()

    assert [None] == answers[0]
    assert "WRONGTYPE" in str(answers[1][0])
    assert [[None]] * (SHARDS - 2) == answers[2:]
    lengths = [await redis.xlen(keys.stream(STREAM, shard)) for shard in range(SHARDS)]
    assert [0, 1, 1, 1] == sorted(lengths)


def groups_of(keys: Keys) -> list[list[Append]]:
    """An event for each shard."""
    by_shard = {shard_of(f"user{n}", SHARDS): save(f"user{n}") for n in range(50)}
    return [[append_of(keys, SHARDS, event)] for event in by_shard.values()]
