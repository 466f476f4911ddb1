"""
What only time does to accounts, every few minutes: keys run out, results are forgotten.

Each part is short transactions and may be repeated; several workers at once do no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from shared.accounts import card_keys
from shared.mysql import Cursor, Pool, rows_changed, transaction
from shared.times import DAY_MS, datetime_text, now_ms

log = structlog.get_logger()

_HOUR_MS = 60 * 60 * 1_000
#: For how long a request may be repeated with its Idempotency-Key.
OPERATIONS_KEPT_MS = 7 * DAY_MS
#: An operation without a key is looked for while it is tried again, which takes seconds.
UNNAMED_KEPT_MS = _HOUR_MS
#: Fronts look at the changes of who is barred every few seconds.
BARRED_CHANGES_KEPT_MS = _HOUR_MS
#: Of one transaction, and of those of one run: with both, 6,000 changes a second are kept up with.
_ROWS_MAX, _ROUNDS_MAX = 5_000, 400

_FORGET = "DELETE FROM operations WHERE is_named = %s AND created_at < %s LIMIT %s"
_FORGET_CHANGES = "DELETE FROM barred_changes WHERE created_at < %s LIMIT %s"
# Events that were on their way when a user was deleted make the user anew, without a password.
# Of the owner, whom USERNAME may have named after that, a row is all there is.
_REMAINS = """
DELETE u FROM users u JOIN barred_users b ON b.username = u.username
WHERE b.reason = 'deleted' AND u.password_hash = '!' AND u.role <> 'owner'
"""


async def keep_house(pool: Pool) -> None:
    """Mark keys that ran out, forget old results, remove what deleted users left.

    Raises `Transient`: the next run goes on.
    """
    for name, part in _PARTS.items():
        rows = await _done(pool, part)
        if rows:
            log.info("housekeeping", part=name, rows=rows)


async def _done(pool: Pool, part: Callable[[Cursor], Awaitable[int]]) -> int:
    """Repeat *part* until there is no more to do for it; how many rows it changed."""
    changed = 0
    for _ in range(_ROUNDS_MAX):
        async with transaction(pool) as cursor:
            rows = await part(cursor)
        changed += rows
        if rows < _ROWS_MAX:
            break
    return changed


async def _expire_keys(cursor: Cursor) -> int:
    return await card_keys.expire(cursor, now_ms())


async def _forget_unnamed(cursor: Cursor) -> int:
    return await _forget(cursor, UNNAMED_KEPT_MS, named=False)


async def _forget_named(cursor: Cursor) -> int:
    return await _forget(cursor, OPERATIONS_KEPT_MS, named=True)


async def _forget(cursor: Cursor, kept_ms: int, *, named: bool) -> int:
    await cursor.execute(_FORGET, (named, datetime_text(now_ms() - kept_ms), _ROWS_MAX))
    return rows_changed(cursor)


async def _forget_changes(cursor: Cursor) -> int:
    before = datetime_text(now_ms() - BARRED_CHANGES_KEPT_MS)
    await cursor.execute(_FORGET_CHANGES, (before, _ROWS_MAX))
    return rows_changed(cursor)


async def _remove_remains(cursor: Cursor) -> int:
    await cursor.execute(_REMAINS)
    return rows_changed(cursor)


_PARTS: dict[str, Callable[[Cursor], Awaitable[int]]] = {
    "card keys that ran out": _expire_keys,
    "results nobody can ask for": _forget_unnamed,
    "results that were asked for by key": _forget_named,
    "changes of who is barred": _forget_changes,
    "remains of deleted users": _remove_remains,
}
