"""Play events for tests: made, appended as the API does or as a stranger would, and drained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from shared import events
from shared.appends import AppendConnection
from shared.keys import CLEAR_FIELD, Keys, shard_of
from shared.mysql import Cursor, Pool, reading
from shared.settings import Settings
from shared.streams import Append, written_field
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

STREAM = "plays"


def record(**fields: Any) -> dict[str, Any]:
    """A valid record; *fields* replace or add to its own."""
    return {
        "title": "Title",
        "source_name": "Source",
        "index": 1,
        "total_episodes": 12,
        "play_time": 10,
        "total_time": 1400,
        **fields,
    }


def save(user: str, content_id: str = "1", **fields: Any) -> dict[str, Any]:
    """A save event; *fields* are the record's."""
    return {
        "v": 1,
        "op": "save",
        "user": user,
        "source": "s",
        "id": content_id,
        "record": record(**fields),
    }


def delete(user: str, content_id: str = "1") -> dict[str, Any]:
    return {"v": 1, "op": "delete", "user": user, "source": "s", "id": content_id}


def clear(user: str) -> dict[str, Any]:
    return {"v": 1, "op": "clear", "user": user}


def append_of(keys: Keys, shards: int, event: dict[str, Any]) -> Append:
    """*event* as the API appends it."""
    user = event["user"]
    shard = shard_of(user, shards)
    owner = keys.play_records(shard, user)
    if event["op"] == "clear":
        return Append(shard, owner, b"c", CLEAR_FIELD, events.encode_clear(user))
    source, content_id = event["source"], event["id"]
    field = written_field(source, content_id)
    if event["op"] == "delete":
        return Append(shard, owner, b"d", field, events.encode_delete(user, source, content_id))
    parsed = events.record_from(event["record"])
    body, offset = events.encode_save(user, source, content_id, orjson.dumps(event["record"]))
    return Append(
        shard=shard,
        user=owner,
        op=b"s",
        field=field,
        body=body,
        offset=offset,
        total_episodes=parsed.total_episodes,
        original_episodes=parsed.original_episodes,
        has_save_time=parsed.save_time is not None,
    )


async def append(settings: Settings, redis: Redis, given: Sequence[dict[str, Any]]) -> None:
    """Append *given* as the API does, in order, and see that each was taken."""
    keys = Keys(settings.key_prefix)
    connection = AppendConnection(redis, keys, STREAM)
    try:
        for event in given:
            [[refused]] = await connection.append([[append_of(keys, settings.shards, event)]])
            assert refused is None
    finally:
        await connection.close()


async def add_foreign(
    settings: Settings, redis: Redis, given: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    """XADD (entry id, event) pairs as another producer would."""
    keys = Keys(settings.key_prefix)
    async with redis.pipeline(transaction=False) as pipe:
        for entry_id, event in given:
            stream = keys.stream(STREAM, shard_of(event["user"], settings.shards))
            pipe.xadd(stream, {"d": orjson.dumps(event)}, id=entry_id)
        await pipe.execute()


def deps_of(settings: Settings, redis: Redis, pool: Pool) -> Deps:
    return Deps(settings, redis, pool, Keys(settings.key_prefix))


async def drain_all(deps: Deps) -> None:
    """Drain every shard until it is caught up."""
    for shard in range(deps.settings.shards):
        more = True
        while more:
            more = await ShardDrain(deps, PlaysSink(deps.settings), shard).run(slice_s=60)


async def rows(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows that *query* selects."""
    async with reading(pool) as cursor:
        return await select(cursor, query, *values)


async def select(cursor: Cursor, query: str, *values: Any) -> list[tuple[Any, ...]]:
    await cursor.execute(query, values)
    return [tuple(row) for row in await cursor.fetchall()]
