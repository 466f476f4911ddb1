"""
Failover from the master to its replica, which lacks the master's last entries.

Replication is cut first; what the old master takes afterwards is the tail. Which part of
the tail MySQL holds makes the kinds: none of it, all of it, or entries whose ids are
half a minute ahead of every clock there will be.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import ClassVar

from shared.streams import BEGINNING
from tests.faults.fault import Fault, register
from tests.faults.redis_faults import check_clock, shift_clock
from tests.faults.redis_losses import refuse_unless, undrained
from tests.faults.site import Site

_TAIL = 20
_IN_STEP_WITHIN_S = 20.0
_AHEAD_S = 30


class _Failover(Fault):
    """The steps all three share; `prepared` brings the tail about."""

    loses_redis_data: ClassVar[bool] = True
    holds: ClassVar[frozenset[str]] = frozenset(
        {"redis", "redis_proxy", "clock", "mysql", "mysql_proxy"}
    )

    async def inject(self, site: Site) -> None:
        await refuse_unless(
            site.redis.in_step, "the replica is in step with its master", _IN_STEP_WITHIN_S
        )
        site.redis.cut_replication()
        try:
            async with self.prepared(site):
                await self._fail_over(site)
        finally:
            await site.redis.replace_replica()

    @abstractmethod
    def prepared(self, site: Site) -> AbstractAsyncContextManager[None]:
        """Inside the block the tail is what this kind wants. Raises `NotInjected`."""

    async def _fail_over(self, site: Site) -> None:
        async with site.rewinding():
            await site.redis.disconnect_clients()
            async with site.redis.direct() as redis:
                await site.last_words(redis)
            site.note(f"{self.kind}: a tail of {await tail(site)} entries, by shard")
            await site.redis.promote_replica()
            site.redis.proxy.heal()


async def tail(site: Site) -> list[int]:
    """Entries of each shard that the master took and its replica never heard of."""
    ours, theirs = [
        await node.streams(site.keys, site.settings.shards)
        for node in (site.redis.master, site.redis.replica)
    ]
    return [mine.added - its.added for mine, its in zip(ours, theirs, strict=True)]


async def _is_undrained(site: Site) -> bool:
    """Whether some shard has a tail of which MySQL holds nothing."""
    heard = await site.redis.replica.streams(site.keys, site.settings.shards)
    positions = await site.mysql.checkpoints()
    return any(
        lost >= _TAIL and positions.get(shard, BEGINNING) <= heard[shard].last
        for shard, lost in enumerate(await tail(site))
    )


async def _is_drained(site: Site) -> bool:
    """Whether MySQL holds the whole tail of every shard."""
    infos = await site.redis.master.streams(site.keys, site.settings.shards)
    positions = await site.mysql.checkpoints()
    return all(
        lost == 0 or positions.get(shard) == infos[shard].last
        for shard, lost in enumerate(await tail(site))
    )


@contextmanager
def _frozen_fronts(site: Site) -> Iterator[None]:
    """Inside this block nobody appends, as far as no other fault has a front in its hands."""
    with ExitStack() as stack:
        for front in site.fronts:
            if front.name not in site.taken and front.pid is not None:
                stack.enter_context(site.taking(front.name))
                stack.callback(front.resume)
                front.pause()
        yield


@register
class FailoverUndrained(_Failover):
    """What only the old master had is in no other place: lost, and to be counted."""

    kind: ClassVar[str] = "failover_undrained"

    @asynccontextmanager
    async def prepared(self, site: Site) -> AsyncIterator[None]:
        async with undrained(site):
            await refuse_unless(
                lambda: _is_undrained(site), "a tail grows of which MySQL holds nothing"
            )
            yield


@register
class FailoverDrained(_Failover):
    """The checkpoint is ahead of everything the new master holds; nothing of it is lost."""

    kind: ClassVar[str] = "failover_drained"

    @asynccontextmanager
    async def prepared(self, site: Site) -> AsyncIterator[None]:
        async def is_long_enough() -> bool:
            return max(await tail(site)) >= _TAIL

        await refuse_unless(is_long_enough, "the old master takes entries alone")
        with _frozen_fronts(site):
            await refuse_unless(lambda: _is_drained(site), "MySQL holds the whole tail")
            yield


@register
class FailoverFromAhead(_Failover):
    """The old master's clock was half a minute ahead, and MySQL holds entries of that time."""

    kind: ClassVar[str] = "failover_from_ahead"

    @classmethod
    def check(cls) -> None:
        check_clock()

    @asynccontextmanager
    async def prepared(self, site: Site) -> AsyncIterator[None]:
        async def is_ahead_in_mysql() -> bool:
            positions = await site.mysql.checkpoints()
            at_least_ms = (time.time() + _AHEAD_S / 2) * 1000
            return any(position.ms > at_least_ms for position in positions.values())

        master = site.redis.master
        try:
            await shift_clock(master, _AHEAD_S)
            await refuse_unless(is_ahead_in_mysql, "MySQL holds entries of half a minute ahead")
            yield
        finally:
            if site.redis.master is master:
                await shift_clock(master, 0)
