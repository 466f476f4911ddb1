"""A user who comes along: the row, the bar, and how often they logged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import orjson

from ops.accounts_page import Page
from ops.lunatv_people import Person
from ops.lunatv_values import LoginStats
from shared.accounts import barred
from shared.accounts.users import NO_PASSWORD, Role
from shared.times import datetime_text

_FIND = """
SELECT password_hash, role, banned, tags, enabled_apis, oidc_sub, tvbox_token,
    show_adult_content, created_at
FROM users WHERE username = %s FOR UPDATE
"""
_INSERT = """
INSERT INTO users (password_hash, role, banned, tags, enabled_apis, oidc_sub, tvbox_token,
    show_adult_content, created_at, username)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_FILL = """
UPDATE users SET password_hash = %s, role = %s, banned = %s, tags = %s, enabled_apis = %s,
    oidc_sub = %s, tvbox_token = %s, show_adult_content = %s, created_at = %s
WHERE username = %s
"""
_LOGINS = """
INSERT INTO user_login_stats
    (username, login_count, first_login_at, last_login_at, last_login_date)
VALUES (%s, %s, %s, %s, %s)
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of users, in the order of the statements."""

    password_hash: str = field(repr=False)
    role: Role
    banned: bool
    tags: str | None
    enabled_apis: str | None
    oidc_sub: str | None
    tvbox_token: str | None = field(repr=False)
    show_adult_content: bool
    created_at: str  # a DATETIME(3)

    @property
    def is_met(self) -> bool:
        """Was it made when the user was met, by a play or as the owner? Only then are both NULL."""
        return self.tags is None and self.enabled_apis is None


async def bring_user(page: Page, person: Person, password_hash: str) -> bool:
    """Create *person*, or fill in what the row of one who was only met lacks; has it a password?

    A row with a password stays as it is.
    """
    found = await page.row(_FIND, (person.name,))
    here = None if found is None else _row_of(found)
    if here is not None and here.password_hash != NO_PASSWORD:
        page.books.settle("users", "kept")
        return True
    await _lift(page, person.name)
    repairs = dict(person.repairs)
    there = await _wanted(page, person, password_hash, repairs)
    row = there if here is None else _filled(here, there)
    if row == here:
        page.books.settle("users", "kept")
    else:
        page.books.settle("users", "created" if here is None else "filled")
        await page.write(_INSERT if here is None else _FILL, (*astuple(row), person.name))
        for reason, detail in repairs.items():
            page.books.repair("users", f"user {person.name}", reason, detail)
    if row.banned and not page.task.dry:
        await barred.bar(page.cursor, person.name, "banned")
    if page.task.dry:
        page.task.unwritten.users.add(person.name)
    return row.password_hash != NO_PASSWORD


async def _wanted(page: Page, person: Person, password_hash: str, repairs: dict[str, str]) -> _Row:
    """The row of *person* as the site has it; what cannot be as it is there goes to *repairs*."""
    profile, is_owner = person.profile, person.name == page.task.owner
    role: Role = "owner" if is_owner else profile.role or "user"
    if role == "owner" and not is_owner:
        role = "admin"
        repairs["owner_made_admin"] = f"the owner is {page.task.owner}, so this one is an admin"
    if is_owner and profile.banned:
        repairs["owner_not_banned"] = "nobody can ban the owner"
    return _Row(
        password_hash=password_hash,
        role=role,
        banned=bool(profile.banned) and not is_owner,
        tags=_json(profile.tags),
        enabled_apis=_json(profile.enabled_apis),
        oidc_sub=await _free_subject(page, person, repairs),
        tvbox_token=profile.tvbox_token,
        show_adult_content=bool(profile.show_adult_content),
        created_at=datetime_text(
            page.task.now_ms if profile.created_at is None else profile.created_at
        ),
    )


def _filled(here: _Row, there: _Row) -> _Row:
    """*here* with what only the site knows; what was decided here stays."""
    return replace(
        there if here.is_met else here,
        password_hash=there.password_hash,
        role=there.role if here.is_met and here.role == "user" else here.role,
        banned=here.banned or (there.banned and here.is_met),
        oidc_sub=here.oidc_sub or there.oidc_sub,
        tvbox_token=here.tvbox_token or there.tvbox_token,
    )


async def _free_subject(page: Page, person: Person, repairs: dict[str, str]) -> str | None:
    """The user's identity at a login provider, unless it is somebody else's here."""
    subject = person.profile.oidc_sub
    if subject is None:
        return None
    query = "SELECT username FROM users WHERE oidc_sub = %s AND username <> %s"
    if await page.row(query, (subject, person.name)) is None:
        return subject
    repairs["identity_taken"] = "the identity of a login provider is another user's here"
    return None


async def _lift(page: Page, username: str) -> None:
    """Forget that a user of this name was deleted, who comes back now."""
    if page.task.dry or not page.task.restore:
        return
    if await barred.reason_of(page.cursor, username) == "deleted":
        await barred.lift(page.cursor, username)


async def bring_logins(page: Page, username: str, logins: LoginStats | None) -> None:
    """How often *username* came, unless that is counted here already."""
    if logins is None:
        return
    if await page.row("SELECT 1 FROM user_login_stats WHERE username = %s", (username,)):
        page.books.settle("login_stats", "kept")
        return
    last_ms = logins.last_login_date or logins.last_login_time
    day = page.task.day_of(last_ms) if last_ms else None
    times = (_time(logins.first_login_time), _time(logins.last_login_time), day)
    await page.write(_LOGINS, (username, logins.login_count, *times))
    page.books.settle("login_stats", "created")


def _time(ms: int | None) -> str | None:
    return datetime_text(ms) if ms else None  # 0 is how the site says never


def _json(names: Sequence[str] | None) -> str:
    return orjson.dumps(list(names or ())).decode()


def _row_of(row: Sequence[Any]) -> _Row:
    password_hash, role, banned, tags, apis, subject, token, adult, created_at = row
    return _Row(
        *(password_hash, role, bool(banned), tags, apis, subject, token, bool(adult)), created_at
    )
