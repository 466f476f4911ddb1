"""
Users: who there is, what they may do, and whose logins count no more.

The database alone says who is an admin; the owner is whom the environment names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec
import orjson

from shared.accounts import barred
from shared.errors import InvalidField, NotFound, Refused, Taken
from shared.mysql import Cursor, mysql_errors
from shared.times import datetime_text, ms_of

#: What no password verifies: the user was met, or imported, without one.
NO_PASSWORD = "!"  # noqa: S105
UNKNOWN, BANNED = "用户不存在", "用户已被封禁"
TAKEN = "该用户名已被注册"
SUBJECT_TAKEN = "该 OIDC 身份已绑定其他用户"
#: Names that can be registered (facts section 5); older ones may hold anything.
NEW_NAME = "[a-zA-Z0-9_]{3,20}"

Role = Literal["owner", "admin", "user"]
ROLES: tuple[Role, ...] = get_args(Role)

_COLUMNS = (
    "id, username, password_hash, role, banned, tags, enabled_apis, oidc_sub, tvbox_token,"
    " show_adult_content, created_at"
)
_INSERT = """
INSERT INTO users (username, password_hash, role, tags, enabled_apis, oidc_sub, tvbox_token,
    show_adult_content, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
#: With FOR UPDATE of two registrations at once the later one waits for the other, and sees it.
_LIKE = "SELECT username FROM users WHERE folded_name = LOWER(%s) FOR UPDATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """What a user is created with; *password_hash* as `passwords.hashed` makes it."""

    username: str
    password_hash: str = field(repr=False)
    role: Role = "user"
    tags: Sequence[str] = ()
    enabled_apis: Sequence[str] = ()
    oidc_sub: str | None = None
    tvbox_token: str | None = field(default=None, repr=False)
    show_adult_content: bool = False
    #: A deleted user may have had the name: nothing is left of them, logins above all.
    after_former: bool = False


class User(msgspec.Struct, rename="camel", omit_defaults=True):
    """A user as admins see one (facts section 4, UserConfig.Users)."""

    username: str
    role: Role
    banned: bool
    created_at: int  # ms
    tags: list[str] = []
    enabled_apis: list[str] = []
    oidc_sub: str | None = None
    tvbox_token: str | None = None
    show_adult_content: bool = False


class StoredUser(User):
    """The same with what only moonwake itself needs."""

    #: Nobody else ever has it, also who takes the name of a deleted user.
    id: int = 0
    password_hash: str = NO_PASSWORD


def check_new_name(name: str) -> None:
    """Raise `InvalidField` unless *name* may be registered."""
    if not re.fullmatch(NEW_NAME, name):
        allowed = "3 to 20 of the letters a-z and A-Z, digits and _"
        raise InvalidField("用户名只能包含字母、数字、下划线，长度3-20位", "username", allowed)


async def insert(cursor: Cursor, user: NewUser, now_ms: int) -> None:
    """Create *user*.

    Raises `Refused` where the name, another that differs by case alone, or the login provider's
    subject is taken; so is the name of a deleted user, unless it is `after_former`.
    """
    values = (
        user.username,
        user.password_hash,
        user.role,
        _json(user.tags),
        _json(user.enabled_apis),
        user.oidc_sub,
        user.tvbox_token,
        user.show_adult_content,
        datetime_text(now_ms),
    )
    try:
        with mysql_errors():
            await cursor.execute(_INSERT, values)
    except Taken as error:
        # The message names the value first, which may be called like the key.
        key = str(error).rpartition(" for key ")[2]
        raise Refused(SUBJECT_TAKEN if "uk_oidc_sub" in key else TAKEN) from error
    await cursor.execute(_LIKE, (user.username,))
    if len(await cursor.fetchall()) != 1:
        raise Refused(TAKEN)
    if await barred.lift(cursor, user.username) and not user.after_former:
        raise Refused(TAKEN)  # deleted a moment ago: this is undone


async def find(cursor: Cursor, username: str) -> StoredUser | None:
    """The user of exactly this name."""
    await cursor.execute(f"SELECT {_COLUMNS} FROM users WHERE username = %s", (username,))
    row = await cursor.fetchone()
    return None if row is None else _user_of(row)


async def settled(cursor: Cursor, username: str) -> StoredUser | None:
    """The same, after waiting for whoever is just changing them."""
    await cursor.execute(
        f"SELECT {_COLUMNS} FROM users WHERE username = %s LOCK IN SHARE MODE", (username,)
    )
    row = await cursor.fetchone()
    return None if row is None else _user_of(row)


async def id_of(cursor: Cursor, username: str) -> int | None:
    """The user's number, which nobody has who takes the name later."""
    await cursor.execute("SELECT id FROM users WHERE username = %s", (username,))
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def find_by_subject(cursor: Cursor, oidc_sub: str) -> StoredUser | None:
    """The user to whom the login provider's *oidc_sub* belongs."""
    await cursor.execute(f"SELECT {_COLUMNS} FROM users WHERE oidc_sub = %s", (oidc_sub,))
    row = await cursor.fetchone()
    return None if row is None else _user_of(row)


async def listed(cursor: Cursor, page: int, size: int) -> tuple[list[User], int]:
    """(one page of all users by name, number of all); *page* counts from 1."""
    await cursor.execute("SELECT COUNT(*) FROM users")
    [total] = await cursor.fetchone()
    await cursor.execute(
        f"SELECT {_COLUMNS} FROM users ORDER BY username LIMIT %s OFFSET %s",
        (size, (page - 1) * size),
    )
    return [_shown(_user_of(row)) for row in await cursor.fetchall()], total


async def lock(cursor: Cursor, username: str) -> StoredUser:
    """The user of exactly this name, locked until the transaction ends.

    Raises `NotFound`, also where late events of a deleted user made a row anew: it is what
    remains of them for some minutes, and nobody's account.
    """
    await cursor.execute(
        f"SELECT {_COLUMNS} FROM users WHERE username = %s FOR UPDATE", (username,)
    )
    row = await cursor.fetchone()
    if row is None or await barred.reason_of(cursor, username) == "deleted":
        raise NotFound(UNKNOWN)
    return _user_of(row)


async def ensure_owner(cursor: Cursor, username: str) -> StoredUser:
    """The site's owner, who logs in by the environment and is created where there is no row."""
    await cursor.execute(
        "INSERT INTO users (username, password_hash, role) VALUES (%s, %s, 'owner')"
        " ON DUPLICATE KEY UPDATE role = 'owner'",
        (username, NO_PASSWORD),
    )
    await cursor.execute(f"SELECT {_COLUMNS} FROM users WHERE username = %s", (username,))
    return _user_of(await cursor.fetchone())


async def set_password(cursor: Cursor, username: str, password_hash: str) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "password_hash", password_hash)


