"""/api/playrecords on the wire: what players send, what they get, what they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from redis.asyncio import Redis

from api.play_records import PATH
from shared.connections import Pool
from shared.cookies import sign, signature_of
from shared.keys import Keys
from shared.settings import Settings
from tests.fronts import Front, front
from tests.plays import deps_of, drain_all, record, rows

JSON = {"content-type": "application/json"}


@pytest.fixture(name="site")
async def _site(settings: Settings) -> AsyncIterator[Front]:
    """A front whose database has no tables: what needs MySQL fails."""
    async with front(settings) as site:
        yield site


async def events_in(site: Front, redis: Redis) -> list[dict[str, Any]]:
    """Every event in every stream."""
    keys = Keys(site.settings.key_prefix)
    found: list[dict[str, Any]] = []
    for shard in range(site.settings.shards):
        for _, fields in await redis.xrange(keys.stream("plays", shard)):
            found.append(orjson.loads(dict(zip(fields[::2], fields[1::2], strict=True))[b"d"]))
    return found


async def post(site: Front, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a POST by ann."""
    response = await site.client.post(
        PATH, content=body, headers={**site.cookie("ann"), **JSON, **headers}
    )
    return response.status_code, response.json()


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


# --- who asks -----------------------------------------------------------------


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


# --- what is refused ----------------------------------------------------------

MISSING, INVALID, KEY = "Missing key or record", "Invalid record data", "Invalid key format"
GOOD = record()


def body_of(key: Any = "s+1", **changes: Any) -> bytes:
    return orjson.dumps({"key": key, "record": {**GOOD, **changes}})


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b"", MISSING, "body"),
        (b"{", MISSING, "body"),
        (b"[]", MISSING, "body"),
        (b'"text"', MISSING, "body"),
        (b"null", MISSING, "body"),
        (b"7", MISSING, "body"),
        (b"{}", MISSING, "key"),
        (b'{"key":"s+1"}', MISSING, "record"),
        (b'{"key":"s+1","record":null}', MISSING, "record"),
        (b'{"key":"s+1","record":false}', MISSING, "record"),
        (b'{"key":"s+1","record":0}', MISSING, "record"),
        (b'{"key":"s+1","record":""}', MISSING, "record"),
        (b'{"key":"","record":{}}', MISSING, "key"),
        (b'{"key":null,"record":{}}', MISSING, "key"),
        (b'{"record":{}}', MISSING, "key"),
        (b'{"key":"s+1","record":{}}', INVALID, "record.title"),
        (b'{"key":"s+1","record":[]}', INVALID, "record"),
        (b'{"key":"s+1","record":"text"}', INVALID, "record"),
        (b'{"key":"s+1","record":5}', INVALID, "record"),
        # The record is looked at first, as real front ends know it.
        (b'{"key":"no plus","record":{}}', INVALID, "record.title"),
        (body_of(title=""), INVALID, "record.title"),
        (body_of(title=None), INVALID, "record.title"),
        (body_of(title=5), INVALID, "record.title"),
        (body_of(title="t" * 501), INVALID, "record.title"),
        (body_of(title="a\u0000b"), INVALID, "record.title"),
        (body_of(title="a\u0085b"), INVALID, "record.title"),
        (body_of(source_name=""), INVALID, "record.source_name"),
        (body_of(source_name="n" * 256), INVALID, "record.source_name"),
        (body_of(source_name="a\nb"), INVALID, "record.source_name"),
        (body_of(index=0), INVALID, "record.index"),
        (body_of(index=-1), INVALID, "record.index"),
        (body_of(index=2**31), INVALID, "record.index"),
        (body_of(index=None), INVALID, "record.index"),
        (body_of(index="1"), INVALID, "record.index"),
        (body_of(index=True), INVALID, "record.index"),
        (body_of(play_time=-1), INVALID, "record.play_time"),
        (body_of(play_time="1"), INVALID, "record.play_time"),
        (body_of(total_time=2**31), INVALID, "record.total_time"),
        (body_of(total_episodes=1e300), INVALID, "record.total_episodes"),
        (body_of(save_time=-1), INVALID, "record.save_time"),
        (body_of(save_time=253_402_300_800_000), INVALID, "record.save_time"),
        (body_of(cover=5), INVALID, "record.cover"),
        (body_of(remarks=["x"]), INVALID, "record.remarks"),
        (body_of(deep=[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]), INVALID, "record.deep"),
        (body_of("noplus"), KEY, "key"),
        (body_of("+1"), KEY, "key"),
        (body_of("s+"), KEY, "key"),
        (body_of("s" * 101 + "+1"), KEY, "key"),
        (body_of("s+" + "1" * 256), KEY, "key"),
        (body_of("s+1 "), KEY, "key"),
        (body_of("s +1"), KEY, "key"),
        (body_of("s+1\n"), KEY, "key"),
        (body_of("s\u0000+1"), KEY, "key"),
        (body_of(5), KEY, "key"),
        (body_of(["s+1"]), KEY, "key"),
        # Invalid UTF-8 and half surrogate pairs, wherever they are.
        (body_of().replace(b"Title", b"\xff"), INVALID, "record"),
        (body_of().replace(b"Title", b"\\ud800"), MISSING, "body"),
        (body_of(note="Note").replace(b"Note", b"\xff"), INVALID, "record"),
        (body_of().replace(b"s+1", b"s+\xff"), MISSING, "body"),
        (body_of().replace(b"s+1", b"s+\\ud800"), MISSING, "body"),
        (body_of()[:-1] + b',"more":"\xff"}', MISSING, "body"),
        (b"\xef\xbb\xbf" + body_of(), MISSING, "body"),
        (body_of().replace(b'"index":1', b'"index":NaN'), MISSING, "body"),
        (body_of().replace(b'"index":1', b'"index":01'), MISSING, "body"),
    ],
)
async def test_bad_input_is_refused_with_the_text_the_field_and_what_is_allowed(
    site: Front, redis: Redis, body: bytes, error: str, field: str
) -> None:
    """400, nothing is kept, and the answer says what to change."""
    status, told = await post(site, body)

    assert (400, error, field) == (status, told["error"], told["field"])
    assert told["allowed"]
    assert [] == await events_in(site, redis)


