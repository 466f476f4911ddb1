"""What a dispatcher sees in one look: the other workers, and which shards wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.keys import Keys, testimonies_of
from shared.published import Checkpoint, published_of
from shared.redis import redis_errors, sound
from shared.streams import StreamInfo, now_ms_of, stamp_of, stream_info
from worker.deps import Deps

Shard = tuple[str, int]
_COMMANDS_PER_SHARD = 6


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard that this worker does not drain."""

    info: StreamInfo
    published: Checkpoint | None
    #: When a drain last ended there in peace, by Redis' clock; 0: nobody knows.
    visited_ms: int
    leased: bool
    stopped: bool
    #: Do fronts testify that it lost entries?
    disputed: bool
    #: Of the stream that is there now.
    stamp: str

    @property
    def waits(self) -> bool:
        """Are there entries past the published checkpoint, or does the stream not fit to it?

        By their number: ids need not grow from one master to the next.
        """
        known = self.published
        return (
            known is None
            or self.disputed
            or known.replid not in {"", self.stamp}
            or known.base + self.info.added != known.ordinal
        )


@dataclass(frozen=True, slots=True)
class View:
    """What one look showed."""

    now_ms: int
    #: Worker -> what it last reported of itself.
    workers: Mapping[str, Any]
    #: Shards whose lease somebody held at this look and at the one before.
    leased: Collection[Shard]
    #: The others, but for this worker's own.
    states: Mapping[Shard, ShardState]


async def look(deps: Deps, shards: Sequence[Shard], leased: Collection[Shard]) -> View:
    """Look at *shards*; of those *leased* before only at the lease, while there is one.

    One round trip, and another one where such a lease is gone. Raises `StoreDown`.
    """
    keys = deps.keys
    known = [shard for shard in shards if shard in leased]
    others = [shard for shard in shards if shard not in leased]
    with redis_errors():
        async with deps.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(keys.workers)
            pipe.info("replication")
            for shard in known:
                pipe.exists(keys.lease(*shard))
            _ask(pipe, keys, others)
            now, workers, replication, *replies = await pipe.execute(raise_on_error=False)
            states = _states(others, replication, replies[len(known) :])
            freed = [shard for shard, held in zip(known, replies, strict=False) if held != 1]
            if freed:
                _ask(pipe, keys, freed)
                states |= _states(freed, replication, await pipe.execute(raise_on_error=False))
    reports = {name.decode(): orjson.loads(about) for name, about in sound(workers).items()}
    return View(now_ms_of(now), reports, set(known).difference(freed), states)


def _ask(pipe: Any, keys: Keys, shards: Sequence[Shard]) -> None:
    for shard in shards:
        pipe.xinfo_stream(keys.stream(*shard))
        pipe.xinfo_groups(keys.stream(*shard))
        pipe.hgetall(keys.checkpoint(*shard))
        pipe.exists(keys.lease(*shard))
        pipe.exists(keys.stopped(*shard))
        pipe.exists(testimonies_of(keys.stream(*shard)))


def _states(
    shards: Sequence[Shard], replication: Any, replies: Sequence[Any]
) -> dict[Shard, ShardState]:
    told = zip(*[iter(replies)] * _COMMANDS_PER_SHARD, strict=True)
    return {
        shard: ShardState(
            info=stream_info(about),
            published=published_of(sound(published)),
            visited_ms=int(published.get(b"visited_ms", 0)),
            leased=bool(sound(leased)),
            stopped=bool(stopped),
            disputed=bool(disputed),
            stamp=stamp_of(replication, groups),
        )
        for shard, (about, groups, published, leased, stopped, disputed) in zip(
            shards, told, strict=True
        )
    }
