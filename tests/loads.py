"""A load of acknowledged appends in which every event can be told from every other."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.keys import Keys
from shared.redis import open_redis
from shared.settings import Settings
from shared.streams import BEGINNING, Append, read_range
from tests.plays import STREAM, append_of, clear, delete, save
from tests.waiting import until

#: Between two round trips: some thousand events per second.
PACE_S = 0.005
_EVENTS_PER_ROUND = 12
_USERS, _CONTENTS = 40, 6


def new_random() -> random.Random:
    """Random numbers whose seed is printed; MOONWAKE_TEST_SEED repeats them."""
    seed = int(os.environ.get("MOONWAKE_TEST_SEED", random.randrange(2**32)))
    print(f"MOONWAKE_TEST_SEED={seed}")  # noqa: T201 -- pytest shows it when the test fails
    return random.Random(seed)


class Load:
    """Appends until it is stopped. `acknowledged` holds the nonces that Redis answered for."""

    def __init__(self, settings: Settings, randomness: random.Random) -> None:
        self._settings = settings
        self._keys = Keys(settings.key_prefix)
        self._events = _events(randomness)
        self._stopping = False
        self.acknowledged: list[str] = []
        #: Events whose append was refused, or answered by nobody.
        self.refused = 0

    async def run(self) -> None:
        async with open_redis(self._settings.redis_url) as redis:
            connection = AppendConnection(
                redis, self._keys, STREAM, timeout_s=1.0, ack=self._settings.ingest_ack
            )
            try:
                while not self._stopping:
                    await self._round(connection)
                    await asyncio.sleep(PACE_S)
            finally:
                await connection.close()

    def stop(self) -> None:
        self._stopping = True

    async def grow(self, events: int) -> None:
        """Return when *events* more have been acknowledged."""
        enough = len(self.acknowledged) + events
        await until(lambda: len(self.acknowledged) >= enough, f"{enough} events are acknowledged")

    async def _round(self, connection: AppendConnection) -> None:
        groups: dict[int, list[tuple[str, Append]]] = {}
        for nonce, event in itertools.islice(self._events, _EVENTS_PER_ROUND):
            made = _with_nonce(self._keys, self._settings.shards, event, nonce)
            groups.setdefault(made.shard, []).append((nonce, made))
        try:
            answers = await connection.append(
                [[made for _, made in group] for group in groups.values()]
            )
        except AppendRefused:
            self.refused += _EVENTS_PER_ROUND
            return
        for group, refusals in zip(groups.values(), answers, strict=True):
            taken = [nonce for (nonce, _), no in zip(group, refusals, strict=True) if no is None]
            self.acknowledged += taken
            self.refused += len(group) - len(taken)


@asynccontextmanager
async def under_load(settings: Settings, randomness: random.Random) -> AsyncIterator[Load]:
    """A load that runs for as long as the block does."""
    load = Load(settings, randomness)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.stop()
        await running


def _events(randomness: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """(nonce, event) without end: few keys, so that events meet each other."""
    for number in itertools.count():
        nonce = f"n{number}"
        user = f"u{randomness.randrange(_USERS)}"
        content_id = str(randomness.randrange(_CONTENTS))
        dice = randomness.random()
        if dice < 0.02:
            yield nonce, clear(user)
        elif dice < 0.08:
            yield nonce, delete(user, content_id)
        else:
            yield (
                nonce,
                save(
                    user,
                    content_id,
                    index=randomness.choice([1, 1, 1, 1, 2]),
                    play_time=randomness.randrange(4000),
                    nonce=nonce,
                ),
            )


def _with_nonce(keys: Keys, shards: int, event: dict[str, Any], nonce: str) -> Append:
    """*event* as the API appends it; one without a record carries its nonce beside the rest."""
    made = append_of(keys, shards, event)
    if event["op"] == "save":
        return made
    return replace(made, body=orjson.dumps({**event, "nonce": nonce}))


def nonce_of(event: dict[str, Any]) -> str:
    """The nonce of an event read back from a stream."""
    nonce: str = event.get("record", event)["nonce"]
    return nonce


async def nonces_in(settings: Settings, redis: Redis) -> set[str]:
    """The nonces of all entries that *redis* holds."""
    keys = Keys(settings.key_prefix)
    found: set[str] = set()
    for shard in range(settings.shards):
        entries = await read_range(redis, keys.stream(STREAM, shard), BEGINNING, None, 1_000_000)
        found.update(nonce_of(orjson.loads(fields[1])) for _, fields in entries)
    return found
