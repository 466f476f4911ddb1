"""
What only time does to accounts, every few minutes: keys run out, results are forgotten.

Each part is one short transaction and may be repeated; several workers at once do no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from shared.accounts import card_keys
from shared.connections import Cursor, Pool, rows_changed, transaction
from shared.times import DAY_MS, datetime_text, now_ms

log = structlog.get_logger()

#: For how long a request may be repeated with its Idempotency-Key.
OPERATIONS_KEPT_MS = 7 * DAY_MS
_ROWS_MAX = 5_000

_FORGET = "DELETE FROM operations WHERE created_at < %s LIMIT %s"
# Events that were on their way when a user was deleted make the user anew, without a password.
_REMAINS = """
DELETE u FROM users u JOIN barred_users b ON b.username = u.username
WHERE b.reason = 'deleted' AND u.password_hash = '!' AND u.role <> 'owner'
"""


async def keep_house(pool: Pool) -> None:
    """Mark keys that ran out, forget old results, remove what deleted users left.

    Raises `Transient`: the next run goes on.
    """
    for name, part in _PARTS.items():
        async with transaction(pool) as cursor:
            rows = await part(cursor)
        if rows:
            log.info("housekeeping", part=name, rows=rows)


async def _expire_keys(cursor: Cursor) -> int:
    return await card_keys.expire(cursor, now_ms())


async def _forget_operations(cursor: Cursor) -> int:
    before = datetime_text(now_ms() - OPERATIONS_KEPT_MS)
    await cursor.execute(_FORGET, (before, _ROWS_MAX))
    return rows_changed(cursor)


async def _remove_remains(cursor: Cursor) -> int:
    await cursor.execute(_REMAINS)
    return rows_changed(cursor)


_PARTS: dict[str, Callable[[Cursor], Awaitable[int]]] = {
    "card keys that ran out": _expire_keys,
    "results of operations": _forget_operations,
    "remains of deleted users": _remove_remains,
}
