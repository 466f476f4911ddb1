"""
The events of the stream `plays`, their wire form, and every rule a field must keep.

Both edges use this module: the API refuses with `InvalidField` what the worker
would have to keep as a dead letter, so one definition serves both. Entries are
decoded twice as fast as they are checked leniently, so the strict typed decode
goes first and the lenient path takes what real players send (facts section 4
and 6): fractional seconds, nulls, a numeric year, unknown fields, long texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta, Struct

from shared.errors import InvalidField

INT_MAX = 2_147_483_647
BIGINT_MAX = 2**63 - 1
#: DATETIME ends with the year 9999.
TIME_MS_MAX = 253_402_300_799_999
#: MariaDB validates JSON to depth 32; the record itself is one level.
EXTRA_DEPTH_MAX = 16
#: An entry longer than this is a dead letter; the API's own limit on bodies is 64 KB.
ENTRY_BYTES_MAX = 262_144

USER_MAX, SOURCE_MAX, ID_MAX = 50, 100, 255

User = Annotated[str, Meta(min_length=1, max_length=USER_MAX)]
Source = Annotated[str, Meta(min_length=1, max_length=SOURCE_MAX)]
ContentId = Annotated[str, Meta(min_length=1, max_length=ID_MAX)]
# Said in the API's description; `_check_printable` checks it, which is quicker than a pattern.
_NO_CONTROL = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
Title = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema=_NO_CONTROL)]
SourceName = Annotated[str, Meta(min_length=1, max_length=255, extra_json_schema=_NO_CONTROL)]
Index = Annotated[int, Meta(ge=1, le=INT_MAX)]
Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
BigId = Annotated[int, Meta(ge=-BIGINT_MAX, le=BIGINT_MAX)]
TimeMs = Annotated[int, Meta(ge=0, le=TIME_MS_MAX)]


class PlayRecord(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One user's position in one content, as the front ends store it (facts section 4).

    Times of playback are whole seconds, `save_time` is Unix milliseconds.
    """

    title: Title
    source_name: SourceName
    index: Index
    total_episodes: Count = 0
    play_time: Count = 0
    total_time: Count = 0
    cover: Annotated[str, Meta(max_length=1000)] | None = None
    year: Annotated[str, Meta(max_length=20)] | None = None
    search_title: Annotated[str, Meta(max_length=500)] | None = None
    remarks: Annotated[str, Meta(max_length=500)] | None = None
    douban_id: BigId | None = None
    type: Annotated[str, Meta(max_length=50)] | None = None
    save_time: TimeMs | None = None
    original_episodes: Count | None = None


class ExtendedPlayRecord(PlayRecord):
    """A record with fields the columns cannot hold: unknown ones, and long texts whole."""

    extra: dict[str, Any]


class Save(Struct, tag_field="op", tag="save", forbid_unknown_fields=True, gc=False):
    v: Literal[1]
    user: User
    source: Source
    id: ContentId
    record: PlayRecord


class Delete(Struct, tag_field="op", tag="delete", forbid_unknown_fields=True, gc=False):
    v: Literal[1]
    user: User
    source: Source
    id: ContentId


class Clear(Struct, tag_field="op", tag="clear", forbid_unknown_fields=True, gc=False):
    v: Literal[1]
    user: User


Event = Save | Delete | Clear

INVALID_RECORD = "Invalid record data"
INVALID_KEY = "Invalid key format"
INVALID_ENTRY = "Invalid entry"

#: What msgspec raises for bytes that are not what was asked for; the last for deep nesting.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_KNOWN = frozenset(PlayRecord.__struct_fields__)
# A name before its colon; within a text its second quote would be escaped.
_COUNTS = (b'"total_episodes":', b'"play_time":', b'"total_time":')

_event_decoder = msgspec.json.Decoder(Event)
_record_decoder = msgspec.json.Decoder(PlayRecord)
# Control characters would end up in keys, logs and terminals; an id that ends in a
# space equals the same id without it under utf8mb4_bin.
_has_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


# --- decoding -----------------------------------------------------------------


def decode(body: bytes) -> Event:
    """The event of one entry's `d` field.

    Raises `InvalidField`, and nothing else, for any body that breaks a rule or
    that a column would refuse.
    """
    if len(body) > ENTRY_BYTES_MAX:
        raise InvalidField(INVALID_ENTRY, "d", f"at most {ENTRY_BYTES_MAX} bytes")
    try:
        event: Event = _event_decoder.decode(body)
    except UNREADABLE:
        return _decode_leniently(body)
    if type(event) is Save and _is_plain(event):
        return event
    _check_names(event)
    if type(event) is Save:
        _check_printable(event.record)
    return event


