"""Card keys as admins make, list, export and delete them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, delete, get, post

from api.accounts.changes import changed, made
from api.accounts.replies import Ok, reply
from api.bodies import MALFORMED, Needed, one_of, page_of, rule
from api.described import Described, Query, pages
from api.errors import NO_STORE, Answer, response_of
from api.members import admin_of, admitted
from api.site import AnyRequest, site_of
from shared.accounts import admin_config, card_keys
from shared.accounts.admin_config import Document
from shared.accounts.card_key_csv import csv_text
from shared.accounts.card_keys import KEY_TYPES, STATUSES, CardKey, Filter, KeyType
from shared.accounts.ledger import card_lock
from shared.errors import InvalidField
from shared.mysql import Cursor
from shared.times import now_ms

#: Real front ends show all keys on one page.
_PAGE_SIZE = 10_000
_BAD_TYPE = "无效的卡密类型"


class CardKeys(msgspec.Struct, rename="camel"):
    """Keys, newest first; *total* fit the filters."""

    card_keys: list[CardKey]
    total: int


class CardKeyRequest(msgspec.Struct):
    """`create` makes *count* keys of *type*, `cleanup` removes those that ran out unbound."""

    action: Needed[Annotated[str, one_of(_ACTIONS)]] = ""
    type: Annotated[str, one_of(KEY_TYPES)] = ""
    count: Annotated[int, rule(minimum=1, maximum=card_keys.BATCH_MAX)] = 1


class Generated(msgspec.Struct, rename="camel"):
    keys: list[str]
    total_count: int
    type: KeyType


class CardKeyReply(msgspec.Struct, rename="camel", omit_defaults=True):
    """*result* of create, *cleaned_count* of cleanup."""

    ok: bool
    result: Generated | None = None
    cleaned_count: int | None = None


class SystemModeRequest(msgspec.Struct, rename="camel"):
    system_mode: Annotated[str, one_of(admin_config.MODES)] | None = None
    promotion_card_key_type: Annotated[str, one_of(KEY_TYPES)] | None = None


class PromotionStats(msgspec.Struct, rename="camel"):
    """Keys given at registration, and those of them whose time is not over."""

    total_promotion_card_keys: int
    active_promotion_card_keys: int


class SystemMode(msgspec.Struct, rename="camel"):
    system_mode: str
    promotion_card_key_type: KeyType
    promotion_stats: PromotionStats


@get("/api/admin/cardkey", status_code=200)
async def get_card_keys(request: AnyRequest) -> Response[bytes]:
    """The site's card keys."""
    await admin_of(request)
    keys, total = await _listed(request)
    return reply(CardKeys(keys, total))


@get("/api/admin/cardkey/export", status_code=200)
async def export_card_keys(request: AnyRequest) -> Response[bytes]:
    """The same as CSV, with no cell that a spreadsheet takes for a formula."""
    await admin_of(request)
    keys, _ = await _listed(request)
    name = (b"content-disposition", b'attachment; filename="cardkeys.csv"')
    kind = b"text/csv; charset=utf-8"
    # With a byte order mark: spreadsheets take a file without one for their own language's.
    content = csv_text(keys).encode("utf-8-sig")
    return response_of(Answer(200, content, kind, [NO_STORE, name]))


async def _listed(request: AnyRequest) -> tuple[list[CardKey], int]:
    chosen = _filter_of(request)
    page, size = page_of(request, size=_PAGE_SIZE, size_max=_PAGE_SIZE)
    return await site_of(request).read(lambda cursor: card_keys.listed(cursor, chosen, page, size))


def _filter_of(request: AnyRequest) -> Filter:
    """What the query string chooses. Raises `InvalidField`."""
    query = request.query_params
    status, key_type = query.get("status"), query.get("type")
    for name, given, allowed in (("status", status, STATUSES), ("type", key_type, KEY_TYPES)):
        if given is not None and given not in allowed:
            raise InvalidField(MALFORMED, name, ", ".join(allowed))
    return msgspec.convert(
        {"status": status, "key_type": key_type, "bound_to": query.get("boundTo")}, Filter
    )


@post("/api/admin/cardkey", status_code=200)
async def post_card_keys(request: AnyRequest) -> Response[bytes]:
    """Make card keys, or remove those that ran out unbound."""
    member, asked, body = await admitted(request, admin_of, CardKeyRequest)
    if asked.action not in _ACTIONS:
        raise InvalidField("不支持的操作类型", "action", ", ".join(_ACTIONS))
    now, work = now_ms(), _ACTIONS[asked.action]
    return reply(
        await changed(request, member, body, lambda cursor: work(cursor, asked, now), CardKeyReply)
    )


