"""Appending: many requests in one round trip, each event once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from redis.asyncio import Redis

from api.group_commit import GROUP_BYTES_MAX, GROUP_EVENTS_MAX
from shared.keys import Keys, shard_of
from shared.mysql import Pool
from shared.redis import open_redis
from shared.settings import Settings
from tests.flushers import flusher, ids_in, outcome_of, running, slowed
from tests.fronts import front
from tests.plays import STREAM, deps_of, drain_all, record, rows
from tests.waiting import until


async def test_requests_that_wait_share_a_round_trip_in_bounded_groups(
    settings: Settings, redis: Redis
) -> None:
    """Twelve hundred waiting events go as three groups, each kept, each user's in order."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(1_200)]
    await asyncio.sleep(0)
    async with running(it):
        await asyncio.gather(*tasks)

    assert [GROUP_EVENTS_MAX, GROUP_EVENTS_MAX, 200] == it.groups
    assert [str(number) for number in range(1_200)] == await ids_in(it, redis)


async def test_a_group_is_bounded_in_bytes_too(settings: Settings, redis: Redis) -> None:
    """Ten events of 60 KB take more than one script call; one alone always goes."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number), note="x" * 60_000)) for number in range(10)]
    tasks.append(it.append(it.event("huge", note="x" * (GROUP_BYTES_MAX + 1))))
    await asyncio.sleep(0)
    async with running(it):
        await asyncio.gather(*tasks)

    assert [4, 4, 2, 1] == it.groups


async def test_concurrent_requests_of_a_front_go_together(settings: Settings) -> None:
    """A hundred requests at a time need far fewer round trips."""
    async with front(settings) as site:
        users = [f"user{number}" for number in range(100)]
        groups: list[float] = []
        site.site.group_commit._observe_group = groups.append
        answers = await asyncio.gather(*(site.save(user, "s+1", record()) for user in users))

    assert {200} == {answer.status_code for answer in answers}
    assert 100 == sum(groups)
    assert len(groups) < 50


async def test_a_request_that_goes_away_takes_nobody_with_it(
    settings: Settings, redis: Redis
) -> None:
    """Cancelling one waiter of a group leaves the others and the flusher alone."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    async with running(it), asyncio.timeout(30):
        assert ["kept", "kept"] == [await outcome_of(tasks[0]), await outcome_of(tasks[2])]
        assert "kept" == await outcome_of(it.append(it.event("later")))
    assert tasks[1].cancelled()


async def test_a_full_queue_refuses_at_once(settings: Settings, redis: Redis) -> None:
    """What waits is bounded; the refused event is not sent later."""
    it = flusher(settings, redis, queue_events_max=2)
    tasks = [it.append(it.event(str(number))) for number in range(3)]

    assert "wait for Redis" in await outcome_of(tasks[2])
    async with running(it):
        await asyncio.gather(*tasks[:2])
    assert ["0", "1"] == await ids_in(it, redis)


async def test_stopping_sends_what_waits_first(settings: Settings, redis: Redis) -> None:
    """An orderly stop loses no request that was taken in; later ones are refused."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(700)]
    await asyncio.sleep(0)
    it.group_commit.stop()
    await it.group_commit.run()

    assert {"kept"} == {await outcome_of(task) for task in tasks}
    assert "kept" != await outcome_of(it.append(it.event("late")))


async def test_after_noscript_each_event_is_appended_once(
    migrated: Settings, redis: Redis, pool: Pool
) -> None:
    """Redis forgot the script: only what it refused is sent again."""
    it = flusher(replace(migrated, flush_interval_ms=0), redis)
    users = [f"user{number}" for number in range(20)]
    async with running(it):
        await it.append(it.event())
        for content_id in ("a", "b", "c"):
            await redis.script_flush()
            await asyncio.gather(*(it.append(it.event(content_id, user)) for user in users))
    await drain_all(deps_of(it.settings, redis, pool))

    expected = [(user, content_id) for user in sorted(users) for content_id in "abc"]
    assert sorted(["1", *"abc" * 20]) == sorted(await ids_in(it, redis))
    assert expected == await rows(
        pool,
        "SELECT username, content_id FROM play_records WHERE username <> 'ann' ORDER BY 1, 2",
    )


async def test_a_script_lost_between_two_groups_doubles_neither(
    settings: Settings, redis: Redis
) -> None:
    """The first group was kept, the second refused: only the second goes again."""

    async def flush_after_the_first(commands: bytes) -> AsyncIterator[bytes]:
        starts = [match.start() for match in re.finditer(rb"\*\d+\r\n\$7\r\nEVALSHA", commands)]
        if len(starts) < 2:
            yield commands
            return
        yield commands[: starts[1]]
        await until(lambda: _has_entries(redis, settings), "Redis has run the first group")
        await redis.script_flush()
        yield commands[starts[1] :]

    users = ["ann", "bob", "cat", "eve"]
    assert {0, 1} == {shard_of(user, settings.shards) for user in users}
    async with slowed(settings.redis_url, flush_after_the_first) as url, open_redis(url) as through:
        it = flusher(settings, through)
        tasks = [it.append(it.event(user=user, content_id=user)) for user in users]
        await asyncio.sleep(0)
        async with running(it):
            await asyncio.gather(*tasks)

    assert [4] == it.groups
    assert users == sorted(await ids_in(it, redis))


async def _has_entries(redis: Redis, settings: Settings) -> bool:
    keys = Keys(settings.key_prefix)
    lengths = [await redis.xlen(keys.stream(STREAM, shard)) for shard in range(settings.shards)]
    return any(lengths)
