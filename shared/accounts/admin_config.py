"""
The site's configuration document, with a version: of two edits at once the later is refused.

Users are not in it, though real front ends keep them there: their table is the one truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from shared.accounts.card_keys import KEY_TYPES, KeyType
from shared.errors import Conflict, InvalidField
from shared.mysql import Cursor

CHANGED = "配置已被其他人修改，请刷新后重试"
UNUSABLE = "配置格式错误"
#: Objects and lists within each other that MariaDB takes; MySQL would take more.
DEPTH_MAX = 31
#: Who registers brings a key, or is given one.
MODES = ("operation", "promotion")

_READ = "SELECT config_value, version FROM admin_configs WHERE config_key = 'main_config'"
_WRITE = """
UPDATE admin_configs SET config_value = %s, version = version + 1
WHERE config_key = 'main_config' AND version = %s
"""

Document = dict[str, Any]


class Versioned(msgspec.Struct):
    """The document and which edit it is."""

    config: Document
    version: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What the document says of registration and card keys, with the defaults of real sites."""

    allow_register: bool
    card_keys_enabled: bool
    card_key_required: bool
    system_mode: str
    promotion_key_type: KeyType

    @property
    def promotes(self) -> bool:
        """Does everybody who registers get a key?"""
        return self.system_mode == "promotion"


async def read(cursor: Cursor) -> Versioned:
    """The document as it is."""
    await cursor.execute(_READ)
    text, version = await cursor.fetchone()
    return Versioned(orjson.loads(text), version)


async def write(cursor: Cursor, config: Document, version: int) -> int:
    """Replace the document that was read as *version*; the new version.

    Raises `Conflict` where it was changed since, `InvalidField` where it cannot be stored.
    """
    await cursor.execute(_WRITE, (_text_of(without_users(config)), version))
    if cursor.rowcount != 1:
        raise Conflict(CHANGED)
    return version + 1


async def change(cursor: Cursor, edit: Callable[[Document], None]) -> Document:
    """Let *edit* change the document, which nobody else changes meanwhile."""
    await cursor.execute(_READ + " FOR UPDATE")
    text, version = await cursor.fetchone()
    config: Document = orjson.loads(text)
    edit(config)
    await write(cursor, config, version)
    return config


async def read_policy(cursor: Cursor) -> Policy:
    """What the document says of registration."""
    return policy_of((await read(cursor)).config)


def policy_of(config: Document) -> Policy:
    """The rules in *config*; whatever is not there or of another type counts as the default."""
    keys, users = _part(config, "CardKeyConfig"), _part(config, "UserConfig")
    kind = keys.get("promotionCardKeyType")
    return Policy(
        allow_register=users.get("AllowRegister") is not False,
        card_keys_enabled=keys.get("enabled") is True,
        card_key_required=keys.get("requireCardKeyOnRegister") is True,
        system_mode="promotion" if keys.get("systemMode") == "promotion" else "operation",
        promotion_key_type=kind if kind in KEY_TYPES else "week",
    )


def check(config: Document) -> None:
    """Raise `InvalidField` where *config* says something of registration that nobody understands.

    Else "no" would leave it open: what is not understood counts as the default.
    """
    for fault in _faults_in(config):
        raise fault


def without_faults(config: Document) -> tuple[Document, list[InvalidField]]:
    """(*config* without what `check` would refuse, what that was)."""
    faults = list(_faults_in(config))
    for fault in faults:
        section, _, name = fault.field.partition(".")
        part = {key: value for key, value in _part(config, section).items() if key != name}
        config = {**config, section: part}
    return config, faults


def _faults_in(config: Document) -> Iterator[InvalidField]:
    for section, rules in _RULES.items():
        part = config.get(section)
        if part is None:  # real documents hold null for what was never set
            continue
        if not isinstance(part, dict):
            yield InvalidField(UNUSABLE, section, "an object")
            continue
        for name, (is_right, allowed) in rules.items():
            if part.get(name) is not None and not is_right(part[name]):
                yield InvalidField(UNUSABLE, f"{section}.{name}", allowed)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_one_of(*values: str) -> _Rule:
    # An empty text is what a page sends of a choice that nobody made.
    return (lambda value: isinstance(value, str) and value in ("", *values)), ", ".join(values)


#: Is a value right, and what would be.
_Rule = tuple[Callable[[object], bool], str]
_FLAG: _Rule = (_is_bool, "true or false")
_RULES: dict[str, dict[str, _Rule]] = {
    "UserConfig": {"AllowRegister": _FLAG},
    "CardKeyConfig": {
        "enabled": _FLAG,
        "requireCardKeyOnRegister": _FLAG,
        "systemMode": _is_one_of(*MODES),
        "promotionCardKeyType": _is_one_of(*KEY_TYPES),
    },
}


def without_users(config: Document) -> Document:
    """*config* without the list of users that real front ends send along."""
    part = _part(config, "UserConfig")
    if "Users" not in part:
        return config
    return {**config, "UserConfig": {k: v for k, v in part.items() if k != "Users"}}


def editable(config: Document, name: str) -> Document:
    """The section *name* of *config*, to be changed there; an empty one in place of no object."""
    section = config[name] = _part(config, name)
    return section


def _part(config: Document, name: str) -> Document:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _text_of(config: Document) -> str:
    _check_depth(config, DEPTH_MAX)
    try:
        return orjson.dumps(config).decode()
    except TypeError:  # it came from JSON: nothing else can be wrong with it
        raise InvalidField(UNUSABLE, "config", "whole numbers of 64 bits") from None


def _check_depth(value: object, left: int) -> None:
    if not isinstance(value, (dict, list)):
        return
    if left == 0:
        raise InvalidField(UNUSABLE, "config", f"at most {DEPTH_MAX} levels of nesting")
    for item in value.values() if isinstance(value, dict) else value:
        _check_depth(item, left - 1)
