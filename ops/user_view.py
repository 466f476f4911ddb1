"""Users as people and programs read them; what a password's hash or a token is, is not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ops.letter_view import printable
from shared.accounts import barred, card_keys, memberships, points, users
from shared.accounts.card_keys import HeldKey
from shared.accounts.memberships import Membership
from shared.accounts.points import Account
from shared.accounts.users import NO_PASSWORD, StoredUser, User
from shared.errors import NotFound
from shared.mysql import Cursor, reading
from shared.settings import Settings
from shared.times import iso, now_ms
from worker.deps import Deps


@dataclass(frozen=True, slots=True)
class Portrait:
    """All that is known of one user."""

    user: StoredUser
    account: Account | None
    membership: Membership | None
    held: Sequence[HeldKey]


async def look_up(deps: Deps, username: str) -> Portrait:
    """All that MySQL knows of *username*. Raises `NotFound`."""
    async with reading(deps.pool) as cursor:
        return Portrait(
            await known(cursor, deps.settings, username),
            await points.read_account(cursor, username),
            await memberships.read(cursor, username, now_ms()),
            await card_keys.held_by(cursor, username),
        )


async def known(cursor: Cursor, settings: Settings, username: str) -> StoredUser:
    """The user of this name. Raises `NotFound`, which says why there is none."""
    user = await users.find(cursor, username)
    if user is not None:
        return user
    if await barred.reason_of(cursor, username) == "deleted":
        raise NotFound("the user was deleted")
    if username == settings.username:
        raise NotFound("the site's owner has not been here yet: their first login makes the user")
    raise NotFound(users.UNKNOWN)


def table(found: Sequence[User]) -> Table:
    """One row each; a name is never cut, it is there to be copied."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("user", overflow="fold")
    table.add_column("role", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("since (UTC)", no_wrap=True)
    table.add_column("tags", overflow="fold")
    for user in found:
        table.add_row(
            Text(printable(user.username)),
            user.role,
            Text("banned", "red") if user.banned else "",
            _day(user.created_at),
            Text(printable(", ".join(user.tags))),
        )
    return table


def portrait(found: Portrait) -> str:
    """Everything in lines."""
    user, account, membership = found.user, found.account, found.membership
    lines = {
        "user": user.username,
        "role": user.role + (", banned" if user.banned else ""),
        "since": f"{iso(user.created_at)}",
        "logs in by": ", ".join(_logins(user)) or _without_login(user),
    }
    if user.tags:
        lines["tags"] = ", ".join(user.tags)
    if account is None:
        lines["points"] = "no account yet"
    else:
        lines["points"] = f"{account.balance:,}"
        lines["invites by"] = account.invitation_code or "no code yet"
    if membership is None:
        lines["membership"] = "none"
    else:
        over = ", over" if membership.is_expired else ""
        lines["membership"] = f"until {iso(membership.expires_at)}{over}"
    lines["card keys"] = _counted(found.held)
    return "\n".join(f"{name + ':':<12}{printable(value)}" for name, value in lines.items())


def _counted(held: Sequence[HeldKey]) -> str:
    counts = {status: sum(key.status == status for key in held) for status in card_keys.STATUSES}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"


def _logins(user: StoredUser) -> list[str]:
    logins = [] if user.password_hash == NO_PASSWORD else ["password"]
    return logins if user.oidc_sub is None else [*logins, f"login provider ({user.oidc_sub})"]


def _without_login(user: StoredUser) -> str:
    return "PASSWORD of the environment" if user.role == "owner" else "LunaTV's cookie alone"


def as_object(user: User) -> dict[str, Any]:
    """The user for JSON."""
    return {
        "username": user.username,
        "role": user.role,
        "banned": user.banned,
        "created_at": iso(user.created_at),
        "tags": user.tags,
        "enabled_apis": user.enabled_apis,
        "oidc_sub": user.oidc_sub,
        "has_tvbox_token": user.tvbox_token is not None,
        "show_adult_content": user.show_adult_content,
    }


def portrait_object(found: Portrait) -> dict[str, Any]:
    """The same of everything."""
    account, membership = found.account, found.membership
    return {
        **as_object(found.user),
        "has_password": found.user.password_hash != NO_PASSWORD,
        "points": None if account is None else account_object(account),
        "membership": None
        if membership is None
        else {
            "key_hash": membership.bound_key,
            "bound_at": iso(membership.bound_at),
            "expires_at": iso(membership.expires_at),
            "expired": membership.is_expired,
        },
        "card_keys": [
            {
                "id": key.id,
                "key": key.plain_key or None,
                "key_hash": key.key_hash,
                "type": key.type,
                "status": key.status,
                "source": key.source,
                "expires_at": iso(key.expires_at),
                "used_by": key.used_by,
            }
            for key in found.held
        ],
    }


def account_object(account: Account) -> dict[str, Any]:
    """A points account for JSON."""
    return {
        "username": account.username,
        "balance": account.balance,
        "total_earned": account.total_earned,
        "total_redeemed": account.total_redeemed,
        "invitation_code": account.invitation_code or None,
        "updated_at": iso(account.updated_at),
    }


def _day(ms: int) -> str:
    return iso(ms)[:10]
