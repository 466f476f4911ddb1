"""
A front as a witness: what it saw of each stream before Redis lost entries (protocol 4, 25).

Redis cannot tell what it has lost. Whoever appended can: the highest number of entries
that its replies told of. When that goes back, or another master answers, the front
testifies in the stream's own hash slot, and a worker counts the loss by it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import structlog
from redis.asyncio import Redis

from shared.errors import StoreDown
from shared.keys import Keys, testimonies_of
from shared.redis import redis_errors, sound
from shared.streams import BEGINNING, EntryId, entry_id, now_ms_of

log = structlog.get_logger()

#: A stream that nothing is appended to is looked at this often.
LOOK_S = 0.25
#: A front that has not been seen for this long had nothing to say that others did not see.
FRONT_LIVES_MS = 10_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one append script told of a stream, all of one moment.

    *stamp* is the server's, *incarnation* the published one's number, *added* the entries
    ever added and *last* the last one's id.
    """

    stamp: str
    incarnation: int
    added: int
    last: EntryId


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one front last saw of an incarnation that lost entries afterwards.

    *fronts* are those that lived then: only if all of them have testified is it known
    what was acknowledged. *again*: this front testified of this incarnation before, so
    its numbers are of a stream that no worker ever saw.
    """

    #: The field of the hash that holds it.
    name: str
    front: str
    sighting: Sighting
    fronts: tuple[str, ...]
    again: bool = False


@dataclass(slots=True)
class Witness:
    """One front's memory of the streams of all shards, fed by its append connection alone.

    One connection, so that what it tells is in order: a look on another one could
    overtake an append, and would seem to go back.
    """

    shards: int
    front: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _seen: dict[int, Sighting] = field(default_factory=dict)
    _looked_s: dict[int, float] = field(default_factory=dict)
    #: shard -> number of the incarnation it testified of last
    _testified: dict[int, int] = field(default_factory=dict)
    _untold: list[tuple[int, Testimony]] = field(default_factory=list)
    #: front -> when it was last known to live, by this process' clock
    _fronts: dict[str, float] = field(default_factory=dict)

    def due(self, but: Collection[int]) -> list[int]:
        """The shards that nobody has looked at for `LOOK_S`, less *but*."""
        before_s = time.monotonic() - LOOK_S
        return [
            shard
            for shard in range(self.shards)
            if shard not in but and self._looked_s.get(shard, 0.0) < before_s
        ]

    @property
    def has_untold(self) -> bool:
        """Is there a testimony that Redis does not hold yet?"""
        return bool(self._untold)

    def last_seen(self, shard: int) -> Sighting | None:
        return self._seen.get(shard)

    def saw(self, shard: int, seen: Sighting, *, appended: int) -> None:
        """Take in what a script told after it had *appended* so many entries itself."""
        before = self._seen.get(shard)
        if before is not None and _has_lost(before, seen, appended):
            self._note_loss(shard, before, seen)
        self._seen[shard] = seen
        self._looked_s[shard] = time.monotonic()

    def _note_loss(self, shard: int, before: Sighting, seen: Sighting) -> None:
        again = before.incarnation <= self._testified.get(shard, 0)
        self._testified[shard] = before.incarnation
        log.warning(
            "stream_in_doubt",
            shard=shard,
            stamp_before=before.stamp,
            stamp=seen.stamp,
            added_before=before.added,
            added=seen.added,
            last_before=str(before.last),
            last=str(seen.last),
        )
        name = f"{self.front}:{uuid.uuid4().hex[:12]}"
        fronts = tuple(sorted({self.front, *self._fronts}))
        self._untold.append((shard, Testimony(name, self.front, before, fronts, again)))

    async def run(self, redis: Redis, keys: Keys, stream: str) -> None:
        """Report again and again; Redis' absences are waited out."""
        while True:
            try:
                await self.report(redis, keys, stream)
            except StoreDown:
                log.debug("testimony_waits", untold=len(self._untold))
            await asyncio.sleep(LOOK_S)

    async def report(self, redis: Redis, keys: Keys, stream: str) -> None:
        """Say that this front lives, learn who else does, and testify. Raises `StoreDown`."""
        with redis_errors():
            now_ms = now_ms_of(await redis.time())
            async with redis.pipeline(transaction=False) as pipe:
                pipe.hset(keys.fronts, self.front, str(now_ms))
                pipe.hgetall(keys.fronts)
                _, told = await pipe.execute()
            if stale := self._learn(told, now_ms):
                await cast("Any", redis.hdel(keys.fronts, *stale))
            while self._untold:
                shard, testimony = self._untold[0]
                key = testimonies_of(keys.stream(stream, shard))
                await cast("Any", redis.hset(key, testimony.name, _to_json(testimony)))
                self._untold.pop(0)

    def _learn(self, told: dict[bytes, bytes], now_ms: int) -> list[str]:
        """Remember the fronts that live now; the names of those that are gone."""
        now_s = time.monotonic()
        seen_ms = {name.decode(): int(seen) for name, seen in told.items()}
        gone = [name for name, ms in seen_ms.items() if now_ms - ms > FRONT_LIVES_MS]
        self._fronts.update({name: now_s for name in seen_ms if name not in gone})
        lives_s = FRONT_LIVES_MS / 1000
        self._fronts = {name: at for name, at in self._fronts.items() if now_s - at < lives_s}
        return gone


def _has_lost(before: Sighting, seen: Sighting, appended: int) -> bool:
    """Does *seen* belong to a stream that need not hold what *before* told of?

    Another master may have lost a tail and been appended to since: only the worker,
    which reads the stream, can tell.
    """
    return seen.stamp != before.stamp or seen.added - appended < before.added


def testimonies_in(told: Any) -> list[Testimony]:
    """The testimonies in HGETALL's reply. Raises `StoreDown` if it is an error."""
    return [_from_json(name.decode(errors="replace"), text) for name, text in sound(told).items()]


async def forget_testimonies(redis: Redis, stream: str, heard: Iterable[Testimony]) -> None:
    """Drop testimonies whose loss is counted. Raises `StoreDown`."""
    names = [testimony.name for testimony in heard]
    if names:
        with redis_errors():
            await cast("Any", redis.hdel(testimonies_of(stream), *names))


def _to_json(testimony: Testimony) -> str:
    seen = testimony.sighting
    return orjson.dumps(
        {
            "front": testimony.front,
            "stamp": seen.stamp,
            "incarnation": seen.incarnation,
            "added": seen.added,
            "last": str(seen.last),
            "fronts": testimony.fronts,
            "again": testimony.again,
        }
    ).decode()


def _from_json(name: str, text: bytes) -> Testimony:
    try:
        told = orjson.loads(text)
        last = entry_id(told["last"].encode())
        seen = Sighting(str(told["stamp"]), int(told["incarnation"]), int(told["added"]), last)
        return Testimony(name, str(told["front"]), seen, tuple(told["fronts"]), bool(told["again"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        # Damaged: it tells that somebody had something to say, and must not stop the shard.
        log.warning("testimony_damaged", name=name)
        return Testimony(name, "", Sighting("", 0, 0, BEGINNING), (), again=True)
