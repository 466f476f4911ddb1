"""A change that a request asks for, made once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from api.accounts.replies import Ok
from api.bodies import operation_of
from api.site import AnyRequest, site_of
from shared.connections import Cursor


async def made(
    request: AnyRequest,
    who: str,
    body: bytes,
    work: Callable[[Cursor], Awaitable[object]],
    *locks: str,
) -> Ok:
    """Have *work* done, whose result nobody asks for, as *who* asked it in *body*.

    Raises what `operation_of` and `Ledger.perform` do.
    """

    async def done(cursor: Cursor) -> Ok:
        await work(cursor)
        return Ok()

    operation = await operation_of(request, who, body)
    return await site_of(request).ledger.perform(operation, locks, done, Ok)
