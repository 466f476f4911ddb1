"""The API page and the routes agree on what a request's body has to hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

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
every_body = pytest.mark.parametrize(("method", "path"), BODIES, ids=" ".join)


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
                [content] = operation["requestBody"]["content"].values()
                schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
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


def _caller(site: People, path: str) -> Any:
    if path in {"/api/login", "/api/register"}:
        return site.stranger
    return site.owner if path.startswith("/api/admin") else site.ann
