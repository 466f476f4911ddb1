"""What comes in beside a login: JSON bodies, pages, an Idempotency-Key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta

from api.asgi import BODY_BYTES_MAX, Receive, Scope, read_body
from api.site import AnyRequest, site_of
from shared.accounts.ledger import Operation
from shared.errors import InvalidField
from shared.events import USER_MAX, check_name

MALFORMED = "参数格式错误"
PAGE_SIZE, PAGE_SIZE_MAX, PAGE_MAX = 20, 100, 1_000_000

T = TypeVar("T")
#: Marks what a body must hold in its description. A default lets it be absent all the same, so
#: that the route, and not the decoder, says so, in the words that real front ends know.
NEEDED = "x-needed"
Needed = Annotated[T, Meta(extra_json_schema={NEEDED: True})]

#: A complaint of msgspec: what it expected, and where.
_COMPLAINT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected (?P<type>.*?)(?:, got .*)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_WORDS = {"str": "text", "int": "a whole number", "bool": "true or false", "array": "a list"}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_bytes(request: AnyRequest, *, limit: int = BODY_BYTES_MAX) -> bytes:
    """The body. Raises `TooLarge`."""
    # Litestar's own types are narrower than what a server sends.
    scope, receive = cast("Scope", request.scope), cast("Receive", request.receive)
    return await read_body(scope, receive, limit)


def decoded(body: bytes, kind: type[T]) -> T:
    """*body* as *kind*; an empty one holds nothing.

    Raises `InvalidField` naming the field and what it may hold, in the words that *kind* has
    for the field in its `WORDS`.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), getattr(kind, "WORDS", {})) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidField(MALFORMED, "body", "a JSON object in UTF-8") from None


def _invalid(complaint: str, words: Mapping[str, str]) -> InvalidField:
    parts = _COMPLAINT.fullmatch(complaint)
    what, where = (parts["what"], parts["where"] or "") if parts else (complaint, "")
    if missing := _MISSING.fullmatch(what):
        field = ".".join(part for part in (where, missing["field"]) if part)
        return InvalidField(words.get(field, MALFORMED), field, "a value: it is required")
    expected = _EXPECTED.fullmatch(what)
    allowed = expected["type"] if expected else what
    allowed = re.sub(r"`(\w+)`", lambda found: _WORDS.get(found[1], found[1]), allowed)
    return InvalidField(words.get(where, MALFORMED), where or "body", allowed)


def page_of(
    request: AnyRequest, *, size: int = PAGE_SIZE, size_max: int = PAGE_SIZE_MAX
) -> tuple[int, int]:
    """(page, page size) of a query, by default *size*. Raises `InvalidField`."""
    page = _number(request, "page", 1, PAGE_MAX)
    return page, _number(request, "pageSize", size, size_max)


def _number(request: AnyRequest, name: str, default: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= highest:
        raise InvalidField(MALFORMED, name, f"a whole number from 1 to {highest}")
    return int(text)


def rule(**schema: Any) -> Meta:
    """Says in the API's description what a value may be; the route checks it in its own words."""
    return Meta(extra_json_schema=schema)


def one_of(values: Iterable[str]) -> Meta:
    """The same of a text that is one of *values*."""
    return rule(enum=list(values))


def check_username(name: str, field: str, missing: str) -> str:
    """*name*, which some user may have. Raises `InvalidField`; *missing* says it is empty."""
    if not name:
        raise InvalidField(missing, field, "a user's name")
    check_name(name, field, USER_MAX, MALFORMED)
    return name


def operation_of(request: AnyRequest, scope: str, body: bytes) -> Operation:
    """What *request* asks for in *body*, once: as the Idempotency-Key says, if there is one.

    *scope* is whose key it is, '' that of nobody. Raises `InvalidField`.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return Operation.new()
    if not _KEY.fullmatch(key):
        allowed = "1 to 255 printable ASCII characters"
        raise InvalidField(MALFORMED, "Idempotency-Key", allowed)
    line = f"{request.method} {request.scope['path']}?".encode()
    asked = line + request.scope["query_string"] + b"\n" + body
    return Operation.of(scope, key, asked, site_of(request).settings.password)
