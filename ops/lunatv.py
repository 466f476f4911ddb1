"""
The play records in a LunaTV's Redis, in both layouts, read and never written.

Flat: a string `u:{user}:pr:{source}+{id}` per record. Hash (newer LunaTV, MoonTVPlus):
`u:{user}:pr` with a field `{source}+{id}` per record. A site may hold both at once.

Names may contain ":" and ids may contain anything, so a flat key is split at each ":pr:"
in it: where just one split gives a user, a source and an id, that is what it means. A
key that can be read in two ways is refused, for a record must never go to another user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from redis.asyncio import Redis

from ops.lunatv_source import Progress, each, hash_items, key_count, scan, shown, text_of, types_of
from shared import events
from shared.errors import InvalidField
from shared.events import ENTRY_BYTES_MAX, INVALID_KEY, INVALID_RECORD, USER_MAX
from worker.history import PastRecord

_PREFIX = b"u:"
_HASH_END, _SPLIT = b":pr", b":pr:"


@dataclass(frozen=True, slots=True)
class Found:
    """A value that should be a record: at *key*, in a hash in its *field*."""

    key: bytes
    field: bytes | None
    value: bytes

    @property
    def origin(self) -> str:
        """Where it was found, for people."""
        key = shown(self.key)
        return key if self.field is None else f"{key} {shown(self.field)}"


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A key that has a record's name and another type."""

    key: bytes
    type: str


async def read_records(redis: Redis, progress: Progress) -> AsyncIterator[Found | Misplaced]:
    """Everything that has the name of a record, in no order; some of it perhaps twice.

    Raises `StoreDown` when the server fails.
    """
    progress.keys = await key_count(redis)
    async for keys in scan(redis, _PREFIX, progress):
        named = [key for key in keys if _SPLIT in key or key.endswith(_HASH_END)]
        async for found in _read_keys(redis, named):
            yield found
    progress.seen = progress.keys


async def _read_keys(redis: Redis, keys: list[bytes]) -> AsyncIterator[Found | Misplaced]:
    types = await types_of(redis, keys)
    flat = [key for key in types if types[key] == b"string" and _SPLIT in key]
    for key, value in zip(flat, await each(redis, "GET", flat), strict=True):
        # None: it was deleted meanwhile.
        if value is not None:
            yield Found(key, None, value)
    for key, kind in types.items():
        if kind == b"hash" and key.endswith(_HASH_END):
            async for field, value in hash_items(redis, key):
                yield Found(key, field, value)
        elif kind != b"none" and not (kind == b"string" and _SPLIT in key):
            yield Misplaced(key, kind.decode())


# --- what a record is -----------------------------------------------------------


def past_record(found: Found) -> PastRecord:
    """The record that *found* is. Raises `InvalidField` saying what is wrong with it."""
    user, source, content_id = _names(found)
    if len(found.value) > ENTRY_BYTES_MAX:
        raise InvalidField(INVALID_RECORD, "record", f"at most {ENTRY_BYTES_MAX} bytes")
    fields = events.loads(found.value, INVALID_RECORD, "record")
    return PastRecord((user, source, content_id), events.record_from(fields), found.origin)


def _names(found: Found) -> tuple[str, str, str]:
    """(user, source, id), as the layout has them."""
    key = text_of(found.key)
    if found.field is not None:
        return _checked(key[len("u:") : -len(":pr")], text_of(found.field))
    readings: list[tuple[str, str, str]] = []
    fault = InvalidField(INVALID_KEY, "key", "u:{user}:pr:{source}+{id}")
    for at in _splits(key):
        try:
            readings.append(_checked(key[len("u:") : at], key[at + len(":pr:") :]))
        except InvalidField as error:
            fault = error
    if len(readings) > 1:
        raise InvalidField("Ambiguous key", "key", "one way to tell user, source and id apart")
    if not readings:
        raise fault
    return readings[0]


def _splits(key: str) -> Iterator[int]:
    """Where ":pr:" begins in *key*, overlaps included, as in u:a:pr:pr:b+1."""
    at = key.find(":pr:", len("u:"))
    while at >= 0:
        yield at
        at = key.find(":pr:", at + 1)


def _checked(user: str, record_key: str) -> tuple[str, str, str]:
    events.check_name(user, "user", USER_MAX, "Invalid user name")
    return user, *events.split_key(record_key)
