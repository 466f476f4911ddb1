"""
What a visitor may do: as the database says, never as a cookie does (facts section 5, Check A).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from api.errors import Denied
from api.gate import Visitor
from api.site import AnyRequest, Site, site_of
from shared.accounts import users
from shared.accounts.users import Role, StoredUser
from shared.connections import Cursor
from shared.errors import NotFound

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """A visitor whom the database knows, and their role there."""

    username: str
    role: Role

    @property
    def is_owner(self) -> bool:
        return self.role == "owner"


async def member_of(request: AnyRequest) -> Member:
    """Who asks. Raises `Unauthorized`, `Denied` for an unknown or banned user, `StoreDown`."""
    site = site_of(request)
    visitor = await site.gate.visitor(request.scope["headers"])
    user = await site.read(lambda cursor: _known(cursor, site, visitor.username))
    if user is None:
        raise Denied(users.UNKNOWN)
    if user.banned:
        raise Denied(users.BANNED)
    return Member(user.username, role_of(site, user))


async def for_known(request: AnyRequest, attempt: Callable[[], Awaitable[T]]) -> T:
    """What *attempt* returns, which looks for no user before it meets that there is none.

    Then who asks is told so; the owner has a row from now on, and it is tried again. Raises
    what `member_of` and *attempt* do.
    """
    try:
        return await attempt()
    except NotFound:
        await member_of(request)
        return await attempt()


async def admin_of(request: AnyRequest, *, status: int = 401) -> Member:
    """The same, who is an admin or the owner; others get *status*, which differs by route."""
    member = await member_of(request)
    if member.role == "user":
        raise Denied(status=status)
    return member


async def owner_of(request: AnyRequest) -> Visitor:
    """The owner, by name: without MySQL too. Raises `Unauthorized` or `Denied`."""
    site = site_of(request)
    visitor = await site.gate.visitor(request.scope["headers"])
    if visitor.username != site.settings.username:
        raise Denied
    return visitor


def role_of(site: Site, user: StoredUser) -> Role:
    """The environment alone makes an owner."""
    if user.username == site.settings.username:
        return "owner"
    return "user" if user.role == "owner" else user.role


async def _known(cursor: Cursor, site: Site, username: str) -> StoredUser | None:
    user = await users.find(cursor, username)
    if user is None and username == site.settings.username:
        return await users.ensure_owner(cursor, username)
    return user
