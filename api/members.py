"""
What a visitor may do: as the database says, never as a cookie does (facts section 5, Check A).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from api.asgi import BODY_BYTES_MAX
from api.bodies import decoded, read_bytes
from api.errors import Denied
from api.gate import Visitor
from api.site import AnyRequest, Site, site_of
from shared.accounts import users
from shared.accounts.users import Role, StoredUser
from shared.errors import NotFound
from shared.mysql import Cursor

T = TypeVar("T")
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Member:
    """A visitor whom the database knows, and their role there."""

    id: int
    username: str
    role: Role
    #: How this route tells who may not: it differs.
    denied_status: int = 401

    @property
    def scope(self) -> str:
        """Whose Idempotency-Keys theirs are. By number: the name may be somebody else's later."""
        return f"user {self.id}"

    @property
    def is_owner(self) -> bool:
        return self.role == "owner"


async def member_of(request: AnyRequest) -> Member:
    """Who asks. Raises `Unauthorized`, `Denied` for an unknown or banned user, `StoreDown`."""
    site = site_of(request)
    visitor = await visitor_of(request)
    user = await site.read(lambda cursor: _known(cursor, site, visitor.username))
    if user is None:
        raise Denied(users.UNKNOWN)
    if user.banned:
        raise Denied(users.BANNED)
    return Member(user.id, user.username, role_of(site, user))


async def admitted(
    request: AnyRequest,
    who: Callable[[AnyRequest], Awaitable[W]],
    kind: type[T],
    *,
    limit: int = BODY_BYTES_MAX,
) -> tuple[W, T, bytes]:
    """(who asks, what for as *kind*, the body).

    The body is read before anybody is asked who they are: a client may send it as slowly as it
    likes, and by its end be banned, deleted or logged out. Raises `TooLarge`, what *who* does,
    or `InvalidField`, in this order.
    """
    body = await read_bytes(request, limit=limit)
    return await who(request), decoded(body, kind), body


async def visitor_of(request: AnyRequest) -> Visitor:
    """Who asks, by what the front knows: without MySQL. Raises what `Gate.visitor` does."""
    return await site_of(request).gate.visitor(request.scope["headers"])


async def check_still(cursor: Cursor, site: Site, member: Member) -> None:
    """Raise `Denied` unless *member* is who they were: they may have waited for others."""
    user = await users.find(cursor, member.username)
    if user is None or user.id != member.id:
        raise Denied(users.UNKNOWN)
    if user.banned:
        raise Denied(users.BANNED)
    if role_of(site, user) != member.role:
        raise Denied(status=member.denied_status)


async def scope_of(request: AnyRequest, username: str) -> str:
    """`Member.scope` of a visitor; looked up only where there is a key. Raises `NotFound`."""
    if "idempotency-key" not in request.headers:
        return ""
    user_id = await site_of(request).read(lambda cursor: users.id_of(cursor, username))
    if user_id is None:
        raise NotFound(users.UNKNOWN)
    return f"user {user_id}"


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
    return replace(member, denied_status=status)


async def owner_of(request: AnyRequest) -> Visitor:
    """The owner, by name: without MySQL too. Raises `Unauthorized` or `Denied`."""
    visitor = await visitor_of(request)
    if visitor.username != site_of(request).settings.username:
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
