"""
The OpenAPI document: Litestar's, with the bodies it does not see.

Bodies are decoded and encoded here and errors leave by the exception handler, so
their schemas are added, from the very structs that the code uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
import orjson
from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from api import admin, health, play_records
from api.errors import ErrorBody
from api.play_records import PATH, Saved, SaveRequest
from api.queries import DailyStats
from shared.events import PlayRecord

#: What the document tells of.
DOCUMENTED = (
    *play_records.ROUTES,
    admin.read_daily_stats,
    health.health,
    health.live,
    health.ready,
)
_JSON = "application/json"
_COMPONENT = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation takes and gives; *errors* are statuses that carry an `ErrorBody`."""

    tag: str
    result: Any
    body: Any = None
    errors: tuple[int, ...] = ()
    login: bool = False
    #: Does 503 carry the result too?
    tells_why: bool = False


_RECORDS, _STATISTICS, _PROBES = "play records", "statistics", "probes"
_OPERATIONS = {
    (PATH, "get"): Operation(_RECORDS, dict[str, PlayRecord], errors=(400, 503), login=True),
    (PATH, "post"): Operation(_RECORDS, Saved, SaveRequest, errors=(400, 413, 503), login=True),
    (PATH, "delete"): Operation(_RECORDS, Saved, errors=(400, 503), login=True),
    (admin.PATH, "get"): Operation(_STATISTICS, list[DailyStats], errors=(400, 503), login=True),
    ("/api/health", "get"): Operation(_PROBES, health.Health, tells_why=True),
    ("/livez", "get"): Operation(_PROBES, health.Probe),
    ("/readyz", "get"): Operation(_PROBES, health.Probe, tells_why=True),
}
_ABOUT = {
    400: "A value breaks a rule: which, and what would pass",
    413: "The body is over 64 KB",
    503: "Try again after the seconds in Retry-After",
}
_UNAUTHORIZED = {
    "description": "No valid login cookie",
    "content": {"text/plain": {"schema": {"type": "string", "const": "Unauthorized"}}},
}
_KEY = {
    "name": "key",
    "in": "query",
    "required": False,
    "description": "source+id; without it all records are deleted.",
    "schema": {"type": "string"},
}


@cache
def document() -> bytes:
    """The document as JSON; it says nothing of one site's settings."""
    about = OpenAPIConfig(
        title="moonwake", version=version("moonwake"), use_handler_docstrings=True
    )
    # An application that is never served: one that is would serve its pages too.
    app = Litestar(list(DOCUMENTED), openapi_config=about, logging_config=None)
    fields: dict[str, Any] = app.openapi_schema.to_schema()
    types = [part for each in _OPERATIONS.values() for part in (each.result, each.body)]
    known = [part for part in types if part is not None] + [ErrorBody]
    shown, schemas = msgspec.json.schema_components(known, ref_template=_COMPONENT)
    schema_of = dict(zip(map(repr, known), shown, strict=True))
    for (path, method), operation in _OPERATIONS.items():
        _describe(fields["paths"][path][method], operation, schema_of)
    fields["paths"][PATH]["delete"]["parameters"] = [_KEY]
    fields["components"] = {
        "schemas": schemas,
        "securitySchemes": {"login": {"type": "apiKey", "in": "cookie", "name": "user_auth"}},
    }
    return orjson.dumps(fields)


def _describe(shown: dict[str, Any], operation: Operation, schema_of: dict[str, Any]) -> None:
    shown["summary"], shown["tags"] = shown.pop("description"), [operation.tag]
    responses: dict[str, Any] = {"200": _content("Done", schema_of[repr(operation.result)])}
    if operation.tells_why:
        responses["503"] = _content("Not now", schema_of[repr(operation.result)])
    for status in operation.errors:
        responses[str(status)] = _content(_ABOUT[status], schema_of[repr(ErrorBody)])
    if operation.login:
        responses["401"] = _UNAUTHORIZED
        shown["security"] = [{"login": []}]
    if operation.body is not None:
        body = _content("", schema_of[repr(operation.body)])
        shown["requestBody"] = {"required": True, "content": body["content"]}
    shown["responses"] = responses


def _content(about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {_JSON: {"schema": schema}}}