async def test_a_number_out_of_range_is_told_its_range(site: Front) -> None:
    """The example that the interface promises."""
    expected = {"error": INVALID, "field": "record.index", "allowed": "1 to 2147483647"}

    assert (400, expected) == await post(site, body_of(index=0))


# --- what is taken ------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"play_time": 12.9}, {"play_time": 12}),
        ({"total_time": 1400.0}, {"total_time": 1400}),
        ({"index": 2.5}, {"index": 2}),
        ({"year": 2024}, {"year": "2024"}),
        ({"year": 2024.0}, {"year": "2024"}),
        ({"save_time": 1700000000000.5}, {"save_time": 1700000000000}),
        ({"year": None, "search_title": None, "save_time": None, "cover": None}, {}),
        ({"cover": "c" * 3000}, {"cover": "c" * 3000}),
        ({"remarks": "r" * 3000}, {"remarks": "r" * 3000}),
        ({"search_title": "t" * 3000}, {"search_title": "t" * 3000}),
        ({"douban_id": "1292052"}, {"douban_id": 1292052}),
        ({"douban_id": "tt0111161"}, {"douban_id": "tt0111161"}),
        ({"douban_id": None}, {}),
        ({"_shouldClearCache": True}, {"_shouldClearCache": True}),
        ({"nested": {"a": [1, None, "x"]}}, {"nested": {"a": [1, None, "x"]}}),
        ({"title": "流浪地球 🌏"}, {"title": "流浪地球 🌏"}),
    ],
)
async def test_what_real_players_send_is_taken(
    migrated: Settings, redis: Redis, pool: Pool, sent: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Lenient where players are, and nothing of it is lost on the way through MySQL."""
    async with front(replace(migrated, flush_interval_ms=0)) as site:
        status, _ = await post(site, body_of(**sent))
        before = (await site.records("ann"))["s+1"]
        await drain_all(deps_of(site.settings, redis, pool))
        shard = site.site.gate.visitor([(b"cookie", site.cookie("ann")["cookie"].encode())])
        await redis.delete(shard.keys.cached)
        after = (await site.records("ann"))["s+1"]

    assert 200 == status
    assert {**GOOD, **kept} == {name: before[name] for name in {**GOOD, **kept}}
    assert set(before) == {*GOOD, *kept, "save_time", "original_episodes"}
    assert before == after


@pytest.mark.parametrize(
    ("key", "source", "content_id"),
    [("s+1", "s", "1"), ("s+1+2", "s", "1+2"), ("s++", "s", "+"), ("源+流 1", "源", "流 1")],
)
async def test_the_key_splits_at_its_first_plus(
    site: Front, redis: Redis, key: str, source: str, content_id: str
) -> None:
    """Ids may contain a plus, sources may not."""
    await site.save("ann", key, record())
    await site.delete("ann", key)

    assert [("save", source, content_id), ("delete", source, content_id)] == [
        (event["op"], event["source"], event["id"]) for event in await events_in(site, redis)
    ]


async def test_a_body_may_be_spaced_and_hold_more_than_it_should(site: Front, redis: Redis) -> None:
    """Unknown fields beside key and record are nobody's business."""
    body = b' { "record" : %b , "other" : [1] , "key" : "s+1" } ' % orjson.dumps(
        GOOD, option=orjson.OPT_INDENT_2
    )

    assert (200, {"success": True}) == await post(site, body)
    assert [GOOD] == [event["record"] for event in await events_in(site, redis)]


@pytest.mark.parametrize(
    ("query", "field"),
    [("key=noplus", "key"), ("key=", "key"), ("key=s%2B", "key"), ("key=%FF", "key")],
)
async def test_a_delete_with_a_bad_key_deletes_nothing(
    site: Front, redis: Redis, query: str, field: str
) -> None:
    """A key that is there but wrong, empty ones too, must not clear the list."""
    response = await site.client.delete(f"{PATH}?{query}", headers=site.cookie("ann"))

    assert (400, KEY, field) == (
        response.status_code,
        response.json()["error"],
        response.json()["field"],
    )
    assert [] == await events_in(site, redis)


# --- HTTP ---------------------------------------------------------------------


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
