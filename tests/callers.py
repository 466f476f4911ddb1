"""Callers of the account routes: each with cookies, an address and a login of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from ops.audit import audit
from shared.accounts import admin_config, card_keys, points, users
from shared.accounts.card_keys import KeyType
from shared.accounts.points import Cause
from shared.accounts.users import NewUser, Role
from shared.mysql import Cursor, Pool, reading, transaction
from shared.settings import Settings
from shared.times import DAY_MS, now_ms
from tests.fronts import Front, front

#: What everybody here has for a password.
PASSWORD = "correct horse"
#: The hash of a password that nobody can find.
NOBODY_KNOWS = "0" * 64
HOME = "192.0.2.1"
LONG_AGO_MS = 1_700_000_000_000

Told = tuple[int, Any]

#: Every table that says something of accounts; `operations` only says what was done.
_TABLES = (
    *("users", "user_points", "points_records", "card_keys", "user_card_keys", "memberships"),
    *("invitations", "ip_reward_records", "invitation_configs", "admin_configs", "barred_users"),
)


class Caller:
    """A client as its front sees one; it keeps cookies as a browser does.

    *headers* come with each of its requests. The methods return (status, JSON or text).
    """

    def __init__(self, site: Front, *, address: str | None = HOME, **headers: str) -> None:
        peer: Any = None if address is None else (address, 40_000)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=site.app, client=peer),
            base_url="http://front.test",
            headers=headers,
            trust_env=False,
        )

    async def get(self, path: str, **query: Any) -> Told:
        return told(await self.client.get(path, params=query))

    async def post(self, path: str, body: Any = None, **headers: str) -> Told:
        return await self.send("POST", path, body, **headers)

    async def put(self, path: str, body: Any = None, **headers: str) -> Told:
        return await self.send("PUT", path, body, **headers)

    async def delete(self, path: str, **query: Any) -> Told:
        return told(await self.client.delete(path, params=query))

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Told:
        """*body* as JSON, or as it is where it is bytes."""
        return told(await self.answer(method, path, body, **headers))

    async def answer(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """The same with all of the answer; `a_header` is sent as a-header."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            return await self.client.request(method, path, headers=given)
        if isinstance(body, bytes):
            return await self.client.request(method, path, headers=given, content=body)
        return await self.client.request(method, path, headers=given, json=body)

    async def log_in(self, name: str, password: str = PASSWORD, **fields: Any) -> Told:
        return await self.post("/api/login", {"username": name, "password": password, **fields})

    async def register(self, name: str, password: str = PASSWORD, **fields: Any) -> Told:
        body = {"username": name, "password": password, "confirmPassword": password}
        return await self.post("/api/register", {**body, **fields})

    async def is_in(self) -> bool:
        """Is this somebody's login?"""
        status, _ = await self.get("/api/points/balance")
        return status == 200


def told(response: httpx.Response) -> Told:
    """(status, what the answer says)."""
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return response.status_code, response.json() if is_json else response.text


def error_of(answer: Told) -> Told:
    """(status, the text for the user); the whole body where that is no error."""
    status, body = answer
    return status, body.get("error", body) if isinstance(body, dict) else body


def signed(site: Front, name: str, role: str = "user", **more: Any) -> Caller:
    """A caller with LunaTV's cookie of *name*."""
    return Caller(site, **site.cookie(name, role), **more)


@dataclass(frozen=True, slots=True)
class People:
    """A front and who calls it: ann and bob, the admins adm and ada, the owner, and a stranger.

    All but the stranger have LunaTV's cookie; nobody of them knows a password.
    """

    front: Front
    ann: Caller
    bob: Caller
    adm: Caller
    ada: Caller
    owner: Caller
    stranger: Caller

    @property
    def pool(self) -> Pool:
        return self.front.site.pool

    def known_as(self, name: str) -> Caller:
        caller: Caller = getattr(self, name)
        return caller


@asynccontextmanager
async def people(settings: Settings, **changes: Any) -> AsyncIterator[People]:
    """A started front with *changes* of *settings*; afterwards the audit finds nothing."""
    async with front(replace(settings, **changes)) as site:
        pool = site.site.pool
        await enrol(pool, "ann", "bob")
        await enrol(pool, "adm", "ada", role="admin")
        names = ("ann", "bob", "adm", "ada", settings.username)
        ann, bob, adm, ada, owner = (signed(site, name) for name in names)
        yield People(site, ann, bob, adm, ada, owner, Caller(site))
        assert [] == await audit(pool, settings.username)


@asynccontextmanager
async def without_signed_cookies(site: People) -> AsyncIterator[Front]:
    """Another front of the same site, which takes no cookie of LunaTV's."""
    async with front(replace(site.front.settings, accept_lunatv_cookie=False)) as other:
        yield other


async def enrol(
    pool: Pool, *names: str, role: Role = "user", password_hash: str = NOBODY_KNOWS
) -> None:
    """Users as registration makes them, with a password in whatever form."""
    async with transaction(pool) as cursor:
        for name in names:
            user = NewUser(username=name, password_hash=password_hash, role=role)
            await users.insert(cursor, user, LONG_AGO_MS)
            await points.open_account(cursor, name)


async def give_points(pool: Pool, name: str, amount: int) -> None:
    async with transaction(pool) as cursor:
        await points.earn(cursor, name, amount, Cause("test"), now_ms())


async def new_keys(pool: Pool, count: int = 1, kind: KeyType = "week", age_days: int = 0) -> Any:
    """The texts of so many new card keys."""
    keys = card_keys.new_keys(kind, count, "admin_created", now_ms() - age_days * DAY_MS)
    async with transaction(pool) as cursor:
        await card_keys.insert(cursor, keys)
    return [key.key for key in keys]


async def configure(pool: Pool, **sections: Any) -> None:
    """Put *sections* into the configuration document."""
    async with transaction(pool) as cursor:
        await admin_config.change(cursor, lambda config: config.update(sections))


async def query(pool: Pool, sql: str, *values: Any) -> list[Any]:
    """The rows of one statement."""
    async with reading(pool) as cursor:
        await cursor.execute(sql, values)
        return list(await cursor.fetchall() or ())


async def everything(pool: Pool) -> dict[str, list[Any]]:
    """All rows of accounts: equal before and after where nothing was changed."""
    async with reading(pool) as cursor:
        return {table: await _rows(cursor, table) for table in _TABLES}


async def _rows(cursor: Cursor, table: str) -> list[Any]:
    await cursor.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
    return list(await cursor.fetchall())
