"""
The OpenAPI document: Litestar's, with the bodies it does not see.

Bodies are decoded and encoded here and errors leave by the exception handler, so
their schemas are added, from the very structs that the code uses.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from inspect import cleandoc
from typing import Any

import msgspec
import orjson
from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from api import daily_stats, health, play_records
from api.accounts import (
    admin_card_keys,
    admin_configuration,
    admin_points,
    admin_users,
    login,
    memberships,
    points,
    registration,
)
from api.bodies import NEEDED
from api.described import Described, Query
from api.errors import ErrorBody
from shared.events import PlayRecord

_AREAS = (
    play_records,
    login,
    registration,
    memberships,
    points,
    admin_users,
    admin_card_keys,
    admin_points,
    admin_configuration,
    daily_stats,
    health,
)
#: What the document tells of.
DOCUMENTED = tuple(route for area in _AREAS for route in area.ROUTES)
_DESCRIBED = {key: each for area in _AREAS for key, each in area.DESCRIBED.items()}
_JSON = "application/json"
_COMPONENT = "#/components/schemas/{name}"
_ABOUT = {
    400: "A value breaks a rule: which, and what would pass; or what is stored does not allow it",
    401: "Not with this login",
    403: "Not for this user",
    404: "It is not there",
    409: "Changed by somebody else, or the Idempotency-Key was used for another request",
    413: "The body is too long",
    429: "Too many attempts lately; the seconds in Retry-After tell when to go on",
    503: "Try again after the seconds in Retry-After",
}
_UNAUTHORIZED: dict[str, Any] = {
    "description": "No login at all (plain text), or not with this one: banned, deleted, no right",
    "content": {"text/plain": {"schema": {"type": "string", "const": "Unauthorized"}}},
}
_ROLES = {"admin": "For admins and the owner.", "owner": "For the owner alone."}
#: In a docstring: where a rule comes from, and a name of ours.
_SOURCE, _NAME = re.compile(r",? ?\((?:facts|seed)[^)]*\)"), re.compile(r"\*(\w+)\*")
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Printable ASCII. Sent again with the same body it gives the same answer.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
#: The page would make one up that nobody ever sends.
_RECORD = {
    "title": "Moon Wake",
    "source_name": "Demo",
    "cover": "",
    "year": "2024",
    "index": 3,
    "total_episodes": 12,
    "play_time": 421,
    "total_time": 1440,
    "save_time": 1_767_225_600_000,
    "search_title": "Moon Wake",
}
_SCHEMES = {
    "cookie": {"type": "apiKey", "in": "cookie", "name": "moonwake_session"},
    "LunaTV": {"type": "apiKey", "in": "cookie", "name": "user_auth"},
    "bearer": {"type": "http", "scheme": "bearer"},
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
    types = [part for each in _DESCRIBED.values() for part in (each.result, each.body)]
    known = [part for part in types if part is not None] + [ErrorBody]
    shown, schemas = msgspec.json.schema_components(known, ref_template=_COMPONENT)
    schema_of = dict(zip(map(repr, known), shown, strict=True))
    for (path, method), described in _DESCRIBED.items():
        _describe(fields["paths"][path][method], described, schema_of)
    shown_schemas = {name: _shown(schema) for name, schema in schemas.items()}
    fields["components"] = {"schemas": shown_schemas, "securitySchemes": _SCHEMES}
    return orjson.dumps(fields)


def _shown(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema* for readers: its text without the code's margin, what is needed as required."""
    if "description" in schema:
        schema["description"] = _about(schema["description"])
    if schema["title"] == PlayRecord.__name__:
        _widen(schema)
    for name, field in schema["properties"].items():
        if field.pop(NEEDED, False):
            del field["default"]
            schema["required"].append(name)
        elif "enum" in field and field.get("default") not in field["enum"]:
            field.pop("default", None)  # the code's own: readers just leave the field out
    return schema


def _widen(schema: dict[str, Any]) -> None:
    """Say of a record what is taken besides what its struct, the fast way, takes."""
    schema["additionalProperties"], schema["examples"] = True, [_RECORD]
    for name, field in schema["properties"].items():
        if name in schema["required"]:
            kinds = [field]
        else:  # texts that are too long for their column are kept beside it
            kinds = [kind for kind in field.pop("anyOf", [field]) if kind.get("type") != "null"]
            kinds[0].pop("maxLength", None)
            schema["properties"][name] = {"anyOf": [*kinds, {"type": "null"}]}
        if kinds[0]["type"] == "integer":  # rounded down
            kinds[0]["type"] = "number"


def _about(docstring: str) -> str:
    """A docstring for readers of the page, who know JSON's names and no sources of ours."""
    text = _SOURCE.sub("", cleandoc(docstring))
    return _NAME.sub(lambda name: f"`{_camel(name[1])}`", text)


def _camel(name: str) -> str:
    """*name* as `rename="camel"` has it."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _describe(shown: dict[str, Any], known: Described, schema_of: dict[str, Any]) -> None:
    summary, _, more = shown.pop("description").partition("\n\n")
    shown["summary"], shown["tags"] = summary, [known.tag]
    if more or known.role is not None:
        shown["description"] = more or _ROLES[known.role or "admin"]
    result = _content("Done", schema_of[repr(known.result)], known.kind)
    responses: dict[str, Any] = {"200": result}
    if known.tells_why:
        responses["503"] = _content("Not now", schema_of[repr(known.result)])
    for status in known.errors:
        responses[str(status)] = _content(_ABOUT[status], schema_of[repr(ErrorBody)])
    if known.login:
        refused = _content(_ABOUT[401], schema_of[repr(ErrorBody)])["content"]
        responses["401"] = {**_UNAUTHORIZED, "content": {**_UNAUTHORIZED["content"], **refused}}
        shown["security"] = [{name: []} for name in _SCHEMES]
    if known.body is not None:
        body = _content("", schema_of[repr(known.body)])
        shown["requestBody"] = {"required": True, "content": body["content"]}
    if parameters := [*map(_parameter, known.queries), *([_IDEMPOTENCY_KEY] * known.once)]:
        shown["parameters"] = parameters
    shown["responses"] = responses


def _parameter(query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.about,
        "schema": {"type": query.kind, **query.rules},
    }


def _content(about: str, schema: dict[str, Any], kind: str = _JSON) -> dict[str, Any]:
    return {"description": about, "content": {kind: {"schema": schema}}}
