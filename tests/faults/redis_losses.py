"""
Faults after which Redis holds less than it acknowledged: emptied, trimmed, cut off, replaced.

Each sees for itself that something is gone, and raises `NotInjected` before it harms
anything when the moment is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from shared.streams import BEGINNING, EntryId, read_range
from tests.faults.fault import Fault, NotInjected, register
from tests.faults.site import Site
from tests.plays import STREAM
from tests.waiting import until

#: Entries that nobody may drain before they are taken away.
_BACKLOG = 20
_BACKLOG_WITHIN_S = 15.0
_TAILS_BYTES = (2_000, 20_000, 200_000, 2_000_000)


async def refuse_unless(
    met: Callable[[], Awaitable[bool]], what: str, timeout_s: float = _BACKLOG_WITHIN_S
) -> None:
    """Wait for *met*; raise `NotInjected` if it does not come."""
    try:
        await until(met, what, timeout_s=timeout_s, poll_s=0.1)
    except AssertionError as late:
        raise NotInjected(str(late)) from late


@asynccontextmanager
async def undrained(site: Site) -> AsyncIterator[None]:
    """Inside this block nothing new gets into MySQL.

    Refused, not only silent: a batch that is in a worker's hands already would be
    committed afterwards, and its entries would not be lost.
    """
    try:
        await site.mysql.disconnect_clients()
        yield
    finally:
        site.mysql.proxy.heal()


async def added(site: Site) -> list[int]:
    """Entries ever added to each stream, as the master says."""
    infos = await site.redis.master.streams(site.keys, site.settings.shards)
    return [info.added for info in infos]


async def backlog(site: Site, shard: int) -> list[EntryId]:
    """Ids of up to a few hundred entries past the shard's committed checkpoint."""
    after = (await site.mysql.checkpoints()).get(shard, BEGINNING)
    async with site.redis.direct() as redis:
        stream = site.keys.stream(STREAM, shard)
        infos = await site.redis.master.streams(site.keys, site.settings.shards)
        if after > infos[shard].last:
            raise NotInjected("the shard's checkpoint is of an earlier incarnation")
        entries = await read_range(redis, stream, after, None, 500)
    return [EntryId(*map(int, identity.split(b"-"))) for identity, _ in entries]


@register
class RedisFlush(Fault):
    """FLUSHALL: streams, overlays, checkpoints, leases, all at once."""

    kind: ClassVar[str] = "redis_flush"
    loses_redis_data: ClassVar[bool] = True
    holds: ClassVar[frozenset[str]] = frozenset({"redis"})

    async def inject(self, site: Site) -> None:
        before = await added(site)
        if not any(before):
            raise NotInjected("every stream is empty")
        async with site.rewinding(), site.redis.direct() as redis:
            assert await site.last_words(redis, "FLUSHALL")
        site.note(f"{self.kind}: {before} entries ever added, by shard")


@register
class StreamDeleted(Fault):
    """DEL of one shard's stream; everything else stays."""

    kind: ClassVar[str] = "stream_deleted"
    loses_redis_data: ClassVar[bool] = True
    holds: ClassVar[frozenset[str]] = frozenset({"redis"})

    async def inject(self, site: Site) -> None:
        shard = site.dice.randrange(site.settings.shards)
        if not (await added(site))[shard]:
            raise NotInjected("the stream is empty")
        async with site.rewinding([shard]), site.redis.direct() as redis:
            deleted = await site.last_words(redis, "DEL", site.keys.stream(STREAM, shard))
        site.note(f"{self.kind}: shard {shard}")
        assert deleted == 1


class _Stranger(Fault):
    """Somebody takes entries out of a stream that MySQL does not hold yet."""

    loses_redis_data: ClassVar[bool] = True
    holds: ClassVar[frozenset[str]] = frozenset({"redis", "mysql", "mysql_proxy"})

    async def inject(self, site: Site) -> None:
        shard = site.dice.randrange(site.settings.shards)

        async def there_is_a_backlog() -> bool:
            return len(await backlog(site, shard)) >= _BACKLOG

        async with undrained(site):
            await refuse_unless(there_is_a_backlog, "a backlog grows while MySQL is away")
            command = self.command(site, shard, await backlog(site, shard))
            async with site.rewinding([shard]), site.redis.direct() as redis:
                taken = await site.last_words(redis, *command)
        site.note(f"{self.kind}: {taken} entries of shard {shard}")
        assert taken > 0

    def command(self, site: Site, shard: int, waiting: list[EntryId]) -> list[Any]:
        """What the stranger types, of whose entries *waiting* are not in MySQL."""
        raise NotImplementedError


@register
class StreamTrimmed(_Stranger):
    """XTRIM past the checkpoint: the oldest that wait are gone."""

    kind: ClassVar[str] = "stream_trimmed"

    def command(self, site: Site, shard: int, waiting: list[EntryId]) -> list[Any]:
        first_kept = site.dice.choice(waiting[1:])
        return ["XTRIM", site.keys.stream(STREAM, shard), "MINID", "=", str(first_kept)]


@register
class EntriesDeleted(_Stranger):
    """XDEL in the middle: a gap that no id tells of."""

    kind: ClassVar[str] = "entries_deleted"

    def command(self, site: Site, shard: int, waiting: list[EntryId]) -> list[Any]:
        middle = waiting[1:-1]
        victims = site.dice.sample(middle, site.dice.randint(1, min(10, len(middle))))
        return ["XDEL", site.keys.stream(STREAM, shard), *map(str, sorted(victims))]


@register
class RedisTailLost(Fault):
    """Killed, and started from an append-only file whose end is missing."""

    kind: ClassVar[str] = "redis_tail_lost"
    loses_redis_data: ClassVar[bool] = True
    holds: ClassVar[frozenset[str]] = frozenset({"redis", "redis_proxy", "clock"})

    async def inject(self, site: Site) -> None:
        before = await added(site)
        if sum(before) < _BACKLOG:
            raise NotInjected("the streams hold next to nothing")
        async with site.rewinding():
            await site.redis.disconnect_clients()
            before = await added(site)
            async with site.redis.direct() as redis:
                await site.last_words(redis)
            # The end may hold leases and caches only: until an entry is among what is gone.
            for size in _TAILS_BYTES:
                await site.redis.restart_master(lose_bytes=site.dice.randint(size, 4 * size))
                if await added(site) != before:
                    break
            site.redis.proxy.heal()
        lost = [then - now for then, now in zip(before, await added(site), strict=True)]
        site.note(f"{self.kind}: {lost} entries, by shard")
        assert any(lost)
