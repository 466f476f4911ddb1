"""Points and invitations as admins see and change them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from litestar import Response, get, post, put

from api.accounts.admin_card_keys import key_type_of
from api.accounts.changes import changed, made
from api.accounts.points import History, history_of
from api.accounts.replies import Ok, reply
from api.bodies import (
    PAGE_SIZE,
    PAGE_SIZE_MAX,
    Needed,
    check_username,
    one_of,
    page_of,
    rule,
)
from api.described import Described, Query, pages
from api.members import Member, admin_of, admitted
from api.site import AnyRequest, site_of
from shared.accounts import invitations, points
from shared.accounts.card_keys import KEY_TYPES
from shared.accounts.invitations import InvitationConfig
from shared.accounts.ledger import user_lock
from shared.accounts.points import AMOUNT_MAX, REASON_MAX, Account, Cause
from shared.errors import InvalidField
from shared.events import USER_MAX
from shared.mysql import Cursor
from shared.times import now_ms

_FORBIDDEN = 403
#: Real front ends show all accounts on one page.
_ACCOUNTS_MAX = 10_000
_NO_USER = "缺少用户名"
_NO_AMOUNT = "积分数量必须是正整数"
_SIGNS = {"add": 1, "deduct": -1}

Amount = Annotated[int, rule(minimum=1, maximum=AMOUNT_MAX)]


class AdjustRequest(msgspec.Struct):
    """*amount* points, above 0, are given (add) or taken (deduct)."""

    WORDS: ClassVar[dict[str, str]] = {"amount": _NO_AMOUNT}

    type: Needed[Annotated[str, one_of(_SIGNS)]] = ""
    amount: Needed[Amount] = 0
    username: Needed[Annotated[str, rule(minLength=1, maxLength=USER_MAX)]] = ""
    reason: Needed[Annotated[str, rule(pattern=r"\S", maxLength=REASON_MAX, examples=["why"])]] = ""


class InvitationConfigRequest(msgspec.Struct, rename="camel"):
    WORDS: ClassVar[dict[str, str]] = {
        "rewardPoints": invitations.BAD_REWARD,
        "redeemThreshold": invitations.BAD_THRESHOLD,
    }

    reward_points: Needed[Amount] = 0
    redeem_threshold: Needed[Amount] = 0
    card_key_type: Needed[Annotated[str, one_of(KEY_TYPES)]] = ""


class InvitationConfigReply(msgspec.Struct):
    config: InvitationConfig
    ok: bool = True


class Accounts(msgspec.Struct, rename="camel"):
    """One page of accounts by user name; *total* are all."""

    users: list[Account]
    page: int
    page_size: int
    total: int


async def _admin_of(request: AnyRequest) -> Member:
    """Who asks, if they are an admin; these routes tell others 403."""
    return await admin_of(request, status=_FORBIDDEN)


@post("/api/admin/points/adjust", status_code=200)
async def post_adjust(request: AnyRequest) -> Response[bytes]:
    """Give points to a user, or take them."""
    admin, asked, body = await admitted(request, _admin_of, AdjustRequest)
    target = check_username(asked.username, "username", _NO_USER)
    reason = asked.reason.strip()
    if asked.type not in _SIGNS:
        raise InvalidField("无效的调整类型", "type", ", ".join(_SIGNS))
    if not 1 <= asked.amount <= AMOUNT_MAX:
        allowed = f"a whole number from 1 to {AMOUNT_MAX}"
        raise InvalidField(_NO_AMOUNT, "amount", allowed)
    if not 1 <= len(reason) <= REASON_MAX:
        raise InvalidField(
            "调整原因不能为空且不超过200字", "reason", f"1 to {REASON_MAX} characters"
        )
    amount = _SIGNS[asked.type] * asked.amount
    cause, now = Cause(reason, admin_username=admin.username), now_ms()

    return reply(
        await made(
            request,
            admin,
            body,
            lambda cursor: points.adjust(cursor, target, amount, cause, now),
            user_lock(target),
        )
    )


@get("/api/admin/points/users", status_code=200)
async def get_accounts(request: AnyRequest) -> Response[bytes]:
    """The points accounts of all users."""
    await _admin_of(request)
    page, size = page_of(request, size=_ACCOUNTS_MAX, size_max=_ACCOUNTS_MAX)
    accounts, total = await site_of(request).read(lambda cursor: points.listed(cursor, page, size))
    return reply(Accounts(accounts, page, size, total))


@get("/api/admin/points/history", status_code=200)
async def get_user_history(request: AnyRequest) -> Response[bytes]:
    """What changed the points of one user."""
    await _admin_of(request)
    username = request.query_params.get("username", "")
    return await history_of(request, check_username(username, "username", _NO_USER))


@get("/api/admin/invitation-config", status_code=200)
async def get_config(request: AnyRequest) -> Response[bytes]:
    """What an invitation gives, and a card key costs."""
    await _admin_of(request)
    return reply(await site_of(request).read(invitations.read_config))


@put("/api/admin/invitation-config", status_code=200)
async def put_config(request: AnyRequest) -> Response[bytes]:
    """Change it; invitations are rewarded from then on."""
    admin, asked, body = await admitted(request, _admin_of, InvitationConfigRequest)
    key_type = key_type_of(asked.card_key_type, "cardKeyType")
    # Real front ends know no switch: whoever saves the page means it.
    config = InvitationConfig(True, asked.reward_points, asked.redeem_threshold, key_type)

    async def change(cursor: Cursor) -> InvitationConfigReply:
        await invitations.write_config(cursor, config)
        return InvitationConfigReply(config)

    done = await changed(request, admin, body, change, InvitationConfigReply)
    site_of(request).invitation_config.forget()
    return reply(done)


ROUTES = (post_adjust, get_accounts, get_user_history, get_config, put_config)
_TAG = "admin: points and invitations"
_NAME = {"minLength": 1, "maxLength": USER_MAX}
_USER = (
    Query("username", "Whose.", required=True, rules=_NAME),
    *pages(PAGE_SIZE, PAGE_SIZE_MAX),
)
DESCRIBED = {
    ("/api/admin/points/adjust", "post"): Described(
        _TAG,
        Ok,
        AdjustRequest,
        errors=(400, 403, 404, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
    ("/api/admin/points/users", "get"): Described(
        _TAG,
        Accounts,
        errors=(400, 403, 503),
        login=True,
        role="admin",
        queries=pages(_ACCOUNTS_MAX, _ACCOUNTS_MAX),
    ),
    ("/api/admin/points/history", "get"): Described(
        _TAG, History, errors=(400, 403, 503), login=True, role="admin", queries=_USER
    ),
    ("/api/admin/invitation-config", "get"): Described(
        _TAG, InvitationConfig, errors=(403, 503), login=True, role="admin"
    ),
    ("/api/admin/invitation-config", "put"): Described(
        _TAG,
        InvitationConfigReply,
        InvitationConfigRequest,
        errors=(400, 403, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
}
