"""
/api/playrecords: a player's position comes in, a user's records go out.

One event passes: here, shared/events, shared/streams, worker/drain,
worker/sinks/plays. The POST is bare ASGI: it is nearly every request there is,
and a framework's routing and models would cost more than all the rest.
"""

from __future__ import annotations

from typing import Annotated, cast
from urllib.parse import parse_qs

import msgspec
import orjson
from litestar import Response, delete, get, post, route
from litestar.types import ASGIApp
from msgspec import Meta, Raw, Struct

from api.asgi import Receive, Scope, Send, read_body
from api.described import Described, Query
from api.errors import NO_STORE, Answer, Disconnected, answer_of, response_of
from api.gate import Visitor
from api.site import AnyRequest, Site, site_of
from shared import events
from shared.errors import InvalidField
from shared.events import INVALID_KEY, PlayRecord
from shared.keys import CLEAR_FIELD
from shared.streams import Append, written_field

PATH = "/api/playrecords"
MISSING = "Missing key or record"

_SAVED = Answer(200, b'{"success":true}')


#: Both parts of a key hold something.
_SPLIT = {"pattern": r"^[^+]+\+.+$"}


class SaveRequest(Struct):
    """Body of a POST: the record of one content, `key` is source+id."""

    key: Annotated[str, Meta(examples=["source+id"], extra_json_schema=_SPLIT)]
    record: PlayRecord


class _SaveRequest(Struct, forbid_unknown_fields=True):
    """The same with the record's own bytes, which the entry keeps."""

    key: str
    record: Raw


class Saved(Struct):
    success: bool = True


_decode_body = msgspec.json.Decoder(_SaveRequest).decode


class SavePlayRecord:
    """The ASGI callable for `POST /api/playrecords`."""

    def __init__(self, site: Site) -> None:
        self._visitor = site.gate.visitor
        self._append = site.append

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.respond(scope, receive, send)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one request; its status, 499 for a client that went away."""
        try:
            # First: who sends it slowly may be banned, or logged out, when it ends.
            body = await read_body(scope, receive)
            visitor = await self._visitor(scope["headers"])
            await self._append(save_of(visitor, body))
            answer = _SAVED
        except Disconnected:
            return 499
        except Exception as error:  # noqa: BLE001 - answer_of logs what is not expected
            answer = answer_of(error)
        start, content = answer.messages
        await send(start)
        await send(content)
        return answer.status


def save_of(visitor: Visitor, body: bytes) -> Append:
    """The save event in *body*. Raises `InvalidField`, in the order real front ends know."""
    try:
        request = _decode_body(body)
    except events.UNREADABLE:
        key, raw = _parts_of(body)
    else:
        key, raw = request.key, bytes(request.record)
    if not key or raw in _FALSY:
        raise InvalidField(MISSING, "record" if key else "key", "an object {key, record}")
    record, raw = events.check_record(raw)
    source, content_id = events.split_key(key)
    entry, offset = events.encode_save(visitor.username, source, content_id, raw)
    return Append(
        visitor.shard,
        visitor.keys,
        b"s",
        written_field(source, content_id),
        entry,
        offset,
        record.total_episodes,
        record.original_episodes,
        record.save_time is not None,
    )


#: What JavaScript takes for a missing record.
_FALSY = frozenset((b"null", b"false", b"0", b'""'))


def _parts_of(body: bytes) -> tuple[object, bytes]:
    """(key, record as JSON) of a body that holds more or other things than it should."""
    fields = events.loads(body, MISSING, "body")
    if not isinstance(fields, dict):
        raise InvalidField(MISSING, "body", "an object {key, record}")
    try:
        return fields.get("key"), orjson.dumps(fields.get("record"))
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        allowed = f"at most {events.EXTRA_DEPTH_MAX} levels of nesting"
        raise InvalidField(events.INVALID_RECORD, "record", allowed) from None


def delete_of(visitor: Visitor, query: bytes) -> Append:
    """The event of a DELETE: of one record, or of all where *query* has no key.

    Raises `InvalidField`.
    """
    key = _key_in(query)
    if key is None:
        return clear_of(visitor)
    if " " in key and "+" not in key:  # how a URL spells a space
        raise InvalidField(INVALID_KEY, "key", "source+id, in a URL with %2B for its +")
    source, content_id = events.split_key(key)
    entry = events.encode_delete(visitor.username, source, content_id)
    return Append(visitor.shard, visitor.keys, b"d", written_field(source, content_id), entry)


def clear_of(visitor: Visitor) -> Append:
    """The event that removes all of the visitor's records."""
    entry = events.encode_clear(visitor.username)
    return Append(visitor.shard, visitor.keys, b"c", CLEAR_FIELD, entry)


def _key_in(query: bytes) -> str | None:
    try:
        fields = parse_qs(query.decode(), keep_blank_values=True, errors="strict")
    except (UnicodeError, ValueError):
        raise InvalidField(INVALID_KEY, "key", "UTF-8, percent-encoded") from None
    return fields["key"][0] if "key" in fields else None


@get(PATH, status_code=200)
async def read_play_records(request: AnyRequest) -> Response[bytes]:
    """All records of the visitor, by key."""
    site = site_of(request)
    visitor = await site.gate.visitor(request.scope["headers"])
    records = await site.reads.play_records(visitor)
    return response_of(Answer(200, records, headers=[NO_STORE]))


@delete(PATH, status_code=200)
async def delete_play_records(request: AnyRequest) -> Response[bytes]:
    """Delete one record, or all of the visitor's."""
    site = site_of(request)
    visitor = await site.gate.visitor(request.scope["headers"])
    await site.append(delete_of(visitor, request.scope["query_string"]))
    return response_of(_SAVED)


@post(PATH, status_code=200)
async def save_play_record(request: AnyRequest) -> ASGIApp:
    """Save the visitor's position in one content."""
    # Only a path with a slash at its end comes by here.
    return cast("ASGIApp", SavePlayRecord(site_of(request)))


@route(PATH, http_method=["OPTIONS"], status_code=204, include_in_schema=False)
async def tell_methods() -> Response[None]:
    """Litestar's own answer would name only the first of the handlers."""
    return Response(None, status_code=204, headers={"allow": "DELETE, GET, OPTIONS, POST"})


ROUTES = (tell_methods, read_play_records, save_play_record, delete_play_records)
_TAG = "play records"
_ABOUT_KEY = "source+id, with %2B for the +; without it all records are deleted."
_KEY = (Query("key", _ABOUT_KEY, rules=_SPLIT),)
DESCRIBED = {
    (PATH, "get"): Described(_TAG, dict[str, PlayRecord], errors=(400, 503), login=True),
    (PATH, "post"): Described(_TAG, Saved, SaveRequest, errors=(400, 413, 503), login=True),
    (PATH, "delete"): Described(_TAG, Saved, errors=(400, 503), login=True, queries=_KEY),
}
