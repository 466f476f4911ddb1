"""
Card keys: made in batches, redeemed or given away, bound once (facts section 6, Card keys).

A key ages from the moment it is made: `expires_at` is then plus the days of its type. It is
found by the SHA-256 of its 16 characters; users hold it by a row in `user_card_keys`.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from shared.errors import InvalidField, NotFound, Refused
from shared.mysql import Cursor, Statement, rows_changed
from shared.times import DAY_MS, datetime_text, ms_of

KeyType = Literal["year", "quarter", "month", "week"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)
Status = Literal["unused", "used", "expired"]
STATUSES: tuple[Status, ...] = get_args(Status)
Source = Literal["admin_created", "promotion_register", "points_redeem"]
HoldSource = Literal["invitation", "redeem", "manual", "promotion_register"]

DAYS: dict[KeyType, int] = {"week": 7, "month": 30, "quarter": 90, "year": 365}
BATCH_MAX = 1_000
UNKNOWN = "卡密无效或不存在"
USED = "卡密已被使用"
EXPIRED = "卡密已过期"
BOUND = "已使用的卡密不能删除"

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 16
#: Bytes below this are spread evenly over the alphabet by their remainder.
_EVEN = 256 - 256 % len(_ALPHABET)

_COLUMNS = (
    "key_hash, plain_key, key_type, status, source, created_at, expires_at, bound_to, bound_at"
)
_INSERT = (
    "INSERT INTO card_keys (key_hash, plain_key, key_type, source, created_at, expires_at)"
    " VALUES (%s, %s, %s, %s, %s, %s)"
)
_HOLD = """
INSERT INTO user_card_keys (id, key_hash, username, key_type, source, created_at, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_HELD = """
SELECT h.id, h.key_hash, h.username, h.key_type, h.status, h.source, h.created_at, h.expires_at,
    h.used_at, h.used_by, h.notes, k.plain_key
FROM user_card_keys h LEFT JOIN card_keys k ON k.key_hash = h.key_hash
WHERE h.username = %s ORDER BY h.created_at DESC, h.id
"""
_PROMOTED = (
    "SELECT COUNT(*), COALESCE(SUM(expires_at >= %s), 0) FROM card_keys"
    " WHERE source = 'promotion_register'"
)
_EXPIRE = "UPDATE card_keys SET status = 'expired' WHERE status = 'unused' AND expires_at < %s"
_EXPIRE_HELD = (
    "UPDATE user_card_keys h JOIN card_keys k ON k.key_hash = h.key_hash SET h.status = 'expired'"
    " WHERE k.status = 'expired' AND h.status = 'unused'"
)
_LET_GO = "UPDATE user_card_keys SET status = 'expired' WHERE key_hash = %s AND status = 'unused'"


class CardKey(msgspec.Struct, rename="camel", omit_defaults=True):
    """A card key (facts section 4); times in ms."""

    key: str
    key_hash: str
    key_type: KeyType
    status: Status
    created_at: int
    expires_at: int
    bound_to: str | None = None
    bound_at: int | None = None
    source: Source | None = None


class HeldKey(msgspec.Struct, rename="camel", omit_defaults=True):
    """A key that a user redeemed or bound (facts section 4, UserCardKey); times in ms."""

    id: str
    key_hash: str
    username: str
    type: KeyType
    status: Status
    source: HoldSource
    created_at: int
    expires_at: int
    used_at: int | None = None
    used_by: str | None = None
    notes: str | None = None
    plain_key: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which keys to list; None means all."""

    status: Status | None = None
    key_type: KeyType | None = None
    bound_to: str | None = None


def hash_of(plain_key: str) -> str:
    """By what a key is found: the SHA-256 of its text in hex."""
    return hashlib.sha256(plain_key.encode(errors="surrogatepass")).hexdigest()


def new_keys(key_type: KeyType, count: int, source: Source, now_ms: int) -> list[CardKey]:
    """*count* keys that nobody can guess, stored nowhere yet. Raises `InvalidField`."""
    if not 1 <= count <= BATCH_MAX:
        raise InvalidField("无效的数量", "count", f"a whole number from 1 to {BATCH_MAX}")
    expires_at = now_ms + DAYS[key_type] * DAY_MS
    plain = (_new_text() for _ in range(count))
    return [
        CardKey(text, hash_of(text), key_type, "unused", now_ms, expires_at, source=source)
        for text in plain
    ]


def _new_text() -> str:
    """A key's text, each character as likely as any other."""
    text = ""
    while len(text) < _LENGTH:
        even = (byte for byte in secrets.token_bytes(2 * _LENGTH) if byte < _EVEN)
        text += "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in even)
    return text[:_LENGTH]


async def insert(cursor: Cursor, keys: Sequence[CardKey]) -> None:
    """Store *keys*, in one statement."""
    await cursor.executemany(_INSERT, [_row_of(key) for key in keys])


def insertion_of(key: CardKey) -> Statement:
    """Stores *key*."""
    return _INSERT, _row_of(key)


def _row_of(key: CardKey) -> tuple[Any, ...]:
    times = (datetime_text(key.created_at), datetime_text(key.expires_at))
    return (key.key_hash, key.key, key.key_type, key.source, *times)


def new_id() -> str:
    """The id of a row in `user_card_keys`."""
    return str(uuid.uuid4())


def holding_of(username: str, key: CardKey, source: HoldSource, row_id: str) -> Statement:
    """Puts *key* among those of *username*, as the row *row_id*."""
    times = (datetime_text(key.created_at), datetime_text(key.expires_at))
    return _HOLD, (row_id, key.key_hash, username, key.key_type, source, *times)


def locking(key_hash: str) -> Statement:
    """Locks and reads a key until the transaction ends; `bindable` takes what it finds."""
    return f"SELECT {_COLUMNS} FROM card_keys WHERE key_hash = %s FOR UPDATE", (key_hash,)


def bindable(found: Sequence[Sequence[Any]], now_ms: int) -> CardKey:
    """The key that `locking` has *found*.

    Raises `Refused` where it is not there, used or expired: in this order.
    """
    if not found:
        raise Refused(UNKNOWN)
    key = _key_of(found[0])
    if key.status == "used":
        raise Refused(USED)
    if key.status == "expired" or key.expires_at < now_ms:
        raise Refused(EXPIRED)
    return key


async def listed(cursor: Cursor, chosen: Filter, page: int, size: int) -> tuple[list[CardKey], int]:
    """(one page of the keys that were *chosen*, newest first, number of all such keys)."""
    wanted = {
        "status": chosen.status,
        "key_type": chosen.key_type,
        "bound_to": chosen.bound_to,
    }
    values = {column: value for column, value in wanted.items() if value is not None}
    where = " AND ".join(["TRUE", *(f"{column} = %s" for column in values)])
    await cursor.execute(f"SELECT COUNT(*) FROM card_keys WHERE {where}", (*values.values(),))
    [total] = await cursor.fetchone()
    await cursor.execute(
        f"SELECT {_COLUMNS} FROM card_keys WHERE {where} ORDER BY id DESC LIMIT %s OFFSET %s",
        (*values.values(), size, (page - 1) * size),
    )
    return [_key_of(row) for row in await cursor.fetchall()], total


async def held_by(cursor: Cursor, username: str) -> list[HeldKey]:
    """The keys of *username*, newest first."""
    await cursor.execute(_HELD, (username,))
    return [_held_key_of(row) for row in await cursor.fetchall()]


async def delete_unused(cursor: Cursor, key_hash: str) -> None:
    """Remove a key that nobody bound. Raises `NotFound`, or `Refused` for a bound one."""
    await cursor.execute("SELECT status FROM card_keys WHERE key_hash = %s FOR UPDATE", (key_hash,))
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(UNKNOWN)
    if row[0] == "used":
        raise Refused(BOUND)
    await cursor.execute(_LET_GO, (key_hash,))
    await cursor.execute("DELETE FROM card_keys WHERE key_hash = %s", (key_hash,))


async def count_promoted(cursor: Cursor, now_ms: int) -> tuple[int, int]:
    """(keys given at registration, those of them whose time is not over)."""
    await cursor.execute(_PROMOTED, (datetime_text(now_ms),))
    total, active = await cursor.fetchone()
    return total, int(active)


async def expire(cursor: Cursor, now_ms: int) -> int:
    """Mark unbound keys whose time is over; how many."""
    await cursor.execute(_EXPIRE, (datetime_text(now_ms),))
    count = rows_changed(cursor)
    await cursor.execute(_EXPIRE_HELD)
    return count


async def clean_up(cursor: Cursor, now_ms: int) -> int:
    """Remove the keys that nobody bound in time; how many."""
    await expire(cursor, now_ms)
    await cursor.execute("DELETE FROM card_keys WHERE status = 'expired'")
    return rows_changed(cursor)


def _key_of(row: Sequence[Any]) -> CardKey:
    key_hash, plain_key, key_type, status, source, created_at, expires_at, bound_to, bound_at = row
    return CardKey(
        key=plain_key,
        key_hash=key_hash,
        key_type=key_type,
        status=status,
        created_at=ms_of(created_at),
        expires_at=ms_of(expires_at),
        bound_to=bound_to,
        bound_at=None if bound_at is None else ms_of(bound_at),
        source=source,
    )


def _held_key_of(row: Sequence[Any]) -> HeldKey:
    row_id, key_hash, username, kind, status, source, created_at, expires_at, *rest = row
    used_at, used_by, notes, plain_key = rest
    return HeldKey(
        id=row_id,
        key_hash=key_hash,
        username=username,
        type=kind,
        status=status,
        source=source,
        created_at=ms_of(created_at),
        expires_at=ms_of(expires_at),
        used_at=None if used_at is None else ms_of(used_at),
        used_by=used_by,
        notes=notes,
        plain_key=plain_key or "",
    )
