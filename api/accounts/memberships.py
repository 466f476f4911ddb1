"""A user's own membership and card keys."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import msgspec
from litestar import Response, get, post

from api.accounts.login import bind
from api.accounts.replies import reply
from api.bodies import Needed, operation_of, rule
from api.described import Described
from api.errors import Denied
from api.members import Member, admitted, for_known, member_of, scope_of, visitor_of
from api.site import AnyRequest, site_of
from shared.accounts import card_keys, memberships, users
from shared.accounts.card_keys import HeldKey
from shared.accounts.memberships import Membership
from shared.errors import InvalidField
from shared.times import DAY_MS, iso, now_ms

#: Days before the end at which the banner becomes pressing.
_URGENT_DAYS = 7
_SETTINGS_URL = "/settings"
_NO_CARD_KEY = "缺少卡密"


class BindRequest(msgspec.Struct, rename="camel"):
    WORDS: ClassVar[dict[str, str]] = {"cardKey": _NO_CARD_KEY}

    card_key: Needed[Annotated[str, rule(pattern=r"\S", examples=["a card key"])]] = ""


class MembershipReply(msgspec.Struct, rename="camel", omit_defaults=True):
    """Whether a key was ever bound, and the membership."""

    has_card_key: bool
    card_key_info: Membership | None = None


class Bound(msgspec.Struct, rename="camel"):
    card_key_info: Membership
    ok: bool = True


class RedeemedKey(HeldKey, omit_defaults=True, kw_only=True):
    """A key that points were redeemed for; days left, rounded up."""

    days_remaining: int
    is_expired: bool


class RedeemedKeys(msgspec.Struct, rename="camel"):
    card_keys: list[RedeemedKey]


class HeldKeys(msgspec.Struct, rename="camel"):
    card_keys: list[HeldKey]


class Banner(msgspec.Struct, rename="camel", omit_defaults=True):
    """What greets the user; *urgency* is none, low, medium or high."""

    type: str
    message: str
    urgency: str
    expiration_date: str | None = None
    days_remaining: int | None = None
    action_text: str | None = None
    action_url: str | None = None


@get("/api/user/cardkey", status_code=200)
async def get_membership(request: AnyRequest) -> Response[bytes]:
    """One's own membership."""
    membership = await _membership(request, await member_of(request))
    return reply(MembershipReply(membership is not None, membership))


async def _membership(request: AnyRequest, member: Member) -> Membership | None:
    now = now_ms()
    return await site_of(request).read(
        lambda cursor: memberships.read(cursor, member.username, now)
    )


@post("/api/user/cardkey", status_code=200)
async def post_membership(request: AnyRequest) -> Response[bytes]:
    """Bind a card key: the membership begins, or goes on for the key's days."""
    visitor, asked, body = await admitted(request, visitor_of, BindRequest)
    if not asked.card_key.strip():
        raise InvalidField(_NO_CARD_KEY, "cardKey", "an unused card key")

    async def attempt() -> Membership:
        scope = await scope_of(request, visitor.username)
        operation = operation_of(request, scope, body)
        return await bind(request, visitor.username, asked.card_key, operation)

    return reply(Bound(await for_known(request, attempt)))


@get("/api/user/cardkeys", status_code=200)
async def get_redeemed_keys(request: AnyRequest) -> Response[bytes]:
    """The keys one redeemed points for."""
    now = now_ms()
    redeemed = [_redeemed(key, now) for key in await _held(request) if key.source == "redeem"]
    return reply(RedeemedKeys(redeemed))


def _redeemed(key: HeldKey, now: int) -> RedeemedKey:
    fields = {name: getattr(key, name) for name in HeldKey.__struct_fields__}
    left_days = max(0, math.ceil((key.expires_at - now) / DAY_MS))
    return RedeemedKey(**fields, days_remaining=left_days, is_expired=key.expires_at < now)


@get("/api/cardkeys/my", status_code=200)
async def get_held_keys(request: AnyRequest) -> Response[bytes]:
    """All keys one redeemed, bound or was given."""
    return reply(HeldKeys(await _held(request)))


async def _held(request: AnyRequest) -> list[HeldKey]:
    member = await member_of(request)
    return await site_of(request).read(lambda cursor: card_keys.held_by(cursor, member.username))


@get("/api/user/welcome-banner", status_code=200)
async def get_banner(request: AnyRequest) -> Response[bytes]:
    """How long one's membership lasts, in a line for the front page."""
    try:
        member = await member_of(request)
    except Denied as denied:
        if str(denied) == users.UNKNOWN:
            raise Denied("User not found", 404) from denied
        raise
    return reply(_banner(await _membership(request, member)))


def _banner(membership: Membership | None) -> Banner:
    if membership is None:
        return Banner("welcome", "欢迎回来", "none")
    date = iso(membership.expires_at)
    if membership.is_expired:
        message, urgency = "您的会员已过期", "high"
    elif membership.days_remaining <= _URGENT_DAYS:
        message, urgency = f"您的会员将在 {membership.days_remaining} 天后到期", "medium"
    elif membership.is_expiring:
        message, urgency = f"您的会员将在 {membership.days_remaining} 天后到期", "low"
    else:
        message = f"您的会员有效期还剩 {membership.days_remaining} 天"
        return Banner("active", message, "none", date, membership.days_remaining)
    kind = "expired" if membership.is_expired else "expiring"
    action = ("绑定新卡密", _SETTINGS_URL)
    return Banner(kind, message, urgency, date, membership.days_remaining, *action)


ROUTES = (get_membership, post_membership, get_redeemed_keys, get_held_keys, get_banner)
_TAG = "membership"
DESCRIBED = {
    ("/api/user/cardkey", "get"): Described(_TAG, MembershipReply, errors=(503,), login=True),
    ("/api/user/cardkey", "post"): Described(
        _TAG, Bound, BindRequest, errors=(400, 409, 413, 503), login=True, once=True
    ),
    ("/api/user/cardkeys", "get"): Described(_TAG, RedeemedKeys, errors=(503,), login=True),
    ("/api/cardkeys/my", "get"): Described(_TAG, HeldKeys, errors=(503,), login=True),
    ("/api/user/welcome-banner", "get"): Described(_TAG, Banner, errors=(404, 503), login=True),
}
