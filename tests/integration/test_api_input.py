"""/api/playrecords: what is refused and with which words, what is taken though untidy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from api.play_records import PATH
from shared.mysql import Pool
from shared.settings import Settings
from tests.fronts import Front, events_in, front, post
from tests.plays import deps_of, drain_all, record

MISSING, INVALID, KEY = "Missing key or record", "Invalid record data", "Invalid key format"


GOOD = record()


def body_of(key: Any = "s+1", **changes: Any) -> bytes:
    return orjson.dumps({"key": key, "record": {**GOOD, **changes}})


@pytest.fixture(name="site")
async def _site(settings: Settings) -> AsyncIterator[Front]:
    """A front whose database has no tables: what needs MySQL fails."""
    async with front(settings) as site:
        yield site


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
        shard = await site.site.gate.visitor([(b"cookie", site.cookie("ann")["cookie"].encode())])
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
