"""A tap: every entry of every stream from its start, as the oracle is told of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from shared.streams import BEGINNING, EntryId, entry_id, read_range
from tests.oracle import Oracle
from tests.plays import STREAM
from worker.deps import Deps


async def entries_after(
    deps: Deps, shard: int, after: EntryId = BEGINNING
) -> AsyncIterator[tuple[EntryId, dict[str, Any]]]:
    """(id, event) of everything the shard retains after *after*, oldest first."""
    stream = deps.keys.stream(STREAM, shard)
    while page := await read_range(deps.redis, stream, after, None, 1000):
        for identity, fields in page:
            after = entry_id(identity)
            yield after, orjson.loads(fields[1])


async def tapped(deps: Deps, after: dict[int, EntryId] | None = None) -> Oracle:
    """The oracle's answer to everything the streams retain (STREAM_RETENTION_S keeps it all)."""
    oracle = Oracle(deps.settings.stats_timezone)
    for shard in range(deps.settings.shards):
        async for at, event in entries_after(deps, shard, (after or {}).get(shard, BEGINNING)):
            oracle.apply(event, at.ms)
    return oracle
