"""
Locks: who changes the same accounts goes one after the other, in all processes.

That only keeps them from waiting for each other inside MySQL, and no promise rests on it: row
locks, unique keys and conditional updates decide. So a lock is a lease in Redis. Whoever cannot
reach Redis goes on without, and whoever loses a lease goes on too; both are counted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import structlog
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis

from shared.commands import Commands
from shared.errors import Busy, StoreDown
from shared.keys import Keys
from shared.pausing import pause
from shared.redis import sound
from shared.scripts import script

log = structlog.get_logger()

#: A crashed holder's locks are free after this; a live one renews them each third of it.
LEASE_MS = 5_000
#: For all locks of one `hold` together: longer than a crashed holder's last.
WAIT_S = 10.0
#: A Redis that takes longer counts as away: an operation is to last longer than its locks.
ANSWER_S = 1.0
#: For so long nobody asks again.
AWAY_S = 1.0
#: Pauses between looks at a lock that is held (s).
_PAUSES_S = (0.005, 0.01, 0.02, 0.05)

WAITS = Histogram(
    "moonwake_lock_wait_seconds",
    "Time until an operation had all its locks, or went on without.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
TIMEOUTS = Counter("moonwake_lock_timeouts", "Operations refused: others held their locks.")
EXPIRIES = Counter("moonwake_lock_expiries", "Locks that were lost while they were held.")
UNLOCKED = Counter("moonwake_lock_unlocked", "Operations without locks: Redis was away.")


class Locks:
    """Every lock, as one process takes them; *enabled* False makes `hold` do nothing."""

    def __init__(self, redis: Redis, keys: Keys, *, enabled: bool = True) -> None:
        self._commands = Commands(redis, timeout_s=ANSWER_S)
        self._keys = keys
        self._enabled = enabled
        #: Where the tasks of this process line up: one of them at a time looks at Redis. A
        #: queue is forgotten when nobody is in it.
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: Until when Redis is not asked, because it did not answer (s, monotonic).
        self._away_until_s = 0.0

    @asynccontextmanager
    async def hold(self, *names: str) -> AsyncIterator[None]:
        """Keep others out that hold any of *names*, as well as Redis can.

        The body may still run beside theirs: while Redis is away, after it lost its data, or
        if it is frozen for `LEASE_MS`. Locks are taken in the order of *names*, which must be
        the same for everybody, and given back at the end, also when cancelled. Raises `Busy`
        if they are not ours after `WAIT_S`.
        """
        if not (self._enabled and names):
            yield
            return
        async with AsyncExitStack() as stack:
            held = _Held(self._commands)
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._take(stack, held, dict.fromkeys(names))
            except TimeoutError as error:
                TIMEOUTS.inc()
                raise Busy(f"not locked in {WAIT_S:g} s: {', '.join(names)}") from error
            yield

    async def _take(self, stack: AsyncExitStack, held: _Held, names: Collection[str]) -> None:
        """Take all locks; *stack* gives them back."""
        started_s = time.monotonic()
        # First all queues: who waits in one of them keeps no other process waiting.
        for name in names:
            await stack.enter_async_context(self._queues.setdefault(name, asyncio.Lock()))
        stack.push_async_callback(held.give_back)
        try:
            await self._take_all(held, names)
        except StoreDown as error:
            UNLOCKED.inc()
            log.info("went_on_unlocked", error=str(error))
        WAITS.observe(time.monotonic() - started_s)

    async def _take_all(self, held: _Held, names: Collection[str]) -> None:
        # A frozen Redis costs `ANSWER_S` to find out: not each of those who wait in turn.
        if time.monotonic() < self._away_until_s:
            raise StoreDown("Redis did not answer a moment ago")
        try:
            for name in names:
                await held.take(self._keys.lock(name))
        except StoreDown:
            self._away_until_s = time.monotonic() + AWAY_S
            raise


class _Held:
    """The leases of one `hold`."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._id = secrets.token_hex(16)
        #: Asked for, and therefore perhaps ours.
        self._asked: list[str] = []
        #: Ours -> when it runs out unless it is renewed (s, of the monotonic clock).
        self._ends_s: dict[str, float] = {}
        #: What will renew them: few bodies last that long, so it is no task before.
        self._waiting: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, key: str) -> None:
        """Return when *key* is ours. Raises `StoreDown`."""
        self._asked.append(key)
        for attempt in count():
            end_s = _end_of_lease_s()
            if sound(await self._commands.put("SET", key, self._id, "NX", "PX", LEASE_MS)):
                self._ends_s[key] = end_s
                self._renew_later()
                return
            await pause(_PAUSES_S, attempt)

    def _renew_later(self) -> None:
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(LEASE_MS / 3000, self._begin_renewal)

    def _begin_renewal(self) -> None:
        self._waiting = None
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Renew what is ours, and do so again later."""
        end_s = _end_of_lease_s()
        asked = {key: self._put_renewal(key, LEASE_MS) for key in self._ends_s}
        for key, reply in asked.items():
            try:
                is_ours = bool(sound(await reply))
            except StoreDown:  # asked again in a while, unless it has run out by then
                is_ours = time.monotonic() < self._ends_s[key]
            else:
                self._ends_s[key] = end_s
            if not is_ours:
                self._lose(key)
        self._renew_later()

    async def give_back(self) -> None:
        """End everything that may be ours; what Redis does not hear of runs out."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        # All are asked for before anything can cancel this, and Redis keeps the order: also
        # what a cancelled take had asked for is ended.
        replies = {key: self._put_renewal(key, 0) for key in self._asked}
        for key, reply in replies.items():
            try:
                was_ours = bool(sound(await reply))
            except StoreDown as error:
                log.info("lock_not_given_back", error=str(error))
                continue
            if not was_ours and key in self._ends_s:
                self._lose(key)

    def _put_renewal(self, key: str, ttl_ms: int) -> asyncio.Future[Any]:
        """Have a lease renewed, or with 0 ended, if it is ours."""
        return self._commands.put_script(script("renew"), key, self._id, ttl_ms)

    def _lose(self, key: str) -> None:
        del self._ends_s[key]
        EXPIRIES.inc()
        log.info("lock_lost", key=key)


def _end_of_lease_s() -> float:
    """When a lease ends that is asked for now."""
    return time.monotonic() + LEASE_MS / 1000
