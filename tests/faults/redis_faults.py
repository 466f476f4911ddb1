"""Faults of Redis that lose nothing: it ends, is silent, is far away, or tells another time."""

from __future__ import annotations

import asyncio
from signal import SIGKILL, SIGTERM
from typing import ClassVar

from tests.faults.fake_clock import CACHED_S, find_faketime
from tests.faults.fault import Fault, NotInjected, register
from tests.faults.redis_control import Node
from tests.faults.site import Site
from tests.waiting import until

_DOWN_S = (0.0, 3.0)
_FROZEN_S = (1.0, 6.0)
_WIRE_S = (2.0, 6.0)
_SHIFTED_S = (3.0, 8.0)
#: Entry ids further ahead than a minute are an incident of their own (protocol 20).
_SHIFT_S = (5, 45)
#: Nobody may need longer to notice a shift than this.
_NOTICED_S = CACHED_S + 5.0


@register
class RedisRestart(Fault):
    """Killed or stopped, and started again from its append-only file."""

    kind: ClassVar[str] = "redis_restart"
    holds: ClassVar[frozenset[str]] = frozenset({"redis", "clock"})

    async def inject(self, site: Site) -> None:
        number = site.dice.choice([SIGKILL, SIGTERM])
        await site.redis.master.end(number)
        site.note(f"{self.kind}: {number.name}")
        await asyncio.sleep(site.dice.uniform(*_DOWN_S))
        await site.redis.master.start()


@register
class RedisFreeze(Fault):
    """SIGSTOP: connections stay open and nothing answers."""

    kind: ClassVar[str] = "redis_freeze"
    holds: ClassVar[frozenset[str]] = frozenset({"redis"})

    async def inject(self, site: Site) -> None:
        site.redis.master.server.pause()
        try:
            await asyncio.sleep(site.dice.uniform(*_FROZEN_S))
        finally:
            site.redis.master.server.resume()


@register
class RedisDrop(Fault):
    """Every connection to Redis is reset, a few times in a row."""

    kind: ClassVar[str] = "redis_drop"
    holds: ClassVar[frozenset[str]] = frozenset({"redis_proxy"})

    async def inject(self, site: Site) -> None:
        dropped = 0
        for _ in range(site.dice.randint(1, 5)):
            dropped += site.redis.proxy.drop_all()
            await asyncio.sleep(site.dice.uniform(0.0, 1.0))
        if not dropped:
            raise NotInjected("nobody was connected to Redis")


@register
class RedisDelay(Fault):
    """Answers come late: commands are done, and clients may have given up on them."""

    kind: ClassVar[str] = "redis_delay"
    holds: ClassVar[frozenset[str]] = frozenset({"redis_proxy"})

    async def inject(self, site: Site) -> None:
        proxy, before = site.redis.proxy, site.redis.proxy.delayed
        proxy.delay_replies_s = site.dice.choice([0.05, 0.3, 1.0, 2.5])
        try:
            await asyncio.sleep(site.dice.uniform(*_WIRE_S))
        finally:
            proxy.heal()
        if proxy.delayed == before:
            raise NotInjected("nobody got an answer from Redis meanwhile")


@register
class RedisCut(Fault):
    """Answers end half-way, and their connections with them."""

    kind: ClassVar[str] = "redis_cut"
    holds: ClassVar[frozenset[str]] = frozenset({"redis_proxy"})

    async def inject(self, site: Site) -> None:
        proxy, before = site.redis.proxy, site.redis.proxy.cut
        proxy.cut_replies(after_bytes=site.dice.choice([1, 3, 20, 100]))
        try:
            await asyncio.sleep(site.dice.uniform(*_WIRE_S))
        finally:
            proxy.heal()
        if proxy.cut == before:
            raise NotInjected("no answer of Redis was long enough to be cut")


class _ClockFault(Fault):
    """The master's clock is wrong for a while, and right again."""

    holds: ClassVar[frozenset[str]] = frozenset({"redis", "clock"})
    #: 1: ahead, -1: behind.
    direction: ClassVar[int]

    @classmethod
    def check(cls) -> None:
        check_clock()

    async def inject(self, site: Site) -> None:
        ahead_s = self.direction * site.dice.randint(*_SHIFT_S)
        master = site.redis.master
        try:
            await shift_clock(master, ahead_s)
            site.note(f"{self.kind}: {ahead_s} s")
            await asyncio.sleep(site.dice.uniform(*_SHIFTED_S))
        finally:
            await shift_clock(master, 0)


@register
class RedisClockForward(_ClockFault):
    kind: ClassVar[str] = "redis_clock_forward"
    direction: ClassVar[int] = 1


@register
class RedisClockBack(_ClockFault):
    kind: ClassVar[str] = "redis_clock_back"
    direction: ClassVar[int] = -1


def check_clock() -> None:
    """Raise `NotInjected` where no server's clock can be shifted."""
    if find_faketime() is None:
        raise NotInjected(
            "libfaketime is not installed, so Redis' clock cannot be shifted"
            " (as root: apt-get install libfaketime)"
        )


async def shift_clock(node: Node, ahead_s: int) -> None:
    """Return when *node* tells a time that is *ahead_s* ahead. Raises `NotInjected`."""
    check_clock()
    if node.clock is None:
        raise NotInjected("Redis was started before libfaketime was installed")
    node.clock.shift(ahead_s)

    async def is_shifted() -> bool:
        return abs(await node.ahead_ms() - ahead_s * 1000) < 2_000

    await until(is_shifted, f"Redis' clock is {ahead_s} s ahead", timeout_s=_NOTICED_S)
