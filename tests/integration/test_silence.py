"""A MySQL that says nothing: given up after a while, and nothing is counted twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

import worker.drain
from shared.connections import open_mysql, open_redis
from tests.mysql_state import assert_mysql_equals
from tests.plays import append, deps_of, drain_all, save
from tests.servers import OwnServers
from tests.taps import tapped
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
