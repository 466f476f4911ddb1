"""What players send: records of about 350 bytes, and backlogs of them in Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import orjson
from redis import Redis
from redis.client import Pipeline

from shared import events
from shared.appends import AppendConnection
from shared.keys import Keys, shard_of
from shared.redis import open_redis
from shared.settings import Settings
from shared.streams import Append, written_field

STREAM = "plays"
#: Of the keys that a worker under test drains.
PREFIX = "run:"
#: Contents that one user watches, and those there are.
CONTENTS_PER_USER, CATALOGUE = 10, 5_000
_GROUP = 500
SOURCES = ("heimuer", "ffzy", "dyttzy")
_TITLES = ("漫长的季节", "Moon Wake", "山海情", "The Long Way Home", "三体")


def key_of(number: int) -> tuple[str, str, str]:
    """(user, source, content id) of the key *number*: ten contents for each user."""
    user, slot = divmod(number, CONTENTS_PER_USER)
    content = (user * 7 + slot * 131) % CATALOGUE
    return f"viewer{user:05d}", SOURCES[content % len(SOURCES)], f"{40_000 + content}"


def record(number: int, play_time: int, save_time: int) -> dict[str, Any]:
    """The record of key *number* as a front end posts it."""
    _, source, content_id = key_of(number)
    title = f"{_TITLES[number % len(_TITLES)]} {content_id}"
    picture = f"{number * 2_654_435_761 % 2**64:016x}"
    return {
        "title": title,
        "source_name": f"影视 {source}",
        "cover": f"https://img.example.net/upload/vod/20240517-1/{picture}{picture}.jpg",
        "year": "2023",
        "index": 1 + number % 12,
        "total_episodes": 12,
        "play_time": play_time,
        "total_time": 2_712,
        "save_time": save_time,
        "search_title": title,
        "remarks": "HD",
    }


def append_of(keys: Keys, shards: int, number: int, play_time: int, save_time: int) -> Append:
    """A save of key *number* as the API appends it."""
    return append_to(keys, shards, key_of(number), record(number, play_time, save_time))


def append_to(keys: Keys, shards: int, key: tuple[str, str, str], given: dict[str, Any]) -> Append:
    """A save of the record *given* under *key*, (user, source, content id)."""
    user, source, content_id = key
    body, offset = events.encode_save(user, source, content_id, orjson.dumps(given))
    shard = shard_of(user, shards)
    return Append(
        shard=shard,
        user=keys.play_records(shard, user),
        op=b"s",
        field=written_field(source, content_id),
        body=body,
        offset=offset,
        total_episodes=given["total_episodes"],
        has_save_time=True,
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """*events* saves over *keys* keys in random order; *shards* as their users fall."""

    events: int
    keys: int
    shards: int = 1

    @property
    def name(self) -> str:
        return f"{self.events}x{self.keys}over{self.shards}"

    def appends(self, keys: Keys) -> Iterator[Append]:
        order = list(range(self.keys)) * (self.events // self.keys)
        # The same order in every run, whatever the shards.
        random.Random(f"{self.events}x{self.keys}").shuffle(order)  # noqa: S311
        now_ms = time.time_ns() // 1_000_000
        for position, number in enumerate(order):
            # Ten seconds of video between two heartbeats of a key.
            play_time = 10 + 10 * (position // self.keys)
            yield append_of(keys, self.shards, number, play_time, now_ms)


async def fill(settings: Settings, appends: Iterator[Append]) -> None:
    """Append all *appends* through the script that the API uses, in its groups."""
    async with open_redis(settings.redis_url) as redis:
        connection = AppendConnection(redis, Keys(settings.key_prefix), STREAM, timeout_s=30)
        try:
            while group := list(islice(appends, _GROUP)):
                await send(connection, group)
        finally:
            await connection.close()


class Backlogs:
    """Backlogs in one Redis, each filled once and copied for every round that drains it."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._filled: set[str] = set()

    @contextmanager
    def staged(self, backlog: Backlog) -> Iterator[str]:
        """The key prefix of a fresh copy of *backlog*, removed afterwards."""
        source = f"fill.{backlog.name}:"
        if backlog.name not in self._filled:
            settings = replace(self._settings, key_prefix=source)
            asyncio.run(fill(settings, backlog.appends(Keys(source))))
            self._filled.add(backlog.name)
        self._each(source, lambda pipe, key: pipe.copy(key, key.replace(source, PREFIX, 1)))
        try:
            yield PREFIX
        finally:
            self._each(PREFIX, lambda pipe, key: pipe.unlink(key))

    def _each(self, prefix: str, command: Callable[[Pipeline, str], object]) -> None:
        """Send *command* for every key that begins with *prefix*."""
        keys = [key.decode() for key in self._redis.scan_iter(f"{prefix}*", count=5_000)]
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            command(pipe, key)
        pipe.execute()


async def send(connection: AppendConnection, events: Sequence[Append]) -> None:
    """Append *events* in one round trip, as the front does. Raises `AppendRefused`."""
    shards: dict[int, list[Append]] = {}
    for event in events:
        shards.setdefault(event.shard, []).append(event)
    answers = await connection.append(list(shards.values()))
    if refused := next(filter(None, chain.from_iterable(answers)), None):
        raise refused
