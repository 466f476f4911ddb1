"""
What a LunaTV stores for its users (facts of its wire format: times in ms, names in camelCase).

Unknown fields are left out. Whatever no column could hold, or is of another type, is refused
as `InvalidField`; numbers and truth values that came as text are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from shared import events
from shared.accounts.card_keys import HoldSource, KeyType, Source, Status
from shared.accounts.points import BALANCE_MAX, RecordType
from shared.accounts.users import Role
from shared.errors import InvalidField
from shared.events import ENTRY_BYTES_MAX, INT_MAX, USER_MAX, TimeMs

INVALID_VALUE = "Invalid value"
BROKEN_JSON = "Broken JSON"
INVALID_NAME = "Invalid user name"

Name = Annotated[str, Meta(min_length=1, max_length=USER_MAX)]
RowId = Annotated[str, Meta(min_length=1, max_length=36)]
Code = Annotated[str, Meta(max_length=20)]
Address = Annotated[str, Meta(max_length=45)]
Short = Annotated[str, Meta(max_length=255)]
Amount = Annotated[int, Meta(ge=-BALANCE_MAX, le=BALANCE_MAX)]
Hash = Annotated[str, Meta(min_length=1, max_length=128)]

T = TypeVar("T")

_IS_HASH = re.compile(r"[0-9a-f]{64}").fullmatch


class _Value(Struct, rename="camel"):
    """Base: fields are named as LunaTV names them."""


class Profile(_Value):
    """What is known of a user; the same in the configuration document and in a hash."""

    role: Role | None = None
    banned: bool | None = None
    tags: Any = None
    enabled_apis: Any = None
    oidc_sub: Short | None = None
    tvbox_token: Short | None = None
    show_adult_content: bool | None = None
    created_at: TimeMs | None = None
    password: str | None = None
    card_key: Any = None


class Membership(_Value):
    """The key bound last, by its hash, and until when the membership lasts."""

    expires_at: TimeMs
    bound_key: str = ""
    bound_at: TimeMs | None = None


class CardKey(_Value):
    """*key_hash* is that of the key it is stored at."""

    key_type: KeyType
    status: Status
    created_at: TimeMs
    expires_at: TimeMs
    key: Annotated[str, Meta(max_length=64)] = ""
    key_hash: Hash = ""
    bound_to: Name | None = None
    bound_at: TimeMs | None = None
    source: Source | None = None


class HeldKey(_Value):
    """A key among those of *username*, who redeemed or bound it."""

    id: RowId
    key_hash: Hash
    username: Name
    type: KeyType
    status: Status
    source: HoldSource
    created_at: TimeMs
    expires_at: TimeMs
    used_at: TimeMs | None = None
    used_by: Name | None = None
    notes: Annotated[str, Meta(max_length=16_000)] | None = None


class PointsAccount(_Value):
    """A user's points, as the site counts them; its records may add up to something else."""

    balance: Amount = 0
    total_earned: Amount = 0
    total_redeemed: Amount = 0
    invitation_code: Code | None = None
    updated_at: TimeMs | None = None


class PointsRecord(_Value):
    """One change of points."""

    id: RowId
    type: RecordType
    amount: Amount
    created_at: TimeMs
    reason: Annotated[str, Meta(max_length=500)] = ""
    related_user: Name | None = None
    card_key_id: RowId | None = None
    admin_username: Name | None = None


class Invitation(_Value):
    """Who brought whom; whether that was rewarded other records tell."""

    id: RowId
    inviter: Name
    invitee: Name
    created_at: TimeMs
    invitation_code: Code = ""
    ip_address: Address = ""


class IpReward(_Value):
    """An address that was rewarded, once for ever."""

    id: RowId
    ip_address: Address
    inviter: Name
    invitee: Name
    reward_time: TimeMs


class LoginStats(_Value):
    """How often and when a user came."""

    login_count: Annotated[int, Meta(ge=0, le=INT_MAX)] = 0
    first_login_time: TimeMs | None = None
    last_login_time: TimeMs | None = None
    last_login_date: TimeMs | None = None


class InvitationSettings(_Value):
    """What an invitation gives and a redemption takes."""

    reward_points: int
    redeem_threshold: int
    card_key_type: KeyType
    enabled: bool = True


def parsed(raw: bytes) -> Any:
    """The JSON in *raw*. Raises `InvalidField`."""
    return events.loads(raw, BROKEN_JSON, "value")


def value_of(kind: type[T], fields: object) -> T:
    """*fields* as a *kind*; null and empty text count as absent. Raises `InvalidField`."""
    if not isinstance(fields, Mapping):
        raise InvalidField(INVALID_VALUE, "value", "a JSON object")
    given = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in fields.items()
        if value is not None and value != ""
    }
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        # Its words are "Expected `int`, got `str` - at `$.createdAt`".
        what, _, path = str(error).partition(" - at ")
        raise InvalidField(INVALID_VALUE, path.strip("`$.") or "value", what) from None


def decoded(kind: type[T], raw: bytes) -> T:
    """The *kind* in *raw* JSON. Raises `InvalidField`."""
    if len(raw) > ENTRY_BYTES_MAX:
        raise InvalidField(INVALID_VALUE, "value", f"at most {ENTRY_BYTES_MAX} bytes")
    return value_of(kind, parsed(raw))


def check_user(name: str) -> None:
    """Raise `InvalidField` unless *name* can be a user's."""
    events.check_name(name, "username", USER_MAX, INVALID_NAME)


def is_hash(text: str) -> bool:
    """Is *text* what a card key is found by?"""
    return _IS_HASH(text) is not None


def names_in(value: object, field: str) -> list[str]:
    """Tags or APIs: a list, one as JSON, separated by commas, or a bare word.

    Raises `InvalidField` for anything else.
    """
    if isinstance(value, str):
        value = _list_in(value)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidField(INVALID_VALUE, field, "a list of texts")
    return value


def _list_in(text: str) -> object:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, list):
        return found
    return [word for each in text.split(",") if (word := each.strip())]
