"""A MySQL that says nothing: given up after a while, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

import worker.drain
from shared.mysql import open_mysql
from shared.redis import open_redis
from tests.mysql_state import assert_mysql_equals
from tests.plays import append, deps_of, drain_all, save
from tests.servers import OwnServers
from tests.taps import tapped
from worker import checkpoints
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink


async def test_a_frozen_mysql_is_given_up_and_tried_again(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A connection that neither answers nor breaks does not hold a shard for ever.
    """
    settings = replace(own_servers.settings, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    async with open_redis(settings.redis_url) as redis, open_mysql(settings, drain=True) as pool:
        deps = deps_of(settings, redis, pool)
        await append(settings, redis, [save("ann"), save("bob")])
        drain = ShardDrain(deps, PlaysSink(settings), 0)
        monkeypatch.setattr(worker.drain, "SILENCE_MAX_S", 0.3)
        own_servers.mysql.pause()
        try:
            assert await drain.run(slice_s=0)  # given up: the slice ends, more waits
        finally:
            own_servers.mysql.resume()
        monkeypatch.undo()

        async with asyncio.timeout(60):
            await drain_all(deps)

        await assert_mysql_equals(pool, await tapped(deps))


async def test_a_mysql_that_freezes_inside_a_batch_is_given_up_too(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Whatever was under way on that connection ends with it, and is done again on another.
    """
    settings = replace(own_servers.settings, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    async with open_redis(settings.redis_url) as redis, open_mysql(settings, drain=True) as pool:
        deps = deps_of(settings, redis, pool)
        await append(settings, redis, [save("ann"), save("bob")])
        advance = checkpoints.advance

        async def advance_and_freeze(*arguments: Any) -> None:
            await advance(*arguments)
            own_servers.mysql.pause()

        monkeypatch.setattr(worker.drain, "SILENCE_MAX_S", 0.3)
        monkeypatch.setattr(checkpoints, "advance", advance_and_freeze)
        try:
            async with asyncio.timeout(60):
                assert await ShardDrain(deps, PlaysSink(settings), 0).run(slice_s=0)
        finally:
            own_servers.mysql.resume()
        monkeypatch.undo()

        async with asyncio.timeout(60):
            await drain_all(deps)

        await assert_mysql_equals(pool, await tapped(deps))
    gc.collect()
    assert [] == caplog.messages  # asyncio tells of tasks that nobody looked after
