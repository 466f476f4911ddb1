"""`moonwake import-plays`: the history of a LunaTV site, brought along once and for all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from api import queries
from api.gate import Visitor
from api.reads import Reads
from ops import lunatv_import
from shared.keys import shard_of
from shared.mysql import Pool, transaction
from shared.redis import open_redis
from shared.settings import Settings
from tests.commands import moonwake
from tests.integration.test_poison import refusing
from tests.lunatv import put_flat, put_hash, site, site_url, watched
from tests.plays import add_foreign, append, clear, delete, deps_of, drain_all, rows, save
from worker import checkpoints, history
from worker.deps import Deps

AT = 1_700_000_000_000
RECORDS = (
    "SELECT username, source, content_id, play_time, event_ms FROM play_records ORDER BY 1, 2, 3"
)
COUNTS = "SELECT play_count, total_watch_time, unique_users FROM content_stats ORDER BY 1, 2, 3"
NOTHING = {"found": 0, "written": 0, "kept": 0, "deleted": 0, "refused": 0, "users_created": 0}


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


@pytest.fixture(name="luna")
async def _luna(deps: Deps) -> AsyncIterator[Redis]:
    async with site(deps.settings) as redis:
        yield redis


async def bring(deps: Deps, *options: str, code: int = 0) -> dict[str, Any]:
    """The summary of an import that ends with *code*; it always adds up."""
    url = site_url(deps.settings)
    done = await moonwake(deps.settings, "import-plays", url, "--json", *options)
    assert code == done.exit_code, done.output
    summary: dict[str, Any] = orjson.loads(done.stdout)
    taken = summary["written"] + summary["kept"] + summary["deleted"]
    assert summary["found"] == taken + summary["refused"]
    assert summary["refused"] == sum(summary["refused_by_reason"].values())
    return summary


def told(summary: dict[str, Any]) -> dict[str, int]:
    """The counts of *summary* that are not 0."""
    return {name: summary[name] for name in NOTHING if summary[name]}


def visitor(deps: Deps, name: str) -> Visitor:
    shard = shard_of(name, deps.settings.shards)
    return Visitor(name, shard, deps.keys.play_records(shard, name))


async def lock_waits(deps: Deps) -> int:
    """How many sessions wait for a row at this moment."""
    [(_, waits)] = await rows(deps.pool, "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(waits)


async def seen_by(deps: Deps, name: str) -> dict[str, Any]:
    """The records that *name* reads through the API, cached afterwards."""
    reads = Reads(deps.redis, deps.keys, lambda user: queries.play_records(deps.pool, user))
    records: dict[str, Any] = orjson.loads(await reads.play_records(visitor(deps, name)))
    return records


@pytest.mark.parametrize("put", [put_flat, put_hash])
async def test_users_read_the_same_records_as_before(deps: Deps, luna: Redis, put: Any) -> None:
    """Whatever the layout: every field comes along, unknown ones and ids with a plus too."""
    given = {
        "ffzy+1": watched(AT, remarks="HD", douban_id=1292052, type="tv", _unknown={"a": [1]}),
        "ffzy+a+b/c:d": watched(AT + 1, original_episodes=8),
        "ffzy+old": watched(None),
    }
    await put(luna, "ann", given)
    await put(luna, "admin", {"s+1": watched(AT, index=1)})

    assert {"found": 4, "written": 4, "users_created": 2} == told(await bring(deps))

    expected = {
        key: {"original_episodes": record["total_episodes"], "save_time": 0, **record}
        for key, record in given.items()
    }
    assert expected == await seen_by(deps, "ann")
    assert [("admin", "!", "owner"), ("ann", "!", "user")] == await rows(
        deps.pool, "SELECT username, password_hash, role FROM users ORDER BY 1"
    )


async def test_an_import_counts_viewers_and_no_plays(deps: Deps, luna: Redis) -> None:
    """Only what happens afterwards is played; who watched before is no new viewer."""
    await put_flat(luna, "ann", {"s+1": watched(AT, index=1, play_time=10)})
    await put_hash(luna, "bob", {"s+1": watched(AT, index=1, play_time=10)})
    await bring(deps)

    assert [(0, 0, 2)] == await rows(deps.pool, COUNTS)
    assert [] == await rows(deps.pool, "SELECT * FROM user_watch_daily")
    assert [("ann", AT), ("bob", AT)] == await rows(
        deps.pool, "SELECT username, first_seen_ms FROM content_viewers ORDER BY 1"
    )

    # Ann watches on within the half hour, Bob comes back the next day.
    later = [
        (f"{AT + 60_000}-0", save("ann", play_time=40)),
        (f"{AT + 86_400_000}-0", save("bob", play_time=40)),
    ]
    await add_foreign(deps.settings, deps.redis, later)
    await drain_all(deps)
    assert [(1, 30, 2)] == await rows(deps.pool, COUNTS)


async def test_both_layouts_at_once_give_the_newer_record(deps: Deps, luna: Redis) -> None:
    """A migration from one layout to the other may have been left half done."""
    await put_flat(luna, "ann", {"s+1": watched(AT, play_time=1), "s+2": watched(AT, play_time=2)})
    newer = {"s+1": watched(AT + 5, play_time=11), "s+2": watched(AT - 5, play_time=22)}
    await put_hash(luna, "ann", newer)

    assert {"found": 4, "written": 2, "kept": 2, "users_created": 1} == told(await bring(deps))
    assert [("ann", "s", "1", 11, AT + 5), ("ann", "s", "2", 2, AT)] == await rows(
        deps.pool, RECORDS
    )


async def test_a_second_import_changes_nothing(deps: Deps, luna: Redis) -> None:
    """It may be repeated as often as one likes, and takes what is new since."""
    await put_flat(luna, "ann", {"s+1": watched(AT), "s+2": watched(None)})
    await bring(deps)
    everything = "SELECT * FROM play_records ORDER BY id", "SELECT * FROM content_stats"
    before = [await rows(deps.pool, query) for query in everything]

    assert {"found": 2, "kept": 2} == told(await bring(deps))

    assert before == [await rows(deps.pool, query) for query in everything]
    await put_flat(luna, "ann", {"s+1": watched(AT + 1, play_time=700), "s+3": watched(AT)})
    assert {"found": 3, "written": 2, "kept": 1} == told(await bring(deps))
    assert 700 == (await seen_by(deps, "ann"))["s+1"]["play_time"]


async def test_a_newer_drained_record_stays_and_an_older_one_is_replaced(
    deps: Deps, luna: Redis
) -> None:
    """Newer is what was saved later, here or there; the same time is no reason to write."""
    here = [(f"{AT + ms}-0", save("ann", key, play_time=5)) for ms, key in ((0, "1"), (20, "2"))]
    await add_foreign(deps.settings, deps.redis, here)
    await drain_all(deps)
    there = {"s+1": watched(AT + 10, play_time=50), "s+2": watched(AT + 20, play_time=50)}
    await put_flat(luna, "ann", there)

    assert {"found": 2, "written": 1, "kept": 1} == told(await bring(deps))
    assert [("ann", "s", "1", 50, AT + 10), ("ann", "s", "2", 5, AT + 20)] == await rows(
        deps.pool, RECORDS
    )
    assert [(1, 0, 1), (1, 0, 1)] == await rows(deps.pool, COUNTS)


async def test_original_episodes_of_a_stored_record_are_kept(deps: Deps, luna: Redis) -> None:
    """What the user began with does not grow because an import came by."""
    await add_foreign(deps.settings, deps.redis, [(f"{AT}-0", save("ann", total_episodes=8))])
    await drain_all(deps)
    await put_flat(luna, "ann", {"s+1": watched(AT + 10, total_episodes=12)})

    await bring(deps)

    assert 8 == (await seen_by(deps, "ann"))["s+1"]["original_episodes"]


async def test_a_save_time_ahead_of_the_clock_never_beats_a_stored_record(
    deps: Deps, luna: Redis
) -> None:
    """A client's wrong clock is taken as 'now' once; then whatever is stored is newer."""
    await put_flat(luna, "ann", {"s+1": watched(9_999_999_999_999, play_time=1)})
    await bring(deps)
    [(_, _, _, play_time, event_ms)] = await rows(deps.pool, RECORDS)
    seconds, _ = await deps.redis.time()
    assert (1, True) == (play_time, seconds * 1000 - 60_000 < event_ms < seconds * 1000 + 60_000)
    assert 9_999_999_999_999 == (await seen_by(deps, "ann"))["s+1"]["save_time"]

    await append(deps.settings, deps.redis, [save("ann", play_time=77)])
    await drain_all(deps)

    assert {"found": 1, "kept": 1} == told(await bring(deps))
    assert 77 == (await seen_by(deps, "ann"))["s+1"]["play_time"]


