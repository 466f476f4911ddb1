"""The API page and the routes agree on what a request has to hold, and what it may."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from api.openapi import document
from shared.settings import Settings
from tests.callers import PASSWORD, People, give_points, new_keys, people
from tests.plays import record

#: (method, path) -> a body with what is required, and nothing else.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/api/playrecords"): {"key": "source+1", "record": record()},
    ("post", "/api/login"): {"username": "newbie", "password": PASSWORD},
    ("post", "/api/register"): {
        "username": "newbie",
        "password": PASSWORD,
        "confirmPassword": PASSWORD,
    },
    ("post", "/api/change-password"): {"newPassword": "another one"},
    ("post", "/api/user/cardkey"): {"cardKey": "a new key"},
    ("post", "/api/admin/user"): {"action": "setShowAdultContent"},
    ("post", "/api/admin/cardkey"): {"action": "cleanup"},
    ("post", "/api/admin/cardkey/system-mode"): {},
    ("post", "/api/admin/points/adjust"): {
        "type": "add",
        "amount": 5,
        "username": "ann",
        "reason": "kind",
    },
    ("put", "/api/admin/invitation-config"): {
        "rewardPoints": 5,
        "redeemThreshold": 9,
        "cardKeyType": "week",
    },
    ("put", "/api/admin/config"): {"config": {}, "version": 0},
}
#: What an action takes besides, which no schema can say of one field alone.
BESIDES = {
    ("post", "/api/admin/user"): {"targetUsername": "ann"},
    ("post", "/api/admin/cardkey/system-mode"): {"systemMode": "operation"},
}
every_body = pytest.mark.parametrize(("method", "path"), BODIES, ids=map(" ".join, BODIES))


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


def test_every_body_is_told_and_what_it_requires() -> None:
    """The page names each field without which a request is refused, and no default for it."""
    shown = orjson.loads(document())
    schemas = shown["components"]["schemas"]
    required = {}
    for path, operations in shown["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                schema = schemas[_body_of(method, path)]
                required[method, path] = set(schema["required"])
                assert not [name for name in schema["required"] if "default" in _of(schema, name)]

    assert {of: set(body) for of, body in BODIES.items()} == required
    assert "x-needed" not in repr(shown)


def _of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    field: dict[str, Any] = schema["properties"][name]
    return field


@every_body
async def test_a_body_without_what_is_required_is_refused_by_the_fields_name(
    site: People, method: str, path: str
) -> None:
    """What the page marks is no decoration: each such field is asked for."""
    body = BODIES[method, path] | BESIDES.get((method, path), {})
    for name in BODIES[method, path]:
        others = {field: value for field, value in body.items() if field != name}
        status, answer = await _caller(site, path).send(method.upper(), path, others)

        assert (400, name) == (status, answer["field"]), name


@every_body
async def test_a_body_with_no_more_than_what_is_required_is_taken(
    site: People, method: str, path: str
) -> None:
    """Whatever else the page shows may be left out."""
    body = BODIES[method, path] | BESIDES.get((method, path), {})
    if path == "/api/user/cardkey":
        [body["cardKey"]] = await new_keys(site.pool)
    if path == "/api/login":
        await site.stranger.register("newbie")
    if path == "/api/admin/config":
        _, shown = await site.owner.get(path)
        body["version"] = shown["version"]
    await give_points(site.pool, "ann", 1)

    status, _ = await _caller(site, path).send(method.upper(), path, body)

    assert 200 == status


#: What a keyword of JSON Schema forbids; where it can be, next to what it allows.
FORBIDDEN: dict[str, Callable[[Any], list[Any]]] = {
    "minimum": lambda bound: [bound - 1],
    "maximum": lambda bound: [bound + 1],
    "minLength": lambda bound: ["x" * (bound - 1)],
    "maxLength": lambda bound: ["x" * (bound + 1)],
    "maxItems": lambda bound: [[str(number) for number in range(bound + 1)]],
    "enum": lambda _: ["nothing"],
    "format": lambda _: ["20260101"],
    "pattern": lambda rule: [text for text in (" ", "a\x01", "") if not re.search(rule, text)],
}


def _wrong(schema: dict[str, Any]) -> Iterator[Any]:
    """Values that *schema*, of a field or a parameter, forbids."""
    for part in (schema, *schema.get("anyOf", ())):
        for keyword in part.keys() & FORBIDDEN.keys():
            yield from FORBIDDEN[keyword](part[keyword])
        if "items" in part:
            yield from ([value] for value in _wrong(part["items"]))


#: What makes a route look at a field that only some requests need.
LOOKED_AT: dict[str, dict[str, Any]] = {
    "enabledApis": {"action": "updateUserApis"},
    "userGroups": {"action": "updateUserGroups"},
    "usernames": {"action": "batchUpdateUserGroups"},
    "groupAction": {"action": "userGroup", "groupName": "a group"},
    "oidcSub": {"action": "linkOidc"},
    "tvboxToken": {"action": "setTvboxToken"},
    "count": {"action": "create", "type": "week"},
}


@every_body
async def test_a_field_that_is_not_as_the_page_says_is_refused_by_its_name(
    site: People, method: str, path: str
) -> None:
    """Each bound, each choice and each pattern on the page is one that the route keeps."""
    schemas = orjson.loads(document())["components"]["schemas"]
    body = BODIES[method, path] | BESIDES.get((method, path), {})
    for name, schema in schemas[_body_of(method, path)]["properties"].items():
        # Of a password that is not the same twice that is said first.
        twice = ["confirmPassword"] if name == "password" and "confirmPassword" in body else []
        for value in _wrong(schema):
            wrong = body | LOOKED_AT.get(name, {}) | dict.fromkeys([name, *twice], value)
            if (path, name, value) == ("/api/admin/cardkey", "type", "nothing"):
                wrong["action"] = "create"
            status, answer = await _caller(site, path).send(method.upper(), path, wrong)

            assert (400, name) == (status, answer["field"]), (name, value)


async def test_a_record_that_is_not_as_the_page_says_is_refused_by_its_fields_name(
    site: People,
) -> None:
    """What a fast check takes first is no looser than what is written of it."""
    fields = orjson.loads(document())["components"]["schemas"]["PlayRecord"]["properties"]
    for name, schema in fields.items():
        for value in _wrong(schema):
            body = {"key": "source+1", "record": record(**{name: value})}
            status, answer = await site.ann.post("/api/playrecords", body)

            taken = name == "douban_id"  # kept beside the record, where no column can hold it
            assert taken or (400, f"record.{name}") == (status, answer["field"]), (name, value)


async def test_the_record_that_the_page_shows_is_taken(site: People) -> None:
    """Whoever tries the page out sees it stored as it was sent."""
    [shown] = orjson.loads(document())["components"]["schemas"]["PlayRecord"]["examples"]

    status, _ = await site.ann.post("/api/playrecords", {"key": "source+id", "record": shown})

    _, stored = await site.ann.get("/api/playrecords")
    assert (200, shown | {"original_episodes": 12}) == (status, stored["source+id"])


async def test_a_query_that_is_not_as_the_page_says_is_refused_by_its_name(site: People) -> None:
    """Pages, filters, days and keys."""
    for path, operations in orjson.loads(document())["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            required = {each["name"]: "ann" for each in parameters if each["required"]}
            for each in parameters:
                for value in _wrong(each["schema"]) if each["in"] == "query" else ():
                    query = urlencode({**required, each["name"]: value})
                    caller = site.owner if path.startswith("/api/admin") else site.ann
                    status, answer = await caller.send(method.upper(), f"{path}?{query}")

                    assert (400, each["name"]) == (status, answer["field"]), (path, query)


def _body_of(method: str, path: str) -> str:
    """The schema's name."""
    operation = orjson.loads(document())["paths"][path][method]
    [content] = operation["requestBody"]["content"].values()
    reference: str = content["schema"]["$ref"]
    return reference.rpartition("/")[2]


def _caller(site: People, path: str) -> Any:
    if path in {"/api/login", "/api/register"}:
        return site.stranger
    return site.owner if path.startswith("/api/admin") else site.ann
