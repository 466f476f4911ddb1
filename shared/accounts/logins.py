"""
What ends a user's logins for good: a new password, and letting somebody in again.

Sessions are in Redis, what they rest on is in MySQL. So they end inside the transaction, while
the user's row is locked: if Redis cannot end them nothing is changed, and a login of that
moment waits for the row (`users.settled`) and sees what became of it.
"""

from __future__ import annotations

from shared.accounts import points, users
from shared.accounts.sessions import Sessions
from shared.errors import Refused
from shared.mysql import Cursor

#: No text of LunaTV's: there everybody may.
NEVER_HAD_ONE = "该账号没有密码，请联系管理员设置"


async def give_password(
    cursor: Cursor, sessions: Sessions, username: str, password_hash: str
) -> None:
    """Let *username* log in by a new password, and end all their sessions.

    Who never had one gets a points account too. Raises `NotFound`, or `StoreDown` where Redis
    is away.
    """
    await users.set_password(cursor, username, password_hash)
    await points.open_account(cursor, username)
    await sessions.end_all(username)


async def change_password(
    cursor: Cursor, sessions: Sessions, username: str, password_hash: str, *, but: str | None
) -> None:
    """The same as the user asks for it, whose session of the token *but* goes on.

    Only who has a password may: whoever was just met playing, by a cookie of LunaTV's, would
    else be registered, past closed registration and the card key it asks for. Raises `Refused`.
    """
    user = await users.lock(cursor, username)
    if user.password_hash == users.NO_PASSWORD:
        raise Refused(NEVER_HAD_ONE)
    await users.set_password(cursor, username, password_hash)
    await sessions.end_all(username, but=but)


async def readmit(cursor: Cursor, sessions: Sessions, username: str) -> None:
    """Let *username* in again, not the sessions of before, which a ban without Redis left.

    Raises `NotFound`, or `StoreDown` where Redis is away.
    """
    await users.set_banned(cursor, username, banned=False)
    await sessions.end_all(username)
