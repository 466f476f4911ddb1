"""A user's own points and invitations."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post

from api.accounts.replies import reply
from api.bodies import PAGE_SIZE, PAGE_SIZE_MAX, operation_of, page_of
from api.described import Described, pages
from api.members import admitted, for_known, member_of, scope_of, visitor_of
from api.site import AnyRequest, site_of
from shared.accounts import invitations, points, redemption
from shared.accounts.card_keys import CardKey
from shared.accounts.invitations import InvitationConfig, InvitationInfo
from shared.accounts.ledger import user_lock
from shared.accounts.points import PointsRecord
from shared.errors import Conflict, Refused
from shared.mysql import Cursor
from shared.times import now_ms


class Balance(msgspec.Struct):
    balance: int


class History(msgspec.Struct, rename="camel"):
    """One page of changes, newest first; *total* are all."""

    history: list[PointsRecord]
    page: int
    page_size: int
    total: int


class Redeemed(msgspec.Struct, rename="camel", omit_defaults=True):
    """The key's text, or why there is none."""

    success: bool
    card_key: str | None = None
    error: str | None = None


@get("/api/points/balance", status_code=200)
async def get_balance(request: AnyRequest) -> Response[bytes]:
    """One's own points."""
    member = await member_of(request)
    account = await site_of(request).read(
        lambda cursor: points.read_account(cursor, member.username)
    )
    return reply(Balance(account.balance if account else 0))


@get("/api/points/history", status_code=200)
async def get_history(request: AnyRequest) -> Response[bytes]:
    """What changed one's own points."""
    member = await member_of(request)
    return await history_of(request, member.username)


async def history_of(request: AnyRequest, username: str) -> Response[bytes]:
    """The page of *username* that *request* asks for."""
    page, size = page_of(request)
    records, total = await site_of(request).read(
        lambda cursor: points.history(cursor, username, page, size)
    )
    return reply(History(records, page, size, total))


@post("/api/redeem/cardkey", status_code=200)
async def post_redeem(request: AnyRequest) -> Response[bytes]:
    """Redeem points for a card key; too few points are told in the body of a 200."""
    site = site_of(request)
    visitor, _, body = await admitted(request, visitor_of, dict[str, Any])
    config, now = await site.invitation_config.get(), now_ms()

    async def redeem(cursor: Cursor) -> CardKey:
        site.gate.check(visitor.username)  # they may have waited for a lock, and be banned now
        return await redemption.redeem(cursor, visitor.username, config, now)

    async def attempt() -> CardKey:
        operation = operation_of(request, await scope_of(request, visitor.username), body)
        return await site.ledger.perform(operation, [user_lock(visitor.username)], redeem, CardKey)

    try:
        key = await for_known(request, attempt)
    except Refused as refusal:
        if isinstance(refusal, Conflict):
            raise
        return reply(Redeemed(success=False, error=str(refusal)))
    return reply(Redeemed(success=True, card_key=key.key))


@get("/api/invitation/info", status_code=200)
async def get_invitation_info(request: AnyRequest) -> Response[bytes]:
    """One's own invitation code, and what it brought."""
    member = await member_of(request)
    return reply(
        await site_of(request).read(lambda cursor: invitations.info(cursor, member.username))
    )


@get("/api/invitation-config", status_code=200)
async def get_invitation_config(request: AnyRequest) -> Response[bytes]:
    """What an invitation gives, and a card key costs."""
    await member_of(request)
    return reply(await site_of(request).read(invitations.read_config))


ROUTES = (get_balance, get_history, post_redeem, get_invitation_info, get_invitation_config)
_TAG = "points and invitations"
DESCRIBED = {
    ("/api/points/balance", "get"): Described(_TAG, Balance, errors=(503,), login=True),
    ("/api/points/history", "get"): Described(
        _TAG, History, errors=(400, 503), login=True, queries=pages(PAGE_SIZE, PAGE_SIZE_MAX)
    ),
    ("/api/redeem/cardkey", "post"): Described(
        _TAG, Redeemed, errors=(400, 409, 413, 503), login=True, once=True
    ),
    ("/api/invitation/info", "get"): Described(_TAG, InvitationInfo, errors=(503,), login=True),
    ("/api/invitation-config", "get"): Described(_TAG, InvitationConfig, errors=(503,), login=True),
}
