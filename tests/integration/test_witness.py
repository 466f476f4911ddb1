"""Fronts as witnesses: what they see, when they speak, and what a damaged word does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from redis.asyncio import Redis

from shared import keys, witness
from shared.appends import AppendConnection
from shared.keys import Keys
from shared.mysql import Pool
from shared.settings import Settings
from shared.streams import EntryId, entry_id
from shared.witness import FRONT_LIVES_MS, Witness
from tests.fronts import front
from tests.mysql_state import books
from tests.pasts import promote
from tests.plays import STREAM, append_of, deps_of, drain_all, record, save
from tests.waiting import until

KEYS = Keys("moontv:")
STREAM_KEY = KEYS.stream(STREAM, 0)


async def told(redis: Redis, stream: str = STREAM_KEY) -> list[witness.Testimony]:
    return witness.testimonies_in(await redis.hgetall(keys.testimonies_of(stream)))  # type: ignore[misc]


class Front:
    """An append connection and its witness, without a front around them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.witness = Witness(shards=1)
        self.connection = AppendConnection(redis, KEYS, STREAM, witness=self.witness)

    async def append(self, events: int) -> None:
        group = [append_of(KEYS, 1, save("ann", str(number))) for number in range(events)]
        [refusals] = await self.connection.append([group])
        assert [None] * events == refusals

    async def testimonies(self) -> list[witness.Testimony]:
        await self.witness.report(self.redis, KEYS, STREAM)
        return await told(self.redis)


@pytest.fixture(name="one")
async def _one(redis: Redis) -> AsyncIterator[Front]:
    one = Front(redis)
    yield one
    await one.connection.close()


async def test_a_front_that_sees_nothing_missing_says_nothing(one: Front) -> None:
    """
    However much it appends: entries added only grow.
    """
    await one.append(3)
    await one.append(2)

    assert [] == await one.testimonies()


@pytest.mark.parametrize("how", ["deleted", "new master"])
async def test_a_front_tells_what_it_saw_last_of_a_stream_that_is_another_now(
    one: Front, how: str
) -> None:
    """
    How many entries there were, up to which id, of which stream.
    """
    await one.append(3)
    [(last, _)] = await one.redis.xrevrange(STREAM_KEY, count=1)
    if how == "deleted":
        await one.redis.delete(STREAM_KEY)
    else:
        await promote(one.redis)
    await one.append(5)  # more than were lost: only the stamp tells

    [testimony] = await one.testimonies()

    seen = testimony.sighting
    assert (3, entry_id(last), 1) == (seen.added, seen.last, seen.incarnation)
    assert (one.witness.front, False) == (testimony.front, testimony.again)
    assert (one.witness.front,) == testimony.fronts


async def test_a_second_loss_that_no_worker_saw_the_first_of_is_told_as_such(one: Front) -> None:
    """
    Its numbers are of a stream that nobody counted: they must not be taken for the first's.
    """
    for _ in range(2):
        await one.append(3)
        await one.redis.delete(STREAM_KEY)
        await one.append(1)

    assert [False, True] == sorted(each.again for each in await one.testimonies())


async def test_a_front_names_the_others_that_live(one: Front) -> None:
    """
    Only if they have all spoken is a count exact; who was silent for long has nothing to say.
    """
    seconds, _ = await one.redis.time()
    fresh, stale = seconds * 1000, seconds * 1000 - FRONT_LIVES_MS - 1_000
    await one.redis.hset(KEYS.fronts, mapping={"fresh": str(fresh), "stale": str(stale)})  # type: ignore[misc]
    await one.append(1)
    await one.testimonies()
    await one.redis.delete(STREAM_KEY)
    await one.append(1)

    [testimony] = await one.testimonies()

    assert sorted([one.witness.front, "fresh"]) == list(testimony.fronts)
    assert not await one.redis.hexists(KEYS.fronts, "stale")  # type: ignore[misc]


async def test_ids_go_on_from_where_a_front_saw_them(one: Front) -> None:
    """
    The clock of whoever answers now is behind: nobody may take new entries for old ones.
    """
    seconds, _ = await one.redis.time()
    ahead = EntryId(seconds * 1000 + 30_000, 7)
    await one.redis.xadd(STREAM_KEY, {"d": "x"}, id=str(ahead))
    await one.append(1)
    await one.redis.flushall()

    await one.append(2)

    ids = [entry_id(identity) for identity, _ in await one.redis.xrange(STREAM_KEY)]
    assert ahead < ids[0] < ids[1]


async def test_ids_a_minute_ahead_are_not_carried_on(one: Front) -> None:
    """
    They are no clock's: `moonwake repair-ids` brings them back, and fronts must let it.
    """
    seconds, _ = await one.redis.time()
    ahead = EntryId(seconds * 1000 + 3_600_000, 0)
    await one.redis.xadd(STREAM_KEY, {"d": "x"}, id=str(ahead))
    await one.append(1)
    await one.redis.flushall()

    await one.append(1)

    [(identity, _)] = await one.redis.xrange(STREAM_KEY)
    assert entry_id(identity) < ahead


async def test_an_idle_front_notices_too(migrated: Settings, redis: Redis) -> None:
    """
    Nobody writes any more: what was acknowledged before is lost all the same.
    """
    async with front(replace(migrated, shards=1)) as site:
        await site.save("ann", "s+1", record())
        await redis.delete(STREAM_KEY)

        async def is_told() -> bool:
            return [1] == [each.sighting.added for each in await told(redis)]

        await until(is_told, "the front has testified")


async def test_a_damaged_testimony_stops_nothing(
    migrated: Settings, redis: Redis, pool: Pool
) -> None:
    """
    It is dropped, and the shard goes on.
    """
    deps = deps_of(replace(migrated, shards=1), redis, pool)
    for name, text in {"a": b"\xff", "b": b"[]", "c": orjson.dumps({"front": "x"})}.items():
        await redis.hset(keys.testimonies_of(STREAM_KEY), name, text)  # type: ignore[misc, arg-type]
    await redis.xadd(STREAM_KEY, {"d": orjson.dumps(save("ann"))})

    await drain_all(deps)

    assert (1, 1, 0, 0) == await books(pool)
    assert not await redis.exists(keys.testimonies_of(STREAM_KEY))
