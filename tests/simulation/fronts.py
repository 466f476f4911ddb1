"""API processes, as far as the streams know them, and other producers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

from redis.exceptions import RedisError

from shared.keys import CLEAR_FIELD, shard_of
from shared.scripts import script
from shared.streams import Append, ShardGroup, append_arguments, entry_id
from shared.witness import Sighting, Witness
from tests.simulation.loop import Process
from tests.simulation.product import LOOK_S
from tests.simulation.sink import STREAM, body_of, field_of
from tests.simulation.world import World

USERS = [f"user{number}" for number in range(4)]
_TOO_LATE_MS = 2_000


class Front:
    """Appends groups one after the other, and remembers what Redis told it of each stream."""

    def __init__(self, world: World, name: str, numbers: Iterator[int]) -> None:
        self._world = world
        self._rng: Random = world.rng
        self._numbers = numbers
        self.process: Process = world.process(name)
        self._client: Any = world.client(self.process)
        self._run_script = self._client.register_script(script("append"))
        self._witness = Witness(world.settings.shards, front=name)
        self._sending = asyncio.Lock()

    def start(self, entries: int, within_s: float, odd: float) -> asyncio.Task[None]:
        """Append so many, some by other producers; *odd* is the share of bad ones."""
        return self.process.start(self._append(entries, within_s, odd))

    def watch(self) -> None:
        """Be a witness, as every front is; it matters only where something is to be lost."""
        self.process.start(self._witness.run(self._client, self._world.keys, STREAM))
        self.process.start(self._look())

    @property
    def is_silent(self) -> bool:
        """Has it seen a loss that it told nobody of yet?"""
        return self._witness.has_untold

    async def _append(self, entries: int, within_s: float, odd: float) -> None:
        left = entries
        while left > 0:
            group = min(left, self._rng.choice((1, 1, 3, 8)))
            left -= group
            try:
                if self._rng.random() < 0.25:
                    await self._add_foreign(odd)
                else:
                    await self._append_group(group, odd)
            except RedisError as error:
                self._world.trace.tell(self.process.name, repr(error))
            await asyncio.sleep(self._rng.random() * within_s / entries * group)

    async def _look(self) -> None:
        """As the product does: shards that nothing is appended to are looked at too."""
        while True:
            await asyncio.sleep(LOOK_S)
            for shard in self._witness.due(()):
                try:
                    await self._send(shard, [])
                except RedisError as error:
                    self._world.trace.tell(self.process.name, repr(error))

    async def _append_group(self, count: int, odd: float) -> None:
        """Append as the API does; who is not told that it worked does not try again."""
        world, user = self._world, self._rng.choice(USERS)
        shard = shard_of(user, world.settings.shards)
        group, numbers = [], []
        for _ in range(count):
            number = next(self._numbers)
            owner, body = (
                world.keys.play_records(shard, user),
                body_of(number, user, self._times(odd)),
            )
            is_clear = self._rng.random() < 0.1
            op, name = (b"c", CLEAR_FIELD) if is_clear else (b"d", field_of(number))
            group.append(Append(shard, owner, op, name, body))
            numbers.append(number)
        if await self._send(shard, group):
            world.promises.acknowledged.update(numbers)

    async def _send(self, shard: int, group: list[Append]) -> bool:
        """Was it taken? One at a time, or a later answer could overtake an earlier one."""
        world = self._world
        async with self._sending:
            last, not_after_ms = self._witness.last_seen(shard), world.redis_ms() + _TOO_LATE_MS
            sent = ShardGroup(shard, group)
            if last is not None:
                sent = ShardGroup(shard, group, last.stamp, last.added, last.last.ms)
            arguments = append_arguments(world.keys, STREAM, not_after_ms, [sent])
            names = 1 + arguments[0]
            _, *replies = await self._run_script(arguments[1:names], arguments[names:])
            if not replies:
                return False
            [(added, stamp, incarnation, last, *_)] = replies
            seen = Sighting(stamp.decode(), incarnation, added, entry_id(last))
            self._witness.saw(shard, seen, appended=len(group))
        return True

    async def _add_foreign(self, odd: float) -> None:
        """XADD as another producer might: well, badly, or into the wrong shard.

        Not where a new master's clock is behind: those may pass for applied (README, limits).
        """
        if self._world.clock_off_ms < 0:
            return
        world, number = self._world, next(self._numbers)
        user = self._rng.choice(USERS)
        shard, body = shard_of(user, world.settings.shards), body_of(number, user, self._times(odd))
        if self._rng.random() < odd:
            body = self._rng.choice((body[:-1], body.replace(b"user", b"nobody")))
        if self._rng.random() < odd:
            shard = self._rng.randrange(world.settings.shards)
        await self._client.xadd(world.keys.stream(STREAM, shard), {"d": body})

    def _times(self, odd: float) -> int:
        """MySQL refuses less than nothing."""
        return -1 if self._rng.random() < odd / 4 else 1
