"""The queue before Redis: bounded, and honest when Redis does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from api.group_commit import GROUP_EVENTS_MAX, QUEUE_BYTES_MAX, GroupCommit
from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.keys import Keys
from shared.streams import Append


class SilentRedis:
    """An append connection on which every group waits, and is then given up."""

    def __init__(self) -> None:
        self.groups = 0
        self.asked = asyncio.Event()
        self.give_up = asyncio.Event()

    async def append(self, groups: Sequence[Sequence[Append]]) -> None:
        self.groups += 1
        self.asked.set()
        await self.give_up.wait()
        raise AppendRefused("no answer")

    async def close(self) -> None:
        return


def event(size: int = 10) -> Append:
    return Append(0, Keys("moontv:").play_records(0, "ann"), b"s", b"s+1", b"x" * size)


async def test_when_redis_does_not_answer_all_that_wait_are_told_at_once() -> None:
    """
    Nobody waits for as many time-outs as there are groups before theirs.
    """
    redis = SilentRedis()
    commit = GroupCommit(cast("AppendConnection", redis), lambda _: None)
    running = asyncio.create_task(commit.run())
    waiting = [asyncio.create_task(commit.append(event())) for _ in range(3 * GROUP_EVENTS_MAX)]
    await redis.asked.wait()

    redis.give_up.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    commit.stop()
    await running

    assert 1 == redis.groups
    assert all(isinstance(outcome, AppendRefused) for outcome in outcomes)


async def test_what_waits_is_bounded_in_bytes() -> None:
    """
    Long bodies cannot fill the memory while Redis is silent; once told, there is room again.
    """
    redis = SilentRedis()
    commit = GroupCommit(cast("AppendConnection", redis), lambda _: None)
    half = event(QUEUE_BYTES_MAX // 2)
    waiting = [asyncio.create_task(commit.append(half)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(AppendRefused, match="2 events wait"):
        await commit.append(event())

    redis.give_up.set()
    running = asyncio.create_task(commit.run())
    await asyncio.gather(*waiting, return_exceptions=True)
    again = asyncio.create_task(commit.append(half))
    await asyncio.wait([again])
    commit.stop()
    await running
    assert "no answer" in str(again.exception())
