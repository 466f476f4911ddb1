"""
Whose logins count no more, as MySQL has it: users who are banned, and names of deleted ones.

Every change is noted in the same transaction, so that who knows the list need not read it again
to see that it is still the same.
"""

from __future__ import annotations

import secrets
from typing import Literal, get_args

from shared.mysql import Cursor, rows_changed

Reason = Literal["banned", "deleted"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_BAR = """
INSERT INTO barred_users (username, reason) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE reason = %s
"""
_LIFT = "DELETE FROM barred_users WHERE username = %s"
_NOTE = "INSERT INTO barred_changes (token) VALUES (%s)"


async def bar(cursor: Cursor, username: str, reason: Reason) -> None:
    """From now on no login of *username* counts."""
    await cursor.execute(_BAR, (username, reason, reason))
    await _note(cursor)


async def lift(cursor: Cursor, username: str) -> bool:
    """Logins of *username* count again; was the name barred?"""
    await cursor.execute(_LIFT, (username,))
    if not rows_changed(cursor):
        return False
    await _note(cursor)
    return True


async def _note(cursor: Cursor) -> None:
    await cursor.execute(_NOTE, (secrets.randbits(64),))


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
    """Another number after every change, in whatever order they are committed.

    Read it before the list, which may be newer then. It also changes when old notes are removed.
    """
    await cursor.execute("SELECT BIT_XOR(token) FROM barred_changes")
    [found] = await cursor.fetchone()
    return int(found)
