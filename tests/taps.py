"""A tap: every entry of every stream from its start, as the oracle is told of them."""

from __future__ import annotations

from typing import Any

import orjson

from shared.keys import Keys
from shared.streams import BEGINNING, entry_id, read_range
from tests.oracle import Oracle
from tests.plays import STREAM
from worker.deps import Deps


async def tapped(deps: Deps, after: dict[int, Any] | None = None) -> Oracle:
    """The oracle's answer to everything the streams retain (STREAM_RETENTION_S keeps it all)."""
    oracle = Oracle(deps.settings.stats_timezone)
    keys = Keys(deps.settings.key_prefix)
    for shard in range(deps.settings.shards):
        position = (after or {}).get(shard, BEGINNING)
        while page := await read_range(
            deps.redis, keys.stream(STREAM, shard), position, None, 1000
        ):
            for identity, fields in page:
                position = entry_id(identity)
                oracle.apply(orjson.loads(fields[1]), position.ms)
    return oracle
