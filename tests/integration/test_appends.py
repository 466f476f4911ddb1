"""The append script: each event of a group has its own outcome."""

from __future__ import annotations

from redis.asyncio import Redis

from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.keys import Keys
from tests.plays import STREAM, append_of, save


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
