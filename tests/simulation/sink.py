"""A stream family that only counts: an entry applied twice or never shows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from shared.errors import InvalidField
from shared.keys import Keys, UserKeys
from shared.mysql import Cursor
from shared.published import Checkpoint
from worker.sinks import Touched

STREAM = "counts"


class Event(msgspec.Struct, frozen=True):
    """One entry's body; *times* below zero is what MySQL refuses."""

    number: int
    user: str
    times: int = 1


Name = bytes  # `bytes` is a field of every fold
_DECODER = msgspec.json.Decoder(Event)


def body_of(number: int, user: str, times: int = 1) -> bytes:
    return orjson.dumps({"number": number, "user": user, "times": times})


def field_of(number: int) -> bytes:
    """The overlay field of an entry: few, so that they are written again."""
    return b"record+%d" % (number % 2)


@dataclass(slots=True)
class CountingFold:
    """Entries by number; users with their overlay fields."""

    rows: int = 0
    bytes: int = 0
    times: Counter[int] = field(default_factory=Counter)
    users: dict[str, set[Name]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)

    def add(self, event: Event, ms: int, size: int, *, foreign: bool) -> None:
        del ms
        self.times[event.number] += event.times
        self.users.setdefault(event.user, set()).add(field_of(event.number))
        self.rows = len(self.times)
        self.bytes += size
        if foreign:
            self.foreign.add(event.user)

    def touches(self, event: Event) -> bool:
        return event.user in self.users

    def finish(self) -> None:
        """Nothing is put off."""


class CountingSink:
    """Writes how often each entry was applied, and a total that all shards share."""

    stream = STREAM

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def decode(self, body: bytes) -> Event:
        try:
            return _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise InvalidField("Invalid event", "d", str(error)) from error

    def username(self, event: Event) -> str:
        return event.user

    def new_fold(self) -> CountingFold:
        return CountingFold()

    async def apply(
        self, cursor: Cursor, fold: CountingFold, shard: int, checkpoint: Checkpoint
    ) -> int:
        del checkpoint
        if not fold.times:
            return 0
        values: list[Any] = []
        for number, times in sorted(fold.times.items()):
            values += (shard, number, times)
        groups = ",".join(["(%s, %s, %s)"] * len(fold.times))
        await cursor.execute(
            f"INSERT INTO simulated_entries (shard, number, times) VALUES {groups}"
            " ON DUPLICATE KEY UPDATE times = simulated_entries.times + VALUES(times)",
            values,
        )
        await cursor.execute(
            "INSERT INTO simulated_totals (name, amount) VALUES (%s, %s)"
            " ON DUPLICATE KEY UPDATE amount = simulated_totals.amount + VALUES(amount)",
            ("all", len(fold.times)),
        )
        return len(fold.times)

    def outdated(self, fold: CountingFold) -> Collection[str]:
        return sorted(fold.foreign)

    def touched(self, fold: CountingFold) -> Iterator[Touched]:
        for user, fields in sorted(fold.users.items()):
            yield Touched(user, sorted(fields), outdated=user in fold.foreign)

    def user_keys(self, shard: int, username: str) -> UserKeys:
        return self._keys.play_records(shard, username)
