"""/api/playrecords on the wire: saves, reads, deletes, methods and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from api.play_records import PATH
from shared.mysql import Pool
from shared.settings import Settings
from tests.fronts import Front, front
from tests.plays import deps_of, drain_all, record, rows


@pytest.fixture(name="site")
async def _site(settings: Settings) -> AsyncIterator[Front]:
    """A front whose database has no tables: what needs MySQL fails."""
    async with front(settings) as site:
        yield site


async def test_a_saved_record_is_read_back(migrated: Settings) -> None:
    """What was acknowledged is in the next read, with the entry's time and its episodes."""
    async with front(migrated) as site:
        saved = await site.save("ann", "s+1", record())

        assert (200, {"success": True}) == (saved.status_code, saved.json())
        [(key, got)] = (await site.records("ann")).items()
        assert "s+1" == key
        assert {**record(), "save_time": got["save_time"], "original_episodes": 12} == got


async def test_nobody_sees_another_user_s_records(migrated: Settings) -> None:
    """Neither in the overlay, nor cached, nor from MySQL; names differ by case."""
    async with front(migrated) as site:
        await site.save("ann", "s+1", record())

        assert {} == await site.records("Ann")
        assert {} == await site.records("bob")


async def test_an_unknown_user_with_a_valid_cookie_is_provisioned_by_the_worker(
    migrated: Settings, redis: Redis, pool: Pool
) -> None:
    """Ingest asks nobody; the row in users comes with the first batch and verifies nothing."""
    async with front(migrated) as site:
        await site.save("newcomer", "s+1", record())
        await drain_all(deps_of(migrated, redis, pool))

    found = await rows(pool, "SELECT username, password_hash, role FROM users")
    assert [("newcomer", "!", "user")] == found


async def test_deletes_take_one_record_or_all(migrated: Settings) -> None:
    """With a key that record, without one all; deleting what is not there succeeds."""
    async with front(migrated) as site:
        for key in ("s+1", "s+2", "s+3"):
            await site.save("ann", key, record())
        first = await site.delete("ann", "s+1")
        again = await site.delete("ann", "s+1")
        left = await site.records("ann")
        every = await site.clear("ann")

        assert [(200, {"success": True})] * 3 == [
            (response.status_code, response.json()) for response in (first, again, every)
        ]
        assert {"s+2", "s+3"} == set(left)
        assert {} == await site.records("ann")


@pytest.mark.parametrize(("method", "body"), [("PUT", True), ("PATCH", True), ("HEAD", False)])
async def test_other_methods_are_told_which_there_are(site: Front, method: str, body: bool) -> None:
    """405 with Allow and the error in the one shape all errors have."""
    response = await site.client.request(method, PATH, headers=site.cookie("ann"))

    assert 405 == response.status_code
    assert {"DELETE", "GET", "OPTIONS", "POST"} == set(response.headers["allow"].split(", "))
    assert (b'{"error":"Method Not Allowed"}' if body else b"") == response.content


async def test_options_name_every_method(site: Front) -> None:
    """Also the one that Litestar's own answer would forget."""
    response = await site.client.options(PATH)

    assert 204 == response.status_code
    assert "DELETE, GET, OPTIONS, POST" == response.headers["allow"]


async def test_a_slash_at_the_end_makes_no_difference(migrated: Settings) -> None:
    """Players add it; saves, reads and deletes work all the same."""
    async with front(migrated) as site:
        body = {"key": "s+1", "record": record()}
        headers = site.cookie("ann")
        saved = await site.client.post(PATH + "/", json=body, headers=headers)
        read = await site.client.get(PATH + "/", headers=headers)

        assert 200 == saved.status_code
        assert ["s+1"] == list(read.json())


async def test_what_is_not_there_is_told_in_the_same_shape(site: Front) -> None:
    """404 as JSON with an error."""
    response = await site.client.get("/api/nothing")

    assert (404, {"error": "Not Found"}) == (response.status_code, response.json())


async def test_reads_are_never_cached_by_others(migrated: Settings) -> None:
    """A CDN once served one user's list to another."""
    async with front(migrated) as site:
        response = await site.read("ann")

    assert (200, "no-store") == (response.status_code, response.headers["cache-control"])


async def test_a_fault_of_ours_is_logged_and_hidden(
    site: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 without a word about the inside, on the bare route and on Litestar's."""

    async def break_down(*_: Any) -> None:
        raise RuntimeError("the inside story")

    monkeypatch.setattr(site.site.group_commit, "append", break_down)
    responses = [await site.save("ann", "s+1", record()), await site.clear("ann")]

    expected = (500, {"error": "Internal Server Error"})
    assert [expected] * 2 == [(response.status_code, response.json()) for response in responses]
    assert 2 == capsys.readouterr().out.count("RuntimeError: the inside story")