async def _create(cursor: Cursor, asked: CardKeyRequest, now: int) -> CardKeyReply:
    key_type = key_type_of(asked.type, "type")
    keys = card_keys.new_keys(key_type, asked.count, "admin_created", now)
    await card_keys.insert(cursor, keys)
    return CardKeyReply(ok=True, result=Generated([key.key for key in keys], len(keys), key_type))


async def _clean_up(cursor: Cursor, _asked: CardKeyRequest, now: int) -> CardKeyReply:
    return CardKeyReply(ok=True, cleaned_count=await card_keys.clean_up(cursor, now))


_ACTIONS = {"create": _create, "cleanup": _clean_up}


def key_type_of(text: str, field: str) -> KeyType:
    """*text* as a type of key. Raises `InvalidField`."""
    for known in KEY_TYPES:
        if text == known:
            return known
    raise InvalidField(_BAD_TYPE, field, ", ".join(KEY_TYPES))


@delete("/api/admin/cardkey", status_code=200)
async def delete_card_key(request: AnyRequest) -> Response[bytes]:
    """Delete a key that nobody bound."""
    member = await admin_of(request)
    key_hash = request.query_params.get("hash", "")
    if not key_hash:
        raise InvalidField("缺少卡密哈希", "hash", "the keyHash of a card key")

    return reply(
        await made(
            request,
            member,
            b"",
            lambda cursor: card_keys.delete_unused(cursor, key_hash),
            card_lock(key_hash),
        )
    )


@get("/api/admin/cardkey/system-mode", status_code=200)
async def get_system_mode(request: AnyRequest) -> Response[bytes]:
    """Whether users get a key when they register (promotion) or bring one (operation)."""
    await admin_of(request)
    return reply(await site_of(request).read(_system_mode))


@post("/api/admin/cardkey/system-mode", status_code=200)
async def post_system_mode(request: AnyRequest) -> Response[bytes]:
    """Choose between the two, and the type of key that is given."""
    member, asked, body = await admitted(request, admin_of, SystemModeRequest)
    if asked.system_mode is not None and asked.system_mode not in admin_config.MODES:
        raise InvalidField("无效的系统模式", "systemMode", ", ".join(admin_config.MODES))
    if asked.promotion_card_key_type is not None:
        key_type_of(asked.promotion_card_key_type, "promotionCardKeyType")

    def edit(config: Document) -> None:
        section = admin_config.editable(config, "CardKeyConfig")
        section.update({name: value for name, value in msgspec.to_builtins(asked).items() if value})

    async def change(cursor: Cursor) -> SystemMode:
        await admin_config.change(cursor, edit)
        return await _system_mode(cursor)

    done = await changed(request, member, body, change, SystemMode)
    site_of(request).policy.forget()
    return reply(done)


async def _system_mode(cursor: Cursor) -> SystemMode:
    policy = admin_config.policy_of((await admin_config.read(cursor)).config)
    total, active = await card_keys.count_promoted(cursor, now_ms())
    stats = PromotionStats(total, active)
    return SystemMode(policy.system_mode, policy.promotion_key_type, stats)


ROUTES = (
    get_card_keys,
    export_card_keys,
    post_card_keys,
    delete_card_key,
    get_system_mode,
    post_system_mode,
)
_TAG = "admin: card keys"
_FILTERS = (
    Query("status", "Keys that are this.", rules={"enum": STATUSES}),
    Query("type", "Keys of this length.", rules={"enum": KEY_TYPES}),
    Query("boundTo", "Keys of this user."),
    *pages(_PAGE_SIZE, _PAGE_SIZE),
)
_HASH = (Query("hash", "The key's keyHash.", required=True, rules={"minLength": 1}),)
_PATH = "/api/admin/cardkey"
DESCRIBED = {
    (_PATH, "get"): Described(
        _TAG, CardKeys, errors=(400, 503), login=True, role="admin", queries=_FILTERS
    ),
    (f"{_PATH}/export", "get"): Described(
        _TAG, str, errors=(400, 503), login=True, role="admin", queries=_FILTERS, kind="text/csv"
    ),
    (_PATH, "post"): Described(
        _TAG,
        CardKeyReply,
        CardKeyRequest,
        errors=(400, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
    (_PATH, "delete"): Described(
        _TAG, Ok, errors=(400, 404, 409, 503), login=True, role="admin", queries=_HASH, once=True
    ),
    (f"{_PATH}/system-mode", "get"): Described(
        _TAG, SystemMode, errors=(503,), login=True, role="admin"
    ),
    (f"{_PATH}/system-mode", "post"): Described(
        _TAG,
        SystemMode,
        SystemModeRequest,
        errors=(400, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
}
