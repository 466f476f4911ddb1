"""Every kind of change to accounts: the request, and what the tables say once it was made."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import httpx

from shared.accounts import admin_config, card_keys, memberships, points, registration, users
from shared.accounts.points import Cause
from shared.accounts.users import NewUser
from shared.cookies import sign
from shared.mysql import Pool, transaction
from shared.settings import Settings
from shared.times import now_ms
from tests.plays import rows

_NUMBERS = itertools.count(1)
POINTS = 1_000

#: Everybody registers from an address of their own.
_FIRST_ADDRESS = IPv4Address("10.0.0.0")

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Change:
    """One change that is about to be made: *state* adds up, so twice is not once."""

    kind: str
    method: str
    path: str
    body: Any
    headers: dict[str, str]
    #: What the tables say, before and after.
    query: str
    done: tuple[int, ...]
    before: tuple[int, ...]
    #: What the answer tells, as rows, and the same in the tables.
    told: Callable[[Any], Rows] = lambda body: [(body["ok"],)]
    told_query: str = "SELECT TRUE"

    async def state(self, pool: Pool) -> tuple[int, ...]:
        [row] = await rows(pool, self.query)
        return tuple(int(value) for value in row)

    async def stored(self, pool: Pool) -> Rows:
        """What a right answer tells."""
        return sorted(await rows(pool, self.told_query))

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(self.method, self.path, json=self.body, headers=self.headers)


Prepare = Callable[[Pool, Settings], Awaitable[Change]]


async def _user(pool: Pool, balance: int = 0) -> str:
    """A new user, who was given *balance* points."""
    name = f"user{next(_NUMBERS)}"
    async with transaction(pool) as cursor:
        new = NewUser(username=name, password_hash="0" * 64)
        await registration.create_user(cursor, new, now_ms())
        if balance:
            await points.adjust(cursor, name, balance, Cause("gift"), now_ms())
    return name


async def _key(pool: Pool) -> card_keys.CardKey:
    [key] = card_keys.new_keys("month", 1, "admin_created", now_ms())
    async with transaction(pool) as cursor:
        await card_keys.insert(cursor, [key])
    return key


def _headers(settings: Settings, user: str | None) -> dict[str, str]:
    number = next(_NUMBERS)
    headers = {
        "idempotency-key": f"key-{number}",
        "x-forwarded-for": str(_FIRST_ADDRESS + number),
    }
    if user is not None:
        headers["cookie"] = f"user_auth={sign(user, 'user', settings.password, 0)}"
    return headers


def _membership(body: Any) -> Rows:
    told = body["cardKeyInfo"]
    return [(told["boundKey"], told["expiresAt"])]


def _membership_query(name: str) -> str:
    return (
        "SELECT key_hash, CAST(ROUND(UNIX_TIMESTAMP(expires_at) * 1000) AS SIGNED)"
        f" FROM memberships WHERE username = '{name}'"
    )


async def register(pool: Pool, settings: Settings) -> Change:
    """A user, a membership by a key, and a reward for who invited: all or nothing."""
    inviter, key = await _user(pool), await _key(pool)
    [[code]] = await rows(
        pool, f"SELECT invitation_code FROM user_points WHERE username = '{inviter}'"
    )
    name = f"user{next(_NUMBERS)}"
    body = {
        "username": name,
        "password": "password",
        "confirmPassword": "password",
        "cardKey": key.key,
        "invitationCode": code,
    }
    return Change(
        "register",
        "POST",
        "/api/register",
        body,
        _headers(settings, None),
        "SELECT"
        f" (SELECT COUNT(*) FROM users WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM user_points WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM memberships WHERE username = '{name}'),"
        f" (SELECT status = 'used' FROM card_keys WHERE key_hash = '{key.key_hash}'),"
        f" (SELECT COUNT(*) FROM invitations WHERE inviter = '{inviter}' AND rewarded),"
        f" (SELECT balance FROM user_points WHERE username = '{inviter}')",
        done=(1, 1, 1, 1, 1, 100),
        before=(0, 0, 0, 0, 0, 0),
        told=_membership,
        told_query=_membership_query(name),
    )


async def bind(pool: Pool, settings: Settings) -> Change:
    """A second key, whose days are added: twice would be twice as many."""
    name, first, second = await _user(pool), await _key(pool), await _key(pool)
    async with transaction(pool) as cursor:
        await memberships.bind(cursor, name, first.key, now_ms())
    return Change(
        "bind",
        "POST",
        "/api/user/cardkey",
        {"cardKey": second.key},
        _headers(settings, name),
        "SELECT"
        f" (SELECT status = 'used' FROM card_keys WHERE key_hash = '{second.key_hash}'),"
        f" (SELECT COUNT(*) FROM user_card_keys WHERE username = '{name}'),"
        " (SELECT TIMESTAMPDIFF(HOUR, UTC_TIMESTAMP(3), expires_at) DIV 24 FROM memberships"
        f" WHERE username = '{name}')",
        done=(1, 2, 59),
        before=(0, 1, 29),
        told=_membership,
        told_query=_membership_query(name),
    )


async def redeem(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool, POINTS)
    return Change(
        "redeem",
        "POST",
        "/api/redeem/cardkey",
        {},
        _headers(settings, name),
        "SELECT"
        f" (SELECT balance FROM user_points WHERE username = '{name}'),"
        f" (SELECT total_redeemed FROM user_points WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM points_records WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM user_card_keys WHERE username = '{name}')",
        done=(POINTS - 300, 300, 2, 1),
        before=(POINTS, 0, 1, 0),
        told=lambda body: [(card_keys.hash_of(body["cardKey"]),)],
        told_query=f"SELECT key_hash FROM user_card_keys WHERE username = '{name}'",
    )


async def adjust(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool, POINTS)
    return Change(
        "adjust",
        "POST",
        "/api/admin/points/adjust",
        {"username": name, "type": "add", "amount": 7, "reason": "because"},
        _headers(settings, settings.username),
        "SELECT"
        f" (SELECT balance FROM user_points WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM points_records WHERE username = '{name}')",
        done=(POINTS + 7, 2),
        before=(POINTS, 1),
    )


def _managed(
    kind: str,
    settings: Settings,
    body: dict[str, str],
    query: str,
    *,
    before: tuple[int, ...],
    done: tuple[int, ...],
) -> Change:
    """What the owner does to the user who is the target in *body*."""
    headers = _headers(settings, settings.username)
    return Change(kind, "POST", "/api/admin/user", body, headers, query, done, before)


def _standing_of(name: str) -> str:
    return (
        f"SELECT (SELECT banned FROM users WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM barred_users WHERE username = '{name}')"
    )


async def ban(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool)
    body = {"action": "ban", "targetUsername": name}
    return _managed("ban", settings, body, _standing_of(name), before=(0, 0), done=(1, 1))


async def unban(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool)
    async with transaction(pool) as cursor:
        await users.set_banned(cursor, name, banned=True)
    body = {"action": "unban", "targetUsername": name}
    return _managed("unban", settings, body, _standing_of(name), before=(1, 1), done=(0, 0))


async def new_password(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool)
    body = {"action": "changePassword", "targetUsername": name, "targetPassword": "password"}
    query = f"SELECT password_hash <> REPEAT('0', 64) FROM users WHERE username = '{name}'"
    return _managed("new password", settings, body, query, before=(0,), done=(1,))


async def delete_user(pool: Pool, settings: Settings) -> Change:
    name = await _user(pool, POINTS)
    body = {"action": "deleteUser", "targetUsername": name}
    query = (
        f"SELECT (SELECT COUNT(*) FROM users WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM points_records WHERE username = '{name}'),"
        f" (SELECT COUNT(*) FROM barred_users WHERE username = '{name}')"
    )
    return _managed("delete", settings, body, query, before=(1, 1, 0), done=(0, 0, 1))


async def make_keys(pool: Pool, settings: Settings) -> Change:
    made = "card_keys WHERE source = 'admin_created' AND key_type = 'week'"
    [[count]] = await rows(pool, f"SELECT COUNT(*) FROM {made}")
    return Change(
        "make keys",
        "POST",
        "/api/admin/cardkey",
        {"action": "create", "type": "week", "count": 3},
        _headers(settings, settings.username),
        f"SELECT COUNT(*) FROM {made}",
        done=(count + 3,),
        before=(count,),
        told=lambda body: sorted((card_keys.hash_of(key),) for key in body["result"]["keys"]),
        told_query=f"SELECT key_hash FROM {made} ORDER BY id DESC LIMIT 3",
    )


async def configure(pool: Pool, settings: Settings) -> Change:
    async with transaction(pool) as cursor:
        version = (await admin_config.read(cursor)).version
    return Change(
        "configure",
        "PUT",
        "/api/admin/config",
        {"config": {"SiteConfig": {"SiteName": f"site {version}"}}, "version": version},
        _headers(settings, settings.username),
        "SELECT version FROM admin_configs",
        done=(version + 1,),
        before=(version,),
        told=lambda body: [(body["version"],)],
        told_query="SELECT version FROM admin_configs",
    )


#: These end sessions in the middle of their transaction, and undo it where Redis is away.
END_SESSIONS = ("unban", "new password")

CHANGES: dict[str, Prepare] = {
    "register": register,
    "bind": bind,
    "redeem": redeem,
    "adjust": adjust,
    "ban": ban,
    "unban": unban,
    "new password": new_password,
    "delete": delete_user,
    "make keys": make_keys,
    "configure": configure,
}
