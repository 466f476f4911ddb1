"""A change that a request asks for, made once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from api.accounts.replies import Ok
from api.bodies import operation_of
from api.members import Member, check_still
from api.site import AnyRequest, site_of
from shared.mysql import Cursor

T = TypeVar("T")


async def changed(
    request: AnyRequest,
    member: Member,
    body: bytes,
    work: Callable[[Cursor], Awaitable[T]],
    result: type[T],
    *locks: str,
) -> T:
    """What *work* returns, of type *result*, done once as *member* asked for it in *body*.

    Raises what `operation_of` and `Ledger.perform` do, and `Denied` where the member may not
    any more.
    """
    site = site_of(request)

    async def checked(cursor: Cursor) -> T:
        await check_still(cursor, site, member)
        return await work(cursor)

    operation = operation_of(request, member.scope, body)
    return await site.ledger.perform(operation, locks, checked, result)


async def made(
    request: AnyRequest,
    member: Member,
    body: bytes,
    work: Callable[[Cursor], Awaitable[object]],
    *locks: str,
) -> Ok:
    """The same of *work* whose result nobody asks for."""

    async def done(cursor: Cursor) -> Ok:
        await work(cursor)
        return Ok()

    return await changed(request, member, body, done, Ok, *locks)
