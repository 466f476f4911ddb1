"""Who may: the login cookie as front ends send it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import orjson
import pytest
from redis.asyncio import Redis

from api.play_records import PATH
from shared.cookies import sign, signature_of
from shared.settings import Settings
from tests.fronts import Front, events_in, front
from tests.plays import record


@pytest.fixture(name="site")
async def _site(settings: Settings) -> AsyncIterator[Front]:
    """A front whose database has no tables: what needs MySQL fails."""
    async with front(settings) as site:
        yield site


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        "user_auth=",
        "user_auth=junk",
        "user_auth=%7B%7D",
        "other=1",
        "user_auth=" + quote('{"username":"ann","signature":"00"}', safe=""),
        "user_auth=" + sign("ann", "owner", "another password", 0),
        "user_auth=\xff\xfe",
    ],
)
async def test_without_a_valid_cookie_the_answer_is_unauthorized(
    site: Front, method: str, cookie: str | None
) -> None:
    """401 and the plain text that front ends look for, whatever is wrong with the cookie."""
    headers = {} if cookie is None else {b"cookie": cookie.encode("latin-1")}
    response = await site.client.request(method, PATH, headers=headers)

    assert (401, "Unauthorized") == (response.status_code, response.text)
    assert response.headers["content-type"].startswith("text/plain")


async def test_a_cookie_may_be_encoded_once_or_twice_old_or_new_and_repeated(
    site: Front, redis: Redis
) -> None:
    """Any valid login cookie counts, wherever it stands among others."""
    claim = f'{{"username":"ann","signature":"{signature_of("ann", site.settings.password)}"}}'
    once = quote(claim, safe="")
    twice = quote(once, safe="")
    cookies = [
        [f"user_auth={once}"],
        [f"user_auth={twice}"],
        [f"auth={twice}"],
        [f"user_auth=stale; theme=dark; user_auth={twice}; x=y"],
        ["theme=dark", f"user_auth={twice}"],  # as a proxy that speaks HTTP/2 splits them
    ]
    for number, values in enumerate(cookies):
        body = orjson.dumps({"key": f"s+{number}", "record": record()})
        response = await site.client.post(
            PATH, content=body, headers=[("cookie", value) for value in values]
        )
        assert 200 == response.status_code

    assert ["ann"] * len(cookies) == [event["user"] for event in await events_in(site, redis)]


async def test_the_role_in_a_cookie_is_not_believed(site: Front) -> None:
    """The signature covers the name alone: who says to be the owner is not."""
    headers = site.cookie("ann", role="owner")
    response = await site.client.get("/api/admin/play-stats/daily", headers=headers)

    assert (401, {"error": "权限不足"}) == (response.status_code, response.json())


@pytest.mark.parametrize("name", ["n" * 51, "ends in a space ", "new\nline"])
async def test_a_name_no_entry_could_carry_is_refused_at_the_edge(
    site: Front, name: str, redis: Redis
) -> None:
    """A signed cookie of such a name gets 400: its entries would be dead letters."""
    response = await site.save(name, "s+1", record())

    assert (400, "username") == (response.status_code, response.json()["field"])
    assert [] == await events_in(site, redis)