async def upgrade_password(cursor: Cursor, username: str, old_hash: str, new_hash: str) -> None:
    """Replace a hash of an old form, unless the password was changed meanwhile."""
    await cursor.execute(
        "UPDATE users SET password_hash = %s WHERE username = %s AND password_hash = %s",
        (new_hash, username, old_hash),
    )


async def set_role(cursor: Cursor, username: str, role: Role) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "role", role)


async def set_tags(cursor: Cursor, username: str, tags: Sequence[str]) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "tags", _json(tags))


async def set_enabled_apis(cursor: Cursor, username: str, apis: Sequence[str]) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "enabled_apis", _json(apis))


async def set_tvbox_token(cursor: Cursor, username: str, token: str | None) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "tvbox_token", token)


async def set_show_adult_content(cursor: Cursor, username: str, *, show: bool) -> None:
    """Raises `NotFound`."""
    await _set(cursor, username, "show_adult_content", show)


async def link_subject(cursor: Cursor, username: str, oidc_sub: str | None) -> None:
    """Link the login provider's subject, or with None no longer.

    Raises `NotFound`, or `Refused` where it belongs to another user.
    """
    try:
        with mysql_errors():
            await _set(cursor, username, "oidc_sub", oidc_sub)
    except Taken as error:
        raise Refused(SUBJECT_TAKEN) from error


async def set_banned(cursor: Cursor, username: str, *, banned: bool) -> None:
    """Ban *username* or let them in again. Raises `NotFound`."""
    await _set(cursor, username, "banned", banned)
    if banned:
        await barred.bar(cursor, username, "banned")
    else:
        await barred.lift(cursor, username)


async def delete(cursor: Cursor, username: str) -> None:
    """Remove *username* and all that is theirs; their cookie counts no more. Raises `NotFound`."""
    await lock(cursor, username)
    await cursor.execute("DELETE FROM users WHERE username = %s", (username,))
    await barred.bar(cursor, username, "deleted")


async def _set(cursor: Cursor, username: str, column: str, value: object) -> None:
    await lock(cursor, username)  # an UPDATE that changes nothing affects no row
    await cursor.execute(f"UPDATE users SET {column} = %s WHERE username = %s", (value, username))


def _user_of(row: Sequence[Any]) -> StoredUser:
    user_id, username, password_hash, role, banned, *rest = row
    tags, apis, subject, token, adult, created_at = rest
    return StoredUser(
        id=user_id,
        username=username,
        role=role,
        banned=bool(banned),
        created_at=ms_of(created_at),
        tags=_list_of(tags),
        enabled_apis=_list_of(apis),
        oidc_sub=subject,
        tvbox_token=token,
        show_adult_content=bool(adult),
        password_hash=password_hash,
    )


def _shown(user: StoredUser) -> User:
    """*user* without the password's hash."""
    return User(**{name: getattr(user, name) for name in User.__struct_fields__})


def _json(values: Sequence[str]) -> str:
    return orjson.dumps(list(values)).decode()


def _list_of(text: str | None) -> list[str]:
    return [] if text is None else orjson.loads(text)
