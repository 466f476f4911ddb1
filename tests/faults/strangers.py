"""Other producers, as the README tells them to write, and some that got it wrong."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import suppress
from typing import Any

import orjson

from shared.errors import StoreDown
from shared.keys import shard_of
from shared.redis import open_redis, redis_errors
from tests.faults.histories import History, Outcome, Write
from tests.faults.site import Site
from tests.plays import STREAM, save

_PAUSE_S = 0.25
_POISON_SHARE = 0.3
_USERS = 5


class Strangers:
    """XADDs one event after the other through the proxy; a third of them are dead letters."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._dice = random.Random(f"{seed}:strangers")
        self._stopping = asyncio.Event()
        self.histories: list[History] = []

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        for number in itertools.count():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _PAUSE_S)
            if self._stopping.is_set():
                return
            await self._add(f"x{number}", f"f{number % _USERS}")

    async def _add(self, nonce: str, user: str) -> None:
        dice = self._dice
        shard = shard_of(user, self._site.settings.shards)
        event: dict[str, Any] = save(user, str(dice.randrange(3)), nonce=nonce)
        if dice.random() < _POISON_SHARE:
            event = {"op": "nonsense", "user": user, "nonce": nonce}
        # A history for each event: who writes it next does not wait for this one.
        write = Write(nonce, "", nonce, time.monotonic(), self._site.epochs[shard])
        self.histories.append(History(user, shard, born=0, writes=[write]))
        outcome = Outcome.UNANSWERED
        with suppress(StoreDown), redis_errors():
            async with open_redis(self._site.settings.redis_url) as redis:
                await redis.xadd(self._site.keys.stream(STREAM, shard), {"d": orjson.dumps(event)})
                outcome = Outcome.ACKNOWLEDGED
        write.settle(outcome, time.monotonic())
