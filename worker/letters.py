"""Dead letters: entries that can never be applied, kept with their reason (protocol 18, 19)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

from shared.errors import InvalidField
from shared.mysql import Cursor
from shared.streams import STAMP_CHARACTERS, EntryId, RawEntry, entry_id
from worker.sql import upsert

#: What of an entry's raw fields is kept.
KEPT_BYTES_MAX = 61_440
_DETAIL_MAX = 500
_USERNAME_MAX = 255

REFUSED_BY_MYSQL = "refused_by_mysql"

_COLUMNS = (
    *("stream", "shard", "incarnation", "entry_id", "username", "reason", "detail"),
    *("fields", "fields_length", "fields_sha256"),
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry, why it cannot be applied, and its raw fields as far as they are kept."""

    entry: EntryId
    username: str | None
    reason: str
    detail: str
    fields: bytes
    length: int
    sha256: str


def letter_of(entry: RawEntry, error: InvalidField) -> DeadLetter:
    """The dead letter of an entry that decoding refused."""
    reason = error.error.lower().replace(" ", "_")
    return _letter(entry, reason, f"{error.field}: allowed is {error.allowed}")


def refused_letter(entry: RawEntry, error: Exception) -> DeadLetter:
    """The dead letter of an entry that decoding accepted and MySQL refused."""
    return _letter(entry, REFUSED_BY_MYSQL, str(error))


def _letter(entry: RawEntry, reason: str, detail: str) -> DeadLetter:
    identity, fields = entry
    raw = pack_fields(fields)
    return DeadLetter(
        entry=entry_id(identity),
        username=username_in(fields),
        reason=reason,
        detail=detail[:_DETAIL_MAX],
        fields=raw[:KEPT_BYTES_MAX],
        length=len(raw),
        sha256=sha256(raw).hexdigest(),
    )


async def insert_letters(
    cursor: Cursor, stream: str, shard: int, incarnation: int, letters: Iterable[DeadLetter]
) -> None:
    """Keep *letters*, in the transaction of the batch that met them."""
    await upsert(
        cursor,
        "dead_letters",
        _COLUMNS,
        ("reason = {new}reason",),
        (
            (
                *(stream, shard, incarnation, str(letter.entry), letter.username),
                *(letter.reason, letter.detail, letter.fields, letter.length, letter.sha256),
            )
            for letter in letters
        ),
    )


# --- an entry's fields ----------------------------------------------------------


def body_of(fields: Sequence[bytes]) -> tuple[bytes, bool]:
    """(field `d`, did another producer write it?) of an entry; raises `InvalidField`."""
    if len(fields) == 4 and fields[0] == b"d" and fields[2] == b"i" and _is_stamp(fields[3]):
        return fields[1], False
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    if b"d" not in named:
        raise InvalidField("Missing field", "d", "one field d that holds the event as JSON")
    return named[b"d"], not _is_stamp(named.get(b"i", b""))


def stamp_in(entry: RawEntry) -> str | None:
    """The stamp that moonwake's own entries carry; None for another producer's.

    Only what looks like one is: stamps are kept with the checkpoint, and read again from there.
    """
    fields = entry[1]
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == b"i" and _is_stamp(value):
            return value.decode()
    return None


def _is_stamp(value: bytes) -> bool:
    return len(value) == STAMP_CHARACTERS and value.isalnum()


def pack_fields(fields: Sequence[bytes]) -> bytes:
    """Field names and values one after the other, each as length:bytes, (netstrings)."""
    return b"".join(b"%d:%b," % (len(value), value) for value in fields)


def unpack_fields(raw: bytes) -> list[bytes]:
    """The names and values in *raw*; the last may be cut short where raw was."""
    values: list[bytes] = []
    at = 0
    while (colon := raw.find(b":", at)) >= 0:
        end = colon + 1 + int(raw[at:colon])
        values.append(raw[colon + 1 : end])
        at = end + 1
    return values


def username_in(fields: Sequence[bytes]) -> str | None:
    """Whose entry it seems to be, though it cannot be decoded."""
    try:
        event = orjson.loads(body_of(fields)[0])
    except (InvalidField, orjson.JSONDecodeError):
        return None
    name = event.get("user") if isinstance(event, dict) else None
    return name[:_USERNAME_MAX] if isinstance(name, str) else None