async def test_what_a_user_deleted_here_does_not_come_back(deps: Deps, luna: Redis) -> None:
    """The old site still holds it; only --restore-deleted brings it back."""
    records = {"s+1": watched(AT), "s+2": watched(AT)}
    await put_flat(luna, "ann", records)
    await put_flat(luna, "bob", records)
    await bring(deps)
    await append(deps.settings, deps.redis, [delete("ann", "1"), clear("bob")])
    await drain_all(deps)

    assert {"found": 4, "kept": 1, "deleted": 3} == told(await bring(deps))
    assert ["s+2"] == list(await seen_by(deps, "ann"))
    assert {} == await seen_by(deps, "bob")

    restored = await bring(deps, "--restore-deleted")
    assert {"found": 4, "written": 3, "kept": 1} == told(restored)
    assert ["s+1", "s+2"] == sorted(await seen_by(deps, "bob"))
    assert [(0, 0, 2), (0, 0, 2)] == await rows(deps.pool, COUNTS)


async def test_what_cannot_be_taken_is_told_and_the_rest_is_taken(
    deps: Deps, luna: Redis, tmp_path: Path
) -> None:
    """Each refusal has its key and its reason, in the report and, some, on the terminal."""
    await put_flat(
        luna, "ann", {"s+ok": watched(AT), "s+broken": b"{", "s+none": watched(AT, index=0)}
    )
    await put_hash(luna, "bob", {"s+ok": watched(AT), "nokey": watched(AT)})
    await put_flat(luna, "a:pr:b", {"s+1": watched(AT)})
    await luna.set("u:cat:pr", "a string where a hash belongs")
    await luna.lpush("u:cat:pr:s+1", "a list")  # type: ignore[misc]
    await luna.set("u:cat:info:x", "nothing of ours")
    await luna.set(b"u:\xff:pr:s+1", orjson.dumps(watched(AT)))
    report = tmp_path / "refused.jsonl"

    summary = await bring(deps, "--report", str(report), code=1)

    assert {"found": 9, "written": 2, "refused": 7, "users_created": 2} == told(summary)
    expected = {
        "ambiguous_key": 1,
        "invalid_key_format": 2,
        "invalid_record_data": 2,
        "wrong_type": 2,
    }
    assert expected == summary["refused_by_reason"]
    lines = {line["where"]: line for line in map(orjson.loads, report.read_bytes().splitlines())}
    assert 7 == len(lines)
    assert "record: allowed is valid JSON in UTF-8" == lines["u:ann:pr:s+broken"]["detail"]
    assert "record.index: allowed is 1 to 2147483647" == lines["u:ann:pr:s+none"]["detail"]
    assert ("wrong_type", "it is a list") == (
        lines["u:cat:pr:s+1"]["reason"],
        lines["u:cat:pr:s+1"]["detail"],
    )
    assert {"u:bob:pr nokey", r"u:\xff:pr:s+1", "u:cat:pr"} < lines.keys()

    spoken = await moonwake(deps.settings, "import-plays", site_url(deps.settings))
    assert 1 == spoken.exit_code
    assert "refused: u:cat:pr:s+1: wrong_type: it is a list" in spoken.output
    assert "    ambiguous_key                              1" in spoken.output


