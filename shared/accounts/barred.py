"""
Whose logins count no more, as MySQL has it: users who are banned, and names of deleted ones.

Every change raises a revision in the same transaction, so that who knows the list need not read
it again to see that it is still the same.
"""

from __future__ import annotations

from typing import Literal, get_args

from shared.connections import Cursor, rows_changed

Reason = Literal["banned", "deleted"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_BAR = """
INSERT INTO barred_users (username, reason) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE reason = %s
"""
_LIFT = "DELETE FROM barred_users WHERE username = %s"
#: Last in every transaction that changes the list: it makes them go one after the other.
_RAISE = """
INSERT INTO barred_revision (id, revision) VALUES (1, 1)
ON DUPLICATE KEY UPDATE revision = revision + 1
"""


async def bar(cursor: Cursor, username: str, reason: Reason) -> None:
    """From now on no login of *username* counts."""
    await cursor.execute(_BAR, (username, reason, reason))
    await cursor.execute(_RAISE)


async def lift(cursor: Cursor, username: str) -> bool:
    """Logins of *username* count again; was the name barred?"""
    await cursor.execute(_LIFT, (username,))
    if not rows_changed(cursor):
        return False
    await cursor.execute(_RAISE)
    return True


async def reason_of(cursor: Cursor, username: str) -> Reason | None:
    """'banned', 'deleted' if nobody took the name since, or None: their logins count."""
    await cursor.execute("SELECT reason FROM barred_users WHERE username = %s", (username,))
    reasons: list[Reason] = [reason for (reason,) in await cursor.fetchall()]
    return reasons[0] if reasons else None


async def read(cursor: Cursor) -> dict[str, Reason]:
    """All of it: name -> reason."""
    await cursor.execute("SELECT username, reason FROM barred_users")
    return dict(await cursor.fetchall())


async def revision(cursor: Cursor) -> int:
    """Another number after every change; read it before the list, which may be newer then."""
    await cursor.execute("SELECT revision FROM barred_revision WHERE id = 1")
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])