def check_record(raw: bytes) -> tuple[PlayRecord, bytes]:
    """The record in *raw* JSON, and the JSON that its entry keeps.

    That is *raw* itself where it reads the same before the record is drained and
    after: no null (as good as absent, but shown until then), no number left out.
    Raises `InvalidField` naming the field, e.g. `record.index`.
    """
    if b"null" not in raw:
        try:
            record = _record_decoder.decode(raw)
        except UNREADABLE:
            pass
        else:
            _check_printable(record)
            return record, raw if all(map(raw.__contains__, _COUNTS)) else encode_record(record)
    record = record_from(loads(raw, INVALID_RECORD, "record"))
    return record, encode_record(record)


def loads(raw: bytes, error: str, field: str) -> Any:
    """Parse JSON strictly (UTF-8, no lone surrogates); raises `InvalidField`."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidField(error, field, "valid JSON in UTF-8") from None


def record_from(fields: object) -> PlayRecord:
    """A record from parsed JSON, taken as leniently as real players need.

    Fractions are floored, nulls dropped, a numeric `year` becomes text; unknown
    fields, and optional values a column cannot hold, are kept whole in `extra`.
    Raises `InvalidField`.
    """
    if not isinstance(fields, dict):
        raise InvalidField(INVALID_RECORD, "record", "a JSON object")
    extra = {name: value for name, value in fields.items() if name not in _KNOWN}
    for name, value in extra.items():
        _check_depth(value, f"record.{name}", EXTRA_DEPTH_MAX)
    values: dict[str, Any] = {
        "title": _required_text(fields, "title", 500),
        "source_name": _required_text(fields, "source_name", 255),
        "index": _whole(fields.get("index"), "index", 1, INT_MAX),
    }
    for name in fields.keys() & _OPTIONAL.keys():
        if fields[name] is not None:
            values[name] = _OPTIONAL[name](fields[name], name, extra)
    return ExtendedPlayRecord(**values, extra=extra) if extra else PlayRecord(**values)


def split_key(key: object) -> tuple[str, str]:
    """(source, id) of a record key, split at the first `+` (facts section 6, traps)."""
    if not isinstance(key, str):
        raise InvalidField(INVALID_KEY, "key", "text: source+id")
    source, plus, content_id = key.partition("+")
    if not plus:
        raise InvalidField(INVALID_KEY, "key", "source+id")
    check_name(source, "key", SOURCE_MAX, INVALID_KEY)
    check_name(content_id, "key", ID_MAX, INVALID_KEY)
    return source, content_id


def check_name(text: str, field: str, longest: int, error: str) -> None:
    """Raise `InvalidField` unless *text* can be an identifier: it is compared byte by byte."""
    if not 0 < len(text) <= longest or text[-1] == " " or _has_control(text):
        raise InvalidField(
            error, field, f"1 to {longest} characters, no control characters, no space at the end"
        )


# --- encoding -----------------------------------------------------------------


def encode_save(user: str, source: str, content_id: str, record: bytes) -> tuple[bytes, int]:
    """The entry body of a save, and the offset in it at which *record* (JSON) begins."""
    head = b"%b,%b" % (_head(b"save", user, source, content_id), b'"record":')
    return b"%b%b}" % (head, record), len(head)


def encode_delete(user: str, source: str, content_id: str) -> bytes:
    return _head(b"delete", user, source, content_id) + b"}"


def encode_clear(user: str) -> bytes:
    return b'{"v":1,"op":"clear","user":%b}' % orjson.dumps(user)


def encode_record(record: PlayRecord) -> bytes:
    """*record* as JSON, absent fields left out, what `extra` holds in their place."""
    fields = {
        name: value
        for name in PlayRecord.__struct_fields__
        if (value := getattr(record, name)) is not None
    }
    if type(record) is ExtendedPlayRecord:
        fields.update(record.extra)
    return orjson.dumps(fields)


def _head(op: bytes, user: str, source: str, content_id: str) -> bytes:
    dumps = orjson.dumps
    return b'{"v":1,"op":"%b","user":%b,"source":%b,"id":%b' % (
        op,
        dumps(user),
        dumps(source),
        dumps(content_id),
    )


# --- rules --------------------------------------------------------------------


def _decode_leniently(body: bytes) -> Event:
    fields = loads(body, INVALID_ENTRY, "d")
    if not isinstance(fields, dict):
        raise InvalidField(INVALID_ENTRY, "d", "a JSON object")
    if fields.get("v") != 1 or isinstance(fields["v"], bool):
        raise InvalidField(INVALID_ENTRY, "v", "1")
    op = fields.get("op")
    event: Event
    if op == "clear":
        event = Clear(1, _name(fields, "user"))
    elif op == "delete":
        event = Delete(1, _name(fields, "user"), _name(fields, "source"), _name(fields, "id"))
    elif op == "save":
        event = Save(
            1,
            _name(fields, "user"),
            _name(fields, "source"),
            _name(fields, "id"),
            record_from(fields.get("record")),
        )
    else:
        raise InvalidField("Unknown op", "op", "save, delete or clear")
    _check_names(event)
    return event


def _name(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidField(INVALID_ENTRY, name, "text")
    return value


def _is_plain(event: Save) -> bool:
    """Pass nearly every event by one look at all its names; False where rules must be checked."""
    record = event.record
    names = f"{event.user}|{event.source}|{event.id}|{record.title}|{record.source_name}"
    return names.isprintable() and " |" not in names and "+" not in names


def _check_names(event: Event) -> None:
    check_name(event.user, "user", USER_MAX, INVALID_ENTRY)
    if not isinstance(event, Clear):
        check_name(event.source, "source", SOURCE_MAX, INVALID_ENTRY)
        check_name(event.id, "id", ID_MAX, INVALID_ENTRY)
        if "+" in event.source:
            raise InvalidField(INVALID_ENTRY, "source", "text without + (it ends the source)")


def _check_printable(record: PlayRecord) -> None:
    if _has_control(record.title):
        raise InvalidField(INVALID_RECORD, "record.title", "no control characters")
    if _has_control(record.source_name):
        raise InvalidField(INVALID_RECORD, "record.source_name", "no control characters")


def _required_text(fields: dict[str, Any], name: str, longest: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest or _has_control(value):
        raise InvalidField(
            INVALID_RECORD, f"record.{name}", f"1 to {longest} characters, no control characters"
        )
    return value


def _text(longest: int) -> Callable[[object, str, dict[str, Any]], str]:
    def take(value: object, name: str, extra: dict[str, Any]) -> str:
        if name == "year" and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(math.floor(value))
        if not isinstance(value, str):
            raise InvalidField(INVALID_RECORD, f"record.{name}", "text")
        if len(value) > longest:
            extra[name] = value
        return value[:longest]

    return take


def _number(highest: int) -> Callable[[object, str, dict[str, Any]], int]:
    def take(value: object, name: str, _extra: dict[str, Any]) -> int:
        return _whole(value, name, 0, highest)

    return take


def _douban_id(value: object, name: str, extra: dict[str, Any]) -> int | None:
    """The id as a number; anything else a client may put there is kept in *extra*."""
    if isinstance(value, float) and value.is_integer():
        return _douban_id(int(value), name, extra)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if type(value) is int and abs(value) <= BIGINT_MAX:
        return value
    extra[name] = value
    _check_depth(value, f"record.{name}", EXTRA_DEPTH_MAX)
    return None


def _whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number in range; a fraction of a second is floored, as players send them."""
    if isinstance(value, float):
        value = math.floor(value)
    if type(value) is not int or not low <= value <= high:
        raise InvalidField(INVALID_RECORD, f"record.{name}", f"{low} to {high}")
    return value


def _check_depth(value: object, field: str, left: int) -> None:
    if left == 0:
        raise InvalidField(INVALID_RECORD, field, f"at most {EXTRA_DEPTH_MAX} levels of nesting")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, field, left - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, field, left - 1)


_OPTIONAL: dict[str, Callable[[object, str, dict[str, Any]], Any]] = {
    "total_episodes": _number(INT_MAX),
    "play_time": _number(INT_MAX),
    "total_time": _number(INT_MAX),
    "original_episodes": _number(INT_MAX),
    "save_time": _number(TIME_MS_MAX),
    "cover": _text(1000),
    "year": _text(20),
    "search_title": _text(500),
    "remarks": _text(500),
    "type": _text(50),
    "douban_id": _douban_id,
}
