"""
A user's play records, such that every acknowledged write is in them (protocol 6 to 8).

The order is the whole proof: first Redis in one MULTI (version, overlay, published
checkpoint, cached copy), then MySQL. What the overlay no longer counts, because it
lies at or below that checkpoint, was committed before MySQL was asked; and the
merged view fills the cache only if nothing was appended since that version.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis

from api.gate import Visitor
from api.queries import patiently
from shared.errors import StoreDown
from shared.keys import MARKER_FIELD, Keys, UserKeys
from shared.overlay import Overlay, merge, read_overlay
from shared.published import Checkpoint, clear_pending, published_of
from shared.redis import redis_errors, sound
from shared.scripts import run_script

log = structlog.get_logger()

STREAM = "plays"
#: A fill whose sources are older is thrown away.
FILL_AGE_MAX_S = 30.0
_TTL_MS, _TTL_JITTER_MS = 3_600_000, 360_000

#: username -> the records MySQL holds: record key -> view
Load = Callable[[str], Awaitable[dict[bytes, dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Redis knew of one user's records at one moment."""

    version: bytes
    pending: Mapping[bytes, bytes]
    published: Checkpoint
    cached: Mapping[bytes, bytes]
    taken_at_s: float

    @property
    def marker(self) -> bytes:
        """What a cached copy carries that was filled since the shard last lost anything.

        Earlier ones are no good: they may show what was lost, or lack what MySQL has.
        """
        return b"%d %d" % (self.published.incarnation, self.published.lost)


class Reads:
    """Reads through the cache; one load per user and version at a time in this process."""

    def __init__(self, redis: Redis, keys: Keys, load: Load) -> None:
        self._redis = redis
        self._keys = keys
        self.load = load
        self._loads: dict[tuple[str, bytes], asyncio.Task[bytes]] = {}

    async def play_records(self, visitor: Visitor) -> bytes:
        """The visitor's records as a JSON object: record key -> record. Raises `StoreDown`."""
        snapshot = await self._snapshot(visitor)
        body = _body_of_cached(snapshot)
        return await self._load_once(visitor, snapshot) if body is None else body

    async def _snapshot(self, visitor: Visitor) -> Snapshot:
        user = visitor.keys
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(user.version)
                pipe.hgetall(user.pending)
                pipe.hgetall(self._keys.checkpoint(STREAM, visitor.shard))
                pipe.hgetall(user.cached)
                taken_at_s = time.monotonic()
                version, pending, published, cached = await pipe.execute(raise_on_error=False)
        return Snapshot(
            version=sound(version) or b"",
            pending=_hash(user.pending, pending),
            published=published_of(sound(published)) or Checkpoint(incarnation=0),
            cached=_hash(user.cached, cached),
            taken_at_s=taken_at_s,
        )

    async def _load_once(self, visitor: Visitor, snapshot: Snapshot) -> bytes:
        """Join the load under way for the same version: nothing was appended since it began."""
        key = (visitor.username, snapshot.version)
        load = self._loads.get(key)
        if load is None:
            load = asyncio.create_task(self._load_and_fill(visitor, snapshot))
            self._loads[key] = load
            load.add_done_callback(lambda _: self._loads.pop(key, None))
        # A client that goes away must not take the others' load with it.
        return await asyncio.shield(load)

    async def _load_and_fill(self, visitor: Visitor, snapshot: Snapshot) -> bytes:
        stored = await patiently(lambda: self.load(visitor.username))
        overlay = read_overlay(snapshot.pending, snapshot.published)
        merged = merge(stored, overlay)
        await self._keep(visitor.keys, snapshot, overlay, merged)
        return _body_of(merged)

    async def _keep(
        self, user: UserKeys, snapshot: Snapshot, overlay: Overlay, merged: dict[bytes, bytes]
    ) -> None:
        """Fill the cache and tidy the overlay; the read is right without either."""
        if overlay.damaged:
            log.error("overlay_damaged", key=user.pending, fields=len(overlay.damaged))
        try:
            if time.monotonic() - snapshot.taken_at_s < FILL_AGE_MAX_S:
                await self._fill_cache(user, snapshot, merged)
            if gone := overlay.settled + overlay.damaged:
                await clear_pending(self._redis, snapshot.published, [(user, gone)])
        except StoreDown as error:
            log.warning("fill_failed", error=str(error))

    async def _fill_cache(
        self, user: UserKeys, snapshot: Snapshot, merged: dict[bytes, bytes]
    ) -> None:
        ttl_ms = _TTL_MS - secrets.randbelow(_TTL_JITTER_MS)
        arguments: list[Any] = [snapshot.version, ttl_ms, MARKER_FIELD, snapshot.marker]
        for field, value in merged.items():
            arguments += (field, value)
        await run_script(self._redis, "fill", [user.version, user.cached], arguments)


def _hash(key: str, reply: Any) -> Mapping[bytes, bytes]:
    """HGETALL's reply; a key that holds something else is as good as none."""
    if isinstance(reply, Exception):
        log.error("key_damaged", key=key, error=str(reply))
        return {}
    return reply  # type: ignore[no-any-return]


def _body_of_cached(snapshot: Snapshot) -> bytes | None:
    """The answer that the cached fields make up, None where they are missing or damaged."""
    cached = snapshot.cached
    if cached.get(MARKER_FIELD) != snapshot.marker:
        return None
    try:
        return _body_of({name: cached[name] for name in cached if name != MARKER_FIELD})
    except ValueError as error:
        log.warning("cached_copy_damaged", error=str(error))
        return None


def _body_of(fields: Mapping[bytes, bytes]) -> bytes:
    """Cached fields joined to one JSON object, unparsed. Raises `ValueError` if damaged."""
    records: dict[str, orjson.Fragment] = {}
    for name, value in fields.items():
        _, space, record = value.partition(b" ")
        if not space or record[:1] != b"{" or record[-1:] != b"}":
            raise ValueError(f"not a record: {value[:40]!r}")
        records[name.decode()] = orjson.Fragment(record)
    return orjson.dumps(records)
