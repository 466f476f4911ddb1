"""
Memberships: a card key is bound, and its time is the user's (facts section 6, Card keys).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shared.accounts import card_keys, points
from shared.accounts.card_keys import CardKey, HoldSource, Source
from shared.mysql import Cursor, Statement, execute_together, select_together
from shared.times import DAY_MS, datetime_text, ms_of

#: A membership that ends in fewer days is shown as ending.
EXPIRING_DAYS = 30

_READ = """
SELECT m.key_hash, m.expires_at, m.bound_at, k.plain_key, k.source
FROM memberships m LEFT JOIN card_keys k ON k.key_hash = m.key_hash WHERE m.username = %s
"""
_USE = """
UPDATE card_keys SET status = 'used', bound_to = %s, bound_at = %s
WHERE key_hash = %s AND status = 'unused'
"""
#: Also of who redeemed the key and gave it away.
_USE_HELD = """
UPDATE user_card_keys SET status = 'used', used_by = %s, used_at = %s WHERE key_hash = %s
"""
_HOLD = """
INSERT INTO user_card_keys
    (id, key_hash, username, key_type, status, source, created_at, expires_at, used_at, used_by)
VALUES (%s, %s, %s, %s, 'used', %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE user_card_keys.expires_at = %s
"""
_EXTEND = "UPDATE user_card_keys SET expires_at = %s WHERE username = %s AND key_hash = %s"
_KEEP = """
INSERT INTO memberships (username, key_hash, bound_at, expires_at) VALUES (%s, %s, %s, %s)
ON DUPLICATE KEY UPDATE key_hash = %s, bound_at = %s, expires_at = %s
"""
HOLD_SOURCES: dict[Source | None, HoldSource] = {
    "admin_created": "manual",
    "points_redeem": "manual",
    "promotion_register": "promotion_register",
    None: "redeem",
}


class Membership(msgspec.Struct, rename="camel", omit_defaults=True):
    """A user's membership (facts section 4, UserCardKeyInfo); times in ms."""

    bound_key: str
    expires_at: int
    bound_at: int
    days_remaining: int
    is_expiring: bool
    is_expired: bool
    plain_key: str | None = None
    source: Source | None = None


async def read(cursor: Cursor, username: str, now_ms: int) -> Membership | None:
    """The membership of *username* as it is now; None where no key was ever bound."""
    await cursor.execute(_READ, (username,))
    return _found(await cursor.fetchall(), now_ms)


def _found(found: Sequence[Sequence[Any]], now_ms: int) -> Membership | None:
    if not found:
        return None
    key_hash, expires_at, bound_at, plain_key, source = found[0]
    return _shown((key_hash, plain_key or None, source), ms_of(expires_at), ms_of(bound_at), now_ms)


async def bind(cursor: Cursor, username: str, plain_key: str, now_ms: int) -> Membership:
    """Bind a key to *username*, whose membership begins or goes on with it.

    Raises `NotFound` for an unknown user, `Refused` for a key that cannot be bound.
    """
    queries = (
        # In this order. Whoever changes a membership holds the user's account.
        points.locking(username),
        card_keys.locking(card_keys.hash_of(plain_key)),
        (_READ, (username,)),
    )
    account, stored, membership = await select_together(cursor, *queries)
    if not account:  # there was no row to hold, and others may have been here meanwhile
        await points.lock_account(cursor, username)
        _, stored, membership = await select_together(cursor, *queries)
    key, before = card_keys.bindable(stored, now_ms), _found(membership, now_ms)
    expires_at = _expiry(key, before, now_ms)
    used = _used(username, key, before, expires_at, now_ms)
    kept = (key.key_hash, datetime_text(now_ms), datetime_text(expires_at))
    await execute_together(cursor, *used, (_KEEP, (username, *kept, *kept)))
    return _shown((key.key_hash, key.key, key.source), expires_at, now_ms, now_ms)


def _expiry(key: CardKey, before: Membership | None, now_ms: int) -> int:
    """A first key gives what is left of it; a further one all its days, from now or the end."""
    if before is None:
        return key.expires_at
    days = math.floor((key.expires_at - key.created_at) / DAY_MS + 0.5)
    return max(now_ms, before.expires_at) + days * DAY_MS


def _used(
    username: str, key: CardKey, before: Membership | None, expires_at: int, now_ms: int
) -> Iterator[Statement]:
    """Makes *key* used, where it is stored and with whoever holds it."""
    now, until = datetime_text(now_ms), datetime_text(expires_at)
    yield _USE, (username, now, key.key_hash)
    yield _USE_HELD, (username, now, key.key_hash)
    held = (card_keys.new_id(), key.key_hash, username, key.key_type, HOLD_SOURCES[key.source])
    yield _HOLD, (*held, datetime_text(key.created_at), until, now, username, until)
    if before is not None and not before.is_expired:
        # Front ends show keys by their rows: the one before shows the time that goes on.
        yield _EXTEND, (until, username, before.bound_key)


def _shown(
    key: tuple[str, str | None, Source | None], expires_at: int, bound_at: int, now_ms: int
) -> Membership:
    key_hash, plain_key, source = key
    left_days = (expires_at - now_ms) / DAY_MS
    return Membership(
        bound_key=key_hash,
        expires_at=expires_at,
        bound_at=bound_at,
        days_remaining=max(0, math.ceil(left_days)),
        is_expiring=0 <= left_days <= EXPIRING_DAYS,
        is_expired=left_days < 0,
        plain_key=plain_key,
        source=source,
    )