async def test_a_record_that_mysql_refuses_is_found_among_many(deps: Deps, luna: Redis) -> None:
    """The others of its batch are written all the same."""
    many = {f"s+{n}": watched(AT, title="poison" if n == 13 else "T") for n in range(40)}
    await put_flat(luna, "ann", many)
    async with refusing(deps.pool):
        summary = await bring(deps, code=1)

    assert {"found": 40, "written": 39, "refused": 1, "users_created": 1} == told(summary)
    assert {"refused_by_mysql": 1} == summary["refused_by_reason"]


async def test_a_dry_run_writes_nothing_and_tells_the_same(
    deps: Deps, luna: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its summary is that of the real run, also where a record is met again in a later batch."""
    monkeypatch.setattr(lunatv_import, "_BATCH_MAX", 25)
    await add_foreign(
        deps.settings, deps.redis, [(f"{AT}-0", save("ann")), (f"{AT}-1", save("eve"))]
    )
    await drain_all(deps)
    for n in range(300):
        name, other = f"user{n % 50}", f"u{n % 20}"
        await put_flat(luna, name, {f"s+{n}": watched(AT + n)})
        await put_hash(
            luna, name, {f"s+{n}": watched(AT + n % 7), "s+x": watched(9_999_999_999_999)}
        )
        await put_flat(luna, other, {f"s+{n}": watched(AT) if n % 9 else b"?"})
    await put_flat(luna, "ann", {"s+1": watched(AT - 1)})
    before = await deps.redis.dbsize(), await rows(deps.pool, RECORDS)

    planned = await bring(deps, "--dry-run", code=1)

    assert before == (await deps.redis.dbsize(), await rows(deps.pool, RECORDS))
    assert [(2,)] == await rows(deps.pool, "SELECT COUNT(*) FROM users")
    done = await bring(deps, code=1)
    assert {**planned, "dry_run": False} == done
    assert (70, 951) == (done["users_created"], done["found"])


async def test_the_old_site_is_only_read(deps: Deps, luna: Redis) -> None:
    """An account that may do nothing but read is enough."""
    await put_flat(luna, "ann", {"s+1": watched(AT)})
    await put_hash(luna, "bob", {"s+1": watched(AT)})
    await luna.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+only"],
        keys=["*"],
        categories=["+@read", "+@connection"],
    )
    try:
        url = site_url(deps.settings, "reader:only@")
        done = await moonwake(deps.settings, "import-plays", url)
    finally:
        await luna.acl_deluser("reader")

    assert 0 == done.exit_code, done.output
    assert [(2,)] == await rows(deps.pool, "SELECT COUNT(*) FROM play_records")


async def test_a_reader_who_cached_before_sees_the_import_at_once(deps: Deps, luna: Redis) -> None:
    """The cached copy goes with the commit; no TTL is waited for."""
    await put_flat(luna, "ann", {"s+1": watched(AT)})
    assert {} == await seen_by(deps, "ann")

    await bring(deps)

    assert ["s+1"] == list(await seen_by(deps, "ann"))


async def test_a_reader_who_loads_meanwhile_cannot_cache_what_he_found(
    deps: Deps, luna: Redis
) -> None:
    """His own answer may be older, the next one is not."""
    await put_flat(luna, "ann", {"s+1": watched(AT)})

    async def overtaken(user: str) -> Any:
        stored = await queries.play_records(deps.pool, user)
        await bring(deps)
        return stored

    slow = Reads(deps.redis, deps.keys, overtaken)
    assert b"{}" == await slow.play_records(visitor(deps, "ann"))

    assert ["s+1"] == list(await seen_by(deps, "ann"))


async def test_an_import_killed_behind_its_commit_is_made_good_by_the_next(
    deps: Deps, luna: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeating it drops the cached copies of everybody it meets, written or not."""
    await put_flat(luna, "ann", {"s+1": watched(AT)})
    assert {} == await seen_by(deps, "ann")

    async def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(history, "forget", killed)
        with pytest.raises(Killed):
            await bring(deps)
    assert {} == await seen_by(deps, "ann")

    assert {"found": 1, "kept": 1} == told(await bring(deps))
    assert ["s+1"] == list(await seen_by(deps, "ann"))


async def test_an_import_waits_for_whoever_holds_the_shard(deps: Deps, luna: Redis) -> None:
    """Every writer of the tables holds the fence row, so it never meets a batch half written."""
    await put_flat(luna, "ann", {"s+1": watched(AT)})
    shard = shard_of("ann", deps.settings.shards)
    async with transaction(deps.pool) as cursor:
        await checkpoints.lock(cursor, "plays", shard)
        importing = asyncio.create_task(bring(deps))
        while not await lock_waits(deps):
            assert not importing.done()
        assert [] == await rows(deps.pool, "SELECT * FROM users")

    assert {"found": 1, "written": 1, "users_created": 1} == told(await importing)


async def test_an_import_beside_a_drain_leaves_the_newer_of_each(
    deps: Deps, luna: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two comes first to a record."""
    monkeypatch.setattr(lunatv_import, "_BATCH_MAX", 25)
    deps = replace(deps, settings=replace(deps.settings, batch_max_entries=20))
    chance = random.Random(5)
    expected: dict[tuple[str, str], int] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    for n in range(600):
        user, key, here, there = f"u{n % 30}", str(n // 30), AT + n * 10, chance.randint(0, 6_000)
        events.append((f"{here}-0", save(user, key, play_time=1)))
        await put_flat(luna, user, {f"s+{key}": watched(AT + there, play_time=2)})
        expected[user, key] = 2 if AT + there > here else 1
    await add_foreign(deps.settings, deps.redis, events)

    importing = lunatv_import.Import(
        deps, plan=None, restore=False, refuse=lambda _: None, tick=lambda *_: None
    )
    async with open_redis(site_url(deps.settings)) as source:
        _, tally = await asyncio.gather(drain_all(deps), importing.run(source))

    assert 600 == tally.written + tally.kept
    stored = await rows(deps.pool, "SELECT username, content_id, play_time FROM play_records")
    assert expected == {(user, key): play_time for user, key, play_time in stored}
    viewers = "SELECT COUNT(*) FROM content_viewers"
    assert [(600,)] == await rows(deps.pool, viewers)
    assert [(600,)] == await rows(deps.pool, "SELECT SUM(unique_users) FROM content_stats")


async def test_thousands_of_records_come_in_batches(deps: Deps, luna: Redis) -> None:
    """More than one page of the scan, one call of a hash and one transaction hold."""
    for n in range(12):
        await put_flat(luna, f"flat{n}", {f"s+{k}": watched(AT + k) for k in range(250)})
    await put_hash(luna, "ann", {f"s+{k}": watched(AT + k) for k in range(3_000)})

    assert {"found": 6_000, "written": 6_000, "users_created": 13} == told(await bring(deps))
    assert [(6_000, 6_000)] == await rows(
        deps.pool,
        "SELECT (SELECT COUNT(*) FROM play_records), (SELECT COUNT(*) FROM content_viewers)",
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1:1/0", "the Redis to import from"),
        ("http://127.0.0.1/", "REDIS_URL"),
    ],
)
async def test_a_site_that_cannot_be_read_ends_the_command_with_2(
    migrated: Settings, url: str, told: str
) -> None:
    """A script can tell 'try again' from 'some records were refused'."""
    done = await moonwake(migrated, "import-plays", url)

    assert (2, True) == (done.exit_code, told in done.output)


async def test_a_database_without_the_schema_ends_the_command_with_2(settings: Settings) -> None:
    """The message says what to run."""
    done = await moonwake(settings, "import-plays", site_url(settings))

    assert (2, True) == (done.exit_code, "run `python -m schema`" in done.output)
